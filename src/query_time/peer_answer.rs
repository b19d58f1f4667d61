//! What the other nodes have said of one name, in the form that a table has its names in.
//!
//! Made by the worker that asked; kept by the cache.

use crate::limits::MAX_RECORD_SETS;
use crate::table::{Entry, append_set, limit_ttl};
use crate::wire::record::rtype;

/// Records of one name at most that are taken from others: far more than fit in their messages.
const MAX_RECORDS: usize = crate::limits::MAX_GATHERED;

/// What is known of a name: its records, or that nobody has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerAnswer {
    /// The record sets behind their count, as a table has them; empty if nobody has the name.
    sets: Box<[u8]>,
    /// How long that may be kept.
    ttl_s: u32,
}

impl PeerAnswer {
    /// Nobody has the name, which may be kept for so long.
    #[must_use]
    pub fn nobody(ttl_s: u32) -> Self {
        Self { sets: Box::default(), ttl_s }
    }

    /// How long it may be kept from when it was said.
    #[must_use]
    pub fn ttl_s(&self) -> u32 {
        self.ttl_s
    }

    /// Whether nobody has the name.
    #[must_use]
    pub fn is_nobody(&self) -> bool {
        self.sets.is_empty()
    }

    /// The records.
    #[must_use]
    pub fn entry(&self) -> Option<Entry<'_>> {
        (!self.is_nobody()).then(|| Entry::from_sets(&self.sets))
    }

    /// Writes the records to `out`, in place of what is there, as they are when they may be kept for `left_s` only.
    pub fn age_into(&self, left_s: u32, out: &mut Vec<u8>) {
        out.clear();
        out.extend_from_slice(&self.sets);
        limit_ttl(out, left_s);
    }
}

/// The answers of others to one question, as they come.
#[derive(Debug, Default)]
pub struct Gathered {
    records: Vec<(u16, Box<[u8]>, u32)>,
    /// Somebody has the name, if without records.
    exists: bool,
}

impl Gathered {
    /// Somebody has answered.
    pub fn add_answer(&mut self) {
        self.exists = true;
    }

    /// A record of that answer.
    pub fn add(&mut self, rtype: u16, ttl_s: u32, rdata: &[u8]) {
        if self.records.len() < MAX_RECORDS {
            self.records.push((rtype, rdata.into(), ttl_s));
        }
    }

    /// Whether somebody has the name.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.exists
    }

    /// What is known by all answers together. Equal records of several nodes are one, and of a name that is an alias
    /// here and something else there the alias is left out, as in a table.
    #[must_use]
    pub fn answer(&mut self, negative_ttl_s: u32) -> PeerAnswer {
        if !self.exists {
            return PeerAnswer::nobody(negative_ttl_s);
        }
        self.records.sort_unstable();
        if self.records.iter().any(|(rtype, ..)| *rtype != rtype::CNAME) {
            self.records.retain(|(rtype, ..)| *rtype != rtype::CNAME);
        } else {
            self.records.truncate(1);
        }
        let mut sets = vec![0];
        for set in self.records.chunk_by(|a, b| a.0 == b.0).take(MAX_RECORD_SETS) {
            let ttl_s = set.iter().map(|(.., ttl_s)| *ttl_s).min().unwrap_or_default();
            let data = set.chunk_by(|a, b| a.1 == b.1).map(|equal| &*equal[0].1);
            append_set(&mut sets, set[0].0, ttl_s, data);
            sets[0] += 1;
        }
        let ttl_s = self.records.iter().map(|(.., ttl_s)| *ttl_s).min().unwrap_or(negative_ttl_s);
        PeerAnswer { sets: sets.into(), ttl_s }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::record::FIXED_LEN;

    fn ttls(sets: &[u8]) -> Vec<u32> {
        let set = Entry::from_sets(sets).get(rtype::A).unwrap();
        set.records
            .chunks(FIXED_LEN + 4)
            .map(|record| u32::from_be_bytes(record[6..10].try_into().unwrap()))
            .collect()
    }

    #[test]
    fn answers_of_several_nodes_are_one_set_and_age_together() {
        let mut gathered = Gathered::default();
        assert!(gathered.answer(7).is_nobody() && gathered.answer(7).ttl_s() == 7);
        for (last, ttl_s) in [(1, 30), (2, 20), (1, 25)] {
            gathered.add_answer();
            gathered.add(rtype::A, ttl_s, &[10, 0, 0, last]);
        }
        gathered.add(rtype::CNAME, 1, b"\x01x\0");
        let answer = gathered.answer(7);
        assert_eq!(answer.ttl_s(), 20);
        let set = answer.entry().unwrap().get(rtype::A).unwrap();
        assert_eq!(
            (set.count, &set.records[12..16], &set.records[28..]),
            (2, &[10, 0, 0, 1][..], &[10, 0, 0, 2][..])
        );
        assert!(answer.entry().unwrap().get(rtype::CNAME).is_none());
        let mut aged = vec![9; 3];
        answer.age_into(25, &mut aged);
        assert_eq!(ttls(&aged), [20, 20]);
        answer.age_into(3, &mut aged);
        assert_eq!(ttls(&aged), [3, 3]);
    }

    #[test]
    fn a_name_without_records_exists_nevertheless() {
        let mut gathered = Gathered::default();
        gathered.add_answer();
        let answer = gathered.answer(5);
        assert!(!answer.is_nobody() && answer.entry().unwrap().sets().next().is_none());
        let mut aged = Vec::new();
        answer.age_into(1, &mut aged);
        assert_eq!(aged, [0]);
    }
}
