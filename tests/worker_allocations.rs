//! A worker allocates nothing for the packets it answers: counted over a million of them, of all kinds, among them what
//! it knows of others' names.
//!
//! The counting allocator is the whole process's, so this file has one test and the test itself allocates nothing
//! either while it counts.
#![allow(missing_docs)]
#![allow(unsafe_code)] // a global allocator cannot be had without

use std::alloc::{GlobalAlloc, Layout, System};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use redbreast::answer::access::Access;
use redbreast::answer::metrics::Event;
use redbreast::config::Settings;
use redbreast::node::{Inbox, Node};
use redbreast::policy::rules::Scope;
use redbreast::policy::{Order, Policy};
use redbreast::resolver::settings::{self as resolver};
use redbreast::resolver::upstream::Upstream;
use redbreast::sources::files::Registrations;
use redbreast::sources::names_file::Host;
use redbreast::sources::zone_file::ZoneRecord;
use redbreast::sys::mmsg::{Addressing, BATCH_LEN, Batch, Wait};
use redbreast::transport::Inherited;
use redbreast::wire::name::Name;
use redbreast::wire::record::rtype;

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call is passed on unchanged to the system's allocator, which keeps the contract.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's contract is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's contract is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const PACKETS: u64 = 1_000_000;

fn name(text: &str) -> Name {
    Name::from_text(text).unwrap()
}

fn records() -> Vec<ZoneRecord> {
    let record = |owner: &str, rtype, rdata: &[u8]| ZoneRecord {
        name: name(&format!("{owner}.redbreast.internal")),
        rtype,
        ttl_s: 1,
        rdata: rdata.into(),
    };
    let web = name("web.redbreast.internal");
    vec![
        record("alias", rtype::CNAME, web.as_wire()),
        record("outside", rtype::CNAME, name("example.com").as_wire()),
        record("_http._tcp.web", rtype::SRV, &[&[0, 1, 0, 2, 0, 80], web.as_wire()].concat()),
        record("text", rtype::TXT, b"\x05hello"),
    ]
}

/// One of each kind that is answered; dropped kinds are counted by their absence, so they are left to other tests.
fn packets() -> Vec<Vec<u8>> {
    let query = |name: &Name, qtype: u8| {
        [b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0", name.as_wire(), &[0, qtype, 0, 1]].concat()
    };
    let web = query(&name("wEb.redbreast.internal"), 1);
    let mut with_opt = [&web[..], b"\0\0\x29\x04\xd0\0\0\x80\0\0\0"].concat();
    with_opt[11] = 1;
    let mut with_options =
        [&web[..], b"\0\0\x29\x04\xd0\0\0\x80\0\0\x10\0\x0a\0\x08clientck\0\x03\0\0"].concat();
    with_options[11] = 1;
    let mut bad_version = with_opt.clone();
    bad_version[web.len() + 6] = 1;
    let mut two_questions = web.clone();
    two_questions[5] = 2;
    let mut notify = web.clone();
    notify[2] = 0x20;
    let mut for_somebody = [
        &query(&name("near.redbreast.internal"), 1)[..],
        b"\0\0\x29\x04\xd0\0\0\0\0\0\x0b\0\x08\0\x07\0\x01\x18\0\x0a\0\0",
    ]
    .concat();
    for_somebody[11] = 1;
    let policies = Order::ALL.map(|order| query(&name(&format!("{}.redbreast.internal", order.name())), 1));
    let mut all = vec![
        query(&name("many.redbreast.internal"), 1),
        query(&name("web.redbreast.internal"), 28),
        query(&name("nobody.redbreast.internal"), 1),
        query(&name("example.com"), 1),
        query(&name("example.com"), 252),
        query(&name("1.0.0.10.in-addr.arpa"), 12),
        query(&name("redbreast.internal"), 6),
        query(&name("redbreast.internal"), 2),
        query(&name("alias.redbreast.internal"), 1),
        query(&name("outside.redbreast.internal"), 1),
        query(&name("_http._tcp.web.redbreast.internal"), 33),
        query(&name("text.redbreast.internal"), 16),
        b"\x12\x34\x01\0\0\0\0\0\0\0\0\x01\0\0\x29\x04\xd0\0\0\0\0\0\x0c\0\x0a\0\x08clientck".to_vec(),
        [&web[..], b"garbage"].concat(),
        web[..20].to_vec(),
        web.clone(),
        with_opt,
        with_options,
        bad_version,
        two_questions,
        notify,
        for_somebody,
    ];
    all.extend(policies);
    all
}

/// Says an address of each name to all who ask, without an allocation.
fn upstream() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    thread::spawn(move || {
        let mut message = [0; 600];
        loop {
            let Ok((len, peer)) = socket.recv_from(&mut message[..512]) else { continue };
            let end = 12 + message[12..len].iter().position(|&byte| byte == 0).unwrap() + 5;
            let record = b"\xc0\x0c\0\x01\0\x01\0\0\x0e\x10\0\x04\xc0\0\x02\x01";
            message[end..end + record.len()].copy_from_slice(record);
            message[2..12].copy_from_slice(b"\x81\x80\0\x01\0\x01\0\0\0\0");
            let _ = socket.send_to(&message[..end + record.len()], peer);
        }
    });
    address
}

fn settings() -> Settings {
    let policy = |order: Order| {
        let owner = name(&format!("{}.redbreast.internal", order.name()));
        (Scope::Name(owner.as_wire().into()), Policy { order, ..Policy::default() })
    };
    Settings {
        node_name: "node".into(),
        hide_identity: false,
        policies: Order::ALL.map(policy).to_vec(),
        forwarders: Some(Access::default()),
        resolver: Some(resolver::Settings {
            upstreams: vec![Upstream::dns(upstream())],
            ..Default::default()
        }),
        ..Settings::default()
    }
}

#[test]
fn a_million_mixed_packets_are_answered_without_an_allocation() {
    let host = |last, host: &str| Host {
        address: [10, 0, 0, last].into(),
        names: smallvec::smallvec![name(&format!("{host}.redbreast.internal"))],
    };
    let many = (2..100).map(|last| host(last, "many"));
    let mut names = Registrations::default();
    many.chain([host(1, "web")]).for_each(|host| names.add_host(&host));
    for order in Order::ALL {
        (100..150).for_each(|last| names.add_host(&host(last, order.name())));
    }
    records().iter().for_each(|record| names.add_record(record));
    let names = names.checked().unwrap();
    let node = Node::start_with(settings(), names, None, Inbox::new(), Inherited::default()).unwrap();

    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.connect(node.addresses()[0]).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let (mut outgoing, mut incoming) = (Batch::new(Addressing::Connected), Batch::new(Addressing::Connected));
    let packets = packets();
    let mut exchange = |round: usize| {
        outgoing.clear();
        for i in 0..BATCH_LEN {
            let packet = &packets[(round * BATCH_LEN + i) % packets.len()];
            outgoing.datagram(i).buffer[..packet.len()].copy_from_slice(packet);
            outgoing.stage(i, packet.len());
        }
        let (mut sent, mut received) = (0, 0);
        while sent < BATCH_LEN {
            sent += outgoing.send_from(client.as_fd(), sent).unwrap();
        }
        while received < BATCH_LEN {
            received += incoming.receive(client.as_fd(), Wait::ForOne).unwrap();
        }
        received as u64
    };

    // The first packets may set up what then stays: thread-local state, the C library's.
    let mut answered: u64 = (0..100).map(&mut exchange).sum();
    let before = ALLOCATIONS.load(Ordering::SeqCst);
    while answered < PACKETS {
        answered += exchange(usize::try_from(answered).unwrap());
    }
    let after = ALLOCATIONS.load(Ordering::SeqCst);
    assert_eq!(after - before, 0, "allocations and frees in the whole process for {answered} packets");

    // The kinds were really mixed, and all went through the worker.
    for event in [
        Event::Positive,
        Event::Cached,
        Event::Alias,
        Event::CookieAlone,
        Event::NoData,
        Event::NxDomain,
        Event::Refused,
        Event::Truncated,
        Event::Records,
        Event::BadVersion,
        Event::QuestionCount,
        Event::Opcode,
        Event::TruncatedAnswer,
    ] {
        assert!(node.count(event) > 30_000, "{event:?}: {}", node.count(event));
    }
    let counted: u64 =
        node.stop().iter().filter(|(event, _)| *event <= Event::BadVersion).map(|(_, n)| n).sum();
    assert!(counted >= answered);
}
