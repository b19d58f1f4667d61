//! Finding the addresses of seeds that are given by name.
//!
//! Runs on a thread `seeds` of its own: a look-up may take seconds. It goes on for ever, ever more slowly, as names may
//! come to mean other addresses and the cluster may have to be found again after a long partition.

use std::io;
use std::net::ToSocketAddrs;
use std::thread;
use std::time::Duration;

use tracing::warn;

use super::cluster::ClusterSender;

/// The first and the longest time between two look-ups.
const PERIODS: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(60)];

/// Tells of the addresses of `seeds`: at once of those that are addresses already, then of those that names stand for,
/// as long as there is somebody to tell.
pub(super) fn look_up(seeds: &[String], sender: ClusterSender) -> io::Result<()> {
    let mut names = Vec::new();
    for seed in seeds {
        match seed.parse() {
            Ok(address) => drop(sender.seed(address)),
            Err(_) => names.push(seed.clone()),
        }
    }
    if !names.is_empty() {
        thread::Builder::new().name("seeds".into()).spawn(move || look_up_forever(&names, &sender))?;
    }
    Ok(())
}

fn look_up_forever(names: &[String], sender: &ClusterSender) {
    let [mut period, longest] = PERIODS;
    let mut failed = vec![false; names.len()];
    loop {
        for (name, failed) in names.iter().zip(&mut failed) {
            match name.to_socket_addrs() {
                Ok(addresses) => {
                    *failed = false;
                    for address in addresses {
                        if !sender.seed(address) {
                            return;
                        }
                    }
                }
                Err(error) if !*failed => {
                    *failed = true;
                    warn!("cannot find --join {name}, will go on trying: {error}");
                }
                Err(_) => {}
            }
        }
        thread::sleep(period);
        period = (period * 2).min(longest);
    }
}
