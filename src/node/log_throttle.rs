//! What is logged at most once a minute, however often it happens.
//!
//! Runs on the main thread: a log may be slow to take a line, and the cluster does not wait for that.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::time::{Duration, Instant};

use tracing::warn;

use super::cluster::ClusterCounts;
use crate::gossip::cipher::Rejected;
use crate::gossip::engine::Faults;
use crate::store::{MAX_FOREIGN_LEN, MAX_ORIGINS};

/// How often the same is logged.
const LOG_PERIOD: Duration = Duration::from_secs(60);

/// Upstream faults that are told apart; more are logged each time.
const MAX_FAULTS_KEPT: usize = 1_024;

/// What has been logged of gossip that was rejected.
#[derive(Default)]
pub(super) struct RejectedGossip {
    next: Option<Instant>,
    rejected: u64,
    faults: Faults,
}

impl RejectedGossip {
    /// Logs once a minute, if there is anything, what of others' gossip could not be taken.
    pub(super) fn log(&mut self, counts: &ClusterCounts) {
        let (Some(traffic), faults) = (counts.traffic, counts.faults) else { return };
        let rejected = traffic.rejected.iter().sum::<u64>();
        let log = &*self;
        if (rejected, faults) == (log.rejected, log.faults)
            || log.next.is_some_and(|next| Instant::now() < next)
        {
            return;
        }
        let reasons = traffic.rejected.iter().zip(Rejected::ALL).filter(|(count, _)| **count > 0);
        let reasons: Vec<_> = reasons.map(|(count, reason)| format!("{} {count}", reason.name())).collect();
        if rejected > log.rejected {
            warn!(
                "gossip was rejected; since the start, by reason: {}. Nodes of one cluster need the same --cluster and \
                 keys in common in their --key-file",
                reasons.join(", ")
            );
        }
        if faults.impostor > log.faults.impostor {
            warn!(
                "another node has the id of this one: a copy of its data directory is in use; make one of them begin \
                 anew with an empty directory"
            );
        }
        if faults.full > log.faults.full {
            warn!(
                "other nodes have registered more than {} GiB, or there are more than {MAX_ORIGINS}: what is over \
                 that is left out here, and answers differ",
                MAX_FOREIGN_LEN >> 30
            );
        }
        if faults.malformed > log.faults.malformed {
            warn!("{} messages of other nodes could not be read since the start", faults.malformed);
        }
        *self = Self { next: Some(Instant::now() + LOG_PERIOD), rejected, faults };
    }
}

/// When which fault of connections to upstreams was logged last.
#[derive(Default)]
pub(super) struct UpstreamFaults(HashMap<String, Instant>);

impl UpstreamFaults {
    /// Logs what a worker has found of an upstream: all workers find the same, and some find it again and again.
    pub(super) fn log(&mut self, what: String) {
        let now = Instant::now();
        self.0.retain(|_, logged| now.saturating_duration_since(*logged) < LOG_PERIOD);
        if self.0.len() >= MAX_FAULTS_KEPT {
            return warn!("{what}");
        }
        if let Entry::Vacant(new) = self.0.entry(what) {
            warn!("{}", new.key());
            new.insert(now);
        }
    }
}
