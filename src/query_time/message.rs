//! The messages between nodes that ask each other: a question for all records of a name, and the answer of a node that
//! has it.
//!
//! A question is a one-shot query of multicast DNS (RFC 6762 §5.1): it comes from a port of its asker's own, so that
//! the answer comes back there by unicast (§6.7). Who does not have the name says nothing. Both run on the workers.

use super::peer_answer::Gathered;
use crate::table::Table;
use crate::wire::edns::Options;
use crate::wire::header::{self, rcode, u16_at};
use crate::wire::message::{answers, expand_name};
use crate::wire::name::QueryName;
use crate::wire::query::Query;
use crate::wire::record::{CLASS_IN, rtype};
use crate::wire::response::{Response, Transport, UDP_LENS};

/// Bytes of an answer at most: what fits in an Ethernet frame.
const ANSWER_LEN: u16 = *UDP_LENS.end();

/// OPT record that says how long an answer may be.
const OPT: [u8; 11] = {
    let [high, low] = ANSWER_LEN.to_be_bytes();
    [0, 0, 41, high, low, 0, 0, 0, 0, 0, 0]
};

/// Writes the question for all records of `name` to the front of `out`; returns its length.
pub fn write_question(id: u16, name: &[u8], out: &mut [u8]) -> usize {
    let [id_high, id_low] = id.to_be_bytes();
    let [any_high, any_low] = rtype::ANY.to_be_bytes();
    let parts: [&[u8]; 4] =
        [&[id_high, id_low, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1], name, &[any_high, any_low, 0, 1], &OPT];
    let mut len = 0;
    for part in parts {
        out[len..len + part.len()].copy_from_slice(part);
        len += part.len();
    }
    len
}

/// Answers the question in the first `len` bytes of `buffer` in place, if it is one and this node has the name in its
/// `table`; returns the length of the answer.
///
/// # Panics
/// If `buffer` is shorter than [`MIN_BUFFER_LEN`](crate::wire::query::MIN_BUFFER_LEN): a fault of the transport.
pub fn answer_question(table: &Table, name: &mut QueryName, buffer: &mut [u8], len: usize) -> Option<usize> {
    let query = Query::parse(buffer, len, name, table.seed()).ok()?;
    if !query.has_question() || query.qclass != CLASS_IN {
        return None;
    }
    let entry = table.lookup(name)?;
    let options = Options::default();
    let mut response = Response::new(buffer, &query, Transport::Udp, ANSWER_LEN, &options);
    let asked = |rtype| query.qtype == rtype::ANY || query.qtype == rtype;
    for set in entry.sets().filter(|set| asked(set.rtype)) {
        if set.records.len() > response.room() {
            response.set_truncated();
            continue;
        }
        response.answer_with(set.count, set.records.len(), |out| out.copy_from_slice(set.records));
    }
    Some(response.finish(rcode::NOERROR, true))
}

/// Whose answer a message is: its id and the name in its question, lower-cased. `None` if it is no answer.
#[must_use]
pub fn answered(message: &[u8]) -> Option<(u16, Vec<u8>)> {
    let flags = *message.get(2..4)?.first_chunk::<2>()?;
    let is_answer = flags[0] & (header::QR | header::OPCODE_MASK) == header::QR
        && flags[1] & header::RCODE_MASK == rcode::NOERROR
        && message.len() >= header::LEN
        && u16_at(message, header::QDCOUNT) == 1;
    let name = is_answer.then(|| expand_name(message, header::LEN)).flatten()?;
    Some((u16_at(message, 0), name.to_ascii_lowercase()))
}

/// Adds the records of `name` in an answer to those of others.
pub fn gather(message: &[u8], name: &[u8], gathered: &mut Gathered) {
    gathered.add_answer();
    for record in answers(message).filter(|record| record.class == CLASS_IN) {
        let of_name =
            expand_name(message, record.owner_at).is_some_and(|owner| owner.eq_ignore_ascii_case(name));
        if !of_name || record.rtype == rtype::OPT {
            continue;
        }
        // Names in the data of these types may point back into the message (RFC 1035 §4.1.4, RFC 6762 §18.14).
        let before = match record.rtype {
            rtype::NS | rtype::CNAME | rtype::PTR => 0,
            rtype::MX => 2,
            rtype::SRV => 6,
            _ => {
                gathered.add(record.rtype, record.ttl_s, record.rdata);
                continue;
            }
        };
        let (Some(fixed), Some(target)) =
            (record.rdata.get(..before), expand_name(message, record.rdata_at + before))
        else {
            continue;
        };
        gathered.add(record.rtype, record.ttl_s, &[fixed, &target].concat());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Attributes, Key, NodeId, Store, encode};
    use crate::table::{Publisher, ZoneSettings};
    use crate::wire::name::Name;

    fn node(records: &[(&str, u16, &[u8])]) -> Publisher {
        let domain = Name::from_text("x").unwrap();
        let mut publisher =
            Publisher::new(std::slice::from_ref(&domain), ZoneSettings { ttl_s: 30, negative_ttl_s: 30 });
        let mut store = Store::new(NodeId::random(), 1);
        for (label, rtype, rdata) in records {
            let name = Name::from_text(label).unwrap().below(&domain).unwrap();
            let key = Key { instance: "i".into(), name, rtype: *rtype, rdata: (*rdata).into() };
            store.register_encoded(&encode(&key, &Attributes::default()));
        }
        publisher.note(store.take_changed());
        publisher.publish(&store, usize::MAX);
        publisher
    }

    fn ask(node: &Publisher, name: &[u8]) -> Option<Vec<u8>> {
        let mut buffer = [0; 1600];
        let len = write_question(77, name, &mut buffer);
        let len = answer_question(&node.current(), &mut QueryName::default(), &mut buffer, len)?;
        Some(buffer[..len].to_vec())
    }

    #[test]
    fn who_has_a_name_answers_with_all_its_records_and_who_has_not_is_silent() {
        let node = node(&[
            ("web", rtype::A, &[10, 0, 0, 1]),
            ("web", rtype::A, &[10, 0, 0, 2]),
            ("web", rtype::SRV, b"\0\0\0\0\0\x50\x03www\x01x\0"),
        ]);
        assert!(ask(&node, b"\x06nobody\x01x\0").is_none());
        let answer = ask(&node, b"\x03web\x01x\0").unwrap();
        assert_eq!(answered(&answer), Some((77, b"\x03web\x01x\0".to_vec())));
        let mut gathered = Gathered::default();
        gather(&answer, b"\x03web\x01x\0", &mut gathered);
        let gathered = gathered.answer(1);
        let entry = gathered.entry().unwrap();
        assert_eq!((entry.get(rtype::A).unwrap().count, entry.get(rtype::SRV).unwrap().count), (2, 1));
        assert_eq!(gathered.ttl_s(), 30);
    }

    #[test]
    fn names_that_point_back_are_written_out_and_others_records_are_left() {
        // `a.x SRV 0 0 80 b.x` with pointers, and a record of another name.
        let answer = b"\0\x09\x84\0\0\x01\0\x02\0\0\0\0\x01A\x01x\0\0\xff\0\x01\
            \xc0\x0c\0\x21\0\x01\0\0\0\x05\0\x0a\0\0\0\0\0\x50\x01b\xc0\x0e\
            \x01c\0\0\x01\0\x01\0\0\0\x05\0\x04\x0a\0\0\x01";
        assert_eq!(answered(answer), Some((9, b"\x01a\x01x\0".to_vec())));
        let mut gathered = Gathered::default();
        gather(answer, b"\x01a\x01x\0", &mut gathered);
        let gathered = gathered.answer(1);
        let entry = gathered.entry().unwrap();
        assert!(entry.get(rtype::A).is_none());
        assert!(entry.get(rtype::SRV).unwrap().records.ends_with(b"\0\x50\x01b\x01x\0"));
        for len in 0..answer.len() {
            let mut gathered = Gathered::default();
            if answered(&answer[..len]).is_some() {
                gather(&answer[..len], b"\x01a\x01x\0", &mut gathered);
            }
        }
        assert!(answered(&answer[..11]).is_none());
        let mut question = *answer;
        question[2] = 0;
        assert!(answered(&question).is_none());
    }
}
