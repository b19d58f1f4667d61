//! The upstream servers as one worker knows them: how long they take, whether they are there, and which is asked next.
//!
//! Each worker finds that out for itself. It does no I/O and takes the time as an argument.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::meter::{Count, Meter};

/// How long an answer is waited for that nobody has an idea of yet, before another server is asked.
const FIRST_PATIENCE: Duration = Duration::from_millis(200);

/// The shortest and the longest wait for an answer before the question is sent again. Shorter, and a server that has to
/// ask others itself would be asked several times for each name; longer, and a lost datagram would be felt.
const MIN_PATIENCE: Duration = Duration::from_millis(30);
const MAX_PATIENCE: Duration = Duration::from_secs(1);

/// A server is down when nothing has come from it for so long in which it should have answered so often.
const DOWN_AFTER: Duration = Duration::from_millis(1_500);
const DOWN_AFTER_TIMEOUTS: u32 = 3;

/// How often a server that is down is asked something to see whether it is back.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// How long it is remembered that a server does not speak EDNS.
const WITHOUT_EDNS: Duration = Duration::from_secs(600);

/// One question in so many goes to another server, too, so that it is known how fast the others are.
const EXPLORE: u32 = 32;

/// One server.
#[derive(Default)]
pub struct Server {
    /// Where it is counted what it does: this worker's own.
    pub meter: Arc<Meter>,
    /// The smoothed round-trip time and its variation (RFC 6298 §2), once something has been answered.
    round_trip: Option<(Duration, Duration)>,
    /// Questions in a row that it has not answered in time, and since when.
    timeouts: u32,
    silent_since: Option<Instant>,
    /// It is down; it is to be probed then.
    probe_at: Option<Instant>,
    without_edns_until: Option<Instant>,
}

impl Server {
    /// One of which nothing is known yet.
    #[must_use]
    pub fn new(meter: Arc<Meter>) -> Self {
        Self { meter, ..Self::default() }
    }

    /// Whether it is believed to answer.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.probe_at.is_none()
    }

    /// Whether it is asked with EDNS.
    #[must_use]
    pub fn speaks_edns(&self, now: Instant) -> bool {
        self.without_edns_until.is_none_or(|until| now >= until)
    }

    /// It does not.
    pub fn note_no_edns(&mut self, now: Instant) {
        self.without_edns_until = Some(now + WITHOUT_EDNS);
    }

    /// It has answered something that it was asked so long ago.
    pub fn note_answer(&mut self, took: Duration) {
        self.round_trip = Some(match self.round_trip {
            None => (took, took / 2),
            Some((smoothed, variation)) => {
                ((smoothed * 7 + took) / 8, (variation * 3 + smoothed.abs_diff(took)) / 4)
            }
        });
        (self.timeouts, self.silent_since, self.probe_at) = (0, None, None);
        self.meter.time(took);
        self.meter.set_down(false);
    }

    /// It has not answered in time what it was asked at `asked`. Returns whether it is down by that.
    pub fn note_timeout(&mut self, asked: Instant, now: Instant) -> bool {
        self.timeouts = self.timeouts.saturating_add(1);
        self.meter.count(Count::TimedOut);
        let silent_since = *self.silent_since.get_or_insert(asked);
        let is_long = now.saturating_duration_since(silent_since) >= DOWN_AFTER;
        self.is_up() && self.timeouts >= DOWN_AFTER_TIMEOUTS && is_long && self.note_down(now)
    }

    /// Its host says that nobody is there, or a connection to it could not be made. Returns whether that is news.
    pub fn note_down(&mut self, now: Instant) -> bool {
        let was_up = self.is_up();
        self.probe_at = Some(now + PROBE_INTERVAL);
        self.meter.set_down(true);
        was_up
    }

    /// Whether it is down and should be asked now to see whether it is back; told once an interval.
    pub fn is_to_be_probed(&mut self, now: Instant) -> bool {
        let due = self.probe_at.is_some_and(|at| now >= at);
        if due {
            self.probe_at = Some(now + PROBE_INTERVAL);
        }
        due
    }

    /// How long its answer is waited for to a question that it has been asked so often before.
    #[must_use]
    pub fn patience(&self, times: u32) -> Duration {
        let once = self.round_trip.map_or(FIRST_PATIENCE, |(smoothed, variation)| smoothed + variation * 4);
        (once.max(MIN_PATIENCE) * (times + 1)).min(MAX_PATIENCE)
    }

    /// When it is expected to answer: the lower, the better. Who is silent is worse each time.
    fn cost(&self) -> Duration {
        let usual = self.round_trip.map_or(Duration::ZERO, |(smoothed, _)| smoothed);
        usual + self.patience(0) * self.timeouts.min(100)
    }
}

/// Which of the servers in `group` (their numbers in `servers`) is asked next, after those in `asked`: the one that is
/// expected to answer first of those that have been asked least, or the first of these where they are asked `in_turn`. None if
/// all are down.
#[must_use]
pub fn choose(
    servers: &[Server],
    group: impl Iterator<Item = u16>,
    asked: &[u16],
    in_turn: bool,
) -> Option<u16> {
    let times = |number: u16| asked.iter().filter(|it| **it == number).count();
    let cost = |number: u16| {
        let server = &servers[usize::from(number)];
        if in_turn && server.timeouts == 0 { Duration::ZERO } else { server.cost() }
    };
    let up = group.filter(|&it| servers.get(usize::from(it)).is_some_and(Server::is_up));
    up.min_by_key(|&it| (times(it), cost(it)))
}

/// Which server of `group` is asked beside the `chosen` one, for the sake of knowing it: one that is down, to see whether it
/// is back, or now and then another. Nobody waits for its answer in particular.
#[must_use]
pub fn explore(
    servers: &mut [Server],
    group: &[u16],
    chosen: Option<u16>,
    now: Instant,
    rng: &mut fastrand::Rng,
) -> Option<u16> {
    let others = || group.iter().copied().filter(|&it| Some(it) != chosen);
    let probed = others()
        .find(|&it| servers.get_mut(usize::from(it)).is_some_and(|server| server.is_to_be_probed(now)));
    if probed.is_some() || group.len() < 2 || rng.u32(..EXPLORE) != 0 {
        return probed;
    }
    others()
        .nth(rng.usize(..group.len()))
        .filter(|&it| servers.get(usize::from(it)).is_some_and(Server::is_up))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn the_fastest_is_asked_and_the_others_beside_it_now_and_then() {
        let now = Instant::now();
        let mut servers = [Server::default(), Server::default(), Server::default()];
        servers[0].note_answer(20 * MS);
        servers[1].note_answer(2 * MS);
        servers[2].note_answer(9 * MS);
        let next = |asked: &[u16]| choose(&servers, 0..3, asked, false);
        assert_eq!([next(&[]), next(&[1]), next(&[1, 2]), next(&[1, 2, 0])], [1, 2, 0, 1].map(Some));
        let mut rng = fastrand::Rng::with_seed(1);
        let beside: Vec<_> =
            (0..3_000).filter_map(|_| explore(&mut servers, &[0, 1, 2], Some(1), now, &mut rng)).collect();
        let of = |number| beside.iter().filter(|it| **it == number).count();
        assert!(of(1) == 0 && (10..100).contains(&of(0)) && (10..100).contains(&of(2)));
        servers[1].note_timeout(now, now);
        assert_eq!(choose(&servers, 0..3, &[], false), Some(2), "who is silent is not the first to be asked");
    }

    #[test]
    fn patience_follows_the_round_trip_and_grows() {
        let mut server = Server::default();
        assert_eq!(server.patience(0), FIRST_PATIENCE);
        (0..50).for_each(|_| server.note_answer(MS));
        assert_eq!((server.patience(0), server.patience(1)), (MIN_PATIENCE, MIN_PATIENCE * 2));
        (0..50).for_each(|i| server.note_answer(if i % 2 == 0 { 300 * MS } else { MS }));
        assert!(server.patience(0) > 300 * MS && server.patience(0) <= MAX_PATIENCE);
    }

    #[test]
    fn who_is_silent_for_long_is_down_and_probed_once_an_interval() {
        let begin = Instant::now();
        let mut server = Server::default();
        for i in 0..100 {
            assert!(!server.note_timeout(begin, begin + 10 * MS * i), "not for long enough");
        }
        assert!(server.note_timeout(begin, begin + DOWN_AFTER) && !server.is_up());
        assert!(!server.note_timeout(begin, begin + DOWN_AFTER), "no news");
        let later = begin + DOWN_AFTER + PROBE_INTERVAL;
        assert!(!server.is_to_be_probed(begin + DOWN_AFTER));
        assert!(server.is_to_be_probed(later) && !server.is_to_be_probed(later));
        let mut servers = [server, Server::default()];
        assert_eq!((choose(&servers, 0..1, &[], false), choose(&servers, 0..2, &[], true)), (None, Some(1)));
        let mut rng = fastrand::Rng::new();
        assert_eq!(explore(&mut servers, &[0, 1], Some(1), later + PROBE_INTERVAL, &mut rng), Some(0));
        servers[0].note_answer(MS);
        assert!(servers[0].is_up());
    }

    #[test]
    fn loss_alone_takes_nobody_down() {
        let begin = Instant::now();
        let mut server = Server::default();
        for i in 0..1_000 {
            let now = begin + 100 * MS * i;
            if i % 5 == 0 {
                server.note_answer(MS);
            } else {
                assert!(!server.note_timeout(now - 30 * MS, now));
            }
        }
    }

    #[test]
    fn edns_is_tried_again_after_a_while() {
        let (mut server, now) = (Server::default(), Instant::now());
        assert!(server.speaks_edns(now));
        server.note_no_edns(now);
        assert!(!server.speaks_edns(now + MS) && server.speaks_edns(now + WITHOUT_EDNS));
    }
}
