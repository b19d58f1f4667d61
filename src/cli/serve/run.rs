//! Running a server until it is told to stop.
//!
//! The main thread becomes the owner of the registrations ([`Node`]); a thread for signals tells it what happened.

use std::io::{self, IsTerminal};
use std::thread;

use listenfd::ListenFd;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tracing::{error, info};
use tracing_subscriber::filter::{LevelFilter, filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::super::{Failure, check_data, design};
use super::{Args, LogFormat, config_file};
use crate::config::Settings;
use crate::node::{Control, ControlSender, Inbox, Node};
use crate::transport::Inherited;

/// Runs the server.
pub(crate) fn run(args: Args) -> Result<(), Failure> {
    let from_file = args.config.is_some();
    let args = if from_file { config_file::merged(std::env::args_os())? } else { args };
    log_as(args.log);
    let until_eof = args.until_eof;
    let settings = args.settings()?;
    if let Some(directory) = &settings.data_dir {
        check_data::in_child(directory)?;
    }
    let inbox = Inbox::new();
    // Before the node starts: a signal during the start is then obeyed after it.
    obey_signals(inbox.sender(), from_file)?;
    if until_eof {
        stop_at_eof(inbox.sender())?;
    }
    let node = Node::start(settings.clone(), inbox, inherited()?).map_err(Failure::usage)?;
    tell(&node, &settings);
    node.run();
    Ok(())
}

/// The sockets that a service manager has started the process with (sd_listen_fds(3)).
fn inherited() -> Result<Inherited, Failure> {
    let cannot =
        |error| Failure::usage(format!("cannot use a socket that the process was started with: {error}"));
    let mut sockets = ListenFd::from_env();
    let mut inherited = Inherited::default();
    for i in 0..sockets.len() {
        match sockets.take_udp_socket(i) {
            Ok(socket) => inherited.udp.extend(socket),
            Err(_) => inherited.tcp.extend(sockets.take_tcp_listener(i).map_err(cannot)?),
        }
    }
    Ok(inherited)
}

/// People at a terminal read text, what collects logs reads JSON.
fn log_as(format: Option<LogFormat>) {
    let terminal = io::stderr().is_terminal();
    // What HTTP/2 warns of, any server that is asked over HTTPS can have it say, as often as it likes.
    let ours = filter_fn(|what| !what.target().starts_with("h2")).with_max_level_hint(LevelFilter::INFO);
    let log = tracing_subscriber::fmt().with_writer(io::stderr).with_target(false);
    match format.unwrap_or(if terminal { LogFormat::Text } else { LogFormat::Json }) {
        LogFormat::Text => log.with_ansi(terminal).finish().with(ours).init(),
        LogFormat::Json => log
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .finish()
            .with(ours)
            .init(),
    }
}

fn tell(node: &Node, settings: &Settings) {
    for address in node.addresses() {
        info!("listening on {address}");
    }
    if let Some(address) = node.gossip_address() {
        info!("gossiping at {address} as {}", settings.node_name);
    }
    if let Some(address) = node.control_address() {
        info!("control at {address}");
    }
    if let Some(asking) = &settings.asking {
        info!("{}", design::told(asking));
    }
    match &settings.data_dir {
        Some(directory) if node.keeps() => info!("registrations are kept in {}", directory.display()),
        // It has been told why.
        Some(_) => {}
        None => info!("registrations made at this node end with it; --data-dir keeps them"),
    }
    let domains: Vec<_> = settings.domains.iter().map(ToString::to_string).collect();
    info!(
        "serving {} names, reverse ones included, in {} with {} workers",
        node.table().names(),
        domains.join(", "),
        settings.workers
    );
}

fn obey_signals(sender: ControlSender, from_file: bool) -> Result<(), Failure> {
    let cannot = |error| Failure::failed(format!("cannot listen for signals: {error}"));
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM]).map_err(cannot)?;
    let listener = move || {
        for signal in signals.forever() {
            let command = match signal {
                SIGHUP if from_file => match settings_again() {
                    Ok(settings) => Control::Configure(Box::new(settings)),
                    Err(failure) => {
                        error!("nothing was changed: {}", failure.message);
                        continue;
                    }
                },
                SIGHUP => Control::Reload,
                _ => Control::Stop,
            };
            if !sender.send(command) {
                break;
            }
        }
    };
    thread::Builder::new().name("signals".into()).spawn(listener).map_err(cannot)?;
    Ok(())
}

/// What the command line and its file say now.
fn settings_again() -> Result<Settings, Failure> {
    config_file::merged(std::env::args_os())?.settings()
}

fn stop_at_eof(sender: ControlSender) -> Result<(), Failure> {
    let wait = move || {
        // An error is an end, too.
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        sender.send(Control::Stop);
    };
    let spawned = thread::Builder::new().name("stdin".into()).spawn(wait);
    spawned.map(drop).map_err(|error| Failure::failed(format!("cannot wait for standard input: {error}")))
}
