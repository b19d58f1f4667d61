//! The upstream servers as one worker knows them: how long they take, what they are silent to, whether they are there,
//! and which is asked next.
//!
//! What is known of a server is kept apart from what is known of one kind of question at it: a firewall that drops
//! HTTPS questions says nothing of the server's other answers. `docs/resolver.md` has the table of which observation
//! may change which. Each worker finds that out for itself. It does no I/O and takes the time as an argument.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::dress::Taste;
use super::meter::{Count, Meter};
use super::question::{OwnedQuestion, Question};
use crate::wire::record::rtype;

/// How long an answer is waited for that nobody has an idea of yet, before another server is asked.
const FIRST_PATIENCE: Duration = Duration::from_millis(200);

/// The shortest and the longest wait for an answer before the question is sent again. Shorter, and a server that has to
/// ask others itself would be asked several times for each name; longer, and a lost datagram would be felt.
const MIN_PATIENCE: Duration = Duration::from_millis(30);
const MAX_PATIENCE: Duration = Duration::from_secs(1);

/// A server is checked when it has left so many messages in a row without an answer of any sort, once an interval.
const CHECK_AFTER_TIMEOUTS: u32 = 2;

/// A server is down when nothing of any sort has come from it for so long, in which it was sent so many messages for
/// several questions, and the check was among them.
const DOWN_AFTER: Duration = Duration::from_millis(1_500);
const DOWN_AFTER_TIMEOUTS: u32 = 3;

/// How often a server that is silent or down is asked something to see whether it is there.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// How often the question is renewed that a server is checked with: what it has answered lately it will answer again,
/// from its cache if it has one.
const KNOWN_RENEWAL: Duration = Duration::from_secs(10);

/// After so many datagrams in a row that nothing came back for, the server is asked by new sockets: those there are may
/// have a source address or a way that is none any more.
const RENEW_AFTER: u32 = 2;

/// One question in so many goes to another server, too, so that it is known how fast the others are.
const EXPLORE: u32 = 32;

/// Kinds of questions that a server may be silent to while it answers others.
const KINDS: usize = 4;

/// The kind of questions for this type.
fn kind_of(qtype: u16) -> usize {
    match qtype {
        rtype::A => 0,
        rtype::AAAA => 1,
        rtype::HTTPS | rtype::SVCB => 2,
        _ => 3,
    }
}

/// The question that a server is checked with that has answered none: any resolver knows the servers of the root. Its
/// name's hash is no real one: nobody looks for it.
pub const ROOT_CHECK: Question<'static> =
    Question { name: b"\0", name_hash: 0, qtype: rtype::NS, dnssec_ok: false, checking_disabled: false };

/// What a message was about, as far as its silence is told from that of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subject {
    /// The question's hash.
    pub hash: u64,
    /// Its type.
    pub qtype: u16,
    /// The server was not sent it before.
    pub first: bool,
}

/// A question that a server has answered, by which it can be checked.
#[derive(Clone)]
pub struct Known {
    /// The question.
    pub question: OwnedQuestion,
    /// The group of servers that it belongs to.
    pub group: u16,
    at: Instant,
}

/// A silence: nothing of any sort has come since.
#[derive(Clone, Copy)]
struct Silence {
    /// When the first message was sent that was left without an answer.
    since: Instant,
    /// Messages that were.
    timeouts: u32,
    /// The hash of the first question; and that others were left, too.
    question: u64,
    several: bool,
    /// The check was left without an answer.
    check_failed: bool,
}

/// One server.
#[derive(Default)]
pub struct Server {
    /// Where it is counted what it does: this worker's own.
    pub meter: Arc<Meter>,
    /// The smoothed round-trip time and its variation (RFC 6298 §2), once something has been answered.
    round_trip: Option<(Duration, Duration)>,
    /// Of each kind, questions in a row that it has left without an answer.
    silent_to: [u8; KINDS],
    silence: Option<Silence>,
    /// When it was checked last.
    checked: Option<Instant>,
    /// Datagrams in a row that nothing came back for.
    losses: u32,
    /// There was no way to it, and nothing has come from it since: others go first.
    no_way: bool,
    /// It is down; it is to be checked then.
    check_at: Option<Instant>,
    known: Option<Known>,
    /// What it takes.
    pub taste: Taste,
}

impl Server {
    /// One of which nothing is known yet, but whether a loop through it is possible.
    #[must_use]
    pub fn new(meter: Arc<Meter>, may_loop: bool) -> Self {
        Self { meter, taste: Taste::new(may_loop), ..Self::default() }
    }

    /// Whether it is believed to answer.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.check_at.is_none()
    }

    /// It has answered something, of any sort, that it was asked so long ago for this type.
    pub fn note_answer(&mut self, took: Duration, qtype: u16) {
        self.round_trip = Some(match self.round_trip {
            None => (took, took / 2),
            Some((smoothed, variation)) => {
                ((smoothed * 7 + took) / 8, (variation * 3 + smoothed.abs_diff(took)) / 4)
            }
        });
        self.silent_to[kind_of(qtype)] = 0;
        (self.silence, self.check_at, self.no_way) = (None, None, false);
        self.meter.time(took);
        self.meter.set_down(false);
    }

    /// A datagram to it was not answered in time. Returns whether it is to be asked by new sockets.
    pub fn note_loss(&mut self) -> bool {
        self.losses += 1;
        let is_due = self.losses >= RENEW_AFTER;
        if is_due {
            self.losses = 0;
        }
        is_due
    }

    /// A datagram has come from it.
    pub fn note_arrival(&mut self) {
        self.losses = 0;
    }

    /// There is no way to it now.
    pub fn note_no_way(&mut self) {
        self.no_way = true;
    }

    /// It has given an answer to `question`: by that it can be checked.
    pub fn note_known(&mut self, question: &OwnedQuestion, group: u16, now: Instant) {
        let is_new =
            self.known.as_ref().is_some_and(|it| now.saturating_duration_since(it.at) < KNOWN_RENEWAL);
        if !is_new {
            self.known = Some(Known { question: question.clone(), group, at: now });
        }
    }

    /// A question that it has answered before.
    #[must_use]
    pub fn known(&self) -> Option<&Known> {
        self.known.as_ref()
    }

    /// It has left a question about `subject`, asked at `asked`, without an answer. Returns whether it should be
    /// checked now.
    pub fn note_timeout(&mut self, subject: Subject, asked: Instant, now: Instant) -> bool {
        self.meter.count(Count::TimedOut);
        let Subject { hash, qtype, first } = subject;
        let kind = &mut self.silent_to[kind_of(qtype)];
        *kind = kind.saturating_add(first.into());
        let is_check = hash == self.known.as_ref().map_or(ROOT_CHECK, |known| known.question.get()).hash();
        let silence = self.silence.get_or_insert(Silence {
            since: asked,
            timeouts: 0,
            question: hash,
            several: false,
            check_failed: false,
        });
        silence.timeouts = silence.timeouts.saturating_add(1);
        silence.several |= silence.question != hash;
        silence.check_failed |= is_check;
        let is_long = now.saturating_duration_since(silence.since) >= DOWN_AFTER;
        let is_down =
            silence.timeouts >= DOWN_AFTER_TIMEOUTS && is_long && silence.several && silence.check_failed;
        let is_due = silence.timeouts >= CHECK_AFTER_TIMEOUTS
            && self.checked.is_none_or(|at| now.saturating_duration_since(at) >= CHECK_INTERVAL);
        if is_down {
            if self.is_up() {
                self.note_down(now);
            }
            return false;
        }
        if is_due {
            self.checked = Some(now);
        }
        is_due
    }

    /// Its host says that nobody is there, or connections to it cannot be made.
    pub fn note_down(&mut self, now: Instant) {
        self.check_at = Some(now + CHECK_INTERVAL);
        self.meter.set_down(true);
    }

    /// Whether it is down and should be checked now; told once an interval.
    pub fn is_to_be_checked(&mut self, now: Instant) -> bool {
        let due = self.check_at.is_some_and(|at| now >= at);
        if due {
            self.check_at = Some(now + CHECK_INTERVAL);
        }
        due
    }

    /// How long its answer is waited for to a question that it has been asked so often before.
    #[must_use]
    pub fn patience(&self, times: u32) -> Duration {
        let once = self.round_trip.map_or(FIRST_PATIENCE, |(smoothed, variation)| smoothed + variation * 4);
        (once.max(MIN_PATIENCE) * (times + 1)).min(MAX_PATIENCE)
    }

    /// The same where others are there who are believed to answer, and it is not.
    #[must_use]
    pub fn patience_if_down(times: u32) -> Duration {
        (MIN_PATIENCE * (times + 1)).min(MAX_PATIENCE)
    }

    /// When it is expected to answer a question for this type: the lower, the better. Who is silent to these is worse
    /// each time.
    fn cost(&self, qtype: u16) -> Duration {
        let usual = self.round_trip.map_or(Duration::ZERO, |(smoothed, _)| smoothed);
        usual + self.patience(0) * u32::from(self.silent_to[kind_of(qtype)]).min(100)
    }
}

/// How it is chosen who is asked.
#[derive(Clone, Copy, Debug)]
pub struct ChoiceRules {
    /// The type of the question.
    pub qtype: u16,
    /// The servers are asked in turn, rather than the fastest.
    pub in_turn: bool,
}

/// Which of the servers in `group` (their numbers in `servers`) is asked next, after those in `asked`: of those that
/// have been asked least one that is up, if any is, and among these the one that is expected to answer first, or the
/// first where they are asked in turn. None if there is none.
#[must_use]
pub fn choose(
    servers: &[Server],
    group: impl Iterator<Item = u16>,
    asked: &[u16],
    manner: ChoiceRules,
) -> Option<u16> {
    let ChoiceRules { qtype, in_turn } = manner;
    let times = |number: u16| asked.iter().filter(|it| **it == number).count();
    let cost = |server: &Server| {
        if in_turn && server.silent_to[kind_of(qtype)] == 0 { Duration::ZERO } else { server.cost(qtype) }
    };
    let known = group.filter_map(|it| Some((it, servers.get(usize::from(it))?)));
    known
        .min_by_key(|&(it, server)| (times(it), !server.is_up(), server.no_way, cost(server)))
        .map(|(it, _)| it)
}

/// Which server of `group` is asked beside the `chosen` one, now and then, for the sake of knowing it. Nobody waits for
/// its answer in particular.
#[must_use]
pub fn explore(servers: &[Server], group: &[u16], chosen: u16, rng: &mut fastrand::Rng) -> Option<u16> {
    if group.len() < 2 || rng.u32(..EXPLORE) != 0 {
        return None;
    }
    let mut others = group.iter().copied().filter(|&it| it != chosen);
    let other = others.nth(rng.usize(..group.len()))?;
    servers.get(usize::from(other)).is_some_and(Server::is_up).then_some(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    const A: ChoiceRules = ChoiceRules { qtype: rtype::A, in_turn: false };
    const HTTPS: ChoiceRules = ChoiceRules { qtype: rtype::HTTPS, in_turn: false };

    fn subject(hash: u64, qtype: u16) -> Subject {
        Subject { hash, qtype, first: true }
    }

    #[test]
    fn the_fastest_is_asked_and_the_others_beside_it_now_and_then() {
        let now = Instant::now();
        let mut servers = [Server::default(), Server::default(), Server::default()];
        servers[0].note_answer(20 * MS, rtype::A);
        servers[1].note_answer(2 * MS, rtype::A);
        servers[2].note_answer(9 * MS, rtype::A);
        let next = |asked: &[u16]| choose(&servers, 0..3, asked, A);
        assert_eq!([next(&[]), next(&[1]), next(&[1, 2]), next(&[1, 2, 0])], [1, 2, 0, 1].map(Some));
        let mut rng = fastrand::Rng::with_seed(1);
        let beside: Vec<_> = (0..3_000).filter_map(|_| explore(&servers, &[0, 1, 2], 1, &mut rng)).collect();
        let of = |number| beside.iter().filter(|it| **it == number).count();
        assert!(of(1) == 0 && (10..100).contains(&of(0)) && (10..100).contains(&of(2)));
        servers[1].note_timeout(subject(1, rtype::HTTPS), now, now);
        assert_eq!(choose(&servers, 0..3, &[], HTTPS), Some(2), "who is silent is not the first to be asked");
        assert_eq!(choose(&servers, 0..3, &[], A), Some(1), "but for what it answers");
        servers[1].note_answer(MS, rtype::A);
        assert_eq!(choose(&servers, 0..3, &[], HTTPS), Some(2), "an answer of another kind says nothing");
    }

    #[test]
    fn patience_follows_the_round_trip_and_grows() {
        let mut server = Server::default();
        assert_eq!(server.patience(0), FIRST_PATIENCE);
        (0..50).for_each(|_| server.note_answer(MS, rtype::A));
        assert_eq!((server.patience(0), server.patience(1)), (MIN_PATIENCE, MIN_PATIENCE * 2));
        (0..50).for_each(|i| server.note_answer(if i % 2 == 0 { 300 * MS } else { MS }, rtype::A));
        assert!(server.patience(0) > 300 * MS && server.patience(0) <= MAX_PATIENCE);
    }

    #[test]
    fn silence_about_some_questions_takes_nobody_down_and_all_of_it_does() {
        let begin = Instant::now();
        let known =
            OwnedQuestion::from(&Question { name: b"\x01a\0", name_hash: 5, qtype: rtype::A, ..ROOT_CHECK });
        let check = subject(known.get().hash(), rtype::A);
        let mut server = Server::default();
        server.note_answer(MS, rtype::A);
        server.note_known(&known, 0, begin);
        let mut checks = 0;
        for i in 0..100 {
            checks += u32::from(server.note_timeout(subject(1, rtype::HTTPS), begin, begin + 100 * MS * i));
            assert!(server.is_up(), "one question alone");
        }
        assert_eq!(checks, 10, "once a second");
        let later = begin + Duration::from_secs(20);
        assert!(server.note_timeout(subject(2, rtype::A), begin, later) && server.is_up(), "not checked");
        assert!(!server.note_timeout(check, later, later) && !server.is_up());
        // Any answer of any kind says that it is there.
        server.note_answer(MS, rtype::HTTPS);
        assert!(server.is_up());
        assert!(!server.note_timeout(check, later, later));
        server.note_timeout(subject(1, rtype::A), later, later + MS);
        server.note_timeout(subject(1, rtype::A), later, later + MS);
        assert!(server.is_up(), "not for long enough");
        server.note_timeout(subject(1, rtype::A), later, later + DOWN_AFTER);
        assert!(!server.is_up());
        let due = later + DOWN_AFTER + CHECK_INTERVAL;
        assert!(!server.is_to_be_checked(later + DOWN_AFTER));
        assert!(server.is_to_be_checked(due) && !server.is_to_be_checked(due));
    }

    #[test]
    fn one_that_is_down_is_asked_last_and_not_beside_others() {
        let now = Instant::now();
        let mut servers = [Server::default(), Server::default()];
        servers[0].note_answer(MS, rtype::A);
        servers[1].note_answer(9 * MS, rtype::A);
        servers[0].note_down(now);
        let next = |asked: &[u16], in_turn| choose(&servers, 0..2, asked, ChoiceRules { in_turn, ..A });
        assert_eq!([next(&[], false), next(&[], true), next(&[1], false)], [Some(1), Some(1), Some(0)]);
        let mut rng = fastrand::Rng::new();
        assert!((0..1_000).all(|_| explore(&servers, &[0, 1], 1, &mut rng).is_none()));
        servers[1].note_down(now);
        assert_eq!(choose(&servers, 0..2, &[], A), Some(0), "all are down: the likeliest");
    }

    #[test]
    fn loss_alone_takes_nobody_down() {
        let begin = Instant::now();
        let mut server = Server::default();
        for i in 0..1_000 {
            let now = begin + 100 * MS * i;
            if i % 5 == 0 {
                server.note_answer(MS, rtype::A);
            } else {
                server.note_timeout(subject(i.into(), rtype::A), now - 30 * MS, now);
                assert!(server.is_up());
            }
        }
    }
}
