//! The control thread's loop: what is asked for, what the cluster says, and when the workers get a new table.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use tracing::{error, info, warn};

use super::{
    Control, Node, NodeError, read_names, read_ring, read_secrets, read_zone_keys, upstreams, watch_files,
    watch_or_tell,
};
use crate::config::Settings;
use crate::gossip::engine::Faults;
use crate::gossip::seal::Rejected;
use crate::store::{MAX_FOREIGN_LEN, MAX_ORIGINS};

/// How long after the first sign of a change files are read, so that one change is one reading.
const SETTLING: Duration = Duration::from_millis(5);

/// Commands that are taken before the cluster gets its turn.
const COMMANDS_PER_TURN: usize = 1_000;

/// The shortest time between two publications.
const PUBLICATION_PERIOD: Duration = crate::limits::PUBLICATION_PERIOD;

/// The longest time between two publications that is waited for to have more of them in one.
const MAX_PUBLICATION_PERIOD: Duration = Duration::from_millis(100);

/// Publications may take one part in so many of the time: under load, more names go into each.
const PUBLICATION_SHARE: u32 = crate::limits::PUBLICATION_SHARE;

/// After so long without a change the table is brought in order: until then names that have changed may do so again.
const QUIET: Duration = Duration::from_secs(1);

/// CPU time that publications may be ahead of their share: what changes now and then is published at once.
const PUBLICATION_CREDIT: Duration = crate::limits::PUBLICATION_CREDIT;

/// Names in one publication, where many are waiting: more take several, so that the cluster is not kept waiting.
const MAX_PUBLISHED: usize = 10_000;

/// How often it is told that others' gossip is rejected.
const TELLING_PERIOD: Duration = Duration::from_secs(60);

/// What has been told about gossip that was rejected.
#[derive(Default)]
pub(super) struct Told {
    next: Option<Instant>,
    rejected: u64,
    faults: Faults,
}

impl Node {
    /// Does what it is asked until it is asked to stop.
    pub fn run(mut self) {
        while self.turn() {}
        info!("stopping: answering what has been received");
        let totals = self.stop();
        let told: Vec<_> =
            totals.iter().filter(|(_, n)| *n > 0).map(|(event, n)| format!("{} {n}", event.name())).collect();
        info!("stopped; counted: {}", if told.is_empty() { "nothing".into() } else { told.join(", ") });
    }

    /// Waits until there is something to do, and does it. Returns whether there will be more.
    fn turn(&mut self) -> bool {
        let patience = self.patience();
        self.inbox.wait(patience, |event| self.cluster.note(event));
        for _ in 0..COMMANDS_PER_TURN {
            match self.inbox.take() {
                Some(Control::Stop) => return false,
                Some(Control::Reload) => {
                    self.reload_at.get_or_insert_with(|| Instant::now() + SETTLING);
                }
                Some(Control::Configure(settings)) => self.configure(*settings),
                Some(Control::Seed(address)) => self.cluster.engine_mut().add_seed(address),
                Some(Control::Committed(done)) => self.committed(done),
                Some(Control::Request(request)) => self.obey(request),
                Some(Control::Found(found)) => self.found(found),
                Some(Control::UpstreamFault(what)) => self.tell_fault(what),
                Some(Control::Docker(update)) => self.take_container(update),
                None => break,
            }
        }
        self.mutate();
        if self.reload_at.is_some_and(|at| Instant::now() >= at) {
            self.reload_at = None;
            self.reload_and_tell();
        }
        let news = self.cluster.advance();
        self.tell_news(news);
        self.publish_when_due();
        self.tell_rejected();
        self.left_out.tell(self.publisher.crowded(), Instant::now());
        self.supervisor.tell_alive();
        self.ages.note(&self.cluster.engine().store().read(), Instant::now());
        true
    }

    fn patience(&self) -> Duration {
        let now = Instant::now();
        let publication = self.publication_due();
        let ours = [publication, self.reload_at].into_iter().flatten().min();
        let cluster = self.cluster.patience();
        let ours = ours.map_or(cluster, |at| cluster.min(at.saturating_duration_since(now)));
        self.supervisor.patience().map_or(ours, |patience| ours.min(patience))
    }

    fn reload_and_tell(&mut self) {
        let begin = Instant::now();
        self.supervisor.tell_reloading();
        match self.reload() {
            Ok(()) => {
                let (names, took_ms) = (self.table().names(), begin.elapsed().as_secs_f64() * 1e3);
                info!("names read again: {names} names, in {took_ms:.1} ms");
            }
            Err(refused) => error!("names not changed: {refused}"),
        }
        self.supervisor.tell_reloaded();
    }

    /// Takes what can be changed in a running server of these settings, with the files that they name, all of it or nothing.
    fn configure(&mut self, settings: Settings) {
        let fixed = self.settings.fixed_differences(&settings);
        if !fixed.is_empty() {
            warn!("these take a restart, and stay as they were: {}", fixed.join(", "));
        }
        let before = self.settings.clone();
        self.settings.take_changeable(settings);
        self.supervisor.tell_reloading();
        let file_watch = watch_files(&self.settings, &self.inbox);
        match self.reload() {
            Ok(()) => {
                self.file_watch = watch_or_tell(file_watch);
                if self.settings.policies != before.policies {
                    // Any name may be answered by another one now.
                    self.note_changed();
                    self.apply_policies();
                    self.publisher.publish_whole(&self.cluster.engine().store().read(), 1);
                }
                info!("configuration read again: {} names", self.table().names());
            }
            Err(refused) => {
                error!("nothing was changed: {refused}");
                self.settings = before;
            }
        }
        self.supervisor.tell_reloaded();
    }

    /// Reads the files again and takes what they say.
    ///
    /// # Errors
    /// [`NodeError`]; names, secrets and keys are then as they were, all of them.
    pub fn reload(&mut self) -> Result<(), NodeError> {
        let names = read_names(&self.settings)?;
        let secrets = read_secrets(&self.settings)?;
        let ring = read_ring(&self.settings)?;
        let zone_keys = read_zone_keys(&self.settings)?;
        let upstreams = upstreams::read(&self.settings, &self.addresses)?;
        self.replace(names);
        self.zone_keys.replace(zone_keys);
        if let Some(upstreams) = upstreams {
            self.ask_others(upstreams);
        }
        if let Some(secrets) = secrets.filter(|secrets| *secrets != *self.secrets.load()) {
            self.secrets.replace(secrets);
        }
        if ring != self.ring {
            info!("gossip is sealed with the keys as they are in the file now");
            self.cluster.set_ring(ring.clone());
            self.ring = ring;
        }
        Ok(())
    }

    /// Publishes all that has changed, now.
    pub(super) fn publish_all(&mut self) {
        self.note_changed();
        if self.publisher.pending() > 0 {
            self.publisher.publish(&self.cluster.engine().store().read(), usize::MAX);
        }
    }

    /// Names that have changed since they were published; some may be counted twice.
    fn unpublished(&self) -> usize {
        self.cluster.engine().store().read().changed() + self.publisher.pending()
    }

    /// Takes the names that have changed, with what has been said of them.
    pub(super) fn note_changed(&mut self) {
        let store = self.cluster.engine().store().clone();
        let (said, changed) = {
            let mut store = store.write();
            (store.has_new_statements(), store.take_changed())
        };
        if said {
            self.apply_policies();
        }
        if !changed.is_empty() {
            self.tell_changed(&changed);
            self.publisher.note(changed);
        }
    }

    /// When there will be something to publish, or to be brought in order of what was.
    fn publication_due(&self) -> Option<Instant> {
        if self.unpublished() > 0 {
            return Some(self.next_publication);
        }
        let settles = !self.publisher.is_settled();
        settles.then(|| self.next_publication.max(self.changed_at + QUIET))
    }

    fn publish_when_due(&mut self) {
        let begin = Instant::now();
        if self.publication_due().is_none_or(|due| begin < due) {
            return;
        }
        if self.unpublished() > 0 {
            self.changed_at = begin;
        }
        self.note_changed();
        let cpu_before = thread_cpu_time();
        self.publisher.publish(&self.cluster.engine().store().read(), MAX_PUBLISHED);
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

    /// Tells once a minute, if there is anything, what of others' gossip could not be taken.
    fn tell_rejected(&mut self) {
        let Some(traffic) = self.cluster.traffic() else { return };
        let (rejected, faults) = (traffic.rejected.iter().sum::<u64>(), self.cluster.engine().faults());
        if (rejected, faults) == (self.told.rejected, self.told.faults)
            || self.told.next.is_some_and(|next| Instant::now() < next)
        {
            return;
        }
        let reasons = traffic.rejected.iter().zip(Rejected::ALL).filter(|(count, _)| **count > 0);
        let reasons: Vec<_> = reasons.map(|(count, reason)| format!("{} {count}", reason.name())).collect();
        if rejected > self.told.rejected {
            warn!(
                "gossip was rejected; since the start, by reason: {}. Nodes of one cluster need the same --cluster and \
                 keys in common in their --key-file",
                reasons.join(", ")
            );
        }
        if faults.impostor > self.told.faults.impostor {
            warn!(
                "another node has the id of this one: a copy of its data directory is in use; make one of them begin \
                 anew with an empty directory"
            );
        }
        if faults.full > self.told.faults.full {
            warn!(
                "other nodes have registered more than {} GiB, or there are more than {MAX_ORIGINS}: what is over that is left out \
                 here, and answers differ",
                MAX_FOREIGN_LEN >> 30
            );
        }
        if faults.malformed > self.told.faults.malformed {
            warn!("{} messages of other nodes could not be read since the start", faults.malformed);
        }
        self.told = Told { next: Some(Instant::now() + TELLING_PERIOD), rejected, faults };
    }

    /// What the gossip has counted, by name.
    pub(super) fn gossip_counts(&self) -> BTreeMap<String, u64> {
        let Some(traffic) = self.cluster.traffic() else { return BTreeMap::new() };
        let faults = self.cluster.engine().faults();
        let rejected = traffic.rejected.iter().zip(Rejected::ALL);
        let rejected = rejected.map(|(&count, reason)| (format!("rejected_{}", reason.name()), count));
        [
            ("datagrams_in", traffic.datagrams_in),
            ("bytes_in", traffic.bytes_in),
            ("datagrams_out", traffic.datagrams_out),
            ("bytes_out", traffic.bytes_out),
            ("datagrams_unsent", traffic.datagrams_unsent),
            ("streams_in", traffic.streams_in),
            ("streams_out", traffic.streams_out),
            ("streams_broken", traffic.streams_broken),
            ("malformed", faults.malformed),
            ("impostor", faults.impostor),
            ("full", faults.full),
        ]
        .map(|(name, count)| (name.to_owned(), count))
        .into_iter()
        .chain(rejected)
        .collect()
    }
}

/// How long this thread has had a CPU.
fn thread_cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.try_into().unwrap_or_default(), time.tv_nsec.try_into().unwrap_or_default())
}
