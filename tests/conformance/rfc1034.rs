//! RFC 1034 and RFC 6604: aliases.

use crate::message::{A, AA, AAAA, Answer, CNAME, NOERROR, NXDOMAIN, Query, Record, SOA, TC, TXT, wire_name};
use crate::world::{MANY, World};

fn ask(world: &World, host: &str, qtype: u16) -> [Answer; 2] {
    let name = if host.ends_with('.') { host.to_owned() } else { format!("{host}.redbreast.internal") };
    world.ask(&Query::new(&name, qtype))
}

/// Owner, type and, of an alias, target, in lower case.
fn shown(record: &Record) -> (Vec<u8>, u16, Vec<u8>) {
    let target = if record.rtype == CNAME { record.data.to_ascii_lowercase() } else { Vec::new() };
    (record.owner.to_ascii_lowercase(), record.rtype, target)
}

fn wire(host: &str) -> Vec<u8> {
    wire_name(&format!("{host}.redbreast.internal"))
}

#[test]
fn s3_6_2_an_alias_is_answered_with_itself_and_the_records_of_its_canonical_name() {
    let world = World::new();
    for (qtype, count) in [(A, 2), (AAAA, 1)] {
        for answer in ask(&world, "alias", qtype) {
            let records: Vec<_> = answer.answers.iter().map(shown).collect();
            assert_eq!(records[0], (wire("alias"), CNAME, wire("web")), "{answer:?}");
            assert_eq!(records[1..], vec![(wire("web"), qtype, Vec::new()); count], "{answer:?}");
            assert!(answer.has(AA) && answer.authorities.is_empty(), "{answer:?}");
        }
    }
}

#[test]
fn s3_6_2_a_question_for_the_alias_itself_is_not_followed() {
    let world = World::new();
    for answer in ask(&world, "alias", CNAME) {
        assert_eq!((answer.answers.len(), &answer.answers[0].data), (1, &wire("Web")), "{answer:?}");
    }
}

#[test]
fn s3_6_2_names_that_are_no_alias_have_no_cname() {
    let world = World::new();
    for answer in ask(&world, "web", CNAME) {
        assert!(answer.answers.is_empty() && answer.negative_soa().is_some(), "{answer:?}");
    }
}

#[test]
fn s4_3_2_chains_are_followed_to_their_end() {
    let world = World::new();
    for answer in ask(&world, "again", A) {
        let owners: Vec<_> = answer.answers.iter().map(|record| shown(record).0).collect();
        assert_eq!(owners, ["again", "alias", "web", "web"].map(wire), "{answer:?}");
    }
    for (host, addresses) in [("chain16", 1), ("chain17", 0)] {
        for answer in ask(&world, host, A) {
            let found = answer.answers.iter().filter(|record| record.rtype == A).count();
            assert_eq!(
                (answer.answers.len(), found, answer.rcode()),
                (16 + found, addresses, NOERROR),
                "{answer:?}"
            );
        }
    }
}

#[test]
fn s4_3_2_a_chain_into_another_of_our_domains_is_followed_and_one_out_of_them_is_not() {
    let world = World::new();
    for answer in ask(&world, "other", A) {
        let owner = &answer.answers[1].owner;
        assert_eq!((answer.answers.len(), owner), (2, &wire_name("host.example.org")), "{answer:?}");
    }
    for answer in ask(&world, "outside", A) {
        assert_eq!((answer.answers.len(), answer.rcode()), (1, NOERROR), "{answer:?}");
        assert!(answer.has(AA) && answer.authorities.is_empty(), "{answer:?}");
    }
}

#[test]
fn s5_2_2_aliases_that_lead_in_a_circle_are_told_once_each() {
    let world = World::new();
    for (host, count) in [("loop", 2), ("self", 1)] {
        for answer in ask(&world, host, A) {
            assert_eq!((answer.answers.len(), answer.rcode()), (count, NOERROR), "{answer:?}");
            assert!(answer.answers.iter().all(|record| record.rtype == CNAME), "{answer:?}");
        }
    }
}

#[test]
fn rfc6604_s3_the_response_code_is_that_of_the_last_name() {
    let world = World::new();
    for (host, rcode) in [("dangling", NXDOMAIN), ("only-six", NOERROR)] {
        for answer in ask(&world, host, A) {
            assert_eq!((answer.rcode(), answer.answers.len()), (rcode, 1), "{answer:?}");
            let soa = answer.negative_soa().unwrap_or_else(|| panic!("{answer:?}"));
            assert_eq!(soa.owner, wire_name("redbreast.internal"), "{answer:?}");
        }
    }
}

#[test]
fn an_alias_of_the_apex_has_its_soa() {
    let world = World::new();
    for answer in ask(&world, "to-apex", SOA) {
        let owners: Vec<_> = answer.answers.iter().map(|record| (record.rtype, &record.owner)).collect();
        assert_eq!(
            owners,
            [(CNAME, &wire("to-apex")), (SOA, &wire_name("redbreast.internal"))],
            "{answer:?}"
        );
    }
    for answer in ask(&world, "to-apex", TXT) {
        assert_eq!(answer.answers.len(), 1, "{answer:?}");
        assert_eq!(answer.negative_soa().unwrap().owner, wire_name("redbreast.internal"), "{answer:?}");
    }
}

#[test]
fn an_alias_of_more_than_fits_is_truncated_to_whole_records() {
    let world = World::new();
    let [udp, tcp] = ask(&world, "to-many", A);
    assert!(udp.has(TC) && udp.answers.len() > 20 && udp.len <= 512, "{udp:?}");
    assert!(!tcp.has(TC) && tcp.answers.len() == 1 + MANY as usize, "{tcp:?}");
    assert!(udp.answers[1..].iter().all(|record| record.owner == tcp.answers[1].owner), "{udp:?}");
}

#[test]
fn a_single_label_in_the_search_path_may_be_an_alias() {
    let world = World::new();
    for answer in ask(&world, "alias.", A) {
        let owners: Vec<_> = answer.answers.iter().map(|record| shown(record).0).collect();
        assert_eq!(owners, [wire_name("alias"), wire("web"), wire("web")], "{answer:?}");
    }
}
