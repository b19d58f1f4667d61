//! What is asked: files of queries, names and mixes made from them, captures, and what queries carry besides.
//!
//! Made by the main thread before anything is sent; afterwards the sending threads only look.

pub mod capture;
pub(crate) mod cookie;
pub mod hosts;
pub mod mix;
pub mod query_file;

pub use query_file::{Edns, QueryFile, QueryFileError};
