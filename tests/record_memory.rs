//! What a record weighs at a node that got it by gossip: store and table together, with its reverse name, counted in
//! bytes that are allocated. What the allocator and the kernel add is measured by
//! `redbreast perf cluster --only memory`.
//!
//! `RECORDS=1000000` counts another number of them.
#![allow(missing_docs)]
#![allow(unsafe_code)] // a global allocator cannot be had without
#![allow(clippy::print_stdout)] // tests tell what they measured

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use redbreast::store::{Attributes, Delta, Key, NodeId, Reader, Store};
use redbreast::table::{Publisher, ZoneSettings};
use redbreast::wire::name::Name;

struct Counting;

static ALLOCATED: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed on unchanged to the system's allocator, which keeps the contract.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = ALLOCATED.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(now, Ordering::Relaxed);
        // SAFETY: the caller's contract is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's contract is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn name(number: u32) -> Name {
    Name::from_text(&format!("n{number:07}.redbreast.internal")).unwrap()
}

#[test]
fn a_record_weighs_at_most_250_bytes_above_its_name() {
    let records: u32 = std::env::var("RECORDS").ok().and_then(|text| text.parse().ok()).unwrap_or(200_000);
    let mut origin = Store::new(NodeId([1; 16]), 1);
    for number in 0..records {
        let [_, a, b, c] = number.to_be_bytes();
        origin
            .register(&Key::address("manual", &name(number), [10, a, b, c].into()), &Attributes::default())
            .unwrap();
    }
    let domain = Name::from_text("redbreast.internal").unwrap();
    let before = ALLOCATED.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let mut store = Store::new(NodeId([2; 16]), 1);
    let mut publisher = Publisher::new(&[domain], ZoneSettings { ttl_s: 1, negative_ttl_s: 1 });
    let mut from = 0;
    while let Some(delta) = origin.delta(NodeId([1; 16]), from, 60_000) {
        from = delta.to;
        let mut bytes = Vec::new();
        delta.encode(&mut bytes);
        store.apply(&Delta::decode(&mut Reader(&bytes)).unwrap());
        publisher.note(store.take_changed());
        publisher.publish(&store, usize::MAX);
    }
    assert_eq!(publisher.current().names(), 2 * records as usize + 1);
    let per_record =
        |bytes: usize| (bytes - before) as f64 / f64::from(records) - name(0).as_wire().len() as f64;
    let (now, peak) = (ALLOCATED.load(Ordering::Relaxed), PEAK.load(Ordering::Relaxed));
    println!(
        "{:.0} bytes a record above its name at {records} (store {:.0}, table {:.0}); at most {:.0} on the way",
        per_record(now),
        store.heap_len() as f64 / f64::from(records),
        publisher.current().heap_len() as f64 / f64::from(records),
        per_record(peak),
    );
    assert!(per_record(now) <= 250.0);
}
