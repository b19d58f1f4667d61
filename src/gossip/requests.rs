//! What has been asked of others, so that each gap is asked for once and nothing comes twice.
//!
//! Pure: it takes the time. Runs on the cluster thread.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::time::Duration;

use super::message::MAX_SUMMARIES;
use crate::store::{NodeId, Want};

/// Changes up to which what is missing comes in datagrams.
const FEW_CHANGES: u64 = 64;

/// Streams to others at a time.
const MAX_STREAMS: usize = crate::limits::MAX_FETCHED_STREAMS;

/// How long a request by datagram is taken to be answered still, since something has last come.
const PATIENCE: Duration = Duration::from_secs(1);

/// The same over a stream. Until then nobody else is asked for the same: it would come twice.
const STREAM_PATIENCE: Duration = Duration::from_secs(3);

/// A request that is under way.
struct Request {
    /// The highest change that it asks for.
    until: u64,
    /// When it is given up, unless something comes.
    expires: Duration,
    /// Who was asked, if it is over a stream.
    stream: Option<SocketAddr>,
    /// There may be more than was asked for.
    more: bool,
}

impl Request {
    fn patience(&self) -> Duration {
        if self.stream.is_some() { STREAM_PATIENCE } else { PATIENCE }
    }
}

/// How to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// By a datagram.
    Datagram,
    /// Over a stream.
    Stream,
}

/// All that are under way, by the origins whose changes are asked for.
#[derive(Default)]
pub(super) struct Requests(HashMap<NodeId, Request>);

impl Requests {
    /// What of all that is wanted of `to` is to be asked for now, and how: what has not been asked for, or is not being
    /// answered any more. That is noted as asked for.
    pub(super) fn begin(
        &mut self,
        now: Duration,
        to: SocketAddr,
        mut wants: Vec<Want>,
    ) -> Option<(Way, Vec<Want>)> {
        let until = |want: &Want| want.from.saturating_add(want.changes);
        wants.retain(|want| match self.0.get_mut(&want.origin).filter(|request| now < request.expires) {
            None => true,
            // It goes on to the end, wherever that is by then.
            Some(request) if request.stream.is_some() => {
                request.more = true;
                false
            }
            Some(request) => request.until < until(want),
        });
        let changes = wants.iter().fold(0u64, |sum, want| sum.saturating_add(want.changes));
        let way =
            if changes <= FEW_CHANGES && wants.len() <= MAX_SUMMARIES { Way::Datagram } else { Way::Stream };
        if wants.is_empty() || way == Way::Stream && !self.may_open(now, to) {
            return None; // the next hash tells of it again
        }
        for want in &wants {
            let stream = (way == Way::Stream).then_some(to);
            let mut request = Request { until: until(want), expires: now, stream, more: false };
            request.expires += request.patience();
            self.0.insert(want.origin, request);
        }
        Some((way, wants))
    }

    /// Whether there may be one more stream, and to this node.
    fn may_open(&mut self, now: Duration, to: SocketAddr) -> bool {
        let (mut streams, mut may) = (BTreeSet::new(), true);
        for request in self.0.values_mut().filter(|request| now < request.expires) {
            if request.stream == Some(to) {
                (request.more, may) = (true, false);
            }
            streams.extend(request.stream);
        }
        may && streams.len() < MAX_STREAMS
    }

    /// Changes of `origin` have come, over a stream or not.
    pub(super) fn note(&mut self, now: Duration, origin: NodeId, of_stream: bool) {
        if let Some(request) = self.0.get_mut(&origin).filter(|request| request.stream.is_some() == of_stream)
        {
            request.expires = now + request.patience();
        }
    }

    /// Streams are not read: they are not late.
    pub(super) fn rest(&mut self, now: Duration) {
        for request in self.0.values_mut().filter(|request| request.stream.is_some()) {
            request.expires = now + STREAM_PATIENCE;
        }
    }

    /// The stream to `from` is over. Returns whether there may be more.
    pub(super) fn end_stream(&mut self, from: SocketAddr) -> bool {
        let mut more = false;
        self.0.retain(|_, request| {
            let over = request.stream == Some(from);
            more |= over && request.more;
            !over
        });
        more
    }

    /// Gives up those that are not answered.
    pub(super) fn expire(&mut self, now: Duration) {
        self.0.retain(|_, request| now < request.expires);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn want(origin: u8, from: u64, changes: u64) -> Want {
        Want { origin: NodeId([origin; 16]), from, changes }
    }

    fn peer(i: u8) -> SocketAddr {
        ([10, 0, 0, i], 1).into()
    }

    #[test]
    fn what_is_being_pulled_is_asked_of_nobody_else_until_it_ends_or_stalls() {
        let mut requests = Requests::default();
        let s = Duration::from_secs;
        let much = vec![want(1, 0, 1_000)];
        assert_eq!(requests.begin(s(0), peer(1), much.clone()), Some((Way::Stream, much.clone())));
        assert_eq!(requests.begin(s(1), peer(2), vec![want(1, 0, 2_000)]), None);
        assert_eq!(requests.begin(s(1), peer(1), vec![want(2, 0, 2_000)]), None, "one stream to a node");
        let few = vec![want(3, 5, 2)];
        assert_eq!(requests.begin(s(1), peer(1), few.clone()), Some((Way::Datagram, few)));
        requests.note(s(2), NodeId([1; 16]), false);
        requests.note(s(2), NodeId([1; 16]), true);
        assert_eq!(requests.begin(s(4), peer(2), much.clone()), None, "something came");
        assert!(requests.end_stream(peer(1)), "and there was more than was asked for");
        assert_eq!(requests.begin(s(4), peer(2), much.clone()), Some((Way::Stream, much.clone())));
        assert_eq!(requests.begin(s(7), peer(3), much.clone()), Some((Way::Stream, much)), "it has stalled");
    }

    #[test]
    fn streams_are_bounded() {
        let mut requests = Requests::default();
        let opened =
            (1..=20).filter(|&i| requests.begin(Duration::ZERO, peer(i), vec![want(i, 0, 999)]).is_some());
        assert_eq!(opened.count(), MAX_STREAMS);
    }
}
