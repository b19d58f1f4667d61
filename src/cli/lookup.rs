//! `redbreast lookup`: what a running node answers to a question.
//!
//! Runs on the main thread. The node is asked for its DNS address, and the question goes there as any client's would.

use std::net::SocketAddr;

use comfy_table::{Table, presets};
use hyper::Method;

use super::ask::{QueryResult, ask};
use super::names::tell;
use super::{ControlArgs, Failure};
use crate::api::paths;
use crate::api::request::Status;
use crate::wire::name::Name;
use crate::wire::record::rtype;

/// Arguments of `redbreast lookup`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Name to look up; without a dot it is in the node's first domain
    name: String,

    /// Types to ask for
    #[arg(value_name = "TYPE", default_values = ["A", "AAAA"])]
    types: Vec<String>,

    /// DNS server to ask instead of the node that --control is of
    #[arg(long, value_name = "ADDR:PORT")]
    server: Option<SocketAddr>,

    #[command(flatten)]
    control: ControlArgs,
}

/// Looks up; fails if there is nothing.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let Args { name: text, types, server, control } = args;
    let (server, domain) = match server {
        Some(server) => (*server, None),
        None => of_node(control)?,
    };
    let name =
        Name::from_text(text).map_err(|error| Failure::usage(format!("{text:?} is no name: {error}")))?;
    let name = match domain {
        Some(domain) if name.labels().count() == 1 && !text.ends_with('.') => name
            .below(&domain)
            .map_err(|error| Failure::usage(format!("{text:?} is no name in {domain}: {error}")))?,
        _ => name,
    };
    let mut answers = Vec::new();
    for text in types {
        let qtype = rtype::from_text(text)
            .ok_or_else(|| Failure::usage(format!("{text:?} is no type of records")))?;
        let answer = ask(server, &name, qtype);
        answers.push(answer.map_err(|error| Failure::failed(format!("{server} does not answer: {error}")))?);
    }
    let rcode = answers.first().map(|answer| answer.rcode.clone()).unwrap_or_default();
    let records = answers.into_iter().flat_map(|answer| answer.records).collect();
    let answer = QueryResult { rcode, records };
    tell(control, &answer, |out| {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING);
        for it in &answer.records {
            table.add_row([&it.name, &it.ttl_s.to_string(), &it.rtype, &it.data]);
        }
        if answer.records.is_empty() { Ok(()) } else { writeln!(out, "{}", table.trim_fmt()) }
    })?;
    match (&*answer.rcode, answer.records.is_empty()) {
        (_, false) => Ok(()),
        ("NOERROR", true) => Err(Failure::failed(format!("{name} has no {}", types.join(" or ")))),
        ("NXDOMAIN", true) => Err(Failure::failed(format!("{name} does not exist"))),
        (rcode, true) => Err(Failure::failed(format!("{server} says {rcode} of {name}"))),
    }
}

/// Where a node answers, and its first domain.
fn of_node(control: &ControlArgs) -> Result<(SocketAddr, Option<Name>), Failure> {
    let status: Status = control.client()?.request(Method::GET, paths::STATUS, None::<&()>)?;
    let domain = status.domains.first().and_then(|domain| Name::from_text(domain).ok());
    let Some(mut dns) = status.dns.first().copied() else {
        return Err(Failure::failed("the node answers nowhere"));
    };
    // At all addresses is at loopback, too.
    match &mut dns {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => v4.set_ip(std::net::Ipv4Addr::LOCALHOST),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => v6.set_ip(std::net::Ipv6Addr::LOCALHOST),
        _ => {}
    }
    Ok((dns, domain))
}
