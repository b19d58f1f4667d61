//! The thread that checks.
//!
//! Runs on `health`, a thread of its own, asynchronously: what is checked may be slow, and the owner of the
//! registrations must not wait for it. What to watch is left in a map by key, where the latest word replaces those
//! before it: so it is bounded by what is registered, and nobody ever waits for room in it, while this thread waits for
//! the owner to take what was found.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{sleep, sleep_until};

use super::monitor::{CheckOutcome, DueCheck, HealthChange, Key, Monitor, Watch};
use super::probe::{Begun, Prober, begin_tcp};
use super::spec::Probe;

/// Checks under way at most: each takes a socket.
const MAX_RUNNING: usize = crate::limits::MAX_CHECKS;

/// Checks that are due within so much time are begun together, the later ones of them early: to be woken for each costs
/// more than some checks do.
const TICK: Duration = Duration::from_millis(40);

enum RunnerCommand {
    Watch { watch: Watch, new: bool },
    Forget,
}

/// What the thread is to do, by the keys of what is registered.
#[derive(Default)]
struct Orders {
    all: Mutex<HashMap<Key, RunnerCommand>>,
    changed: Notify,
}

impl Orders {
    /// The latest order for a key is the one that counts; that it is of something new is not forgotten by it.
    fn put(&self, key: &[u8], order: RunnerCommand) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let was_new = matches!(all.get(key), Some(RunnerCommand::Watch { new: true, .. }));
        let order = match order {
            RunnerCommand::Watch { watch, new } => RunnerCommand::Watch { watch, new: new || was_new },
            RunnerCommand::Forget => RunnerCommand::Forget,
        };
        all.insert(key.into(), order);
        self.changed.notify_one();
    }

    fn take(&self) -> HashMap<Key, RunnerCommand> {
        std::mem::take(&mut self.all.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The thread, as others see it. It ends when this is dropped.
pub struct Runner {
    orders: Arc<Orders>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Runner {
    /// Starts it. Programs are run if they are in the directory `programs`; what is found goes to `tell`.
    ///
    /// # Errors
    /// When the kernel refuses a thread or an event queue.
    pub fn start(
        programs: Option<PathBuf>,
        tell: impl Fn(HealthChange) + Send + 'static,
    ) -> io::Result<Self> {
        let (stop, stopped) = oneshot::channel();
        let orders = Arc::<Orders>::default();
        let taken = Arc::clone(&orders);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let prober = Arc::new(Prober::new(programs).map_err(io::Error::other)?);
        let work = move || {
            runtime.block_on(async {
                tokio::select! {
                    () = run(&taken, prober, tell) => {}
                    _ = stopped => {}
                }
            });
            // Checks that are under way are given up.
            runtime.shutdown_background();
        };
        let thread = thread::Builder::new().name("health".into()).spawn(work)?;
        Ok(Self { orders, stop: Some(stop), thread: Some(thread) })
    }

    /// Watches an address; `new` says that it has just been registered.
    pub fn watch(&self, key: &[u8], watch: Watch, new: bool) {
        self.orders.put(key, RunnerCommand::Watch { watch, new });
    }

    /// Watches it no longer.
    pub fn forget(&self, key: &[u8]) {
        self.orders.put(key, RunnerCommand::Forget);
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        drop(self.stop.take());
        // A panic there has been told by the panic itself.
        drop(self.thread.take().map(JoinHandle::join));
    }
}

async fn run(orders: &Orders, prober: Arc<Prober>, tell: impl Fn(HealthChange)) {
    let begin = Instant::now();
    let mut monitor = Monitor::new(fastrand::Rng::new());
    // Each check that is under way has room for its outcome.
    let (done, mut outcomes) = mpsc::channel::<(usize, u64, CheckOutcome)>(MAX_RUNNING);
    let mut running = 0usize;
    loop {
        // With as many under way as may be, none is begun before one has ended; all end with their time.
        let next = monitor.next().filter(|_| running < MAX_RUNNING).map(|at| begin + at);
        let patience = async {
            match next {
                Some(at) => sleep_until(at.into()).await,
                None => sleep(Duration::MAX).await,
            }
        };
        tokio::select! {
            () = orders.changed.notified() => {
                for (key, order) in orders.take() {
                    match order {
                        RunnerCommand::Watch { watch, new } => {
                            monitor.watch(begin.elapsed(), key, watch, new).into_iter().for_each(&tell);
                        }
                        RunnerCommand::Forget => monitor.forget(&key),
                    }
                }
            }
            Some((target, generation, outcome)) = outcomes.recv() => {
                running -= 1;
                monitor.done(begin.elapsed(), target, generation, outcome).into_iter().for_each(&tell);
            }
            () = patience => {
                let (now, most) = (begin.elapsed(), MAX_RUNNING - running);
                let mut known = Vec::new();
                let begin_check = |job: DueCheck| {
                    let begun = match &job.check.probe {
                        Probe::Tcp { port } => match begin_tcp(job.address, *port) {
                            Begun::Done(outcome) => return known.push((job, outcome)),
                            Begun::Pending(socket) => Some(socket),
                        },
                        _ => None,
                    };
                    running += 1;
                    let (prober, done) = (Arc::clone(&prober), done.clone());
                    tokio::spawn(async move {
                        let outcome = prober.probe(job.address, &job.check, begun).await;
                        // Nobody waits for it if the thread is ending.
                        let _ = done.try_send((job.target, job.generation, outcome));
                    });
                };
                monitor.advance(now + TICK, most, begin_check, &tell);
                for (DueCheck { target, generation, .. }, outcome) in known {
                    monitor.done(now, target, generation, outcome).into_iter().for_each(&tell);
                }
            }
        }
    }
}
