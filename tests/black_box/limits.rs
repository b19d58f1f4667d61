//! More than there can be, by every way in: it is refused where it comes in, and what was there stays answered.

use std::fs;
use std::net::IpAddr;

use serde_json::{Value, json};

use crate::control::start;
use crate::harness::{Server, ask, query, run, wait_until};
use crate::http::{get, json as send_json};

const TYPES: usize = 254;

/// A zone file with so many types at `many`, and neighbours.
fn zone(types: usize) -> String {
    let near = (0..40).map(|i| format!("near{i} 60 IN A 10.0.1.{i}\n"));
    near.chain((0..types).map(|i| format!("many 60 IN TYPE{} \\# 1 00\n", 1_000 + i))).collect()
}

/// How many answers there are to a question.
fn count(server: &Server, name: &str, rtype: u16) -> u8 {
    ask(&server.client(), &query(3, &format!("{name}.redbreast.internal"), rtype))[7]
}

fn neighbours(server: &Server) -> usize {
    (0..40).filter(|i| count(server, &format!("near{i}"), 1) == 1).count()
}

/// An update that adds a TXT record to a name, and the response code that comes back.
fn update(server: &Server, label: &str, text: &[u8]) -> u8 {
    let zone: &[u8] = b"\x09redbreast\x08internal\0";
    let mut packet = b"\0\x07\x28\0\0\x01\0\0\0\x01\0\0".to_vec();
    packet.extend_from_slice(&[zone, b"\0\x06\0\x01"].concat());
    packet.push(label.len().try_into().unwrap());
    packet.extend_from_slice(&[label.as_bytes(), zone, b"\0\x10\0\x01\0\0\0\x3c"].concat());
    let rdata: Vec<u8> = text
        .chunks(255)
        .flat_map(|string| [&[u8::try_from(string.len()).unwrap()][..], string].concat())
        .collect();
    packet.extend_from_slice(&u16::try_from(rdata.len()).unwrap().to_be_bytes());
    packet.extend_from_slice(&rdata);
    ask(&server.client(), &packet)[3] & 0x0f
}

#[test]
fn a_zone_file_has_as_many_types_at_a_name_as_there_can_be_and_an_update_adds_none() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("zone");
    let path = file.to_str().unwrap();
    fs::write(&file, zone(TYPES)).unwrap();
    let (mut server, at) = start(&["--zone", path, "--allow-unsigned-updates"]);
    assert_eq!((neighbours(&server), count(&server, "many", 1_000)), (40, 1));
    assert_eq!(count(&server, "many", 1_000 + 253), 1);
    assert_eq!(update(&server, "many", b"one too many"), 5, "REFUSED");
    assert_eq!(update(&server, "few", b"not too many"), 0);
    server.wait_for_log("an update was refused: many.redbreast.internal. would have records of 255 types");
    // Of texts that take 1,117 bytes each with what stands before them, an answer has room for 58.
    let codes: Vec<_> = (0..60u8).map(|i| update(&server, "long", &[i; 1_100])).collect();
    assert_eq!(codes, [vec![0; 58], vec![5; 2]].concat());
    for types in [255, 256, 300] {
        fs::write(directory.path().join("new"), zone(types)).unwrap();
        fs::rename(directory.path().join("new"), &file).unwrap();
        let told = format!(
            "zone:{}: many.redbreast.internal. has records of {types} types; a name can have 254",
            40 + TYPES + 1
        );
        server.wait_for_log(&told);
        assert_eq!((neighbours(&server), count(&server, "many", 1_000)), (40, 1));
    }
    let metrics = get(&at, "/metrics").body;
    assert!(metrics.contains("redbreast_records_left_out 0"), "{metrics}");
    let config = directory.path().join("redbreast.toml");
    fs::write(&config, format!("listen = [\"127.0.0.1:0\"]\nzone = [\"{path}\"]\n")).unwrap();
    let checked = run(&["config", "check", config.to_str().unwrap()]);
    let told = String::from_utf8_lossy(&checked.stderr).into_owned();
    assert_eq!(checked.status.code(), Some(2), "{told}");
    assert!(told.contains("zone:295: many.redbreast.internal. has records of 300 types"), "{told}");
}

#[test]
fn a_request_gives_a_name_as_many_addresses_as_an_answer_can_carry_and_not_one_more() {
    let (server, at) = start(&[]);
    let addresses = |range: std::ops::Range<u32>| -> Value {
        range.map(|i| IpAddr::from((0x0a00_0000 + i).to_be_bytes()).to_string()).collect()
    };
    let put =
        |range| send_json(&at, "POST", "/v1/names", &json!({"name": "many", "addresses": addresses(range)}));
    for begin in [1, 1_001, 2_001, 3_001] {
        assert_eq!(put(begin..begin + 1_000).status, 200);
    }
    // Of addresses with 16 bytes each there is room for 4,062.
    let registrations = || get(&at, "/v1/status").json()["registrations"].clone();
    let before = registrations();
    let refused = put(4_001..4_064);
    assert_eq!(refused.status, 409, "{refused:?}");
    let told = refused.problem();
    assert!(
        told.contains("many.redbreast.internal. would have 4063 A records, more than one answer can carry"),
        "{told}"
    );
    assert_eq!(registrations(), before, "nothing of it was made");
    assert_eq!(put(4_001..4_063).status, 200);
    assert_eq!(put(1..1_001).status, 200, "what is there already takes no room");
    assert_eq!(put(5_000..5_001).status, 409);
    // What takes the place of others has theirs.
    let replace = json!({"addresses": addresses(6_001..7_001)});
    assert_eq!(send_json(&at, "PUT", "/v1/names/many", &replace).status, 200);
    assert_eq!(put(1..1_001).status, 200);
    wait_until("a neighbour is answered", || {
        send_json(&at, "PUT", "/v1/names/near", &json!({"addresses": ["10.0.0.1"]}));
        count(&server, "near", 1) == 1
    });
}

#[test]
fn a_line_of_a_megabyte_is_refused_with_its_number_and_its_front() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("names");
    fs::write(&file, "10.0.0.1 near0\n").unwrap();
    let mut server = Server::with_names(&file, &[]);
    for (line, told) in [
        (
            format!("10.0.0.1 {}", "x".repeat(1 << 20)),
            "names:2: the line has 1048585 bytes before its comment",
        ),
        (format!("10.0.0.1 {}", "x".repeat(60_000)), "... (60000 bytes)` is not a name"),
        (
            format!("10.0.0.1 {}", "x ".repeat(1 << 19)),
            "names:2: the line has 1048585 bytes before its comment",
        ),
    ] {
        fs::write(directory.path().join("new"), format!("10.0.0.1 near0\n{line}\n")).unwrap();
        fs::rename(directory.path().join("new"), &file).unwrap();
        server.wait_for_log(told);
        assert_eq!(count(&server, "near0", 1), 1);
    }
    assert!(server.log().len() < 20_000, "values are told by their front");
}
