//! The query ids of one socket: which are in flight since when, and what became of the others.
//!
//! Pure; owned by the sending thread that owns the socket.
//!
//! Each of the ids, up to 65,536, has a slot of 16 bytes, and on a schedule the time when its query was due beside it.
//! The slots of ids in flight form a list in the order of sending, linked through the slots themselves, so that the
//! oldest is found at once however the answers were ordered. The other ids wait in a ring, first in, first out: the id
//! given out next is the one unused for longest, which leaves the most time to recognise an answer that comes late or
//! twice.

/// Ids of one socket: all that the 16 bits of the header can tell apart.
pub(crate) const IDS: usize = crate::limits::MAX_IN_FLIGHT;

/// What became of an id, kept in the two top bits of [`IdSlot::state_and_time`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum IdState {
    Unused,
    InFlight,
    Expired,
    Answered,
}

/// Low 62 bits: enough nanoseconds for 146 years.
const TIME_MASK: u64 = u64::MAX >> 2;

#[derive(Clone, Copy)]
struct IdSlot {
    state_and_time: u64,
    query: u32,
    /// Neighbours in the list of ids in flight; without meaning at that list's ends and outside of it.
    older: u16,
    newer: u16,
}

const _: () = assert!(size_of::<IdSlot>() == 16, "four slots to a cache line");

impl IdSlot {
    fn state(self) -> IdState {
        match self.state_and_time >> 62 {
            0 => IdState::Unused,
            1 => IdState::InFlight,
            2 => IdState::Expired,
            _ => IdState::Answered,
        }
    }

    fn set(&mut self, state: IdState, sent_ns: u64) {
        self.state_and_time = (state as u64) << 62 | (sent_ns & TIME_MASK);
    }

    fn sent_ns(self) -> u64 {
        self.state_and_time & TIME_MASK
    }
}

/// What an answer with a certain id is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// The first answer to a query in flight.
    Completed {
        /// When that query was sent.
        sent_ns: u64,
        /// When it was due, if there is a schedule.
        due_ns: Option<u64>,
    },
    /// The first answer to a query that had been given up.
    Late,
    /// Another answer to a query that had one.
    Duplicate,
    /// The id was never asked.
    Unasked,
}

/// What is kept of a query that is not in memory any more when it is answered.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sent {
    /// Of its question.
    pub(crate) hash: u64,
    /// Its line, if lines are shown.
    pub(crate) line: Box<str>,
}

/// The table of all ids of one socket.
pub(crate) struct QueriesInFlight {
    slots: Box<[IdSlot]>,
    /// What was sent, by id; empty where that stands in memory.
    sent: Box<[Sent]>,
    /// When the queries were due, by id; empty without a schedule.
    due_ns: Box<[u64]>,
    /// Ring of the ids not in flight, from `free_head` on.
    free: Box<[u16]>,
    free_head: usize,
    oldest: u16,
    newest: u16,
    len: usize,
}

impl QueriesInFlight {
    /// The ids below `ids`, a power of two up to [`IDS`], all unused; with a place for the times when queries are due
    /// if they are `scheduled`.
    #[allow(clippy::cast_possible_truncation)] // checked
    pub(crate) fn new(ids: usize, scheduled: bool) -> Self {
        assert!(ids.is_power_of_two() && ids <= IDS);
        let unused = IdSlot { state_and_time: 0, query: 0, older: 0, newer: 0 };
        Self {
            slots: vec![unused; ids].into(),
            sent: Box::default(),
            // Not of zeros, whose memory the kernel would give page by page while the run goes on.
            due_ns: vec![u64::MAX; if scheduled { ids } else { 0 }].into(),
            free: (0..ids).map(|id| id as u16).collect(),
            free_head: 0,
            oldest: 0,
            newest: 0,
            len: 0,
        }
    }

    /// With a place for what is sent.
    pub(crate) fn remembering(mut self, sent: bool) -> Self {
        self.sent = vec![Sent::default(); if sent { self.ids() } else { 0 }].into();
        self
    }

    /// Keeps what the next [`begin`](Self::begin) is of.
    pub(crate) fn remember(&mut self, sent: Sent) {
        let id = usize::from(self.upcoming(0));
        if let Some(place) = self.sent.get_mut(id) {
            *place = sent;
        }
    }

    /// What was last sent with `id`, if that is kept.
    pub(crate) fn remembered(&self, id: u16) -> Option<&Sent> {
        self.sent.get(usize::from(id))
    }

    /// How many ids there are.
    pub(crate) fn ids(&self) -> usize {
        self.slots.len()
    }

    /// Queries in flight.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The id that the `k`-th [`begin`](Self::begin) from now will take, `k` being less than `ids - len`.
    ///
    /// Packets are built with these ids; only those that the kernel took are then begun, so nothing has to be undone.
    pub(crate) fn upcoming(&self, k: usize) -> u16 {
        debug_assert!(k < self.ids() - self.len);
        self.free[(self.free_head + k) & (self.ids() - 1)]
    }

    /// Takes the next id for `query`, sent now and due at `due_ns`; the caller has seen that one is free.
    pub(crate) fn begin(&mut self, query: u32, now_ns: u64, due_ns: u64) {
        assert!(self.len < self.ids(), "an id in flight is never reused");
        let id = self.upcoming(0);
        if let Some(due) = self.due_ns.get_mut(usize::from(id)) {
            *due = due_ns;
        }
        self.free_head = (self.free_head + 1) & (self.ids() - 1);
        let slot = &mut self.slots[usize::from(id)];
        slot.set(IdState::InFlight, now_ns);
        slot.query = query;
        slot.older = self.newest;
        if self.len == 0 {
            self.oldest = id;
        } else {
            self.slots[usize::from(self.newest)].newer = id;
        }
        self.newest = id;
        self.len += 1;
    }

    /// The query last asked with `id`, if any.
    pub(crate) fn asked(&self, id: u16) -> Option<u32> {
        let slot = self.slots.get(usize::from(id))?;
        (slot.state() != IdState::Unused).then_some(slot.query)
    }

    /// An answer to the query last asked with `id` has come.
    pub(crate) fn answer(&mut self, id: u16) -> Arrival {
        let Some(slot) = self.slots.get_mut(usize::from(id)) else { return Arrival::Unasked };
        let (state, sent_ns) = (slot.state(), slot.sent_ns());
        match state {
            IdState::InFlight => {
                slot.set(IdState::Answered, sent_ns);
                self.release(id);
                Arrival::Completed { sent_ns, due_ns: self.due_ns.get(usize::from(id)).copied() }
            }
            IdState::Expired => {
                slot.set(IdState::Answered, sent_ns);
                Arrival::Late
            }
            IdState::Answered => Arrival::Duplicate,
            IdState::Unused => Arrival::Unasked,
        }
    }

    /// Gives up the queries sent at or before `sent_ns`, and calls `lost` with each, what is kept of it, and the times
    /// when it was sent and due.
    pub(crate) fn expire(
        &mut self,
        sent_ns: u64,
        mut lost: impl FnMut(u32, Option<&Sent>, u64, Option<u64>),
    ) {
        while self.oldest_sent_ns().is_some_and(|oldest_ns| oldest_ns <= sent_ns) {
            let id = self.oldest;
            let slot = &mut self.slots[usize::from(id)];
            let (query, sent_ns) = (slot.query, slot.sent_ns());
            slot.set(IdState::Expired, sent_ns);
            self.release(id);
            lost(query, self.remembered(id), sent_ns, self.due_ns.get(usize::from(id)).copied());
        }
    }

    /// When the oldest query in flight was sent.
    pub(crate) fn oldest_sent_ns(&self) -> Option<u64> {
        (self.len > 0).then(|| self.slots[usize::from(self.oldest)].sent_ns())
    }

    /// Takes `id` out of the list of those in flight and queues it to be used again.
    fn release(&mut self, id: u16) {
        let IdSlot { older, newer, .. } = self.slots[usize::from(id)];
        if id == self.oldest {
            self.oldest = newer;
        } else {
            self.slots[usize::from(older)].newer = newer;
        }
        if id == self.newest {
            self.newest = older;
        } else {
            self.slots[usize::from(newer)].older = older;
        }
        let free_len = self.ids() - self.len;
        let end = (self.free_head + free_len) & (self.ids() - 1);
        self.free[end] = id;
        self.len -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    #[test]
    fn every_id_is_given_out_once_before_any_is_again() {
        for ids in [256, IDS] {
            let mut table = QueriesInFlight::new(ids, false);
            for i in 0..ids {
                let id = table.upcoming(0);
                assert_eq!(usize::from(id), i);
                table.begin(7, 1, 0);
                table.answer(id);
            }
            assert_eq!(table.upcoming(0), 0);
        }
        assert_eq!(QueriesInFlight::new(256, false).answer(256), Arrival::Unasked);
    }

    #[test]
    fn a_full_table_has_its_ids_back_after_they_expire() {
        let mut table = QueriesInFlight::new(IDS, true);
        for i in 0..IDS {
            table.begin(0, i as u64, i as u64 / 2);
        }
        assert_eq!(table.len(), IDS);
        let mut lost = Vec::new();
        table.expire(9, |_, _, sent_ns, due_ns| lost.push((sent_ns, due_ns)));
        assert!(lost.into_iter().eq((0..10).map(|i| (i, Some(i / 2)))));
        assert_eq!(table.upcoming(9), 9);
        let mut rest = 0;
        table.expire(u64::MAX, |_, _, _, _| rest += 1);
        assert_eq!(rest, IDS - 10);
        assert_eq!(table.oldest_sent_ns(), None);
        assert_eq!(table.answer(3), Arrival::Late);
        assert_eq!(table.answer(3), Arrival::Duplicate);
    }

    /// The same table, said plainly and slowly.
    struct Model {
        slots: Vec<(IdState, u64, u32)>,
        in_flight: VecDeque<u16>,
        free: VecDeque<u16>,
    }

    impl Model {
        fn begin(&mut self, query: u32, now_ns: u64) {
            let id = self.free.pop_front().unwrap();
            self.slots[usize::from(id)] = (IdState::InFlight, now_ns, query);
            self.in_flight.push_back(id);
        }

        fn answer(&mut self, id: u16) -> Arrival {
            let slot = &mut self.slots[usize::from(id)];
            let arrival = match slot.0 {
                IdState::Unused => return Arrival::Unasked,
                IdState::InFlight => Arrival::Completed { sent_ns: slot.1, due_ns: Some(slot.1 + 5) },
                IdState::Expired => Arrival::Late,
                IdState::Answered => Arrival::Duplicate,
            };
            slot.0 = IdState::Answered;
            if let Some(at) = self.in_flight.iter().position(|&other| other == id) {
                self.in_flight.remove(at);
                self.free.push_back(id);
            }
            arrival
        }

        fn expire(&mut self, sent_ns: u64) -> u64 {
            let mut expired = 0;
            while self.in_flight.front().is_some_and(|&id| self.slots[usize::from(id)].1 <= sent_ns) {
                let id = self.in_flight.pop_front().unwrap();
                self.slots[usize::from(id)].0 = IdState::Expired;
                self.free.push_back(id);
                expired += 1;
            }
            expired
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Begin(u16),
        Answer(u16),
        Expire(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            3 => (1..30u16).prop_map(Step::Begin),
            5 => (0..300u16).prop_map(Step::Answer),
            1 => (0..40u64).prop_map(Step::Expire),
        ];
        prop::collection::vec(step, 1..300)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn behaves_as_the_plain_model(steps in steps()) {
            let mut table = QueriesInFlight::new(IDS, true);
            let mut model = Model {
                slots: vec![(IdState::Unused, 0, 0); IDS],
                in_flight: VecDeque::new(),
                free: (0..=u16::MAX).collect(),
            };
            let mut now_ns = 100;
            for (query, step) in (0..).zip(steps) {
                now_ns += 1;
                match step {
                    Step::Begin(count) => for _ in 0..count {
                        prop_assert_eq!(table.upcoming(0), model.free[0]);
                        table.begin(query, now_ns, now_ns + 5);
                        model.begin(query, now_ns);
                    },
                    Step::Answer(id) => {
                        let known = model.slots[usize::from(id)];
                        let asked = (known.0 != IdState::Unused).then_some(known.2);
                        prop_assert_eq!(table.asked(id), asked);
                        prop_assert_eq!(table.answer(id), model.answer(id));
                    }
                    Step::Expire(age) => {
                        let mut expired = 0;
                        table.expire(now_ns - age, |_, _, _, _| expired += 1);
                        prop_assert_eq!(expired, model.expire(now_ns - age));
                    }
                }
                prop_assert_eq!(table.len(), model.in_flight.len());
                let oldest = model.in_flight.front().map(|&id| model.slots[usize::from(id)].1);
                prop_assert_eq!(table.oldest_sent_ns(), oldest);
                for k in 0..40 {
                    prop_assert_eq!(table.upcoming(k), model.free[k]);
                }
            }
        }
    }
}
