//! Listings of registrations, sent page by page as fast as the client takes them: however many there are, one page is
//! in memory.
//!
//! Runs on the thread `http`, asynchronously; between two pages others have their turn.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde::Serialize;
use tokio::task::yield_now;

use super::ServerState;
use super::problem::Problem;
use crate::api::request::{Filter, Registration};
use crate::store::Cursor;

/// Registrations that one request with a limit is answered with at most: that answer is made before it is sent, since
/// its head says where the next one begins.
pub(super) const MAX_LIMIT: usize = crate::limits::MAX_LISTED;

const JSON: (HeaderName, &str) = (header::CONTENT_TYPE, "application/json");

impl ServerState {
    /// Calls `each` for all registrations that `filter` says.
    pub(super) async fn each(&self, filter: &Filter, mut each: impl FnMut(Registration)) {
        let mut next = Some(Cursor::default());
        while let Some(from) = next {
            let page = self.view.page(filter, from);
            page.registrations.into_iter().for_each(&mut each);
            next = page.next;
            yield_now().await;
        }
    }

    /// All that `filter` says, in memory: for what there is little of.
    pub(super) async fn few(&self, filter: &Filter) -> Vec<Registration> {
        let mut all = Vec::new();
        self.each(filter, |it| all.push(it)).await;
        all
    }

    /// So many of those that `filter` says, from `from` on, with a link to the next (RFC 8288), if there is more.
    pub(super) async fn limited(
        &self,
        filter: &Filter,
        from: Cursor,
        limit: usize,
        link: impl FnOnce(Cursor) -> String,
    ) -> Result<Response, Problem> {
        if limit > MAX_LIMIT {
            return Err(Problem::bad(format!(
                "limit={limit}: at most {MAX_LIMIT}; without a limit the whole listing is streamed"
            )));
        }
        let (mut found, mut next) = (Vec::new(), Some(from));
        while let Some(from) = next.filter(|_| found.len() < limit) {
            let mut page = self.view.page_of(filter, from, limit - found.len());
            next = page.next;
            found.append(&mut page.registrations);
            yield_now().await;
        }
        let mut response = axum::Json(found).into_response();
        if let Some(link) = next.and_then(|next| HeaderValue::try_from(link(next)).ok()) {
            response.headers_mut().insert(header::LINK, link);
        }
        Ok(response)
    }
}

/// Streams what `make` makes of all that `filter` says, as a JSON array.
pub(super) fn stream_all<T: Serialize>(
    shared: Arc<ServerState>,
    filter: Filter,
    make: impl Fn(Registration) -> Option<T> + Send + 'static,
) -> Response {
    let begin = (shared, filter, make, Some(Cursor::default()), &b"["[..]);
    let pages = stream::unfold(Some(begin), async |state| {
        let (shared, filter, make, mut next, mut before) = state?;
        let mut bytes = Vec::new();
        while let Some(from) = next {
            let page = shared.view.page(&filter, from);
            next = page.next;
            for item in page.registrations.into_iter().filter_map(&make) {
                bytes.extend_from_slice(before);
                before = b",";
                serde_json::to_writer(&mut bytes, &item).ok()?;
            }
            yield_now().await;
            if !bytes.is_empty() {
                break;
            }
        }
        if next.is_none() {
            bytes.extend_from_slice(if before == b"[" { b"[]" } else { b"]" });
        }
        let rest = next.map(|next| (shared, filter, make, Some(next), before));
        Some((Ok::<_, Infallible>(Bytes::from(bytes)), rest))
    });
    ([JSON], Body::from_stream(pages)).into_response()
}
