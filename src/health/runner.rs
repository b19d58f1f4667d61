//! The thread that checks.
//!
//! Runs on `health`, a thread of its own, asynchronously: what is checked may be slow, and the control thread must not wait for
//! it. It is told what to watch through a channel, and tells what it has found.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{sleep, sleep_until};

use super::monitor::{Found, Job, Key, Monitor, Outcome, Watch};
use super::probe::{Begun, Prober, begin_tcp};
use super::spec::Probe;

/// Checks under way at most: each takes a socket.
const MAX_RUNNING: usize = crate::limits::MAX_CHECKS;

/// Checks that are due within so much time are begun together, the later ones of them early: to be woken for each costs more
/// than some checks do.
const TICK: Duration = Duration::from_millis(40);

enum Order {
    Watch { key: Key, watch: Watch, new: bool },
    Forget(Key),
}

/// The thread, as others see it. It ends when this is dropped.
pub struct Runner {
    orders: Option<UnboundedSender<Order>>,
    thread: Option<JoinHandle<()>>,
}

impl Runner {
    /// Starts it. Programs are run if they are in the directory `programs`; what is found goes to `tell`.
    ///
    /// # Errors
    /// When the kernel refuses a thread or an event queue.
    pub fn start(programs: Option<PathBuf>, tell: impl Fn(Found) + Send + 'static) -> io::Result<Self> {
        let (orders, receiver) = unbounded_channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let prober = Arc::new(Prober::new(programs).map_err(io::Error::other)?);
        let work = move || {
            runtime.block_on(run(receiver, prober, tell));
            // Checks that are under way are given up.
            runtime.shutdown_background();
        };
        let thread = thread::Builder::new().name("health".into()).spawn(work)?;
        Ok(Self { orders: Some(orders), thread: Some(thread) })
    }

    /// Watches an address; `new` says that it has just been registered.
    pub fn watch(&self, key: &[u8], watch: Watch, new: bool) {
        self.order(Order::Watch { key: key.into(), watch, new });
    }

    /// Watches it no longer.
    pub fn forget(&self, key: &[u8]) {
        self.order(Order::Forget(key.into()));
    }

    fn order(&self, order: Order) {
        if let Some(orders) = &self.orders {
            // It can only fail when the thread has ended, and with it all checks.
            let _ = orders.send(order);
        }
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        drop(self.orders.take());
        // A panic there has been told by the panic itself.
        drop(self.thread.take().map(JoinHandle::join));
    }
}

async fn run(mut orders: UnboundedReceiver<Order>, prober: Arc<Prober>, tell: impl Fn(Found)) {
    let begin = Instant::now();
    let mut monitor = Monitor::new(fastrand::Rng::new());
    let (done, mut outcomes) = unbounded_channel::<(usize, u64, Outcome)>();
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
            order = orders.recv() => match order {
                Some(Order::Watch { key, watch, new }) => {
                    monitor.watch(begin.elapsed(), key, watch, new).into_iter().for_each(&tell);
                }
                Some(Order::Forget(key)) => monitor.forget(&key),
                None => return,
            },
            Some((target, generation, outcome)) = outcomes.recv() => {
                running -= 1;
                monitor.done(begin.elapsed(), target, generation, outcome).into_iter().for_each(&tell);
            }
            () = patience => {
                let (now, most) = (begin.elapsed(), MAX_RUNNING - running);
                let mut known = Vec::new();
                let begin_check = |job: Job| {
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
                        let _ = done.send((job.target, job.generation, outcome));
                    });
                };
                monitor.advance(now + TICK, most, begin_check, &tell);
                for (Job { target, generation, .. }, outcome) in known {
                    monitor.done(now, target, generation, outcome).into_iter().for_each(&tell);
                }
            }
        }
    }
}
