//! Health: finding out whether addresses are well.
//!
//! The node that has registered an address checks it, and nobody else: what it finds becomes part of its registration,
//! and so is known to all nodes as fast as any change. [`monitor`] decides when to check and what comes of it, and does
//! nothing itself; [`probe`] checks; [`runner`] is the thread that does both.

pub mod monitor;
pub mod probe;
pub mod runner;
pub mod spec;
