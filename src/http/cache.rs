//! The part of the API that looks at the caches of names that are not ours, and has them forget.
//!
//! Runs on the thread `http`, asynchronously.

use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use serde::Deserialize;
use tokio::sync::mpsc;

use super::problem::Problem;
use super::{ServerState, busy};
use crate::api::external::{CacheStats, CachedAnswer, Flushed, Replies, cacheable};
use crate::api::paths;
use crate::api::request::View;
use crate::wire::name::Name;

pub(super) fn router() -> Router<Arc<ServerState>> {
    Router::new()
        .route(paths::CACHE, get(stats).delete(flush_all))
        .route(paths::CACHED, get(cached).delete(flush))
}

/// Replies that may wait: one of each worker, of which there are no more.
const MAX_REPLIES: usize = 1_024;

/// What is to be forgotten beside a name.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Extent {
    /// All names below it.
    #[serde(default)]
    below: bool,
}

impl ServerState {
    /// Asks all workers, and waits for what each says.
    pub(super) async fn ask_workers<T>(
        &self,
        ask: impl FnOnce(&dyn View, &Replies<T>) -> bool,
    ) -> Result<Vec<T>, Problem> {
        // Each worker replies once.
        let (replies, mut all) = mpsc::channel(MAX_REPLIES);
        if !ask(&*self.view, &replies) {
            return Err(busy());
        }
        drop(replies);
        let mut received = Vec::new();
        while let Some(one) = all.recv().await {
            received.push(one);
        }
        if received.is_empty() { Err(without_cache()) } else { Ok(received) }
    }

    async fn flush(&self, what: Option<(Name, bool)>) -> Result<Json<Flushed>, Problem> {
        let removed = self.ask_workers(|view, replies| view.flush(what, replies)).await?;
        Ok(Json(Flushed { removed: removed.into_iter().sum() }))
    }
}

fn without_cache() -> Problem {
    Problem::new(
        StatusCode::NOT_FOUND,
        "this node asks nobody for names in other domains, so it has no cache: start it with --upstream, \
         --resolv-conf or --forward",
    )
}

async fn stats(State(shared): State<Arc<ServerState>>) -> Result<Json<CacheStats>, Problem> {
    let workers = shared.ask_workers(|view, replies| view.caches(replies)).await?;
    let status = shared.view.status();
    Ok(Json(CacheStats::new(workers, status.forwarding.ok_or_else(without_cache)?)))
}

async fn cached(
    State(shared): State<Arc<ServerState>>,
    Path(name): Path<String>,
) -> Result<Json<Vec<CachedAnswer>>, Problem> {
    let name = cacheable(&name, &shared.domains).map_err(Problem::bad)?;
    let name_len = name.as_wire().len();
    let all = shared.ask_workers(|view, replies| view.cached(&name, replies)).await?;
    Ok(Json(CachedAnswer::merge(all.into_iter().flatten().collect(), name_len)))
}

async fn flush(
    State(shared): State<Arc<ServerState>>,
    Path(name): Path<String>,
    extent: Result<Query<Extent>, QueryRejection>,
) -> Result<Json<Flushed>, Problem> {
    let Query(Extent { below }) = extent?;
    let name = cacheable(&name, &shared.domains).map_err(Problem::bad)?;
    shared.flush(Some((name, below))).await
}

async fn flush_all(State(shared): State<Arc<ServerState>>) -> Result<Json<Flushed>, Problem> {
    shared.flush(None).await
}
