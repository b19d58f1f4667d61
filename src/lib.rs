//! Redbreast: gossip DNS. Every node holds every name in memory, so every lookup is a local one.
//!
//! The tour, in the order in which a query meets the modules:
//!
//! 1. [`mmsg`] receives a batch of datagrams,
//! 2. [`dataplane`] owns the worker threads and the one pure function that answers a packet,
//! 3. [`wire`] reads the query and writes the response, both in the packet's own buffer,
//! 4. [`table`] is the immutable name table that the answer comes from, handed over by [`snapshot`],
//! 5. [`policy`] says which addresses go into it and in which order,
//! 6. [`resolver`] knows whom to ask for names that are not ours, and what was answered: what each worker keeps of it, and
//!    who waits for what is on its way.
//!
//! Around that: [`store`] holds the registrations that tables are made of, [`gossip`] keeps it the same on all nodes,
//! [`registry`] is how names get in, and [`zone_maintenance`] the way that DNS itself has for that; [`health`] finds out what
//! is well. [`node`] puts the parts together, [`config`] and [`cli`] are what a person meets, [`text_file`] what tells them
//! where a file of theirs is wrong, [`tls_error`] why a server is not believed, which [`tls_trust`] decides. [`mod@bench`] is the load generator, which knows nothing of the server but DNS; [`report`]
//! tells what it measured, [`perf`] has what to compare it with, [`spread`] counts who would get the traffic, and
//! [`testbed`] runs whole clusters on this machine.

pub mod bench;
pub mod cli;
pub mod compare;
pub mod config;
pub mod dataplane;
pub mod design;
pub mod gossip;
pub mod health;
pub mod limits;
pub mod mmsg;
pub mod node;
pub mod parallel_map;
pub mod perf;
pub mod policy;
pub mod registry;
pub mod report;
pub mod resolver;
pub mod sched;
pub mod single_writer;
pub mod snapshot;
pub mod spread;
pub mod store;
pub mod table;
pub mod testbed;
pub mod text_file;
pub mod tls_error;
pub mod tls_trust;
pub mod wire;
pub mod zone_maintenance;
