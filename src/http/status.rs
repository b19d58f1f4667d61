//! The part of the API that tells how the node and its cluster are, and what changes.
//!
//! Runs on the thread `http`, asynchronously.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use futures_util::stream;
use serde::Serialize;
use tokio::sync::mpsc;

use super::problem::Problem;
use super::{ServerState, metrics};
use crate::api::paths;
use crate::api::request::{Event, Member, Request, Status};

/// Events that wait for a slow reader at most; those after them are counted and left out.
const EVENTS: usize = crate::limits::MAX_WATCH_EVENTS;

pub(super) fn router() -> Router<Arc<ServerState>> {
    Router::new()
        .route(paths::PAGE, get(page))
        .route(paths::MEMBERS, get(members))
        .route(paths::STATUS, get(status))
        .route(paths::WATCH, get(watch))
        .route(paths::OPENAPI, get(openapi))
        .route(paths::METRICS, get(metrics))
        .route(paths::HEALTH, get(health))
        .route(paths::READY, get(ready))
}

/// What the page may do: what it has in it, and ask this node.
const PAGE_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src \
                           'self'; frame-ancestors 'none'";

async fn page() -> Response {
    ([(header::CONTENT_SECURITY_POLICY, PAGE_POLICY)], Html(include_str!("page.html"))).into_response()
}

async fn openapi() -> ([(header::HeaderName, &'static str); 1], &'static str) {
    ([(header::CONTENT_TYPE, "application/json")], include_str!("../../docs/openapi.json"))
}

async fn members(State(shared): State<Arc<ServerState>>) -> Json<Vec<Member>> {
    Json(shared.view.members())
}

async fn status(State(shared): State<Arc<ServerState>>) -> Json<Status> {
    Json(shared.view.status())
}

async fn metrics(State(shared): State<Arc<ServerState>>) -> Result<Response, Problem> {
    let status = shared.view.status();
    let members = shared.view.members();
    let caches = match status.forwarding {
        Some(_) => shared.ask_workers(|view, replies| view.caches(replies)).await?,
        None => Vec::new(),
    };
    let text = metrics::text(&status, &members, &caches)
        .map_err(|error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    Ok(([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response())
}

/// How the process is, for those who supervise it.
#[derive(Serialize)]
struct Condition {
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    waits_for: Option<String>,
}

/// It is well if the owner of the registrations answers.
async fn health(State(shared): State<Arc<ServerState>>) -> Result<Json<Condition>, Problem> {
    shared.ask(Request::Ping).await?;
    Ok(Json(Condition { status: "ok", waits_for: None }))
}

async fn ready(State(shared): State<Arc<ServerState>>) -> (StatusCode, Json<Condition>) {
    let waits_for = shared.view.waits_for();
    match waits_for {
        None => (StatusCode::OK, Json(Condition { status: "ready", waits_for })),
        Some(_) => (StatusCode::SERVICE_UNAVAILABLE, Json(Condition { status: "starting", waits_for })),
    }
}

/// Tells what changes, a line of JSON for each, until the client goes.
async fn watch(State(shared): State<Arc<ServerState>>) -> Result<Response, Problem> {
    let (sender, receiver) = mpsc::channel(EVENTS);
    if !shared.view.subscribe(sender) {
        return Err(Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "too many follow the changes already; try again",
        ));
    }
    let lines = stream::unfold(receiver, async |mut receiver: mpsc::Receiver<Event>| {
        let event = receiver.recv().await?;
        let line = serde_json::to_vec(&event).map(|mut line| {
            line.push(b'\n');
            Bytes::from(line)
        });
        Some((line, receiver))
    });
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response())
}
