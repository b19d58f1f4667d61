//! A question in flight, and each time that it was sent.

use std::time::Instant;

use smallvec::SmallVec;

use super::retry_budget::{MAX_SENT, MAX_TRIES, RECHECK};
use super::{Failure, TransactionKey};
use crate::resolver::dress::{Dress, Occasion};
use crate::resolver::question::{OwnedQuestion, Question};
use crate::resolver::servers::Subject;

/// A question in flight.
pub(super) struct Pending<W> {
    pub(super) question: OwnedQuestion,
    pub(super) waiters: SmallVec<[W; 1]>,
    /// Its number among all that there have been: keys are used again.
    pub(super) serial: u64,
    /// The servers that may be asked.
    pub(super) group: u16,
    /// Those that have been asked by a datagram, once for each time; and for each time that their hosts said that
    /// nobody is there.
    pub(super) by_datagram: SmallVec<[u16; 4]>,
    pub(super) refused: SmallVec<[u16; 4]>,
    /// Those that are left alone with it for a while, and since when.
    pub(super) resting: SmallVec<[(u16, Instant); 1]>,
    /// Those that have been asked over a stream, and the number of the connection, once for each time; but for those
    /// whose servers have ended it after other answers, which are `ended`.
    pub(super) over_stream: SmallVec<[(u16, u32); 2]>,
    pub(super) ended: u16,
    /// Those whose connection has broken without an answer, once for each time.
    pub(super) broken: SmallVec<[u16; 2]>,
    /// Those whose answer a datagram has no room for.
    pub(super) cut_short: SmallVec<[u16; 1]>,
    /// Those that have rejected our option, or EDNS.
    pub(super) rejects_option: SmallVec<[u16; 1]>,
    pub(super) rejects_edns: SmallVec<[u16; 1]>,
    /// Those that have said that they cannot answer, and what the last of them said.
    pub(super) failed: SmallVec<[u16; 2]>,
    pub(super) failure: Option<Failure>,
    /// Where it was sent from last.
    pub(super) last: Option<TransactionKey>,
    /// What aliases have led to, if they have.
    pub(super) stage: Option<Box<Stage>>,
    /// Somebody tries to guess what an answer has to have: datagrams are not believed any more.
    pub(super) is_spoof_suspected: bool,
    /// It is there to see whether a server is.
    pub(super) is_check: bool,
    pub(super) passed_by: SmallVec<[u64; 1]>,
    pub(super) begun: Instant,
}

/// The question that aliases have led to, which is asked for another.
pub(super) struct Stage {
    pub(super) question: OwnedQuestion,
    /// The answers that have led here.
    pub(super) before: Vec<Box<[u8]>>,
}

impl<W> Pending<W> {
    /// What is being asked.
    pub(super) fn asked(&self) -> Question<'_> {
        self.stage.as_ref().map_or(&self.question, |stage| &stage.question).get()
    }

    /// How it is asked at `server`, which was sent it so often before.
    pub(super) fn occasion(&self, server: u16, before: usize) -> Occasion {
        let (rejected_option, rejected_edns) =
            (self.rejects_option.contains(&server), self.rejects_edns.contains(&server));
        // What was rejected, or has reached nobody, was no silence.
        let answered =
            [&self.rejects_option[..], &self.rejects_edns, &self.cut_short, &self.refused, &self.broken];
        let answered = answered.into_iter().flatten().filter(|it| **it == server).count();
        Occasion {
            dnssec_ok: self.question.get().dnssec_ok,
            nodes: self.passed_by.len(),
            silent: before.saturating_sub(answered),
            rejected_option,
            rejected_edns,
        }
    }

    /// It was sent so often that it is not sent any more. What has reached nobody counts half.
    pub(super) fn is_sent_out(&self) -> bool {
        let sent = self.by_datagram.len() + self.over_stream.len();
        sent * 2 - (self.refused.len() + self.broken.len()).min(sent) >= 2 * MAX_SENT
    }

    /// It has been sent to `server` by a datagram so often that this is left alone with it for a while.
    pub(super) fn rest(&mut self, server: u16, now: Instant) {
        let count = |servers: &[u16]| servers.iter().filter(|it| **it == server).count();
        if count(&self.by_datagram) >= MAX_TRIES + count(&self.refused) {
            self.resting.retain(|it| it.0 != server);
            self.resting.push((server, now));
        }
    }

    /// That while is over.
    pub(super) fn has_rested(&self, server: u16, now: Instant) -> bool {
        self.resting.iter().any(|(it, since)| *it == server && *since + RECHECK <= now)
    }

    /// The answers that have led to it.
    pub(super) fn before(&self) -> &[Box<[u8]>] {
        self.stage.as_ref().map_or(&[], |stage| &stage.before)
    }
}

/// A question as it was sent once.
pub(super) struct Attempt {
    pub(super) key: usize,
    pub(super) serial: u64,
    pub(super) sent: Instant,
    pub(super) case_bits: u64,
    pub(super) dress: Dress,
    /// How often the server had been sent it before.
    pub(super) before: usize,
    pub(super) state: AttemptState,
    /// How many aliases had led to it.
    pub(super) stage: usize,
    pub(super) subject: Subject,
}

/// What has become of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AttemptState {
    /// Its answer is awaited.
    Awaited,
    /// It has not been answered in time; it may still be.
    Late,
    /// It has reached nobody, by all that is known, or was not sent: its question is asked again when it is looked at.
    Lost,
}
