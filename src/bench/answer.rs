//! What a received message is to the queries in flight: pure, called by the sending threads for each one.

use super::in_flight::{Arrival, QueriesInFlight};
use super::tally::Tally;
use super::workload::QueryFile;
use crate::wire::header::{self, rcode};

/// A query that was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Completed {
    pub(crate) query: u32,
    pub(crate) service_ns: u64,
}

/// Books one received message. Returns the query in flight that is thereby completed, if one is.
#[inline]
pub(crate) fn account(
    message: &[u8],
    now_ns: u64,
    queries: &QueryFile,
    table: &mut QueriesInFlight,
    tally: &mut Tally,
) -> Option<Completed> {
    let totals = &mut tally.totals;
    if message.len() < header::LEN || message[2] & header::QR == 0 {
        totals.mismatched += 1;
        return None;
    }
    let id = u16::from_be_bytes([message[0], message[1]]);
    let is_answered = |query: &u32| match table.remembered(id) {
        None => answers(message, queries.question(*query)),
        Some(sent) => answers_hash(message, sent.hash),
    };
    let Some(query) = table.asked(id).filter(is_answered) else {
        totals.mismatched += 1;
        return None;
    };
    match table.answer(id) {
        Arrival::Completed { sent_ns, due_ns } => {
            complete(message, now_ns.saturating_sub(sent_ns), tally);
            if let Some(due_ns) = due_ns {
                tally.response.record(now_ns.saturating_sub(due_ns));
            }
            return Some(Completed { query, service_ns: now_ns.saturating_sub(sent_ns) });
        }
        Arrival::Late => totals.late += 1,
        Arrival::Duplicate => totals.duplicate += 1,
        Arrival::Unasked => totals.mismatched += 1,
    }
    None
}

fn complete(answer: &[u8], latency_ns: u64, tally: &mut Tally) {
    let code = answer[3] & header::RCODE_MASK;
    tally.totals.completed += 1;
    tally.totals.response_bytes += answer.len() as u64;
    tally.totals.rcodes[usize::from(code)] += 1;
    let has_records = header::u16_at(answer, header::ANCOUNT) > 0;
    let truncated = answer[2] & header::TC != 0;
    let latencies = match code {
        rcode::NOERROR if has_records => &mut tally.positive,
        rcode::NOERROR if truncated => &mut tally.other,
        rcode::NOERROR | rcode::NXDOMAIN => &mut tally.negative,
        _ => &mut tally.other,
    };
    latencies.record(latency_ns);
}

/// Whether `answer` repeats `question`, as every answer must (RFC 1035 §4.1.1, RFC 5452 §4.2), case aside: a server
/// may fold names, and one that is slower for it should not look as if it answered nothing. An error answer may also
/// leave the question out, when the server could not or would not read it.
#[inline]
fn answers(answer: &[u8], question: &[u8]) -> bool {
    match header::u16_at(answer, header::QDCOUNT) {
        1 => {
            let Some(echoed) = answer[header::LEN..].get(..question.len()) else { return false };
            echoed == question || same_but_for_case(echoed, question)
        }
        0 => !matches!(answer[3] & header::RCODE_MASK, rcode::NOERROR | rcode::NXDOMAIN),
        _ => false,
    }
}

/// The same where of the question nothing but its hash is there.
fn answers_hash(answer: &[u8], hash: u64) -> bool {
    match header::u16_at(answer, header::QDCOUNT) {
        1 => {
            let mut end = header::LEN;
            while let Some(&len @ 1..64) = answer.get(end) {
                end += 1 + usize::from(len);
            }
            answer.get(header::LEN..end + 5).is_some_and(|question| hash_of(question) == hash)
        }
        _ => answers(answer, &[]),
    }
}

/// Of a question, its name's case aside (FNV-1a).
pub(crate) fn hash_of(question: &[u8]) -> u64 {
    let mix = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    let (name, rest) = question.split_at(question.len().saturating_sub(4));
    let hash = name.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| mix(hash, &byte.to_ascii_lowercase()));
    rest.iter().fold(hash, mix)
}

#[cold]
fn same_but_for_case(echoed: &[u8], question: &[u8]) -> bool {
    let name_len = question.len() - 4; // type and class follow; length bytes are below `A` and compare as they are
    echoed[name_len..] == question[name_len..]
        && echoed[..name_len].eq_ignore_ascii_case(&question[..name_len])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::in_flight::IDS;

    fn queries() -> QueryFile {
        QueryFile::read(&b"www.Example.com A\nother.example A"[..], "test", None).unwrap()
    }

    /// The answer to `query` with id 0, changed by `change`.
    fn answer_to(query: &[u8], change: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
        let mut answer = query.to_vec();
        answer[2] |= header::QR;
        change(&mut answer);
        answer
    }

    /// Books `answer` against one query, sent at 10 with id 0, at the time 30.
    fn record(answer: &[u8]) -> (bool, Tally) {
        let (queries, mut table, mut tally) = (queries(), QueriesInFlight::new(IDS, false), Tally::default());
        table.begin(0, 10, 0);
        let completed = account(answer, 30, &queries, &mut table, &mut tally).is_some();
        (completed, tally)
    }

    #[test]
    fn answers_are_told_apart_by_what_they_bring() {
        let query = queries().packet(0).to_vec();
        for (flags, code, answers, counts) in [
            (0, rcode::NOERROR, 1, (1, 0, 0)),
            (0, rcode::NOERROR, 0, (0, 1, 0)),
            (0, rcode::NXDOMAIN, 0, (0, 1, 0)),
            (0, rcode::NXDOMAIN, 1, (0, 1, 0)), // behind a CNAME
            (header::TC, rcode::NOERROR, 0, (0, 0, 1)),
            (0, rcode::SERVFAIL, 0, (0, 0, 1)),
        ] {
            let answer = answer_to(&query, |answer| {
                answer[2] |= flags;
                answer[3] |= code;
                answer[header::ANCOUNT + 1] = answers;
            });
            let (completed, tally) = record(&answer);
            assert!(completed);
            assert_eq!((tally.positive.count(), tally.negative.count(), tally.other.count()), counts);
            assert_eq!(tally.totals.rcodes[usize::from(code)], 1);
            assert_eq!(tally.totals.response_bytes, answer.len() as u64);
            assert_eq!(tally.all().summary().unwrap().mean_us, 0.02);
        }
    }

    #[test]
    fn what_does_not_answer_the_question_is_wrong_and_leaves_it_open() {
        let query = queries().packet(0).to_vec();
        let last = query.len() - 1;
        let changes: [fn(&mut Vec<u8>, usize); 9] = [
            |answer, _| answer[2] &= !header::QR,
            |answer, _| answer[1] = 1,       // an id that was never used
            |answer, _| answer[13] = b'x',   // another name
            |answer, _| answer[12] = 2,      // another label length
            |answer, last| answer[last] = 3, // another class
            |answer, last| answer[last - 2] = 28,
            |answer, last| answer.truncate(last),
            |answer, _| answer.truncate(11),
            |answer, _| answer[header::QDCOUNT + 1] = 0, // NOERROR without a question
        ];
        for change in changes {
            let (completed, tally) = record(&answer_to(&query, |answer| change(answer, last)));
            assert!(!completed);
            assert_eq!((tally.totals.mismatched, tally.totals.completed), (1, 0));
        }
    }

    #[test]
    fn names_are_compared_case_aside_and_errors_may_leave_the_question_out() {
        let query = queries().packet(0).to_vec();
        assert!(record(&answer_to(&query, |answer| answer.make_ascii_lowercase())).0);
        let formerr = answer_to(&query, |answer| {
            answer.truncate(header::LEN);
            answer[3] |= rcode::FORMERR;
            answer[header::QDCOUNT + 1] = 0;
        });
        assert!(record(&formerr).0);
    }

    #[test]
    fn of_a_question_that_is_gone_the_hash_tells_the_same() {
        let queries = queries();
        let question = queries.question(0);
        let hash = hash_of(question);
        let query = queries.packet(0).to_vec();
        assert!(answers_hash(&answer_to(&query, |answer| answer.make_ascii_uppercase()), hash));
        let last = query.len() - 1;
        for at in [13, last, last - 2] {
            assert!(!answers_hash(&answer_to(&query, |answer| answer[at] ^= 1), hash), "{at}");
        }
        for len in header::LEN..query.len() {
            assert!(!answers_hash(&answer_to(&query, |answer| answer.truncate(len)), hash), "{len}");
        }
        let formerr = |code| {
            answer_to(&query[..header::LEN], |answer| {
                answer[header::QDCOUNT + 1] = 0;
                answer[3] |= code;
            })
        };
        assert!(answers_hash(&formerr(rcode::FORMERR), hash) && !answers_hash(&formerr(0), hash));
    }

    #[test]
    fn a_second_answer_is_a_duplicate_and_one_after_the_timeout_is_late() {
        let (queries, mut table, mut tally) = (queries(), QueriesInFlight::new(IDS, false), Tally::default());
        table.begin(0, 10, 0);
        table.begin(1, 11, 0);
        let first = answer_to(queries.packet(0), |_| ());
        let second = answer_to(queries.packet(1), |answer| answer[1] = 1);
        assert_eq!(
            account(&first, 20, &queries, &mut table, &mut tally),
            Some(Completed { query: 0, service_ns: 10 })
        );
        assert_eq!(account(&first, 21, &queries, &mut table, &mut tally), None);
        table.expire(30, |_, _, _, _| ());
        assert_eq!(account(&second, 40, &queries, &mut table, &mut tally), None);
        assert_eq!(account(&second, 41, &queries, &mut table, &mut tally), None);
        let totals = tally.totals;
        assert_eq!((totals.completed, totals.late, totals.duplicate, totals.mismatched), (1, 1, 2, 0));
    }
}
