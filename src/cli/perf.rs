//! `redbreast perf`: measures what this machine and this build can do.
//!
//! Runs on the main thread.

use std::net::SocketAddr;

use clap::Subcommand;

use super::Failure;
use crate::perf::floor;

/// Arguments of `redbreast perf`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the echo floor: send each datagram back as it came, QR bit set, with no DNS done at all
    Floor(FloorArgs),
}

#[derive(clap::Args)]
struct FloorArgs {
    /// Where to listen; port 0 lets the kernel choose
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
}

/// Runs the subcommand asked for.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let Command::Floor(FloorArgs { listen }) = &args.command;
    run_floor(*listen)
}

/// Echoes until the process is killed; returns only when the socket cannot be had or fails.
#[allow(clippy::print_stderr)] // scripts wait for this line
fn run_floor(listen: SocketAddr) -> Result<(), Failure> {
    floor::run(listen, |bound| eprintln!("listening on {bound}"))
        .map_err(|error| Failure::usage(format!("cannot serve UDP on {listen}: {error}")))
}
