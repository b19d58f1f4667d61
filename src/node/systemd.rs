//! What started the process, if it wants to know how it is: systemd (sd_notify(3)).
//!
//! Runs on the main thread, which tells the watchdog that the process is alive as long as the thread `cluster` is.

use std::time::{Duration, Instant};

use sd_notify::NotifyState;

/// Who is told. Without one, nothing happens.
#[derive(Default)]
pub(super) struct ServiceManager {
    /// The watchdog wants to hear something as often as that, and when it is due.
    watchdog: Option<(Duration, Instant)>,
    /// Turns of the cluster when it was told last.
    cluster_turns: Option<u64>,
}

impl ServiceManager {
    /// The server answers.
    pub(super) fn tell_ready(&mut self) {
        // Half of the time after which it would be taken for dead.
        let period = sd_notify::watchdog_enabled().map(|time| time / 2);
        self.watchdog = period.map(|period| (period, Instant::now()));
        tell(&[NotifyState::Ready]);
    }

    /// It reads its files.
    pub(super) fn tell_reloading(&self) {
        if let Ok(now) = NotifyState::monotonic_usec_now() {
            tell(&[NotifyState::Reloading, now]);
        }
    }

    /// It has read them, well or not.
    pub(super) fn tell_reloaded() {
        tell(&[NotifyState::Ready]);
    }

    /// It ends.
    pub(super) fn tell_stopping(&self) {
        tell(&[NotifyState::Stopping]);
    }

    /// How long the main thread may sleep.
    pub(super) fn timeout(&self) -> Option<Duration> {
        self.watchdog.map(|(_, due)| due.saturating_duration_since(Instant::now()))
    }

    /// Tells the watchdog that the process is alive, when that is due and the cluster, if it gossips, has had turns
    /// since it was told last.
    pub(super) fn tell_alive(&mut self, cluster_turns: Option<u64>) {
        let now = Instant::now();
        if let Some((period, due)) = &mut self.watchdog
            && now >= *due
        {
            if cluster_turns.is_none() || self.cluster_turns != cluster_turns {
                *due = now + *period;
                tell(&[NotifyState::Watchdog]);
            } else {
                // A quiet cluster may have a turn a second.
                *due = now + *period / 8;
            }
            self.cluster_turns = cluster_turns;
        }
    }
}

/// Nobody may be there to be told.
fn tell(states: &[NotifyState<'_>]) {
    let _ = sd_notify::notify(states);
}
