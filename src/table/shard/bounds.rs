//! Tests of the block's layout at its limits, and one past each.

use super::*;
use crate::wire::name::{HashSeed, Name};

const SEED: HashSeed = HashSeed::from_words(3, 5);

fn folded(i: usize) -> QueryName {
    QueryName::from_name(&Name::from_text(&format!("n{i}.x")).unwrap(), SEED)
}

/// A name's record sets, one record in each.
fn sets(count: usize, rdata: &[u8]) -> Vec<u8> {
    let mut sets = vec![u8::try_from(count).unwrap()];
    for rtype in 1..=count {
        append_set(&mut sets, u16::try_from(rtype).unwrap(), 7, [rdata].into_iter());
    }
    sets
}

#[test]
fn a_name_with_as_many_sets_as_there_can_be_is_read_as_it_was_written_and_so_are_its_neighbours() {
    for count in [0, 1, 127, 128, limits::MAX_RECORD_SETS] {
        let names: Vec<_> = (0..3).map(folded).collect();
        let (near, many) = (sets(1, b"near"), sets(count, b"many"));
        let mut writer = ShardWriter::default();
        writer.go_on(None, names.len(), |_| 0);
        for (name, sets) in names.iter().zip([&near, &many, &near]) {
            writer.put(name.hash(), name.as_wire(), sets);
        }
        let shard = writer.finish_new();
        assert_eq!(shard.find(&names[1]).unwrap().sets().count(), count);
        assert!(!shard.find(&names[1]).unwrap().is_gone());
        let read: Vec<_> = shard.placed().map(|(_, sets)| sets.len()).collect();
        assert_eq!(read.iter().sum::<usize>(), 2 * near.len() + many.len(), "{count}");
        writer.put(names[1].hash(), names[1].as_wire(), &[]);
        let shard = writer.finish_new();
        assert!(shard.find(&names[1]).unwrap().is_gone());
        assert_eq!(shard.find(&names[2]).unwrap().get(1).unwrap().count, 1);
    }
}

#[test]
fn a_set_holds_records_up_to_its_length_and_leaves_the_others_out_whole() {
    for (len, fitting) in [(0, MAX_SET_LEN / 12), (4, MAX_SET_LEN / 16), (limits::MAX_RDATA_LEN, 15)] {
        let rdata = vec![7; len];
        for count in [fitting - 1, fitting, fitting + 1, fitting + 100] {
            let mut block = Vec::new();
            let data = std::iter::repeat_n(&rdata[..], count);
            let appended = append_set(&mut block, 9, 7, data);
            let expected = count.min(fitting);
            assert_eq!((usize::from(appended.count), appended.left_out), (expected, count - expected));
            let (rtype, written, records_len, steering_len) = set_header(block.first_chunk().unwrap());
            assert_eq!((rtype, usize::from(written), steering_len), (9, expected, 0));
            assert_eq!(records_len, expected * (12 + len));
            let set = [&[1][..], &block].concat();
            assert_eq!(Entry::from_sets(&set).get(9).unwrap().each().count(), expected);
        }
    }
}

#[test]
fn a_full_block_leaves_names_out_and_stays_readable() {
    let names: Vec<_> = (0..40).map(folded).collect();
    let sets = sets(1, b"data");
    let entry_len = 1 + names[10].as_wire().len() + sets.len();
    let mut writer = ShardWriter::default();
    writer.begin(names.len());
    let slots_len = slot_at(writer.slots);
    // The last entry may begin at the limit itself.
    for (max_block_len, fitting) in [
        (slots_len - 1, 0),
        (slots_len, 1),
        (slots_len + entry_len - 1, 1),
        (slots_len + entry_len, 2),
        (slots_len + 9 * entry_len, 10),
    ] {
        let mut writer = ShardWriter { max_block_len, ..ShardWriter::default() };
        writer.begin(names.len());
        names[10..].iter().for_each(|name| writer.name(name.hash(), name.as_wire(), &sets));
        let shard = writer.finish_new();
        assert_eq!(writer.left_out(), 30 - fitting, "{max_block_len}");
        assert_eq!(shard.entries().count(), fitting);
        for (i, name) in names[10..].iter().enumerate() {
            assert_eq!(shard.find(name).is_some(), i < fitting, "{i}");
        }
    }
}
