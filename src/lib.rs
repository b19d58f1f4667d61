//! Redbreast: gossip DNS. Every node holds every name in memory, so every lookup is a local one.
//!
//! The tour, in the order in which a query meets the modules:
//!
//! 1. [`worker`] is the thread that it is answered on, and its loop,
//! 2. [`transport`] receives it with others, and sends the responses,
//! 3. [`answer`] has the one pure function that turns a query into its response, in the packet's own buffer,
//! 4. [`wire`] reads the query and writes the response,
//! 5. [`table`] is the immutable name table that the answer comes from,
//! 6. [`policy`] says which addresses go into it and in which order,
//! 7. [`resolver`] knows whom to ask for names out of our zones, and what was answered: what each worker keeps of it,
//!    and who waits for what is on its way. [`upstream`] is the I/O of that.
//!
//! Around that: [`store`] holds the registrations that tables are made of, [`gossip`] keeps it the same on all nodes;
//! names get in by [`sources`], by [`http`] in the words of [`api`], and by [`zone_maintenance`], the way that DNS
//! itself has for that; [`health`] finds out what is well; [`query_time`] has the two designs that gossip is compared
//! with. [`node`] puts the parts together, [`config`] and [`cli`] are what a person meets, [`sys`] is the ground, and
//! [`limits`] has every limit. [`mod@bench`] is the load generator, which knows nothing of the server but DNS;
//! [`report`] tells what it measured, [`perf`] has what to compare it with, [`compare`] sets the designs side by side,
//! [`spread`] counts who would get the traffic, and [`testbed`] runs whole clusters on this machine.

pub mod answer;
pub mod api;
pub mod bench;
pub mod cli;
pub mod compare;
pub mod config;
pub mod gossip;
pub mod health;
pub mod http;
pub mod limits;
pub mod node;
pub mod perf;
pub mod policy;
pub mod query_time;
pub mod report;
pub mod resolver;
pub mod sources;
pub mod spread;
pub mod store;
pub mod sys;
pub mod table;
pub mod testbed;
pub mod transport;
pub mod upstream;
pub mod wire;
pub mod worker;
pub mod zone_maintenance;
