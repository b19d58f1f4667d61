//! What the control listener tells of names that are not ours: the servers that are asked, and the caches of what they
//! have said.
//!
//! Pure. Each worker has a cache of its own; what several know of the same name is put together here.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::Sender;

use crate::api::rdata_text::{self, Shown};
use crate::api::timing::Timing;
use crate::wire::header::{self, rcode, u16_at};
use crate::wire::name::Name;

/// Where the workers reply, each once. It ends when all have.
pub type Replies<T> = Sender<T>;

/// What a node does about names that are not ours.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Forwarding {
    /// The part of the queries for such names that were answered at once, if there were any.
    pub hit_ratio: Option<f64>,
    /// Who is asked.
    pub upstreams: Vec<UpstreamStatus>,
    /// What the cache may keep.
    pub cache_limits: CacheLimits,
}

/// How an upstream is, as all workers together see it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct UpstreamStatus {
    /// The server, as it is given with `--upstream`.
    pub upstream: String,
    /// The domains that it is asked for; `.` is all names that are in none of those with upstreams of their own.
    pub domains: Vec<String>,
    /// `up`; `down`, if it answers no worker that has asked it; `unasked`, if none has.
    pub state: String,
    /// Why the last connection to it over TCP or TLS has failed, if none has brought answers since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
    /// What was counted of it.
    pub counters: BTreeMap<String, u64>,
    /// How long its answers took.
    pub round_trips: Timing,
}

/// What the cache may keep.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheLimits {
    /// Bytes of memory, of all workers together; each has the same part.
    pub max_bytes: usize,
    /// Seconds that an answer is kept at most.
    pub max_ttl_s: u32,
    /// The same for what says that there is nothing.
    pub max_negative_ttl_s: u32,
    /// Seconds after its end for which an answer may be used if the upstreams fail.
    pub max_stale_s: u32,
}

/// What the cache holds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CacheStats {
    /// All workers together.
    #[serde(flatten)]
    pub total: WorkerCache,
    /// The part of the queries for names that are not ours that were answered at once, if there were any.
    pub hit_ratio: Option<f64>,
    /// What it may keep.
    pub limits: CacheLimits,
    /// Each worker, in the order of their numbers.
    pub workers: Vec<WorkerCache>,
}

/// What the cache of one worker holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct WorkerCache {
    /// The worker; left out of sums.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<usize>,
    /// Answers, stale ones among them.
    pub entries: usize,
    /// Bytes of memory that they take, all in all.
    pub bytes: usize,
    /// Answers that had to go for others.
    pub evictions: u64,
    /// Questions that upstreams have been asked and have not answered.
    pub in_flight: usize,
    /// Queries that wait for these.
    pub waiting: usize,
}

impl CacheStats {
    /// Adds up what the workers have said, in any order.
    #[must_use]
    pub fn new(mut workers: Vec<WorkerCache>, forwarding: Forwarding) -> Self {
        workers.sort_unstable();
        let sum = |a: WorkerCache, b: &WorkerCache| WorkerCache {
            worker: None,
            entries: a.entries + b.entries,
            bytes: a.bytes + b.bytes,
            evictions: a.evictions + b.evictions,
            in_flight: a.in_flight + b.in_flight,
            waiting: a.waiting + b.waiting,
        };
        let total = workers.iter().fold(WorkerCache::default(), sum);
        let Forwarding { hit_ratio, cache_limits: limits, .. } = forwarding;
        Self { total, hit_ratio, limits, workers }
    }
}

/// An answer that a worker has in its cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CachedMessage {
    /// The worker.
    pub worker: usize,
    /// DNSSEC records were wanted with it.
    pub dnssec_ok: bool,
    /// Seconds until it expires; 0 or less if it is stale.
    pub left_s: i64,
    /// The answer as a message.
    pub message: Vec<u8>,
}

/// An answer in the cache, the same at some workers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CachedAnswer {
    /// The type that was asked for.
    #[serde(rename = "type")]
    pub qtype: String,
    /// DNSSEC records were wanted, too (DO).
    pub dnssec_ok: bool,
    /// What cannot be validated was wanted, too (CD).
    pub checking_disabled: bool,
    /// The upstream said that it had validated it (AD).
    pub authenticated: bool,
    /// What is answered, like `NOERROR`; `SERVFAIL` for a moment where the upstreams could not answer.
    pub rcode: String,
    /// The workers that have it, those first that have it for longest.
    pub workers: Vec<CachedAt>,
    /// The records of the answer, as the first of these would tell them now.
    pub answers: Vec<Shown>,
    /// Those of the authority section.
    pub authorities: Vec<Shown>,
}

/// A worker that has an answer in its cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CachedAt {
    /// Its number.
    pub worker: usize,
    /// Seconds until the answer expires; since it has expired, negative, if it is stale.
    pub left_s: i64,
    /// It is over, and told only if the upstreams do not answer.
    pub stale: bool,
}

impl CachedAnswer {
    /// Puts together what workers have of one name, whose wire form has `name_len` bytes: what says the same but for
    /// TTLs and the order of records is one answer.
    #[must_use]
    pub fn merge(mut all: Vec<CachedMessage>, name_len: usize) -> Vec<Self> {
        all.sort_by_key(|it| (std::cmp::Reverse(it.left_s), it.worker));
        let mut merged: Vec<Self> = Vec::new();
        for it in all {
            let at = CachedAt { worker: it.worker, left_s: it.left_s, stale: it.left_s <= 0 };
            let Some(answer) = Self::read(&it, at, name_len) else { continue };
            match merged.iter_mut().find(|known| known.says_the_same(&answer)) {
                Some(known) => known.workers.push(at),
                None => merged.push(answer),
            }
        }
        merged.sort_by(|a, b| {
            (&a.qtype, a.dnssec_ok, a.checking_disabled).cmp(&(&b.qtype, b.dnssec_ok, b.checking_disabled))
        });
        merged
    }

    fn read(it: &CachedMessage, at: CachedAt, name_len: usize) -> Option<Self> {
        let flags = *it.message.get(3)?;
        let qtype = it.message.get(header::LEN + name_len..).filter(|rest| rest.len() >= 2)?;
        let [answers, authorities] = rdata_text::answer_and_authority(&it.message).ok()?;
        Some(Self {
            qtype: rdata_text::type_name(u16_at(qtype, 0)),
            dnssec_ok: it.dnssec_ok,
            checking_disabled: flags & header::CD != 0,
            authenticated: flags & header::AD != 0,
            rcode: rcode::mnemonic(flags & header::RCODE_MASK).into(),
            workers: vec![at],
            answers,
            authorities,
        })
    }

    fn says_the_same(&self, other: &Self) -> bool {
        let key = |it: &Self| {
            let records = |all: &[Shown]| {
                let mut all: Vec<_> =
                    all.iter().map(|it| (it.name.clone(), it.rtype.clone(), it.data.clone())).collect();
                all.sort();
                all
            };
            let flags = (it.dnssec_ok, it.checking_disabled, it.authenticated);
            (it.qtype.clone(), flags, it.rcode.clone(), records(&it.answers), records(&it.authorities))
        };
        key(self) == key(other)
    }
}

/// What came of a request to forget answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flushed {
    /// Answers that were there, each once for each worker that had it.
    pub removed: usize,
}

/// What is done about a name that is in none of a node's domains.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outside {
    /// `forwarded`; `memory`, if it is the reverse name of an address that is registered; `reserved`, if it is answered
    /// here because it is nobody's; `single_label`; `refused`.
    pub by: String,
    /// Who is asked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub upstreams: Vec<String>,
    /// The domain that these are there for, if they are not for all names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// Which document says that it is answered here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub document: Option<String>,
}

/// The part of the queries for names that are not ours that were answered at once, of those that workers have counted;
/// none if there were no such queries.
#[must_use]
pub fn hit_ratio(counters: &BTreeMap<String, u64>) -> Option<f64> {
    let of = |event: &str| counters.get(event).copied().unwrap_or_default();
    let all: u64 = ["cached", "fetched", "stale", "forward_failed"].into_iter().map(of).sum();
    #[allow(clippy::cast_precision_loss)] // of counts beyond 2^53 a few do not matter
    (all > 0).then(|| of("cached") as f64 / all as f64)
}

/// The name that `text` stands for, in lower case, if it can be in the cache: it is in none of these domains.
///
/// # Errors
/// Why it cannot.
pub fn cacheable(text: &str, domains: &[Name]) -> Result<Name, String> {
    let name = Name::from_text(text).map_err(|error| format!("{text:?} is no name: {error}"))?;
    match domains.iter().find(|domain| name.is_within(domain)) {
        Some(domain) => Err(format!(
            "{name} is in {domain}, whose names are answered from memory and never in the cache; `redbreast explain` \
             and `names` tell what they have"
        )),
        None => Ok(name.to_lower_case()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `www.example` has this address for so long, says a worker.
    fn message(worker: usize, left_s: u8, last: u8) -> CachedMessage {
        let message = [
            &b"\0\0\x81\x80\0\x01\0\x01\0\0\0\0\x03www\x07example\0\0\x01\0\x01\xc0\x0c\0\x01\0\x01\0\0\0"[..],
            &[left_s, 0, 4, 10, 0, 0, last],
        ];
        CachedMessage { worker, dnssec_ok: false, left_s: left_s.into(), message: message.concat() }
    }

    #[test]
    fn what_says_the_same_at_several_workers_is_one_answer_with_their_ages() {
        let merged = CachedAnswer::merge(vec![message(0, 7, 1), message(1, 30, 1), message(2, 9, 2)], 13);
        let told: Vec<_> = merged
            .iter()
            .map(|it| {
                let at: Vec<_> = it.workers.iter().map(|at| (at.worker, at.left_s)).collect();
                (at, &*it.qtype, &*it.answers[0].data, it.answers[0].ttl_s)
            })
            .collect();
        assert_eq!(told, [(vec![(1, 30), (0, 7)], "A", "10.0.0.1", 30), (vec![(2, 9)], "A", "10.0.0.2", 9)]);
        let with_do = CachedMessage { dnssec_ok: true, left_s: -5, ..message(0, 7, 1) };
        let merged = CachedAnswer::merge(vec![with_do, message(1, 7, 1)], 13);
        assert_eq!(
            merged.iter().map(|it| (it.dnssec_ok, it.workers[0].stale)).collect::<Vec<_>>(),
            [(false, false), (true, true)]
        );
    }

    #[test]
    fn the_hit_ratio_is_of_all_that_was_answered_for_other_domains() {
        let of = |all: &[(&str, u64)]| {
            hit_ratio(&all.iter().map(|(event, count)| ((*event).to_owned(), *count)).collect())
        };
        assert_eq!(of(&[("positive", 5), ("forwarded", 4)]), None);
        assert_eq!(of(&[("cached", 3), ("fetched", 4), ("stale", 2), ("forward_failed", 1)]), Some(0.3));
    }

    #[test]
    fn names_of_ours_are_never_in_the_cache() {
        let domains = [Name::from_text("redbreast.internal").unwrap()];
        assert_eq!(cacheable("WWW.Example", &domains).unwrap().to_string(), "www.example.");
        assert!(cacheable("web.redbreast.internal", &domains).unwrap_err().contains("from memory"));
        assert!(cacheable("a..b", &domains).unwrap_err().contains("is no name"));
    }
}
