//! When to check what, and what comes of it: the part of health checking that has neither sockets nor a clock.
//!
//! Pure. Runs on the `health` thread, or in a test with a clock of its own.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::spec::Check;
use crate::policy::select::{Health, RAMP_STEPS};
use crate::store::ObservedState;

/// A check is up to so much of its interval early, each time anew: so those that began together do not stay together.
const JITTER: f64 = 0.05;

/// How long a check that is due while the one before it still runs is put off.
const BUSY_DELAY: Duration = Duration::from_millis(10);

/// What is watched: the bytes of a registration's key.
pub type Key = Box<[u8]>;

/// What there is to be known of an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watch {
    /// The address.
    pub address: IpAddr,
    /// How it is checked, if it is.
    pub check: Option<Arc<Check>>,
    /// For how long its weight is ramped up when it is new or well again.
    pub slow_start: Option<Duration>,
}

/// A check that is to be made now.
#[derive(Clone, Debug)]
pub struct DueCheck {
    /// Whose it is; goes back with what comes of it.
    pub target: usize,
    /// The same.
    pub generation: u64,
    /// What is checked.
    pub address: IpAddr,
    /// How.
    pub check: Arc<Check>,
}

/// What came of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckOutcome {
    /// It is well.
    Well,
    /// It is not, and why.
    Failed(String),
    /// The check could not be made, for a reason that is ours: nothing is known by it.
    Unmade(String),
}

/// Something that has changed with an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthChange {
    /// Which one.
    pub key: Key,
    /// How it is now.
    pub state: ObservedState,
    /// What was found out last, for people.
    pub told: String,
}

struct WatchedAddress {
    key: Key,
    generation: u64,
    watch: Watch,
    state: ObservedState,
    /// Outcomes in a row that speak against what is held.
    streak: u32,
    running: bool,
    told: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Check,
    Ramp,
}

/// All that is watched.
pub struct Monitor {
    targets: slab::Slab<WatchedAddress>,
    by_key: HashMap<Key, usize>,
    /// What is due when: the earliest on top. Entries of an earlier generation are void.
    due: BinaryHeap<Reverse<(Duration, usize, u64, Due)>>,
    generations: u64,
    rng: fastrand::Rng,
}

impl Monitor {
    /// Nothing is watched yet.
    #[must_use]
    pub fn new(rng: fastrand::Rng) -> Self {
        Self {
            targets: slab::Slab::new(),
            by_key: HashMap::new(),
            due: BinaryHeap::new(),
            generations: 0,
            rng,
        }
    }

    /// Watches an address from `now` on; `new` says that it has just been registered. What is known of one that was
    /// watched in the same way is kept, unless it has been registered anew.
    pub fn watch(&mut self, now: Duration, key: Key, watch: Watch, new: bool) -> Option<HealthChange> {
        if let Some(&id) = self.by_key.get(&key) {
            if !new && self.targets[id].watch == watch {
                return None;
            }
            self.forget(&key);
        }
        self.generations += 1;
        let generation = self.generations;
        let target = WatchedAddress {
            key: key.clone(),
            generation,
            watch,
            state: ObservedState::default(),
            streak: 0,
            running: false,
            told: String::new(),
        };
        let interval = target.watch.check.as_ref().map(|check| check.interval);
        let id = self.targets.insert(target);
        self.by_key.insert(key, id);
        if let Some(interval) = interval {
            // Somewhere in an interval, as long as those that follow: many that are registered together are checked one
            // after the other, from the first round on.
            let first = now + interval.mul_f64((1.0 - JITTER * self.rng.f64()) * self.rng.f64());
            self.due.push(Reverse((first, id, generation, Due::Check)));
        }
        (new && self.begin_ramp(now, id)).then(|| self.found(id))
    }

    /// Watches it no longer.
    pub fn forget(&mut self, key: &[u8]) {
        if let Some(id) = self.by_key.remove(key) {
            self.targets.remove(id);
        }
    }

    /// How many are watched.
    #[must_use]
    pub fn len(&self) -> usize {
        self.targets.len()
    }

    /// Whether nothing is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.targets.is_empty()
    }

    /// When there will be something to do.
    #[must_use]
    pub fn next(&self) -> Option<Duration> {
        self.due.peek().map(|Reverse((at, ..))| *at)
    }

    /// Tells the checks that are to be made `now`, `most` of them at most, and what has changed without any.
    pub fn advance(
        &mut self,
        now: Duration,
        mut most: usize,
        mut job: impl FnMut(DueCheck),
        mut tell: impl FnMut(HealthChange),
    ) {
        while most > 0
            && let Some(&Reverse((at, id, generation, due))) = self.due.peek().filter(|due| due.0.0 <= now)
        {
            self.due.pop();
            let Some(target) = self.targets.get_mut(id).filter(|target| target.generation == generation)
            else {
                continue;
            };
            match (due, &target.watch.check) {
                (Due::Check, Some(_)) if target.running => {
                    self.due.push(Reverse((now + BUSY_DELAY, id, generation, due)));
                }
                (Due::Check, Some(check)) => {
                    target.running = true;
                    most -= 1;
                    let early = JITTER * self.rng.f64();
                    // From when it was due, not from now: being late once does not make the next one late.
                    let next =
                        at.max(now.saturating_sub(check.interval)) + check.interval.mul_f64(1.0 - early);
                    let check = Arc::clone(check);
                    job(DueCheck { target: id, generation, address: target.watch.address, check });
                    self.due.push(Reverse((next, id, generation, due)));
                }
                (Due::Check, None) => {}
                (Due::Ramp, _) => {
                    let Some(ramp) = target.state.ramp else { continue };
                    target.state.ramp = (ramp + 1 < RAMP_STEPS).then_some(ramp + 1);
                    if let Some(step) = target.ramp_step().filter(|_| target.state.ramp.is_some()) {
                        self.due.push(Reverse((at + step, id, generation, Due::Ramp)));
                    }
                    tell(self.found(id));
                }
            }
        }
    }

    /// Takes what came of a check; returns what has changed by it.
    pub fn done(
        &mut self,
        now: Duration,
        target: usize,
        generation: u64,
        outcome: CheckOutcome,
    ) -> Option<HealthChange> {
        let id = target;
        let target = self.targets.get_mut(id).filter(|target| target.generation == generation)?;
        target.running = false;
        let check = target.watch.check.as_ref()?;
        let before = target.state.health;
        let (against, needed, becomes, told) = match outcome {
            CheckOutcome::Unmade(why) => {
                target.told = format!("the check could not be made: {why}");
                return None;
            }
            CheckOutcome::Well => (before == Health::Down, check.rise, Health::Up, String::new()),
            CheckOutcome::Failed(why) => (before != Health::Down, check.fall, Health::Down, why),
        };
        target.told = told;
        // That it is well is no news for one of which nothing is known, but for people.
        if before == Health::Unknown && becomes == Health::Up {
            target.streak = 0;
            target.state.health = becomes;
            return Some(self.found(id));
        }
        target.streak = if against { target.streak + 1 } else { 0 };
        if target.streak < needed || !against {
            return None;
        }
        target.streak = 0;
        target.state.health = becomes;
        target.state.ramp = None;
        if becomes == Health::Up {
            self.begin_ramp(now, id);
        }
        Some(self.found(id))
    }

    fn begin_ramp(&mut self, now: Duration, id: usize) -> bool {
        let target = &mut self.targets[id];
        let Some(step) = target.ramp_step() else { return false };
        target.state.ramp = Some(1);
        self.due.push(Reverse((now + step, id, target.generation, Due::Ramp)));
        true
    }

    fn found(&self, id: usize) -> HealthChange {
        let WatchedAddress { key, state, told, .. } = &self.targets[id];
        HealthChange { key: key.clone(), state: *state, told: told.clone() }
    }
}

impl WatchedAddress {
    /// How long each part of a ramp takes.
    fn ramp_step(&self) -> Option<Duration> {
        self.watch.slow_start.map(|all| all / u32::from(RAMP_STEPS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn watch(check: &str, slow_start: Option<Duration>) -> Watch {
        let check = (!check.is_empty()).then(|| Arc::new(check.parse().unwrap()));
        Watch { address: [10, 0, 0, 1].into(), check, slow_start }
    }

    fn monitor() -> Monitor {
        Monitor::new(fastrand::Rng::with_seed(1))
    }

    fn key(id: u32) -> Key {
        id.to_be_bytes().into()
    }

    /// Lets time pass up to `until`; each check takes no time and has the outcome that `well` says.
    fn run(
        monitor: &mut Monitor,
        until: Duration,
        mut well: impl FnMut(Duration) -> bool,
    ) -> Vec<(Duration, HealthChange)> {
        let mut all = Vec::new();
        while let Some(now) = monitor.next().filter(|at| *at <= until) {
            let (mut jobs, mut found) = (Vec::new(), Vec::new());
            monitor.advance(now, usize::MAX, |job| jobs.push(job), |it| found.push(it));
            for DueCheck { target, generation, .. } in jobs {
                let outcome =
                    if well(now) { CheckOutcome::Well } else { CheckOutcome::Failed("refused".into()) };
                found.extend(monitor.done(now, target, generation, outcome));
            }
            all.extend(found.into_iter().map(|found| (now, found)));
        }
        all
    }

    #[test]
    fn what_fails_is_down_within_fall_intervals_and_up_again_within_rise() {
        for seed in 0..50 {
            let mut monitor = Monitor::new(fastrand::Rng::with_seed(seed));
            assert_eq!(
                monitor.watch(Duration::ZERO, key(1), watch("tcp:80,rise=2,fall=3", None), true),
                None
            );
            let dies = S * 100 + S.mul_f64(f64::from(u32::try_from(seed).unwrap()) / 5.0);
            let back = dies + S * 60;
            let found = run(&mut monitor, S * 300, |now| now < dies || now >= back);
            let states: Vec<_> = found.iter().map(|(_, found)| found.state.health).collect();
            assert_eq!(states, [Health::Up, Health::Down, Health::Up]);
            assert!(found[0].0 <= S * 10, "the first is in the first interval");
            let (down, up) = (found[1].0 - dies, found[2].0 - back);
            assert!(down > S * 18 && down <= S * 30, "{down:?}");
            assert!(up > S * 9 && up <= S * 20, "{up:?}");
            assert_eq!((&*found[1].1.told, &*found[2].1.told), ("refused", ""));
        }
    }

    #[test]
    fn now_and_then_a_failure_means_nothing() {
        let mut monitor = monitor();
        monitor.watch(Duration::ZERO, key(1), watch("tcp:80,fall=3", None), true);
        let mut count = 0;
        let found = run(&mut monitor, S * 1_000, |_| {
            count += 1;
            count % 3 == 1
        });
        assert_eq!(found.len(), 1, "two failures in a row are not three: {found:?}");
    }

    #[test]
    fn a_check_that_cannot_be_made_says_nothing() {
        let mut monitor = monitor();
        monitor.watch(Duration::ZERO, key(1), watch("tcp:80,fall=1", None), true);
        for i in 1..20 {
            let now = S * 10 * i;
            let mut jobs = Vec::new();
            monitor.advance(now, usize::MAX, |job| jobs.push(job), |_| {});
            for job in jobs {
                let unmade = CheckOutcome::Unmade("too many open files".into());
                assert_eq!(monitor.done(now, job.target, job.generation, unmade), None);
            }
        }
    }

    #[test]
    fn an_outcome_of_what_is_no_longer_watched_is_nothing() {
        let mut monitor = monitor();
        monitor.watch(Duration::ZERO, key(1), watch("tcp:80,fall=1", None), true);
        let mut jobs = Vec::new();
        monitor.advance(S * 10, 0, |_| panic!("none may be made"), |_| {});
        monitor.advance(S * 10, 9, |job| jobs.push(job), |_| {});
        monitor.advance(S * 30, 9, |_| panic!("the one before still runs"), |_| {});
        monitor.forget(&key(1));
        assert!(monitor.is_empty());
        // Another takes its place.
        monitor.watch(S * 11, key(2), watch("tcp:80,fall=1", None), true);
        assert_eq!(
            monitor.done(S * 11, jobs[0].target, jobs[0].generation, CheckOutcome::Failed("x".into())),
            None
        );
        // The same again, in the same way, is the same; in another way it begins anew.
        run(&mut monitor, S * 40, |_| false);
        assert_eq!(monitor.watch(S * 41, key(2), watch("tcp:80,fall=1", None), false), None);
        assert_eq!(run(&mut monitor, S * 80, |_| false), []);
        monitor.watch(S * 81, key(2), watch("tcp:81,fall=1", None), true);
        assert_eq!(run(&mut monitor, S * 95, |_| false).len(), 1);
        assert_eq!(monitor.len(), 1);
    }

    #[test]
    fn weights_are_ramped_up_when_an_address_is_new_or_well_again() {
        let mut monitor = monitor();
        let first = monitor.watch(Duration::ZERO, key(1), watch("", Some(S * 16)), true).unwrap();
        assert_eq!(first.state.ramp, Some(1));
        let ramps = run(&mut monitor, S * 100, |_| unreachable!("it is not checked"));
        let expected: Vec<_> = (2..16).map(Some).chain([None]).collect();
        assert_eq!(ramps.iter().map(|(_, found)| found.state.ramp).collect::<Vec<_>>(), expected);
        assert_eq!(ramps.last().unwrap().0, S * 15);
        // After a restart of the node an address is not new.
        assert_eq!(monitor.watch(S * 100, key(2), watch("", Some(S * 16)), false), None);
        let mut checked = self::monitor();
        checked.watch(Duration::ZERO, key(1), watch("tcp:80,rise=1,fall=1", Some(S * 32)), false);
        let found = run(&mut checked, S * 200, |now| !(S * 50..S * 70).contains(&now));
        let ramps: Vec<_> = found.iter().map(|(_, found)| found.state.ramp).collect();
        assert_eq!(ramps[..4], [None, None, Some(1), Some(2)]);
        assert_eq!(ramps.last(), Some(&None));
    }

    #[test]
    fn ten_thousand_checks_are_spread_over_their_interval() {
        let mut monitor = monitor();
        (0..10_000).for_each(|id| drop(monitor.watch(Duration::ZERO, key(id), watch("tcp:80", None), false)));
        let mut per_100_ms = vec![0u32; 1_000];
        run(&mut monitor, S * 100, |now| {
            per_100_ms[(now.as_millis() / 100).min(999) as usize] += 1;
            true
        });
        // A hundred are expected in each, a few more since checks are early, with a standard deviation of ten.
        assert!(per_100_ms[..990].iter().all(|count| (50..=155).contains(count)), "{per_100_ms:?}");
    }
}
