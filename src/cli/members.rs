//! `redbreast members` and `status`: how a running node and its cluster are.
//!
//! Runs on the main thread.

use std::io::{self, Write};

use comfy_table::{Table, presets};
use hyper::Method;

use super::names::tell;
use super::{ControlArgs, Failure};
use crate::api::external::{Forwarding, UpstreamStatus};
use crate::api::paths;
use crate::api::request::{Member, Status};

/// Arguments of `redbreast members`.
#[derive(clap::Args)]
pub(crate) struct MembersArgs {
    #[command(flatten)]
    control: ControlArgs,
}

/// Arguments of `redbreast status`.
#[derive(clap::Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    control: ControlArgs,
}

/// Tells who is in the cluster.
pub(crate) fn members(args: &MembersArgs) -> Result<(), Failure> {
    let members: Vec<Member> = args.control.client()?.request(Method::GET, paths::MEMBERS, None::<&()>)?;
    tell(&args.control, &members, |out| {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING);
        table.set_header(["NODE", "STATE", "GOSSIP", "DNS", "REGISTRATIONS", "ID"]);
        let shown = |address: Option<std::net::SocketAddr>| {
            address.map_or_else(|| "-".into(), |address| address.to_string())
        };
        for it in &members {
            let state = match it.down_s {
                Some(down_s) => format!("{} for {down_s:.0} s", it.state),
                None => it.state.clone(),
            };
            let count = it.registrations.to_string();
            table.add_row([&it.name, &state, &shown(it.gossip), &shown(it.dns), &count, &it.id]);
        }
        writeln!(out, "{}", table.trim_fmt())
    })
}

/// Tells how the node is.
pub(crate) fn status(args: &StatusArgs) -> Result<(), Failure> {
    let status: Status = args.control.client()?.request(Method::GET, paths::STATUS, None::<&()>)?;
    tell(&args.control, &status, |out| {
        let list = |items: &[String]| if items.is_empty() { "none".into() } else { items.join(" ") };
        let dns: Vec<_> = status.dns.iter().map(ToString::to_string).collect();
        let rows = [
            ("node", format!("{}, {}, start {}", status.name, status.id, status.incarnation)),
            ("release", status.version.clone()),
            ("up for", format!("{:.0} s", status.uptime_s)),
            ("domains", list(&status.domains)),
            ("DNS", format!("{}, {} workers", list(&dns), status.workers)),
            ("gossip", status.gossip.map_or_else(|| "none".into(), |address| address.to_string())),
            ("data", kept(&status)),
            ("members up", status.members.to_string()),
            ("registrations", status.registrations.to_string()),
            ("names", format!("{}, reverse ones included", status.names)),
        ];
        for (what, value) in rows {
            writeln!(out, "{what:<14} {value}")?;
        }
        for (title, counters) in [("answers", &status.counters), ("gossip", &status.gossip_counters)] {
            let counted: Vec<_> =
                counters.iter().filter(|(_, n)| **n > 0).map(|(name, n)| format!("{name} {n}")).collect();
            writeln!(out, "{title:<14} {}", list(&counted))?;
        }
        status.forwarding.as_ref().map_or(Ok(()), |forwarding| tell_forwarding(out, forwarding))
    })
}

/// Where a node keeps what is registered at it, and what is wrong with that.
fn kept(status: &Status) -> String {
    match (&status.data_dir, &status.data_fault) {
        (None, None) => "in memory alone".into(),
        (None, Some(fault)) => format!("in memory alone: {fault}"),
        (Some(directory), None) => directory.clone(),
        (Some(directory), Some(fault)) => format!("{directory}; the last change was refused: {fault}"),
    }
}

/// Tells who is asked for names in other domains, and what comes of it.
fn tell_forwarding(out: &mut dyn Write, forwarding: &Forwarding) -> io::Result<()> {
    let Forwarding { hit_ratio, upstreams, .. } = forwarding;
    let ratio = hit_ratio.map(|ratio| format!("{:.1}% answered from the cache", 100.0 * ratio));
    writeln!(out, "{:<14} {}", "other domains", ratio.as_deref().unwrap_or("not asked for yet"))?;
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header([
        "UPSTREAM",
        "FOR",
        "STATE",
        "MEAN",
        "99% WITHIN",
        "SENT",
        "ANSWERED",
        "TIMED OUT",
        "DECLINED",
    ]);
    for it in upstreams {
        let ms = |time_s: Option<f64>| {
            time_s.map_or_else(|| "-".into(), |time_s| format!("{:.1} ms", 1e3 * time_s))
        };
        let count = |event: &str| it.counters.get(event).copied().unwrap_or_default().to_string();
        let times = [ms(it.round_trips.mean_s()), ms(it.round_trips.within_s(99))];
        let counts = ["sent", "answered", "timed_out", "declined"].map(count);
        let domains = it.domains.iter().map(|domain| if domain == "." { "all else" } else { domain });
        let known = [it.upstream.clone(), domains.collect::<Vec<_>>().join(", "), it.state.clone()];
        table.add_row(known.into_iter().chain(times).chain(counts));
    }
    writeln!(out, "{}", table.trim_fmt())?;
    for UpstreamStatus { upstream, fault, .. } in upstreams {
        if let Some(fault) = fault {
            writeln!(out, "the last connection to {upstream} has failed: {fault}")?;
        }
    }
    Ok(())
}
