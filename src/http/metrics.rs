//! What a node counts, for Prometheus, in the text format of OpenMetrics. docs/metrics.md lists it.
//!
//! Pure; runs on the thread `control` for each scrape.

use std::fmt;

use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::api::external::{UpstreamStatus, WorkerCache};
use crate::api::request::{Member, Status};
use crate::api::timing::Timing;

/// The type of the text.
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// How long something took, as it was counted.
#[derive(Debug)]
struct Duration(Timing);

impl EncodeMetric for Duration {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        let Timing { count, sum_s, buckets } = &self.0;
        let all = buckets.iter().map(|bucket| (bucket.up_to_s.unwrap_or(f64::INFINITY), bucket.count));
        encoder.encode_histogram::<NoLabelSet>(*sum_s, *count, &all.collect::<Vec<_>>(), None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

/// The same metric of several, told apart by labels.
#[derive(Debug)]
struct Family<M> {
    kind: MetricType,
    members: Vec<(Vec<(&'static str, String)>, M)>,
}

impl<M: EncodeMetric> EncodeMetric for Family<M> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        self.members.iter().try_for_each(|(labels, metric)| metric.encode(encoder.encode_family(labels)?))
    }

    fn metric_type(&self) -> MetricType {
        self.kind
    }
}

fn counters(all: impl Iterator<Item = (Vec<(&'static str, String)>, u64)>) -> Family<ConstCounter<u64>> {
    let members = all.map(|(labels, count)| (labels, ConstCounter::new(count))).collect();
    Family { kind: MetricType::Counter, members }
}

/// All of it; `caches` is what each worker has said of its own, where there are any.
pub(super) fn text(
    status: &Status,
    members: &[Member],
    caches: &[WorkerCache],
) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("redbreast");
    register_state(&mut registry, status, members);
    let workers = || status.workers_counted.iter().enumerate();
    let events = workers().flat_map(|(i, worker)| {
        let labels = move |event: &String| vec![("worker", i.to_string()), ("event", event.clone())];
        worker.counters.iter().map(move |(event, count)| (labels(event), *count))
    });
    registry.register("dns_events", "What has happened to packets, by worker", counters(events));
    let batches =
        workers().map(|(i, worker)| (vec![("worker", i.to_string())], Duration(worker.batches.clone())));
    registry.register_with_unit(
        "dns_batch_duration",
        "Time from asking the kernel for queries until their answers were handed to it, of one batch in sixteen",
        Unit::Seconds,
        Family { kind: MetricType::Histogram, members: batches.collect() },
    );
    registry.register_with_unit(
        "cluster_turn_duration",
        "CPU time of a turn of the thread that keeps membership alive",
        Unit::Seconds,
        Family {
            kind: MetricType::Histogram,
            members: vec![(Vec::new(), Duration(status.cluster_turns.clone()))],
        },
    );
    let longest = ConstGauge::new(status.cluster_longest_turn_s);
    registry.register_with_unit("cluster_turn_longest", "The longest such turn", Unit::Seconds, longest);
    let waiting =
        status.writes_waiting.iter().map(|(lane, count)| (vec![("lane", lane.clone())], *count as u64));
    registry.register(
        "writes_waiting",
        "Changes that wait for the owner of the registrations",
        gauges(waiting),
    );
    let gossip = status.gossip_counters.iter().map(|(event, count)| (vec![("event", event.clone())], *count));
    registry.register("gossip_events", "What the gossip has sent, received and refused", counters(gossip));
    if let Some(forwarding) = &status.forwarding {
        register_upstreams(&mut registry, &forwarding.upstreams);
        register_caches(&mut registry, caches);
    }
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

/// The servers that are asked for names in other domains.
fn register_upstreams(registry: &mut Registry, upstreams: &[UpstreamStatus]) {
    let label = |it: &UpstreamStatus| vec![("upstream", it.upstream.clone())];
    let up = upstreams.iter().map(|it| (label(it), u64::from(it.state != "down")));
    registry.register("upstream_up", "0 if it answers no worker that has asked it", gauges(up));
    let events = upstreams.iter().flat_map(|it| {
        let labels = move |event: &String| [label(it), vec![("event", event.clone())]].concat();
        it.counters.iter().map(move |(event, count)| (labels(event), *count))
    });
    registry.register("upstream_events", "What has come of questions to it", counters(events));
    let times = upstreams.iter().map(|it| (label(it), Duration(it.round_trips.clone())));
    registry.register_with_unit(
        "upstream_round_trip",
        "Time from sending it a question until its answer, also where another has answered before",
        Unit::Seconds,
        Family { kind: MetricType::Histogram, members: times.collect() },
    );
}

/// What has been kept of their answers, and what they are being asked.
fn register_caches(registry: &mut Registry, caches: &[WorkerCache]) {
    let of = |value: fn(&WorkerCache) -> u64| {
        let label = |it: &WorkerCache| vec![("worker", it.worker.unwrap_or_default().to_string())];
        caches.iter().map(move |it| (label(it), value(it)))
    };
    let entries = gauges(of(|it| it.entries as u64));
    registry.register("cache_entries", "Answers in the cache, stale ones among them", entries);
    let bytes = gauges(of(|it| it.bytes as u64));
    registry.register_with_unit("cache", "Memory that the cache takes", Unit::Bytes, bytes);
    let evictions = counters(of(|it| it.evictions));
    registry.register("cache_evictions", "Answers that had to go for others", evictions);
    let in_flight = gauges(of(|it| it.in_flight as u64));
    registry.register("questions_in_flight", "Questions that upstreams have not answered yet", in_flight);
    let waiting = gauges(of(|it| it.waiting as u64));
    registry.register("queries_waiting", "Queries that wait for the answers to these", waiting);
}

fn gauge(value: u64) -> ConstGauge<i64> {
    ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX))
}

fn gauges(all: impl Iterator<Item = (Vec<(&'static str, String)>, u64)>) -> Family<ConstGauge<i64>> {
    let members = all.map(|(labels, value)| (labels, gauge(value))).collect();
    Family { kind: MetricType::Gauge, members }
}

/// What is at the moment.
fn register_state(registry: &mut Registry, status: &Status, members: &[Member]) {
    let Status { version, name, id, .. } = status;
    let build = [("version", version.clone()), ("node", name.clone()), ("id", id.clone())];
    registry.register("build", "The release, the node's name and its id", Info::new(build.to_vec()));
    let uptime = ConstGauge::new(status.uptime_s);
    registry.register_with_unit("uptime", "Time since the node started", Unit::Seconds, uptime);
    let down = members.iter().filter(|member| member.state == "down").count();
    let gauges = [
        (
            "ready",
            "1 if the node has joined and knows what the cluster knows",
            usize::from(status.waits_for.is_none()),
        ),
        ("names", "Names with records that it answers, reverse ones included", status.names),
        ("registrations", "Registrations of all nodes that are known here", status.registrations),
        (
            "records_left_out",
            "Records that are in no answer, since their names have more than one can",
            status.records_left_out,
        ),
        ("members", "Members of the cluster that are up, this one among them", status.members),
        ("members_down", "Members of the cluster that are down", down),
    ];
    for (name, help, value) in gauges {
        registry.register(name, help, gauge(value as u64));
    }
    let table = gauge(status.table_bytes);
    registry.register_with_unit("table", "What the names take in the table", Unit::Bytes, table);
}
