//! Upstreams in which everything goes wrong, by chance and always in the same way for a seed: losses, silence, refusals
//! and restarts, hatred of our option, and other addresses of this host. A question that some upstream would answer
//! while its client waits is answered.

use std::collections::VecDeque;
use std::time::Duration;

use redbreast::resolver::settings::Order;

use crate::message::Message;
use crate::script::{Question, Whose};
use crate::world::{Settings, World};

const MS: Duration = Duration::from_millis(1);

/// How long each simulation lasts, and until all clients have been told.
const LENGTH_MS: u64 = 20_000;
const PATIENCE: Duration = Duration::from_secs(30);

/// Simulations, each with its own misfortunes.
const SEEDS: u64 = 200;

/// How long all upstreams are away together at most: well within the five seconds of a client.
const MAX_OUTAGE_MS: u64 = 1_500;

/// What happens at a time.
#[derive(Clone, Debug)]
enum Event {
    /// The server answers again, after so many milliseconds, and loses so many of a hundred datagrams.
    Answers(u32, u8),
    Silence,
    Refusal,
    AddressChanges,
}

/// When which server does what: outages of each, and in between it answers.
fn plan(rng: &mut fastrand::Rng, servers: usize) -> Vec<(u64, usize, Event)> {
    let mut events = Vec::new();
    for server in 0..servers {
        let mut at_ms = 0;
        while at_ms < LENGTH_MS {
            events.push((at_ms, server, Event::Answers(rng.u32(1..30), rng.u8(..20))));
            at_ms += rng.u64(2_000..6_000);
            events.push((at_ms, server, if rng.bool() { Event::Silence } else { Event::Refusal }));
            at_ms += rng.u64(50..MAX_OUTAGE_MS);
        }
        events.push((LENGTH_MS + MAX_OUTAGE_MS, server, Event::Answers(1, 0)));
    }
    for _ in 0..rng.usize(..4) {
        events.push((rng.u64(..LENGTH_MS), 0, Event::AddressChanges));
    }
    events.sort_by_key(|(at_ms, ..)| *at_ms);
    events
}

/// Runs one; returns how many of how many questions were answered, and what with.
fn simulate(seed: u64, trace: bool) -> Result<u64, String> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let names: Vec<_> = (1..=rng.usize(1..4)).map(|i| format!("10.0.0.{i}")).collect();
    let settings = Settings {
        upstreams: names.iter().map(|name| name.parse().expect("an address")).collect(),
        forwards: Vec::new(),
        timeout: Duration::from_secs(5),
        max_stale: Duration::ZERO,
        seed,
        rotate: rng.u8(..4) == 0,
        order: [Order::Fastest, Order::Listed, Order::Fallback][rng.usize(..3)],
        rebind_protection: None,
        min_ttl: Duration::ZERO,
        negative_ttl: Duration::ZERO,
        fail_fast: false,
        mix_case: false,
    };
    let mut world = World::new(settings);
    world.trace = trace.then(VecDeque::new);
    for name in &names {
        let instead = match rng.u8(..4) {
            0 => Some(None),
            1 => Some(Some(Message::parse("FORMERR").expect("a message"))),
            2 => Some(Some(Message::parse("REFUSED").expect("a message"))),
            _ => None,
        };
        if let Some(instead) = instead {
            world.dislikes_option(name.clone(), instead);
        }
    }
    let every_ms = rng.u32(5..200);
    let count = u32::try_from(LENGTH_MS).expect("seconds") / every_ms;
    let question = Question { name: "n*.example".into(), qtype: "A".into() };
    world.crowd_asks(count, &question, MS * every_ms);
    let answer = Message::parse("NOERROR * 300 A 10.0.0.1").expect("a message");
    for (at_ms, server, event) in plan(&mut rng, names.len()) {
        world.advance(Duration::from_millis(at_ms))?;
        let name = names[server].clone();
        world.note(|| format!("upstream {name}: {event:?}"));
        match event {
            Event::Answers(after_ms, loses) => {
                world.always(name.clone(), Whose::All, MS * after_ms, answer.clone());
                world.loses(name, loses);
            }
            Event::Silence => world.goes_silent(&name),
            Event::Refusal => world.always_refuses(name),
            Event::AddressChanges => world.address_changes(),
        }
    }
    world.advance(PATIENCE)?;
    let answered = world.crowd_got.get("NOERROR").copied().unwrap_or_default();
    if answered == u64::from(count) {
        Ok(answered)
    } else {
        let before = world.before_failure.map_or_else(Vec::new, Vec::from).join("\n");
        Err(format!("of {count} questions at {} upstreams: {:?}\n{before}", names.len(), world.crowd_got))
    }
}

#[test]
fn a_question_that_some_upstream_would_answer_is_answered() {
    let failed: Vec<_> = (0..SEEDS).filter_map(|seed| Some((seed, simulate(seed, false).err()?))).collect();
    // What led to the first failure of the first of them.
    let first = failed.first().and_then(|(seed, _)| simulate(*seed, true).err()).unwrap_or_default();
    assert!(failed.is_empty(), "{failed:#?}\n{first}");
}
