//! The thread `tables`: makes the next table of the names that have changed, and hands it to the workers.
//!
//! It reads the store for some microseconds at a time, so it holds up neither the cluster nor changes, however much
//! there is to do. Where very many names have changed at once it does not look at each of them, but makes a table of
//! all that there is; until then names need not even be noted
//! ([`Store::take_changed`](crate::store::Store::take_changed)).

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle, yield_now};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded, select};
use tracing::warn;

use super::cpu_time::thread_cpu_time;
use super::left_out::LeftOut;
use super::record_age::RecordAge;
use super::subscribers::Subscribers;
use crate::policy::Policy;
use crate::policy::rules::{Rules, Scope};
use crate::store::{Changed, Filling, NameSet, SharedStore, Target};
use crate::sys::published::{Current, View};
use crate::sys::sched::lower_priority;
use crate::table::{Crowded, Publisher};

/// The shortest time between two publications.
const PUBLICATION_PERIOD: Duration = crate::limits::PUBLICATION_PERIOD;

/// The longest time between two publications that is waited for to have more of them in one.
const MAX_PUBLICATION_PERIOD: Duration = Duration::from_millis(100);

/// Publications may take one part in so many of the time: under load, more names go into each.
const PUBLICATION_SHARE: u32 = crate::limits::PUBLICATION_SHARE;

/// After so long without a change the table is brought in order: until then names that have changed may do so again.
const QUIET: Duration = Duration::from_secs(1);

/// How often the thread looks around if nothing happens.
const IDLE_PERIOD: Duration = Duration::from_secs(60);

/// CPU time that publications may be ahead of their share: what changes now and then is published at once.
const PUBLICATION_CREDIT: Duration = crate::limits::PUBLICATION_CREDIT;

/// Names in one publication, where many are waiting.
const MAX_PUBLISHED: usize = 10_000;

/// Names that have changed from which on, if they are as many as half of all, the table is made anew of all that there
/// is.
const MANY: usize = 20_000;

/// While very much goes on changing, the table is made anew when nothing has changed for so long,
const LULL: Duration = Duration::from_millis(10);
/// or after so many times what the last making took,
const REBUILD_SHARE: u32 = 2;
/// and at least this.
const REBUILD_PERIOD: Duration = Duration::from_millis(200);

/// While a source hands over very much whose end it will tell, the table is made anew no more often than this.
const MAX_BULK_WAIT: Duration = Duration::from_secs(5);

/// Units of postponed work that are done while nobody else has the store, and how many times in a turn.
const SWEPT_AT_ONCE: usize = 256;
const SWEEPS_PER_TURN: usize = 16;

/// Commands that may wait: each is of a change that is being answered.
const MAX_COMMANDS: usize = 1_024;

/// What is done when something has been published.
pub(super) type Then = Box<dyn FnOnce() + Send>;

/// What the thread is asked to do.
enum Command {
    /// Policies of the node's own, which hold where no directive is in force.
    Policies(Vec<(Scope, Policy)>),
    /// Publish these names before others; then do that.
    First(NameSet, Then),
    /// Publish all that has changed until now, and all that the directives until now concern; then do that.
    All(Then),
}

/// Asks things of the thread.
#[derive(Clone)]
pub(super) struct TablesSender {
    commands: Sender<Command>,
    wake: Sender<()>,
    /// Policies that the thread has not taken.
    policies_waiting: Arc<AtomicUsize>,
}

impl TablesSender {
    /// Tells it that names have changed.
    pub(super) fn wake(&self) {
        match self.wake.try_send(()) {
            // If it is full, the thread is to wake up already. It ends last.
            Ok(()) | Err(TrySendError::Full(()) | TrySendError::Disconnected(())) => {}
        }
    }

    /// Whether policies are still to come into force, so that names that are registered by now may be published before
    /// them.
    pub(super) fn has_policies_waiting(&self) -> bool {
        self.policies_waiting.load(Ordering::Acquire) > 0
    }

    pub(super) fn set_policies(&self, policies: Vec<(Scope, Policy)>) {
        self.policies_waiting.fetch_add(1, Ordering::AcqRel);
        self.send(Command::Policies(policies));
    }

    /// Has these names published before others, and calls `then`, on the thread.
    pub(super) fn publish_first(&self, names: NameSet, then: impl FnOnce() + Send + 'static) {
        self.send(Command::First(names, Box::new(then)));
    }

    /// Has all published that has changed until now, and calls `then`, on the thread.
    pub(super) fn publish_all(&self, then: impl FnOnce() + Send + 'static) {
        self.send(Command::All(Box::new(then)));
    }

    fn send(&self, command: Command) {
        // It can only fail when the thread has ended, and with it all answers.
        let _ = self.commands.send(command);
    }
}

/// The receiving ends of a [`TablesSender`].
pub(super) struct TablesInbox {
    commands: Receiver<Command>,
    wake: Receiver<()>,
    policies_waiting: Arc<AtomicUsize>,
}

/// The queue to the thread.
pub(super) fn queue() -> (TablesSender, TablesInbox) {
    let ((commands, commands_in), (wake, wake_in)) = (bounded(MAX_COMMANDS), bounded(1));
    let policies_waiting = Arc::<AtomicUsize>::default();
    let inbox =
        TablesInbox { commands: commands_in, wake: wake_in, policies_waiting: Arc::clone(&policies_waiting) };
    (TablesSender { commands, wake, policies_waiting }, inbox)
}

/// What makes tables.
pub(super) struct Tables {
    store: SharedStore,
    publisher: Publisher,
    policies: Vec<(Scope, Policy)>,
    rules: Current<Rules>,
    /// Names with more records than answers can have, as others see them, and what has been logged of that.
    crowded: Current<Crowded>,
    left_out: LeftOut,
    ages: Arc<Mutex<RecordAge>>,
    subscribers: Arc<Subscribers>,
    /// Not before then.
    next_publication: Instant,
    /// When names had changed that were published.
    changed_at: Instant,
    /// When names were published last, and the CPU time that publications are ahead of their share.
    published_at: Instant,
    publication_debt: Duration,
    /// Since when the table is to be made anew, if it is, and when something has changed last since.
    rebuild: Option<(Instant, Instant)>,
    rebuild_took: Duration,
    /// Names that have been taken and are not published, as others see it.
    unpublished: Arc<AtomicUsize>,
    /// What is to be done when all is published.
    waiting: Vec<Then>,
}

impl Tables {
    /// Publishes all that is in the store, with so many threads. The store is not shared yet.
    pub(super) fn new(
        store: SharedStore,
        mut publisher: Publisher,
        policies: Vec<(Scope, Policy)>,
        threads: usize,
    ) -> Self {
        let now = Instant::now();
        drop(store.write().take_changes());
        let rules = rules(&policies, &store);
        publisher.set_rules(rules.clone());
        publisher.publish_whole(&store.read(), threads);
        Self {
            store,
            publisher,
            policies,
            rules: Current::new(rules),
            crowded: Current::new(Crowded::default()),
            left_out: LeftOut::default(),
            ages: Arc::new(Mutex::new(RecordAge::new())),
            subscribers: Arc::default(),
            next_publication: now,
            changed_at: now,
            published_at: now,
            publication_debt: Duration::ZERO,
            rebuild: None,
            rebuild_took: Duration::ZERO,
            unpublished: Arc::default(),
            waiting: Vec::new(),
        }
    }

    /// The tables that it hands out.
    pub(super) fn publisher(&self) -> &Publisher {
        &self.publisher
    }

    /// Which policy each name has.
    pub(super) fn rules(&self) -> View<Rules> {
        self.rules.view()
    }

    /// How long records have been as they are.
    pub(super) fn ages(&self) -> Arc<Mutex<RecordAge>> {
        Arc::clone(&self.ages)
    }

    /// Who follows the changes.
    pub(super) fn subscribers(&self) -> Arc<Subscribers> {
        Arc::clone(&self.subscribers)
    }

    /// Names with more records than answers can have.
    pub(super) fn crowded(&self) -> View<Crowded> {
        self.crowded.view()
    }

    fn note_crowded(&mut self) {
        let crowded = self.publisher.crowded();
        if *self.crowded.load() != *crowded {
            self.crowded.replace(crowded.clone());
        }
        self.left_out.tell(crowded, Instant::now());
    }

    /// How many names have been taken and are not published.
    pub(super) fn unpublished_names(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.unpublished)
    }

    fn note_unpublished(&self) {
        let pending = self.publisher.pending() + usize::from(self.rebuild.is_some());
        self.unpublished.store(pending, Ordering::Release);
    }

    /// Starts the thread. It ends with the last sender.
    pub(super) fn start(mut self, inbox: TablesInbox) -> io::Result<JoinHandle<()>> {
        let run = move || {
            lower_priority();
            while self.turn(&inbox) {}
        };
        thread::Builder::new().name("tables".into()).spawn(run)
    }

    /// Waits until there is something to do, and does it. Returns whether there will be more.
    fn turn(&mut self, inbox: &TablesInbox) -> bool {
        let timeout = self.due().map_or(IDLE_PERIOD, |due| due.saturating_duration_since(Instant::now()));
        select! {
            recv(inbox.commands) -> command => match command {
                Ok(command) => self.handle(command, &inbox.policies_waiting),
                Err(_) => return false,
            },
            recv(inbox.wake) -> _ => {}
            default(timeout) => {}
        }
        self.note_ages();
        self.work();
        self.note_unpublished();
        self.note_crowded();
        true
    }

    fn note_ages(&self) {
        // Whoever has both locks takes the store's first.
        let store = self.store.read();
        self.ages.lock().unwrap_or_else(PoisonError::into_inner).note(&store, Instant::now());
    }

    fn handle(&mut self, command: Command, policies_waiting: &AtomicUsize) {
        match command {
            Command::Policies(policies) => {
                self.policies = policies;
                self.apply_policies();
                policies_waiting.fetch_sub(1, Ordering::AcqRel);
                // Any name may be answered by another one now. What files say besides comes after it.
                self.rebuild_later();
                self.make_anew();
            }
            Command::First(names, then) => {
                self.note_changed();
                self.publisher.publish_first(&self.store, names);
                then();
            }
            Command::All(then) => self.waiting.push(then),
        }
    }

    fn has_sweeps(&self) -> bool {
        self.store.read().has_sweeps()
    }

    /// Names that have changed since they were published; some may be counted twice.
    fn unpublished(&self) -> usize {
        self.store.read().changed() + self.publisher.pending()
    }

    /// When there will be something to do.
    fn due(&self) -> Option<Instant> {
        if let Some((since, changed)) = self.rebuild {
            let latest = since + (self.rebuild_took * REBUILD_SHARE).max(REBUILD_PERIOD);
            if self.store.filling() == Filling::UnderWay {
                return Some(latest.max(since + MAX_BULK_WAIT));
            }
            return Some(latest.min(changed + LULL));
        }
        if !self.waiting.is_empty() {
            // Until then sweeps find the names that directives concern.
            let is_settled = self.store.read().directives_settled();
            return Some(
                Instant::now()
                    + if is_settled || self.has_sweeps() { Duration::ZERO } else { PUBLICATION_PERIOD },
            );
        }
        if self.unpublished() > 0 {
            return Some(self.next_publication);
        }
        if self.has_sweeps() {
            return Some(Instant::now());
        }
        let settles = !self.publisher.is_settled();
        settles.then(|| self.next_publication.max(self.changed_at + QUIET))
    }

    fn work(&mut self) {
        self.sweep();
        // Directives that somebody waits for come into force when they are taken; names that they concern are noted
        // then, as far as there is room for them.
        let is_awaited = !self.waiting.is_empty() && self.store.read().has_new_directives();
        let is_full = !self.store.read().has_room();
        let is_lull_looked_for = self.rebuild.is_some() && self.store.filling() != Filling::UnderWay;
        if is_awaited || is_full || is_lull_looked_for && self.store.read().changed() > 0 {
            self.note_changed();
        }
        if self.due().is_none_or(|due| Instant::now() < due) {
            return;
        }
        if self.rebuild.is_some() {
            self.make_anew();
        } else if self.waiting.is_empty() {
            // Else it was for the sweeps that it woke up.
            if Instant::now() >= self.next_publication {
                self.publish();
            }
        } else if self.store.read().directives_settled() {
            self.note_changed();
            if self.rebuild.is_none() {
                self.publisher.publish(&self.store, usize::MAX);
                std::mem::take(&mut self.waiting).into_iter().for_each(|then| then());
            }
        }
    }

    /// Does a part of what the store has postponed: it finds names that have changed. The cluster does, too, when it is
    /// awake.
    fn sweep(&self) {
        for _ in 0..SWEEPS_PER_TURN {
            if !self.store.read().has_sweeps() || !self.store.write().sweep(SWEPT_AT_ONCE) {
                return;
            }
            yield_now();
        }
    }

    /// Takes what has changed, with the directives that concern it, and tells who follows the changes.
    fn take_changes(&mut self) -> Changed {
        // Before it is taken: nobody is to see that nothing waits, while it does.
        self.unpublished.fetch_max(1, Ordering::AcqRel);
        let (directed, changed) = {
            let mut store = self.store.write();
            (store.has_new_directives(), store.take_changes())
        };
        if directed {
            self.apply_policies();
        }
        match &changed {
            Changed::Names(names) if names.is_empty() => {}
            Changed::Names(names) => self.subscribers.tell_names(names),
            Changed::Many(count) => self.subscribers.tell_lost(*count),
        }
        changed
    }

    /// Notes what has changed to be published.
    fn note_changed(&mut self) {
        match self.take_changes() {
            Changed::Names(names) if names.is_empty() => {}
            Changed::Names(names) if self.rebuild.is_none() => {
                self.publisher.note(names);
                let pending = self.publisher.pending();
                if pending >= MANY.max(self.publisher.current().names() / 2) {
                    self.rebuild_later();
                }
            }
            Changed::Names(_) | Changed::Many(_) => self.rebuild_later(),
        }
    }

    /// Has the table made anew, not at once: more may follow.
    fn rebuild_later(&mut self) {
        let now = Instant::now();
        let since = self.rebuild.map_or(now, |(since, _)| since);
        self.rebuild = Some((since, now));
        self.publisher.forget_pending();
        if self.subscribers.is_empty() {
            // Nobody is told of single names, and all are looked at.
            self.store.write().count_changes_only(true);
        }
    }

    fn make_anew(&mut self) {
        let begin = Instant::now();
        self.rebuild = None;
        // What changes from now on is noted, and what has changed before it is read.
        self.store.write().count_changes_only(false);
        drop(self.take_changes());
        self.publisher.forget_pending();
        // What is half there when it is read would be half there in answers, so sources of very much wait until all is
        // read.
        self.store.hold_bulk(true);
        let (store, subscribers) = (&self.store, &self.subscribers);
        let mut more = false;
        self.publisher.rebuild(store, || {
            let changed = store.write().take_changes();
            store.hold_bulk(false);
            match changed {
                Changed::Names(names) => {
                    subscribers.tell_names(&names);
                    names
                }
                Changed::Many(count) => {
                    subscribers.tell_lost(count);
                    more = true;
                    NameSet::default()
                }
            }
        });
        if more {
            self.rebuild_later();
        }
        self.apply_new_directives();
        self.rebuild_took = begin.elapsed();
        let now = Instant::now();
        (self.changed_at, self.published_at) = (now, now);
    }

    /// Directives that have come while something else was done.
    fn apply_new_directives(&mut self) {
        if self.store.read().has_new_directives() {
            self.note_changed();
        }
    }

    fn publish(&mut self) {
        let begin = Instant::now();
        if self.unpublished() > 0 {
            self.changed_at = begin;
        }
        self.note_changed();
        if self.rebuild.is_some() {
            return; // it has turned out to be too much for that
        }
        let cpu_before = thread_cpu_time();
        self.publisher.publish(&self.store, MAX_PUBLISHED);
        // What others did on this CPU meanwhile does not count.
        let took = thread_cpu_time().saturating_sub(cpu_before);
        let paid = begin.saturating_duration_since(self.published_at) / PUBLICATION_SHARE;
        let most = PUBLICATION_CREDIT + MAX_PUBLICATION_PERIOD / PUBLICATION_SHARE;
        self.publication_debt = (self.publication_debt.saturating_sub(paid) + took).min(most);
        self.published_at = begin;
        let longest = if self.publisher.pending() > MAX_PUBLISHED { took } else { MAX_PUBLICATION_PERIOD };
        let wait = self.publication_debt.saturating_sub(PUBLICATION_CREDIT) * PUBLICATION_SHARE;
        let period = wait.clamp(PUBLICATION_PERIOD, longest.max(PUBLICATION_PERIOD));
        self.next_publication = Instant::now() + period;
    }

    fn apply_policies(&mut self) {
        let rules = rules(&self.policies, &self.store);
        self.publisher.set_rules(rules.clone());
        self.rules.replace(rules);
    }
}

/// The policies that hold now: what directives say, and else the node's own.
fn rules(policies: &[(Scope, Policy)], store: &SharedStore) -> Rules {
    let mut rules = Rules::default();
    for (scope, policy) in policies {
        rules.set(scope, *policy);
    }
    for (target, value) in store.read().statements().iter() {
        let Target::Policy(scope) = target else { continue };
        match str::from_utf8(value).ok().and_then(|text| text.parse().ok()) {
            Some(policy) => rules.set(scope, policy),
            None => warn!(
                "another node has set a policy that this release does not know: {}",
                String::from_utf8_lossy(value)
            ),
        }
    }
    rules
}
