//! `redbreast spread`: who would get the traffic of a name.
//!
//! Runs on the main thread.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::builder::RangedU64ValueParser;
use hyper::Method;

use super::Failure;
use crate::api::control_address::ControlAddress;
use crate::api::paths;
use crate::api::request::Explanation;
use crate::http::client::{ControlClient, escape};
use crate::spread::ask::{AskOptions, over_dns, with_getaddrinfo};
use crate::spread::sorting::Subnet;
use crate::spread::{Chooser, ClientAnswers, Results, page, told};
use crate::wire::name::Name;
use crate::wire::record::rtype;

/// Arguments of `redbreast spread`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The name, complete: redbreast.internal is not added
    name: String,

    /// The server to ask
    #[arg(short, long, value_name = "ADDR:PORT", default_value = "127.0.0.1:53")]
    server: SocketAddr,

    /// Questions in all
    #[arg(short = 'n', long, default_value_t = 10_000, value_parser = RangedU64ValueParser::<u64>::new().range(1..))]
    queries: u64,

    /// Clients that ask in turn
    #[arg(short, long, value_name = "M", default_value_t = 1,
          value_parser = RangedU64ValueParser::<u64>::new().range(1..=65_536))]
    clients: u64,

    /// A subnet that clients are in, like 10.0.0.0/24, or one client's address in it; give it again for more. They sort
    /// what they are answered as clients there would
    #[arg(long, value_name = "PREFIX")]
    subnet: Vec<Subnet>,

    /// Tell the server for whom each question is (EDNS client subnet); it has to believe this machine:
    /// `serve --ecs-from`
    #[arg(long, requires = "subnet", conflicts_with = "resolver")]
    ecs: bool,

    /// Ask from the clients' own addresses, which have to be this machine's
    #[arg(long, requires = "subnet", conflicts_with = "ecs")]
    bind: bool,

    /// Ask for IPv6 addresses
    #[arg(short = '6', long)]
    ipv6: bool,

    /// Who asks and chooses: this program, or the C library, with the server that it is set up for
    #[arg(long, value_name = "dns|getaddrinfo", default_value = "dns", value_parser = ["dns", "getaddrinfo"])]
    resolver: String,

    /// What each address is meant to get, by weight [default: what --control says, or the same for all]
    #[arg(long, value_name = "ADDRESS=WEIGHT", value_delimiter = ',', value_parser = parse_weight)]
    weights: Vec<(IpAddr, f64)>,

    /// The control address of a redbreast, which says what it intends
    #[arg(long, value_name = "ADDR:PORT|unix:PATH", conflicts_with = "weights")]
    control: Option<ControlAddress>,

    /// Fail if an address gets so many percentage points more or less than intended, whoever chooses
    #[arg(long, value_name = "POINTS")]
    within: Option<f64>,

    /// Tell it as JSON
    #[arg(long)]
    json: bool,

    /// Write a page with bars to this file
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

fn parse_weight(text: &str) -> Result<(IpAddr, f64), String> {
    let (address, weight) = text.split_once('=').ok_or("expected ADDRESS=WEIGHT")?;
    let address = address.parse().map_err(|_| format!("{address:?} is no IP address"))?;
    match weight.parse::<f64>() {
        Ok(weight) if weight.is_finite() && weight >= 0.0 => Ok((address, weight)),
        _ => Err(format!("{weight:?} is no weight")),
    }
}

/// Asks, and tells what came of it.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let (intended, policy) = intended(args)?;
    let asked = ask(args)?;
    let AskedNames { clients, lost, choosers, server } = asked;
    if clients.iter().all(|client| client.answers.is_empty()) {
        return Err(Failure::failed(format!("{server} gave no address for {}", args.name)));
    }
    let mut results = Results::new(&args.name, server, &clients, lost, &choosers, &intended);
    results.policy = policy;
    let out = &mut io::stdout().lock();
    let told = if args.json {
        serde_json::to_writer_pretty(&mut *out, &results)
            .map_err(io::Error::from)
            .and_then(|()| writeln!(out))
    } else {
        write!(out, "{}", told::table(&results))
    };
    told.map_err(|error| Failure::failed(format!("cannot write: {error}")))?;
    if let Some(path) = &args.html {
        let command: Vec<_> = std::env::args().collect();
        fs::write(path, page::page(&results, &command.join(" ")))
            .map_err(|error| Failure::failed(format!("cannot write {}: {error}", path.display())))?;
    }
    let worst = results.spreads.iter().map(|spread| spread.max_deviation_points).fold(0.0, f64::max);
    match args.within {
        Some(within) if worst > within => Err(Failure::failed(format!(
            "an address is {worst:.2} percentage points off; {within} are allowed"
        ))),
        _ => Ok(()),
    }
}

/// What was asked, and by whom it is chosen.
struct AskedNames {
    clients: Vec<ClientAnswers>,
    lost: u64,
    choosers: Vec<Chooser>,
    server: String,
}

fn ask(args: &Args) -> Result<AskedNames, Failure> {
    if args.resolver == "getaddrinfo" {
        let (mut client, lost) = with_getaddrinfo(&args.name, args.queries);
        let wanted = |answer: &Vec<IpAddr>| answer.first().is_some_and(|first| first.is_ipv6() == args.ipv6);
        client.answers.retain(|answer, _| wanted(answer));
        let server = "getaddrinfo's server".into();
        return Ok(AskedNames { clients: vec![client], lost, choosers: vec![Chooser::Getaddrinfo], server });
    }
    let name = Name::from_text(&args.name);
    let name = name.map_err(|error| Failure::usage(format!("{:?} is no name: {error}", args.name)))?;
    let qtype = if args.ipv6 { rtype::AAAA } else { rtype::A };
    let question = AskOptions { server: args.server, name, qtype, tell_client: args.ecs, bind: args.bind };
    let (mut clients, mut lost) = (Vec::new(), 0);
    for i in 0..args.clients {
        let times = args.queries / args.clients + u64::from(i < args.queries % args.clients);
        let of = args.subnet.len().max(1);
        let i = usize::try_from(i).unwrap_or_default();
        // A host is a client of its own; of a network hosts are taken one after the other.
        let client = args
            .subnet
            .get(i % of)
            .map(|subnet| if subnet.is_host() { *subnet } else { subnet.host((i / of) as u128) });
        let asked = over_dns(&question, client, times);
        let (client, unanswered) = asked.map_err(|error| {
            Failure::failed(format!("cannot ask {} as client {}: {error}", args.server, i + 1))
        })?;
        clients.push(client);
        lost += unanswered;
    }
    let mut choosers = vec![Chooser::AsAnswered];
    if !args.subnet.is_empty() {
        choosers.extend([Chooser::Glibc, Chooser::Musl]);
    }
    Ok(AskedNames { clients, lost, choosers, server: args.server.to_string() })
}

/// What each address is meant to get, as parts of one, and by which policy, if that is known.
fn intended(args: &Args) -> Result<(BTreeMap<IpAddr, f64>, Option<String>), Failure> {
    if let Some(control) = &args.control {
        let path = paths::with(paths::EXPLAIN, &[&escape(&args.name)]);
        let node = ControlClient { address: control.clone(), token: None };
        let told: Explanation = node.request(Method::GET, &path, None::<&()>)?;
        let shares =
            told.records.iter().filter_map(|record| Some((record.data.parse().ok()?, record.share?)));
        let of_family = shares.filter(|(address, _): &(IpAddr, f64)| address.is_ipv6() == args.ipv6);
        return Ok((of_family.collect(), Some(told.policy)));
    }
    let sum: f64 = args.weights.iter().map(|(_, weight)| weight).sum();
    if !args.weights.is_empty() && sum <= 0.0 {
        return Err(Failure::usage("all --weights are 0: something has to be intended"));
    }
    Ok((args.weights.iter().map(|(address, weight)| (*address, weight / sum)).collect(), None))
}
