//! The format of scenarios: a line is a comment, a setting, something that is done, or something that has to happen
//! then.
//!
//! `docs/resolver_scenarios.md` says what there is.

use std::ops::RangeInclusive;
use std::time::Duration;

use redbreast::resolver::settings::{Forward, Order};
use redbreast::resolver::upstream::Upstream;
use redbreast::wire::name::Name;
use redbreast::wire::record::rtype;

use crate::message::{Message, read, wire};

/// A name and a type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Question {
    pub(crate) name: String,
    pub(crate) qtype: String,
}

/// What is wrong with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lie {
    WrongId,
    WrongPort,
    WrongName,
    WrongType,
    OtherCase,
    Broken,
    TrailingBytes,
    NoEdns,
    /// It says that it does no recursion.
    NoRecursion,
    /// To the first of what was asked of the server, and not to the last.
    Late,
}

const LIES: [(&str, Lie); 10] = [
    ("wrong id", Lie::WrongId),
    ("wrong port", Lie::WrongPort),
    ("wrong name", Lie::WrongName),
    ("wrong type", Lie::WrongType),
    ("other case", Lie::OtherCase),
    ("broken", Lie::Broken),
    ("trailing bytes", Lie::TrailingBytes),
    ("no EDNS", Lie::NoEdns),
    ("no recursion", Lie::NoRecursion),
    ("late", Lie::Late),
];

/// To which questions a server always answers the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Whose {
    All,
    Crowd,
    Type(String),
}

/// What a line says.
#[derive(Clone, Debug)]
pub(crate) enum What {
    Upstreams(Vec<Upstream>),
    Forward(Forward),
    Timeout(Duration),
    MaxStale(Duration),
    Seed(u64),
    Rotate,
    Order(Order),
    RebindProtection(Vec<Name>),
    MinTtl(Duration),
    NegativeTtl(Duration),
    FailFast,
    MixCase,
    Asks {
        client: u8,
        question: Question,
        /// The flags DO and CD.
        dnssec_ok: bool,
        checking_disabled: bool,
    },
    /// So many clients ask, one after the other; a `*` in the name is the number of each.
    Crowd {
        count: u32,
        question: Question,
        every: Duration,
    },
    Answers {
        server: String,
        question: Question,
        lies: Vec<Lie>,
        message: Message,
    },
    Always {
        server: String,
        whose: Whose,
        after: Duration,
        message: Message,
    },
    Loses {
        server: String,
        percent: u8,
    },
    FallsSilent {
        server: String,
    },
    Refuses {
        server: String,
    },
    AlwaysRefuses {
        server: String,
    },
    StreamBreaks {
        server: String,
        worked: bool,
    },
    StreamSilent {
        server: String,
    },
    AlwaysCloses {
        server: String,
    },
    Nothing,
    /// This has to be among what has come out.
    Expected(String),
    Counted {
        server: Option<String>,
        count: String,
        range: RangeInclusive<u64>,
    },
    CrowdGot {
        rcode: String,
        range: RangeInclusive<u64>,
    },
    CrowdWaited {
        percent: u8,
        most: Duration,
    },
}

/// A line that says something, and when.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) number: usize,
    pub(crate) at: Duration,
    pub(crate) what: What,
}

/// Reads a scenario.
///
/// # Errors
/// The number of a line, and what is wrong with it.
pub(crate) fn parse(text: &str) -> Result<Vec<Line>, (usize, String)> {
    let (mut lines, mut at) = (Vec::new(), Duration::ZERO);
    for (i, line) in text.lines().enumerate() {
        let number = i + 1;
        let line =
            line.split('#').next().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ");
        let mut rest = line.as_str();
        if let Some(timed) = rest.strip_prefix("at ") {
            let (time, behind) = timed.split_once(' ').ok_or((number, "nothing is at that time".into()))?;
            let time = duration(time).map_err(|error| (number, error))?;
            if time < at {
                return Err((number, format!("{time:?} is before {at:?}")));
            }
            (at, rest) = (time, behind);
        }
        if !rest.is_empty() {
            lines.push(Line { number, at, what: statement(rest).map_err(|error| (number, error))? });
        }
    }
    Ok(lines)
}

/// A time as `200ms`, `1.5s`, `5min`, `1h` or `1d`.
fn duration(text: &str) -> Result<Duration, String> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let unit_s = match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "min" => 60.0,
        "h" => 3_600.0,
        "d" => 86_400.0,
        _ => return Err(format!("`{text}` is no time, as 200ms, 1.5s, 5min, 1h or 1d")),
    };
    let time_s = read::<f64>(number, "a number")? * unit_s;
    Duration::try_from_secs_f64(time_s).map_err(|_| format!("`{text}` is too long"))
}

fn range(text: &str) -> Result<RangeInclusive<u64>, String> {
    let (least, most) = text.split_once("..").unwrap_or((text, text));
    Ok(read(least, "a number")?..=read(most, "a number")?)
}

fn question(name: &str, qtype: &str) -> Result<Question, String> {
    wire(&name.replace('*', "0"))?;
    rtype::from_text(qtype).ok_or_else(|| format!("`{qtype}` is no type"))?;
    Ok(Question { name: name.into(), qtype: qtype.into() })
}

fn upstream(text: &str) -> Result<String, String> {
    text.parse::<Upstream>().map(|it| it.to_string())
}

fn statement(text: &str) -> Result<What, String> {
    let words: Vec<_> = text.split(' ').collect();
    Ok(match *words {
        ["upstreams", ref all @ ..] => {
            What::Upstreams(all.iter().map(|it| it.parse()).collect::<Result<_, _>>()?)
        }
        ["forward", forward] => What::Forward(forward.parse()?),
        ["timeout", time] => What::Timeout(duration(time)?),
        ["max-stale", time] => What::MaxStale(duration(time)?),
        ["seed", seed] => What::Seed(read(seed, "a number")?),
        ["rotate"] => What::Rotate,
        ["order", "listed"] => What::Order(Order::Listed),
        ["order", "fallback"] => What::Order(Order::Fallback),
        ["rebind-protection", ref but @ ..] => {
            let name = |text: &&str| Name::from_text(text).map_err(|error| format!("`{text}`: {error}"));
            What::RebindProtection(but.iter().map(name).collect::<Result<_, _>>()?)
        }
        ["min-ttl", time] => What::MinTtl(duration(time)?),
        ["negative-ttl", time] => What::NegativeTtl(duration(time)?),
        ["fail-fast"] => What::FailFast,
        ["mix-case"] => What::MixCase,
        ["nothing"] => What::Nothing,
        ["client", client, "asks", name, qtype, ref flags @ ..] => {
            let flags: Vec<_> = flags.chunks(2).collect();
            let known = [["with", "DO"], ["with", "CD"]];
            if let Some(other) = flags.iter().find(|flag| known.iter().all(|it| it != **flag)) {
                return Err(format!("nobody asks `{}`", other.join(" ")));
            }
            let [dnssec_ok, checking_disabled] = known.map(|it| flags.contains(&&it[..]));
            let client = read(client, "a client's number")?;
            What::Asks { client, question: question(name, qtype)?, dnssec_ok, checking_disabled }
        }
        ["client", client, "gets", ref message @ ..] => {
            let client: u8 = read(client, "a client's number")?;
            What::Expected(format!("client {client} gets {}", Message::parse(&message.join(" "))?))
        }
        ["sent", "to", server, name, qtype, ref manner @ ..] => {
            What::Expected(sent(&upstream(server)?, question(name, qtype)?, &manner.join(" "))?)
        }
        [count, "clients", "ask", name, qtype, "every", time] => What::Crowd {
            count: read(count, "a number of clients")?,
            question: question(name, qtype)?,
            every: duration(time)?,
        },
        ["crowd", "got", rcode, number] => {
            What::CrowdGot { rcode: Message::parse(rcode)?.to_string(), range: range(number)? }
        }
        ["crowd", "waited", time, "at", "most,", percent, "of", "it"] => {
            What::CrowdWaited { percent: percentage(percent)?, most: duration(time)? }
        }
        ["counted", count, number] => {
            What::Counted { server: None, count: count.into(), range: range(number)? }
        }
        ["the", "stream", "to", server, "breaks"] => {
            What::StreamBreaks { server: upstream(server)?, worked: false }
        }
        ["the", "stream", "to", server, "falls", "silent"] => {
            What::StreamSilent { server: upstream(server)? }
        }
        ["the", "stream", "to", server, "breaks", "after", "answers"] => {
            What::StreamBreaks { server: upstream(server)?, worked: true }
        }
        [server, ref rest @ ..] if server.parse::<Upstream>().is_ok() => of_server(upstream(server)?, rest)?,
        _ => return Err(format!("`{text}` says nothing; docs/resolver_scenarios.md has what does")),
    })
}

/// What comes out when a question is sent.
fn sent(server: &str, Question { name, qtype }: Question, manner: &str) -> Result<String, String> {
    let mut rest = manner;
    for known in ["over a stream", "over another stream", "without EDNS", "with DO", "with the option"] {
        rest = rest.strip_prefix(known).unwrap_or(rest).trim_start();
    }
    if !rest.is_empty() {
        return Err(format!("nothing is sent `{rest}`"));
    }
    Ok(format!("sent to {server} {name} {qtype} {manner}").trim().into())
}

fn percentage(text: &str) -> Result<u8, String> {
    read(text.strip_suffix('%').unwrap_or("?"), "a percentage")
}

/// What a server does, or what was counted of it.
fn of_server(server: String, words: &[&str]) -> Result<What, String> {
    Ok(match *words {
        ["answers", name, qtype, ref rest @ ..] => {
            let rest = rest.join(" ");
            let (lies, message) = lies(&rest)?;
            let (question, message) = (question(name, qtype)?, Message::parse(message)?);
            What::Answers { server, question, lies, message }
        }
        ["always", "answers", "after", time, ref message @ ..] => always(server, Whose::All, time, message)?,
        ["always", "answers", "the", "crowd", "after", time, ref message @ ..] => {
            always(server, Whose::Crowd, time, message)?
        }
        ["always", "answers", qtype, "after", time, ref message @ ..] => {
            rtype::from_text(qtype).ok_or_else(|| format!("`{qtype}` is no type"))?;
            always(server, Whose::Type(qtype.into()), time, message)?
        }
        ["always", "refuses"] => What::AlwaysRefuses { server },
        ["always", "closes", "after", "an", "answer"] => What::AlwaysCloses { server },
        ["loses", percent] => What::Loses { server, percent: percentage(percent)? },
        ["falls", "silent"] => What::FallsSilent { server },
        ["refuses"] => What::Refuses { server },
        ["counted", count, number] => {
            What::Counted { server: Some(server), count: count.into(), range: range(number)? }
        }
        _ => return Err(format!("a server does not do `{}`", words.join(" "))),
    })
}

fn always(server: String, whose: Whose, time: &str, message: &[&str]) -> Result<What, String> {
    let (after, message) = (duration(time)?, Message::parse(&message.join(" "))?);
    Ok(What::Always { server, whose, after, message })
}

/// The lies in parentheses at the front, and what is behind them.
fn lies(mut text: &str) -> Result<(Vec<Lie>, &str), String> {
    let mut all = Vec::new();
    while let Some((lie, rest)) = text.strip_prefix('(').and_then(|text| text.split_once(')')) {
        let known = LIES.iter().find(|(name, _)| *name == lie);
        all.push(known.ok_or_else(|| format!("nobody lies with `{lie}`"))?.1);
        text = rest.trim();
    }
    Ok((all, text))
}
