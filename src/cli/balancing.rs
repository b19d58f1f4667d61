//! `redbreast drain`, `policy` and `explain`: who gets the traffic of a running cluster.
//!
//! Runs on the main thread.

use std::net::IpAddr;
use std::thread;
use std::time::Duration;

use comfy_table::{Table, presets};
use hyper::Method;

use super::names::tell;
use super::{ControlArgs, Failure};

use crate::api::external::Outside;
use crate::api::paths;
use crate::api::request::{Directed, Directive, Explained, Explanation, PolicyBody};
use crate::http::client::escape;

/// Arguments of `redbreast drain`.
#[derive(clap::Args)]
pub(crate) struct DrainArgs {
    /// An address, or an instance with all of its addresses; without it, and without --node, what is drained is told
    #[arg(value_name = "ADDRESS|INSTANCE", conflicts_with = "node")]
    target: Option<String>,

    /// All addresses that a node has registered, by its name or id; the one that is asked if none is said
    #[arg(long, value_name = "NAME", num_args = 0..=1, default_missing_value = "")]
    node: Option<String>,

    /// Put it back into answers
    #[arg(long)]
    undo: bool,

    /// Do not wait until clients that keep to the TTL have forgotten the address
    #[arg(long, conflicts_with = "undo")]
    no_wait: bool,

    #[command(flatten)]
    control: ControlArgs,
}

/// Arguments of `redbreast policy`.
#[derive(clap::Args)]
pub(crate) struct PolicyArgs {
    /// A name, `*.` and a domain for all names in it, or `*` for all that nothing else is said of; without it, what is
    /// said is told
    #[arg(value_name = "NAME")]
    scope: Option<String>,

    /// shuffle, rotate, weighted, fixed, near, hash or rfc6724, and options like answers=2,panic=50%,min-healthy=1 with
    /// commas between them
    #[arg(requires = "scope")]
    policy: Option<String>,

    /// Say nothing of it any more
    #[arg(long, requires = "scope", conflicts_with = "policy")]
    remove: bool,

    #[command(flatten)]
    control: ControlArgs,
}

/// Arguments of `redbreast explain`.
#[derive(clap::Args)]
pub(crate) struct ExplainArgs {
    /// Name; without a dot it is in the node's first domain. Of one in another domain it is told who is asked
    name: String,

    #[command(flatten)]
    control: ControlArgs,
}

/// Takes addresses out of answers, or puts them back.
pub(crate) fn drain(args: &DrainArgs) -> Result<(), Failure> {
    let DrainArgs { target, node, undo, no_wait, control } = args;
    let (path, what) = match (target, node.as_deref()) {
        (Some(target), _) => {
            let kind = if target.parse::<IpAddr>().is_ok() { "address" } else { "instance" };
            (paths::with(paths::DRAIN, &[kind, &escape(target)]), format!("{kind} {target}"))
        }
        (None, Some("")) => (paths::DRAIN_SELF.into(), "this node".into()),
        (None, Some(name)) => (paths::with(paths::DRAIN, &["node", &escape(name)]), format!("node {name}")),
        (None, None) if *undo => return Err(Failure::usage("say what is to be put back into answers")),
        (None, None) => return tell_statements(control, "drain"),
    };
    let method = if *undo { Method::DELETE } else { Method::PUT };
    let directed: Directed = control.client()?.request(method, &path, None::<&()>)?;
    tell(control, &directed, |out| {
        let Directed { changed, names, ttl_s, .. } = directed;
        let names = format!("answers of {names} {}", if names == 1 { "name" } else { "names" });
        match (undo, changed) {
            (true, false) => writeln!(out, "{what} was not drained"),
            (true, true) => writeln!(out, "{what} is back in the {names}"),
            (false, false) => writeln!(out, "{what} was drained already; it is out of the {names}"),
            (false, true) => {
                let lost = if directed.durable {
                    ""
                } else {
                    "; the node keeps nothing on disk and forgets it when it ends"
                };
                writeln!(out, "{what} is out of the {names}, at all nodes{lost}")
            }
        }?;
        if !undo && !directed.emptied.is_empty() {
            writeln!(out, "without any address now: {}", directed.emptied.join(", "))?;
        }
        if !undo && directed.names > 0 {
            writeln!(out, "clients may use answers of before for {ttl_s} s more")?;
        }
        Ok(())
    })?;
    if *undo || *no_wait || directed.names == 0 || control.json {
        return Ok(());
    }
    thread::sleep(Duration::from_secs(directed.ttl_s.into()));
    tell(control, &(), |out| {
        writeln!(
            out,
            "its TTL of {} s has passed: no client that keeps to it uses it any more",
            directed.ttl_s
        )
    })
}

/// Says by which policy names are answered, or tells what is said.
pub(crate) fn policy(args: &PolicyArgs) -> Result<(), Failure> {
    let PolicyArgs { scope, policy, remove, control } = args;
    let Some(scope) = scope else { return tell_statements(control, "policy") };
    let path = paths::with(paths::POLICY, &[&escape(scope)]);
    let directed: Directed = match policy {
        Some(policy) => {
            let body = PolicyBody { policy: policy.clone() };
            control.client()?.request(Method::PUT, &path, Some(&body))?
        }
        None if *remove => control.client()?.request(Method::DELETE, &path, None::<&()>)?,
        None => {
            return Err(Failure::usage(format!(
                "which policy is {scope} to have? Or --remove what is said of it"
            )));
        }
    };
    tell(control, &directed, |out| match (directed.changed, directed.names) {
        (false, _) => writeln!(out, "nothing new: that was so already"),
        (true, names) => writeln!(out, "said, at all nodes, of {names} names with addresses"),
    })
}

fn tell_statements(control: &ControlArgs, kind: &str) -> Result<(), Failure> {
    let all: Vec<Directive> = control.client()?.request(Method::GET, paths::DIRECTIVES, None::<&()>)?;
    let all: Vec<_> = all.into_iter().filter(|statement| statement.kind == kind).collect();
    tell(control, &all, |out| {
        if all.is_empty() {
            let none = if kind == "drain" { "nothing is drained" } else { "no policy is said" };
            return writeln!(out, "{none}");
        }
        for Directive { of, scope, policy, .. } in &all {
            writeln!(out, "{scope:<8} {of} {}", policy.as_deref().unwrap_or_default())?;
        }
        Ok(())
    })
}

/// Tells why a name has the answers that it has.
pub(crate) fn explain(args: &ExplainArgs) -> Result<(), Failure> {
    let ExplainArgs { name, control } = args;
    let path = paths::with(paths::EXPLAIN, &[&escape(name)]);
    let explanation: Explanation = control.client()?.request(Method::GET, &path, None::<&()>)?;
    tell(control, &explanation, |out| {
        let Explanation { name, policy, panic, records, outside } = &explanation;
        if let Some(outside) = outside {
            return writeln!(out, "{name} is in none of the node's domains: {}", told(outside));
        }
        if records.is_empty() {
            return writeln!(out, "{name} has no records that somebody has registered");
        }
        writeln!(out, "{name} is answered by the policy {policy}")?;
        if *panic {
            writeln!(
                out,
                "too little of it is healthy: all addresses are in answers, whatever their health and tier"
            )?;
        }
        let mut table = Table::new();
        table.load_preset(presets::NOTHING);
        table.set_header([
            "TYPE",
            "DATA",
            "IN ANSWERS",
            "SHARE",
            "WEIGHT",
            "TIER",
            "HEALTH",
            "CHECK",
            "INSTANCE",
            "NODE",
            "AGE",
        ]);
        table.add_rows(records.iter().map(row));
        writeln!(out, "{}", table.trim_fmt())
    })
}

/// What is done about a name that is not ours.
fn told(outside: &Outside) -> String {
    let Outside { by, upstreams, domain, document } = outside;
    match &**by {
        "forwarded" => {
            let domain = domain.as_ref().map(|domain| format!(", who are there for {domain}"));
            format!(
                "it is asked for at {}{}; `redbreast cache show` tells what they have said",
                upstreams.join(", "),
                domain.unwrap_or_default()
            )
        }
        "reserved" => format!(
            "it is answered here, and nobody else is asked, as {} has it",
            document.as_deref().unwrap_or("its zone")
        ),
        "memory" => "it is answered from memory, as the reverse name of an address that is registered".into(),
        "single_label" => {
            "a name of one label is looked for in the first domain, and nobody else is asked for it".into()
        }
        _ => "it is refused, for nobody is asked for such names; see serve --upstream, --resolv-conf and --forward"
            .into(),
    }
}

fn row(it: &Explained) -> [String; 11] {
    let weight = it.weight.map(|weight| match it.ramp {
        Some(ramp) => format!("{weight}, {:.0}% of it by now", 100.0 * ramp),
        None => weight.to_string(),
    });
    let health = match &it.found {
        Some(found) => format!("{}: {found}", it.health),
        None => it.health.clone(),
    };
    let in_answers = it.why_not.as_ref().map_or_else(|| "yes".into(), |why| format!("no: {why}"));
    let share = it.share.map(|share| format!("{:.1}%", 100.0 * share));
    let tier = it.weight.map(|_| it.tier.to_string());
    [
        it.rtype.clone(),
        it.data.clone(),
        in_answers,
        share.unwrap_or_default(),
        weight.unwrap_or_default(),
        tier.unwrap_or_default(),
        health,
        it.check.clone().unwrap_or_default(),
        it.instance.clone(),
        it.node.clone(),
        it.age_s.map(|age_s| format!("{age_s:.0} s")).unwrap_or_default(),
    ]
}
