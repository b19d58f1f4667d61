//! Answers, pure: a message and a table in, a verdict out, the response in the query's own buffer.
//!
//! Nothing in here does I/O, reads a clock or knows how a message came. [`answerer`] is the one function that all
//! transports call; `errors` makes the answers that need no lookup, `answer_section` copies records, [`external`]
//! answers for names out of our zones from what is known of them. [`access`] and [`rate_limit`] say who is answered at
//! all, [`identity`] what the server says of itself, and [`metrics`] counts what was done.

pub mod access;
mod answer_section;
pub mod answerer;
mod chaos;
mod errors;
pub mod external;
mod handicap;
pub mod identity;
pub mod metrics;
pub mod rate_limit;
pub mod service;
pub mod types;
