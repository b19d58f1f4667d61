//! Black-box tests: the real binary as users run it, with the real programs that they would use.
//!
//! One file per capability. They are one test binary, so that the harness is compiled once and nothing in it is unused.
#![allow(missing_docs)]
#![allow(clippy::print_stdout)] // tests tell what they skipped and measured

mod balancing;
mod bench_command;
mod bench_dnsperf;
mod bench_input;
mod bench_modes;
mod cluster;
mod compare;
mod config;
mod control;
mod demo;
mod designs;
mod docker;
mod durability;
mod harness;
mod health;
mod hostile_https;
mod hostile_packets;
mod hostile_upstream;
mod http;
mod limits;
mod nodes;
mod perf_gate;
mod query_tools;
mod reload;
mod resolver;
mod resolver_control;
mod resolver_failures;
mod resolver_hostile;
mod resolver_https;
mod resolver_quic;
mod resolver_signed;
mod resolver_tls;
mod resolver_world;
mod serve_clients;
mod serve_lifecycle;
#[path = "../support/server.rs"]
mod server;
mod spread;
mod status_page;
mod stop;
mod stub_resolvers;
mod tcp;
mod upstream_faults;
mod upstreams;
mod watched_files;
mod weave;
mod worker_manner;
mod zone_maintenance;
