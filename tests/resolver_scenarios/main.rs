//! The resolver in scenarios: what clients ask, what upstreams say and when, and what has to come of it, each in a file
//! of `tests/data/resolver/` in a format that `docs/resolver_scenarios.md` describes. Time is made up, so that days
//! pass in milliseconds, and always in the same way.
#![allow(missing_docs)]

mod message;
mod script;
mod simulation;
mod world;

use std::fs;
use std::path::Path;
use std::time::Duration;

use redbreast::resolver::settings::Order;

use script::{Line, What, parse};
use world::{Settings, World};

/// Runs a scenario.
///
/// # Errors
/// The number of a line, and what is wrong there.
fn run(text: &str) -> Result<(), (usize, String)> {
    let lines = parse(text)?;
    let mut settings = Settings {
        upstreams: Vec::new(),
        forwards: Vec::new(),
        timeout: Duration::from_secs(5),
        max_stale: Duration::from_secs(86_400),
        seed: 1,
        rotate: false,
        order: Order::Fastest,
        rebind_protection: None,
        min_ttl: Duration::ZERO,
        negative_ttl: Duration::from_secs(5),
        fail_fast: false,
        mix_case: false,
    };
    let begin = lines.iter().position(|line| !set(&mut settings, &line.what)).unwrap_or(lines.len());
    let mut world = World::new(settings);
    let mut last = 0;
    for line in &lines[begin..] {
        last = line.number;
        let here = |error| (line.number, error);
        if line.at > world.now {
            expect_nothing(&world).map_err(here)?;
            world.advance(line.at).map_err(|error| here(format!("before this, {error}")))?;
        }
        act(&mut world, line).map_err(here)?;
    }
    expect_nothing(&world).map_err(|error| (last, error))
}

/// Everything that came out at this time has been expected.
fn expect_nothing(world: &World) -> Result<(), String> {
    match &world.outputs[..] {
        [] => Ok(()),
        outputs => Err(format!("not expected at {:?}: {}", world.now, outputs.join("; "))),
    }
}

/// Takes over what is said before anything happens; false if it happens.
fn set(settings: &mut Settings, what: &What) -> bool {
    match what.clone() {
        What::Upstreams(upstreams) => settings.upstreams = upstreams,
        What::Forward(forward) => settings.forwards.push(forward),
        What::Timeout(timeout) => settings.timeout = timeout,
        What::MaxStale(time) => settings.max_stale = time,
        What::Seed(seed) => settings.seed = seed,
        What::Rotate => settings.rotate = true,
        What::Order(order) => settings.order = order,
        What::RebindProtection(but) => settings.rebind_protection = Some(but),
        What::MinTtl(time) => settings.min_ttl = time,
        What::NegativeTtl(time) => settings.negative_ttl = time,
        What::FailFast => settings.fail_fast = true,
        What::MixCase => settings.mix_case = true,
        _ => return false,
    }
    true
}

fn act(world: &mut World, line: &Line) -> Result<(), String> {
    match line.what.clone() {
        What::Forward(_)
        | What::Timeout(_)
        | What::MaxStale(_)
        | What::Seed(_)
        | What::Rotate
        | What::Order(_)
        | What::RebindProtection(_)
        | What::MinTtl(_)
        | What::NegativeTtl(_)
        | What::FailFast
        | What::MixCase => {
            return Err("this has to be said before anything happens".into());
        }
        What::Upstreams(upstreams) => world.change_upstreams(upstreams),
        What::Asks { client, question, dnssec_ok, checking_disabled } => {
            world.client_asks(client, &question, (dnssec_ok, checking_disabled));
        }
        What::Crowd { count, question, every } => world.crowd_asks(count, &question, every),
        What::Answers { server, question, lies, message } => {
            world.server_answers(&server, &question, &lies, &message)?;
        }
        What::Always { server, whose, after, message } => world.always(server, whose, after, message),
        What::AlwaysRefuses { server } => world.always_refuses(server),
        What::Loses { server, percent } => world.loses(server, percent),
        What::FallsSilent { server } => world.falls_silent(&server),
        What::Refuses { server } => world.server_refuses(&server)?,
        What::StreamBreaks { server, worked } => world.stream_breaks(&server, worked)?,
        What::StreamSilent { server } => world.stream_falls_silent(&server)?,
        What::AlwaysCloses { server } => world.always_closes(server),
        What::Nothing => {}
        What::Expected(output) => {
            let at = world.outputs.iter().position(|it| *it == output);
            let at = at.ok_or_else(|| match &world.outputs[..] {
                [] => format!("at {:?} nothing came; expected: {output}", world.now),
                outputs => format!("at {:?} came: {}; expected: {output}", world.now, outputs.join("; ")),
            })?;
            world.outputs.remove(at);
        }
        What::Counted { server, count, range } => {
            let counted = world.counted(server.as_deref(), &count)?;
            if !range.contains(&counted) {
                return Err(format!("counted {count}: {counted}; expected: {range:?}"));
            }
        }
        What::CrowdGot { rcode, range } => {
            let got = world.crowd_got.get(&rcode).copied().unwrap_or_default();
            if !range.contains(&got) {
                return Err(format!("the crowd got: {:?}; expected of {rcode}: {range:?}", world.crowd_got));
            }
        }
        What::CrowdWaited { percent, most } => {
            let waited = &mut world.crowd_waited;
            waited.sort_unstable();
            let at = (waited.len() * usize::from(percent)).div_ceil(100).max(1) - 1;
            let slowest = waited.get(at).ok_or("the crowd has got nothing")?;
            if *slowest > most {
                return Err(format!(
                    "{percent}% of the crowd waited {slowest:?}; expected: {most:?} at most"
                ));
            }
        }
    }
    Ok(())
}

#[test]
fn all_scenarios_go_as_their_files_say() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/resolver");
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(
        files.len() >= 20 && files.iter().all(|file| file.extension().is_some_and(|it| it == "scenario"))
    );
    let failed: Vec<_> = files
        .iter()
        .filter_map(|file| {
            let (line, error) = run(&fs::read_to_string(file).unwrap()).err()?;
            let file = file.file_name().unwrap().to_string_lossy().into_owned();
            Some(format!("tests/data/resolver/{file}:{line}: {error}"))
        })
        .collect();
    assert!(failed.is_empty(), "\n{}", failed.join("\n"));
}

#[test]
fn what_is_wrong_with_a_scenario_is_told_with_its_line() {
    const BEGIN: &str = "upstreams 192.0.2.1\nat 0ms client 1 asks www.example A\n";
    const SENT: &str = "sent to 192.0.2.1 www.example A\n";
    for (text, line, told) in [
        ("upstreams 192.0.2\n", 1, "`192.0.2` is no address"),
        ("# a comment\n\nclient 1 sleeps\n", 3, "`client 1 sleeps` says nothing"),
        ("at noon nothing\n", 1, "`noon` is no time"),
        ("at 2s nothing\nat 1s nothing\n", 2, "1s is before 2s"),
        ("client 1 asks www.example WWW\n", 1, "`WWW` is no type"),
        ("192.0.2.1 answers www.example A (by mail) NOERROR\n", 1, "nobody lies with `by mail`"),
        ("192.0.2.1 answers www.example A NOERROR www.example A\n", 1, "`A` is not a TTL in seconds"),
        (BEGIN, 2, "not expected at 0ns: sent to 192.0.2.1 www.example A"),
        (
            &format!("{BEGIN}sent to 192.0.2.1 www.example AAAA\n"),
            3,
            "came: sent to 192.0.2.1 www.example A; expected",
        ),
        (&format!("{BEGIN}{SENT}{SENT}"), 4, "nothing came; expected: sent to 192.0.2.1 www.example A"),
        (
            &format!("{BEGIN}{SENT}at 1s nothing\n"),
            4,
            "before this, at 200ms: sent to 192.0.2.1 www.example A",
        ),
        (&format!("{BEGIN}{SENT}192.0.2.1 answers mail.example A NOERROR\n"), 4, "has not been asked that"),
        (&format!("{BEGIN}{SENT}timeout 1s\n"), 4, "before anything happens"),
        (&format!("{BEGIN}{SENT}counted sheep 1\n"), 4, "nobody counts `sheep`"),
    ] {
        let (at, error) = run(text).unwrap_err();
        assert!(at == line && error.contains(told), "{at}: {error}");
    }
}
