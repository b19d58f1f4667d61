//! `redbreast add`, `remove` and `names`: what is registered at a running node.
//!
//! Runs on the main thread.

use std::io::{self, Write};
use std::net::IpAddr;

use comfy_table::{Table, presets};
use hyper::Method;
use serde::Serialize;

use super::{ControlArgs, Failure};
use crate::api::paths;
use crate::api::request::{Changed, RegisterRequest, Registration};
use crate::http::client::escape;

/// Arguments of `redbreast add`.
#[derive(clap::Args)]
pub(crate) struct AddArgs {
    /// Name to register; without a dot it is in the node's first domain
    name: String,

    /// Its addresses
    #[arg(required = true, value_name = "ADDRESS")]
    addresses: Vec<IpAddr>,

    /// Seconds for which clients may keep the answer [default: the node's]
    #[arg(long, value_name = "SECONDS")]
    ttl: Option<u32>,

    /// Port of its service, for an SRV record
    #[arg(long, value_name = "PORT", requires = "service")]
    port: Option<u16>,

    /// The service, like _http._tcp or http (RFC 2782)
    #[arg(long, value_name = "SERVICE", requires = "port")]
    service: Option<String>,

    /// What the addresses belong to, for example a container; several may register the same [default: manual]
    #[arg(long, value_name = "NAME")]
    instance: Option<String>,

    /// How often the addresses are to be chosen, compared with the name's others: from 0, never, to 65535 [default: 1]
    #[arg(long, value_name = "N")]
    weight: Option<u32>,

    /// Use them when those of lower tiers do not suffice: from 0 to 15 [default: 0]
    #[arg(long, value_name = "N")]
    tier: Option<u32>,

    /// Check them, and leave out of answers what is down: tcp:PORT, http:PORT/PATH, https:PORT/PATH, dns:PORT/NAME/TYPE
    /// or command:PROGRAM, and options like interval=10s,timeout=2s,rise=2,fall=3 with commas between them
    #[arg(long, value_name = "CHECK")]
    check: Option<String>,

    /// Ramp their weight up over so many seconds when they are new or well again
    #[arg(long, value_name = "SECONDS")]
    slow_start: Option<u32>,

    #[command(flatten)]
    control: ControlArgs,
}

/// Arguments of `redbreast remove`.
#[derive(clap::Args)]
pub(crate) struct RemoveArgs {
    /// Name to remove; without a dot it is in the node's first domain
    name: String,

    /// Addresses to remove [default: all, and the name's services with them]
    #[arg(value_name = "ADDRESS")]
    addresses: Vec<IpAddr>,

    /// What the addresses belong to [default: manual]
    #[arg(long, value_name = "NAME")]
    instance: Option<String>,

    #[command(flatten)]
    control: ControlArgs,
}

/// Arguments of `redbreast names`.
#[derive(clap::Args)]
pub(crate) struct NamesArgs {
    /// One name [default: all]
    name: Option<String>,

    #[command(flatten)]
    control: ControlArgs,
}

/// Registers.
pub(crate) fn add(args: AddArgs) -> Result<(), Failure> {
    let AddArgs { name, addresses, ttl: ttl_s, port, service, instance, control, .. } = args;
    let AddArgs { weight, tier, check, slow_start: slow_start_s, .. } = args;
    let addition = RegisterRequest {
        name,
        addresses,
        instance,
        ttl_s,
        port,
        service,
        weight,
        tier,
        check,
        slow_start_s,
    };
    let added: Changed = control.client()?.request(Method::POST, paths::NAMES, Some(&addition))?;
    tell(&control, &added, |out| {
        let lost = if added.durable { "" } else { "; it ends with the node, which keeps nothing on disk" };
        match added {
            Changed { added: 0, unchanged, .. } => {
                writeln!(out, "nothing new: {unchanged} were there already")
            }
            Changed { added, .. } => writeln!(out, "{added} added{lost}"),
        }
    })
}

/// Removes; fails if there was nothing to remove.
pub(crate) fn remove(args: &RemoveArgs) -> Result<(), Failure> {
    let RemoveArgs { name, addresses, instance, control } = args;
    let mut query = Vec::new();
    if let Some(instance) = instance {
        query.push(format!("instance={}", escape(instance)));
    }
    if !addresses.is_empty() {
        let list: Vec<_> = addresses.iter().map(|address| escape(&address.to_string())).collect();
        query.push(format!("address={}", list.join(",")));
    }
    let path = format!("{}?{}", paths::with(paths::NAME, &[&escape(name)]), query.join("&"));
    let removed: Changed = control.client()?.request(Method::DELETE, &path, None::<&()>)?;
    tell(control, &removed, |out| match removed.removed {
        0 => Ok(()),
        count => writeln!(out, "{count} removed"),
    })?;
    let mut left = Vec::new();
    if removed.in_files > 0 {
        left.push(format!("{} in the files of this node: change them there", removed.in_files));
    }
    if !removed.elsewhere.is_empty() {
        left.push(format!("registered at {}: remove it there", removed.elsewhere.join(", ")));
    }
    match (removed.removed, left.is_empty()) {
        (0, true) => Err(Failure::failed(format!("{name} has nothing to remove"))),
        (0, false) => Err(Failure::failed(format!("nothing to remove here; {name} is {}", left.join("; ")))),
        _ => Ok(()),
    }
}

/// Tells what is registered.
pub(crate) fn names(args: &NamesArgs) -> Result<(), Failure> {
    let NamesArgs { name, control } = args;
    let path = name.as_ref().map_or(paths::NAMES.into(), |name| paths::with(paths::NAME, &[&escape(name)]));
    let mut found: Vec<Registration> = control.client()?.request(Method::GET, &path, None::<&()>)?;
    let key = |r: &Registration| (r.name.clone(), r.rtype.clone(), r.data.clone(), r.node.clone());
    found.sort_by_cached_key(key);
    tell(control, &found, |out| {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING);
        table.set_header(["NAME", "TYPE", "DATA", "TTL", "INSTANCE", "NODE", ""]);
        for it in &found {
            let ttl = it.ttl_s.map_or_else(String::new, |ttl_s| ttl_s.to_string());
            let state = if it.up { "" } else { "down" };
            table.add_row([&it.name, &it.rtype, &it.data, &ttl, &it.instance, &it.node, state]);
        }
        writeln!(out, "{}", table.trim_fmt())
    })
}

/// Tells `value` as JSON if that is wanted, else with `human`.
pub(super) fn tell(
    control: &ControlArgs,
    value: &impl Serialize,
    human: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), Failure> {
    let out = &mut io::stdout().lock();
    let told = if control.json {
        serde_json::to_writer_pretty(&mut *out, value).map_err(io::Error::from).and_then(|()| writeln!(out))
    } else {
        human(out)
    };
    told.map_err(|error| Failure::failed(format!("cannot write: {error}")))
}
