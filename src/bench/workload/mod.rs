//! What is asked: files of queries, names and mixes made from them, captures, and what queries carry besides.
//!
//! Made by the main thread before anything is sent; afterwards the sending threads only look.

pub mod capture;
pub(crate) mod cookie;
pub mod feed;
pub mod hosts;
pub mod line_reader;
pub mod messages;
pub mod mix;
mod packet;
pub mod query_file;
mod tsig;
pub mod updates;

pub use query_file::{BadLines, Edns, QueryFile, QueryFileError, Reading};
pub use tsig::Tsig;
