//! Answers in classes other than IN: in CHAOS what the server says of itself, and nothing in any other.
//!
//! Runs on the workers.

use super::errors::{self, ErrorAnswer};
use super::identity::Identity;
use super::metrics::Event;
use super::types::{Turn, Verdict, reply};
use crate::wire::header::rcode;
use crate::wire::name::QueryName;
use crate::wire::query::Query;
use crate::wire::record::{CLASS_CHAOS, rtype};
use crate::wire::response::Response;

/// Answers with the version or the name of the server, where it tells these.
#[cold]
pub(crate) fn answer(
    identity: &Identity,
    (name, query): (&QueryName, &Query),
    response: &mut Response<'_>,
    turn: &Turn<'_>,
) -> Verdict {
    let asks_text = query.qclass == CLASS_CHAOS && matches!(query.qtype, rtype::TXT | rtype::ANY);
    let record = identity.chaos_record(name.as_wire()).filter(|_| asks_text);
    let Some(record) = record.filter(|record| record.len() <= response.room()) else {
        return errors::write(ErrorAnswer::NotSupported, response, turn);
    };
    turn.counters.count(Event::Positive);
    response.answer_with(1, record.len(), |out| out.copy_from_slice(record));
    reply(response, rcode::NOERROR, true)
}
