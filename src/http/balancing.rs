//! The part of the control listener's API that says who gets the traffic: drains, policies, health, explanations.
//!
//! Runs on the thread `http`, asynchronously.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::http::{Method, StatusCode};
use axum::routing::{get, put};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use tokio::task::yield_now;

use super::ServerState;
use super::problem::Problem;
use crate::api::paths;
use crate::api::register::{self, parse_scope};
use crate::api::request::{Directed, Directive, Effect, Explanation, Member, PolicyBody, Request};
use crate::policy::Policy;
use crate::policy::select::Health;
use crate::store::{Cursor, MAX_INSTANCE_LEN, NodeId, Target};

/// What a drain says.
const DRAINED: &[u8] = b"1";

pub(super) fn router() -> Router<Arc<ServerState>> {
    Router::new()
        .route(paths::DIRECTIVES, get(directives))
        .route(paths::DRAIN, put(drain).delete(drain))
        .route(paths::DRAIN_SELF, put(drain_self).delete(drain_self))
        .route(paths::POLICY, put(set_policy).delete(remove_policy))
        .route(paths::INSTANCE_HEALTH, put(report))
        .route(paths::EXPLAIN, get(explain))
}

impl ServerState {
    /// What is drained: an address, an instance, or a node by its name or id.
    fn drained(&self, what: &str, of: &str) -> Result<Target, Problem> {
        match what {
            "address" => match of.parse::<IpAddr>() {
                Ok(address) => Ok(Target::Address(address)),
                Err(_) => Err(Problem::bad(format!("{of:?} is no IP address"))),
            },
            "instance" if (1..=MAX_INSTANCE_LEN).contains(&of.len()) => Ok(Target::Instance(of.into())),
            "instance" => Err(Problem::bad(format!("an instance has from 1 to {MAX_INSTANCE_LEN} bytes"))),
            "node" => self.node(|member| member.name == of || member.id == of, of),
            _ => Err(Problem::new(
                StatusCode::NOT_FOUND,
                format!("{what:?} cannot be drained: expected address, instance or node"),
            )),
        }
    }

    fn node(&self, is_meant: impl Fn(&Member) -> bool, of: &str) -> Result<Target, Problem> {
        let members = self.view.members();
        let mut meant = members.iter().filter(|member| is_meant(member));
        let bad =
            |why: &str| Problem::bad(format!("{why} {of:?}; `redbreast members` tells their names and ids"));
        let node = meant.next().ok_or_else(|| bad("there is no node"))?;
        if meant.next().is_some() {
            return Err(bad("there are several nodes"));
        }
        NodeId::from_text(&node.id).map(Target::Node).ok_or_else(|| bad("there is no node"))
    }

    fn this_node(&self) -> Result<Target, Problem> {
        self.node(|member| member.state == "self", "self")
    }

    /// Sets a directive, or takes it back, and finds out what that concerns.
    async fn direct(&self, target: Target, value: Option<&[u8]>) -> Result<Json<Directed>, Problem> {
        let value = value.map(Into::into);
        let changed = self.ask(|reply| Request::Direct(target.clone(), value, reply)).await??;
        let (mut effect, mut next) = (Effect::default(), Some(Cursor::default()));
        while let Some(from) = next {
            next = self.view.effect(&target, from, &mut effect);
            yield_now().await;
        }
        let durable = self.view.is_durable();
        let Effect { names, emptied, ttl_s } = effect;
        Ok(Json(Directed { changed, durable, names: names.len(), emptied, ttl_s }))
    }
}

/// What a request to drain something, or no longer, says of it.
fn drained_value(method: &Method) -> Option<&'static [u8]> {
    (method == Method::PUT).then_some(DRAINED)
}

async fn drain(
    State(shared): State<Arc<ServerState>>,
    method: Method,
    Path((what, of)): Path<(String, String)>,
) -> Result<Json<Directed>, Problem> {
    let target = shared.drained(&what, &of)?;
    shared.direct(target, drained_value(&method)).await
}

async fn drain_self(
    State(shared): State<Arc<ServerState>>,
    method: Method,
) -> Result<Json<Directed>, Problem> {
    let target = shared.this_node()?;
    shared.direct(target, drained_value(&method)).await
}

async fn set_policy(
    State(shared): State<Arc<ServerState>>,
    Path(scope): Path<String>,
    body: Result<Json<PolicyBody>, JsonRejection>,
) -> Result<Json<Directed>, Problem> {
    let Json(PolicyBody { policy }) = body?;
    let scope = parse_scope(&scope, &shared.domains).map_err(Problem::bad)?;
    let policy: Policy = policy.parse().map_err(|error| Problem::bad(format!("{error}")))?;
    shared.direct(Target::Policy(scope), Some(policy.to_string().as_bytes())).await
}

async fn remove_policy(
    State(shared): State<Arc<ServerState>>,
    Path(scope): Path<String>,
) -> Result<Json<Directed>, Problem> {
    let scope = parse_scope(&scope, &shared.domains).map_err(Problem::bad)?;
    shared.direct(Target::Policy(scope), None).await
}

/// How an instance is, by the word of whoever runs it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Report {
    /// `up`, `down` or `unknown`.
    health: String,
}

/// How many addresses that was about.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Reported {
    addresses: usize,
}

async fn report(
    State(shared): State<Arc<ServerState>>,
    Path(instance): Path<String>,
    body: Result<Json<Report>, JsonRejection>,
) -> Result<Json<Reported>, Problem> {
    let Json(Report { health }) = body?;
    let health = match &*health {
        "up" => Health::Up,
        "down" => Health::Down,
        "unknown" => Health::Unknown,
        _ => return Err(Problem::bad(format!("{health:?} is no health: expected up, down or unknown"))),
    };
    let addresses = shared.ask(|reply| Request::Report(instance.into(), health, reply)).await?;
    Ok(Json(Reported { addresses }))
}

async fn directives(State(shared): State<Arc<ServerState>>) -> Json<Vec<Directive>> {
    Json(shared.view.directives())
}

async fn explain(
    State(shared): State<Arc<ServerState>>,
    Path(name): Path<String>,
) -> Result<Json<Explanation>, Problem> {
    let name = register::any_name(&name, &shared.domains).map_err(Problem::bad)?;
    Ok(Json(shared.view.explain(&name)))
}
