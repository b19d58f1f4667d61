//! Whom the workers ask for names that are not ours, and what each of them is given for that.
//!
//! Runs on the main thread at the start and when files have been read again; what is counted is read by the thread that
//! asks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::{Control, Node, NodeError};
use crate::api::external::{CacheLimits, Forwarding, UpstreamStatus, hit_ratio};
use crate::api::timing::Timing;
use crate::config::{Settings, upstreams};
use crate::resolver::Resolver;
use crate::resolver::cache::Limits;
use crate::resolver::meter::{BUCKETS, Count, Meter};
use crate::resolver::routes::{Measured, Routes};
use crate::resolver::settings::Upstreams;
use crate::sys::tls_trust::ServerIdentity;
use crate::upstream::forwarding;
use crate::upstream::streams::TellFault;
use crate::upstream::tls::TlsClient;
use crate::wire::name::HashSeed;
use crate::worker::WorkerSetup;

/// Whom to ask for names that are not ours, for a server that listens at `listen`, if anybody; and what of the files
/// that say so a person should know.
pub(super) fn read(
    settings: &Settings,
    listen: &[std::net::SocketAddr],
) -> Result<Option<(Upstreams, Vec<String>)>, NodeError> {
    let Some(resolver) = &settings.resolver else { return Ok(None) };
    upstreams::read(resolver, listen).map(Some).map_err(NodeError::File)
}

/// What is needed to ask upstreams over TLS, if any is asked so, or could be: there is a file for it.
pub(super) fn tls(settings: &Settings, upstreams: &Upstreams) -> Result<Option<TlsClient>, NodeError> {
    let Some(resolver) = &settings.resolver else { return Ok(None) };
    let is_used = resolver.tls_ca.is_some() || identities(upstreams).next().is_some();
    let certified = identities(upstreams).any(|identity| identity.certified);
    let client = || TlsClient::new(resolver.tls_ca.as_deref(), certified);
    is_used.then(client).transpose().map_err(NodeError::Trust)
}

/// Who the upstreams over TLS have to be.
fn identities(upstreams: &Upstreams) -> impl Iterator<Item = &ServerIdentity> {
    let forwards = upstreams.forwards().iter().flat_map(|forward| &forward.upstreams);
    upstreams.general().iter().chain(forwards).filter_map(|upstream| upstream.protocol.identity())
}

impl Node {
    /// Gives each worker what it needs to ask upstreams, and says whom. Returns their resolvers.
    pub(super) fn start_forwarding(
        &mut self,
        workers: &mut [WorkerSetup],
        seed: HashSeed,
    ) -> Result<Vec<Option<Resolver>>, NodeError> {
        let settings = self.settings.load();
        let Some((upstreams, told)) = read(&settings, &self.addresses)? else {
            return Ok(workers.iter().map(|_| None).collect());
        };
        told.iter().for_each(|line| warn!("{line}"));
        let tls = tls(&settings, &upstreams)?;
        let before = Routes { own: settings.domains.clone(), ..Routes::default() };
        let Some(settings) = &settings.resolver else { return Ok(Vec::new()) };
        self.speaks_tls = tls.is_some();
        self.routes.replace(Routes::new(upstreams, workers.len(), &before));
        let limits = Limits {
            max_bytes: settings.cache_bytes / workers.len().max(1),
            max_ttl_s: settings.max_ttl_s,
            max_negative_ttl_s: settings.max_negative_ttl_s,
            min_ttl_s: settings.min_ttl_s,
            negative_ttl_s: settings.negative_ttl_s,
            max_stale_s: settings.max_stale_s,
        };
        let (epoch, id, mix_case) = (Instant::now(), fastrand::u64(..), settings.mix_case);
        let sender = self.inbox.sender();
        let tell_fault: TellFault = Arc::new(move |upstream, why| {
            let what = format!("the connection to the upstream {upstream} has failed: {why}");
            // A worker does not wait for a log.
            sender.try_send(Control::UpstreamFault(what));
        });
        let mut resolvers = Vec::new();
        for (worker, setup) in workers.iter_mut().enumerate() {
            let tell_fault = Arc::clone(&tell_fault);
            let tls = tls.clone();
            setup.upstreams =
                Some(forwarding::UpstreamSetup { worker, mix_case, tls, seed, epoch, tell_fault });
            resolvers.push(Some(Resolver::new(self.routes.reader(), limits, id)));
        }
        Ok(resolvers)
    }

    /// Has the workers ask `upstreams` from now on, if these are others than before.
    pub(super) fn ask_others(&mut self, (upstreams, told): (Upstreams, Vec<String>)) {
        let before = self.routes.load();
        if before.upstreams == upstreams {
            return;
        }
        told.iter().for_each(|line| warn!("{line}"));
        if !self.speaks_tls && identities(&upstreams).next().is_some() {
            warn!(
                "upstreams over TLS take a restart where there were none before; they are not asked until then"
            );
        }
        let list: Vec<_> = upstreams.general().iter().map(ToString::to_string).collect();
        info!(
            "names that are not ours are asked for at: {}",
            if list.is_empty() { "nobody".into() } else { list.join(", ") }
        );
        self.routes.replace(Routes::new(upstreams, self.workers.len(), &before));
    }
}

/// What is done about names out of the node's zones, if they are asked for; `counters` are those of all workers.
pub(super) fn forwarding(
    settings: &Settings,
    routes: &Routes,
    counters: &BTreeMap<String, u64>,
) -> Option<Forwarding> {
    let settings = settings.resolver.as_ref()?;
    let status = |(number, measured): (usize, &Measured)| UpstreamStatus {
        domains: domains_of(routes, number),
        ..tell(measured)
    };
    Some(Forwarding {
        hit_ratio: hit_ratio(counters),
        upstreams: routes.servers.iter().enumerate().map(status).collect(),
        cache_limits: CacheLimits {
            max_bytes: settings.cache_bytes,
            max_ttl_s: settings.max_ttl_s,
            max_negative_ttl_s: settings.max_negative_ttl_s,
            max_stale_s: settings.max_stale_s,
        },
    })
}

/// The domains that the server of this number is asked for.
fn domains_of(routes: &Routes, number: usize) -> Vec<String> {
    let forwards = routes.upstreams.forwards().iter().map(|forward| forward.domain.to_string());
    let domains = std::iter::once(".".to_owned()).chain(forwards);
    let is_in = |group: &[u16]| group.iter().any(|it| usize::from(*it) == number);
    domains.zip(&routes.groups).filter(|(_, group)| is_in(group)).map(|(domain, _)| domain).collect()
}

/// What all workers have counted of a server, and what they think of it.
fn tell(measured: &Measured) -> UpstreamStatus {
    let meters = || measured.meters.iter().map(Arc::as_ref);
    let asked = || meters().filter(|meter: &&Meter| meter.get(Count::Sent) > 0);
    let state = match (asked().next(), asked().all(Meter::is_down)) {
        (None, _) => "unasked",
        (_, true) => "down",
        (_, false) => "up",
    };
    let total = |count: Count| meters().map(|meter| meter.get(count)).sum::<u64>();
    let (mut sum, mut buckets) = (Duration::ZERO, [(None, 0); BUCKETS]);
    for (of_worker, times) in meters().map(Meter::times) {
        sum += of_worker;
        for (bucket, (below, count)) in buckets.iter_mut().zip(times) {
            *bucket = (below, bucket.1 + count);
        }
    }
    UpstreamStatus {
        upstream: measured.upstream.to_string(),
        domains: Vec::new(),
        state: state.into(),
        fault: meters().find_map(Meter::fault),
        counters: Count::ALL.iter().map(|&count| (count.name().to_owned(), total(count))).collect(),
        round_trips: Timing::new(sum, buckets.into_iter()),
    }
}
