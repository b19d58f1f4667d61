//! Names that have been asked for, and who waits for them: one question for all who ask for the same name meanwhile.
//!
//! Owned by one worker. It does no I/O and takes the time as an argument.

use std::collections::VecDeque;
use std::collections::hash_map::{Entry, HashMap};
use std::time::{Duration, Instant};

use super::message::{answered, gather};
use super::peer_answer::{Gathered, PeerAnswer};

/// Names in flight of one worker at most: four for each of a cache's, and far from running out of ids.
const MAX_NAMES: usize = crate::limits::MAX_ASKED_NAMES;

/// Queries of one worker that wait at most; with their bytes they take some tens of megabytes.
const MAX_DEFERRED: usize = crate::limits::MAX_ASKING;

const _: () = assert!(MAX_NAMES <= u16::MAX as usize / 2, "a free id is found by trying");

/// What came of asking for a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Send a question with this id.
    New(u16),
    /// One is on its way already.
    Joined,
    /// There are too many.
    Full,
}

/// What is known of a name now, and who has waited for that.
pub struct Answered<W> {
    /// The name, lower-cased, in wire form.
    pub name: Box<[u8]>,
    /// What is known.
    pub answer: PeerAnswer,
    /// Who has waited.
    pub deferred: Vec<W>,
    /// It is all that will come; otherwise it may be said again, with what other nodes answer.
    pub complete: bool,
}

struct Question<W> {
    /// Its number among all that there have been: ids are used again.
    serial: u64,
    name: Box<[u8]>,
    deferred: Vec<W>,
    gathered: Gathered,
    /// The answers of all are waited for.
    collect: bool,
}

/// The questions of a worker.
pub struct InFlight<W> {
    window: Duration,
    negative_ttl_s: u32,
    /// What comes after the first answer is of use, too: there is a cache.
    keeps: bool,
    /// Names that somebody waits for, or would if he asked.
    names: HashMap<Box<[u8]>, u16>,
    questions: HashMap<u16, Question<W>>,
    /// When windows end. All are equally long, so they end in the order in which they began. Of questions that have
    /// ended before, the entries are passed over.
    ends: VecDeque<(Instant, u16, u64)>,
    next_serial: u64,
    deferred: usize,
    rng: fastrand::Rng,
}

impl<W> InFlight<W> {
    /// None yet; each will wait for answers for as long as the `window`. What comes after the first answer is told only
    /// if there is somebody who `keeps` it.
    #[must_use]
    pub fn new(window: Duration, negative_ttl_s: u32, keeps: bool) -> Self {
        Self {
            window,
            negative_ttl_s,
            keeps,
            next_serial: 0,
            names: HashMap::new(),
            questions: HashMap::new(),
            ends: VecDeque::new(),
            deferred: 0,
            rng: fastrand::Rng::new(),
        }
    }

    /// Asks for `name` on behalf of `waiter`, or of nobody who waits. With `collect` the answers of all are waited for.
    pub fn ask(&mut self, name: &[u8], query: Option<W>, collect: bool, now: Instant) -> Asked {
        if query.is_some() && self.deferred >= MAX_DEFERRED {
            return Asked::Full;
        }
        if let Some(question) = self.names.get(name).and_then(|id| self.questions.get_mut(id)) {
            self.deferred += usize::from(query.is_some());
            question.deferred.extend(query);
            return Asked::Joined;
        }
        if self.questions.len() >= MAX_NAMES {
            return Asked::Full;
        }
        self.deferred += usize::from(query.is_some());
        let mut id = self.rng.u16(..);
        while self.questions.contains_key(&id) {
            id = self.rng.u16(..);
        }
        let serial = self.next_serial;
        self.next_serial += 1;
        let question = Question {
            serial,
            name: name.into(),
            deferred: query.into_iter().collect(),
            gathered: Gathered::default(),
            collect,
        };
        self.names.insert(name.into(), id);
        self.questions.insert(id, question);
        self.ends.push_back((now + self.window, id, serial));
        Asked::New(id)
    }

    /// Takes a `message` that may be an answer. What it completes is told; what answers no open question is `None`.
    ///
    /// Where the first answer will do, it is told at once, and who asks for the name from then on asks anew. What other
    /// nodes answer in the rest of the window is told together when that ends, if it is of use.
    pub fn receive(&mut self, message: &[u8]) -> Option<Answered<W>> {
        let (id, name) = answered(message)?;
        let question = self.questions.get_mut(&id).filter(|question| *question.name == *name)?;
        gather(message, &name, &mut question.gathered);
        if question.collect || question.deferred.is_empty() {
            return None;
        }
        let deferred = std::mem::take(&mut question.deferred);
        self.deferred -= deferred.len();
        let answer = question.gathered.answer(self.negative_ttl_s);
        let name = question.name.clone();
        self.names.remove(&name);
        if !self.keeps {
            self.questions.remove(&id);
        }
        Some(Answered { name, answer, deferred, complete: !self.keeps })
    }

    /// The next question whose window has ended, if there is one.
    pub fn expire(&mut self, now: Instant) -> Option<Answered<W>> {
        let mut question = loop {
            let (_, id, serial) = self.ends.front().copied().filter(|(end, ..)| *end <= now)?;
            self.ends.pop_front();
            if let Entry::Occupied(open) = self.questions.entry(id)
                && open.get().serial == serial
            {
                let question = open.remove();
                // Another question for the same name may be on its way.
                if self.names.get(&question.name) == Some(&id) {
                    self.names.remove(&question.name);
                }
                break question;
            }
        };
        self.deferred -= question.deferred.len();
        let answer = question.gathered.answer(self.negative_ttl_s);
        Some(Answered { name: question.name, answer, deferred: question.deferred, complete: true })
    }

    /// Ends all questions now, with what is known of each so far.
    pub fn take_all(&mut self) -> impl Iterator<Item = Answered<W>> {
        self.names.clear();
        self.ends.clear();
        self.deferred = 0;
        let negative_ttl_s = self.negative_ttl_s;
        std::mem::take(&mut self.questions).into_values().map(move |mut question| {
            let answer = question.gathered.answer(negative_ttl_s);
            Answered { name: question.name, answer, deferred: question.deferred, complete: false }
        })
    }

    /// When the next window ends.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.ends.front().map(|(end, ..)| *end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::record::rtype;

    const WINDOW: Duration = Duration::from_millis(500);

    /// The answer `name A 10.0.0.last`.
    fn answer(id: u16, name: &[u8], last: u8) -> Vec<u8> {
        let header = [&id.to_be_bytes()[..], b"\x84\0\0\x01\0\x01\0\0\0\0"].concat();
        let record = [&b"\xc0\x0c\0\x01\0\x01\0\0\0\x1e\0\x04\x0a\0\0"[..], &[last]].concat();
        [&header, name, b"\0\xff\0\x01", &record].concat()
    }

    fn addresses<W>(answered: &Answered<W>) -> u16 {
        answered.answer.entry().and_then(|entry| entry.get(rtype::A)).map_or(0, |set| set.count)
    }

    #[test]
    fn who_asks_for_the_same_name_waits_for_the_same_question() {
        let now = Instant::now();
        let mut in_flight = InFlight::new(WINDOW, 30, true);
        let Asked::New(id) = in_flight.ask(b"\x01a\0", Some(1), false, now) else { panic!() };
        assert_eq!(in_flight.ask(b"\x01a\0", Some(2), false, now), Asked::Joined);
        assert!(matches!(in_flight.ask(b"\x01b\0", Some(3), false, now), Asked::New(other) if other != id));
        assert!(in_flight.receive(&answer(id, b"\x01b\0", 1)).is_none(), "an answer to something else");
        assert!(in_flight.receive(&answer(id ^ 1, b"\x01a\0", 1)).is_none());
        let first = in_flight.receive(&answer(id, b"\x01A\0", 1)).unwrap();
        assert_eq!((&first.deferred[..], addresses(&first), first.complete), (&[1, 2][..], 1, false));
        assert!(in_flight.receive(&answer(id, b"\x01a\0", 2)).is_none(), "nobody waits any more");
        let later = now + WINDOW / 2;
        assert!(
            matches!(in_flight.ask(b"\x01a\0", Some(4), false, later), Asked::New(_)),
            "who asks now asks anew"
        );
        assert!(in_flight.expire(later).is_none());
        assert_eq!(in_flight.deadline(), Some(now + WINDOW));
        let all = in_flight.expire(now + WINDOW).unwrap();
        assert_eq!((all.deferred.len(), addresses(&all), all.complete), (0, 2, true));
        let none = in_flight.expire(now + WINDOW).unwrap();
        assert!(none.answer.is_nobody() && none.deferred == [3] && none.answer.ttl_s() == 30);
        assert!(in_flight.expire(now + WINDOW).is_none(), "the second question has its own window");
        let second = in_flight.expire(later + WINDOW).unwrap();
        assert!(second.answer.is_nobody() && second.deferred == [4]);
        assert_eq!((in_flight.deadline(), in_flight.deferred, in_flight.names.len()), (None, 0, 0));
    }

    #[test]
    fn where_nothing_is_kept_a_question_ends_with_its_first_answer() {
        let now = Instant::now();
        let mut in_flight = InFlight::new(WINDOW, 30, false);
        for i in 0..3 * MAX_NAMES {
            let Asked::New(id) = in_flight.ask(b"\x01a\0", Some(i), false, now) else { panic!("{i}") };
            let first = in_flight.receive(&answer(id, b"\x01a\0", 1)).unwrap();
            assert!(first.complete && first.deferred == [i]);
            assert!(in_flight.receive(&answer(id, b"\x01a\0", 2)).is_none());
        }
        assert!(in_flight.expire(now + WINDOW).is_none());
        assert_eq!((in_flight.deadline(), in_flight.questions.len()), (None, 0));
    }

    #[test]
    fn who_collects_waits_for_all() {
        let now = Instant::now();
        let mut in_flight = InFlight::new(WINDOW, 30, true);
        let Asked::New(id) = in_flight.ask(b"\x01a\0", Some(()), true, now) else { panic!() };
        for last in [1, 2, 2] {
            assert!(in_flight.receive(&answer(id, b"\x01a\0", last)).is_none());
        }
        assert_eq!(addresses(&in_flight.expire(now + WINDOW).unwrap()), 2);
        assert!(in_flight.receive(&answer(id, b"\x01a\0", 3)).is_none(), "too late");
    }

    #[test]
    fn there_are_never_more_than_there_may_be() {
        let now = Instant::now();
        let mut in_flight = InFlight::new(WINDOW, 30, true);
        for i in 0..MAX_NAMES {
            assert!(matches!(in_flight.ask(&i.to_le_bytes(), Some(()), false, now), Asked::New(_)));
        }
        assert_eq!(in_flight.ask(b"x", Some(()), false, now), Asked::Full);
        for _ in MAX_NAMES..MAX_DEFERRED {
            assert_eq!(in_flight.ask(&0usize.to_le_bytes(), Some(()), false, now), Asked::Joined);
        }
        assert_eq!(in_flight.ask(&0usize.to_le_bytes(), Some(()), false, now), Asked::Full);
    }
}
