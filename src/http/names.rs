//! The part of the API that registers and removes: names, their addresses, and whole instances, one by one and in
//! batches.
//!
//! Runs on the thread `http`, asynchronously.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::response::Response;
use axum::routing::{get, post, put};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::ServerState;
use super::listing::{MAX_LIMIT, stream_all};
use super::problem::Problem;
use crate::api::paths;
use crate::api::register;
use crate::api::request::{
    Change, Changed, Filter, MAX_ADDITIONS, RegisterRequest, Registration, Request, Selector,
};
use crate::sys::sched::{SHORT_STEPS, yield_every};

pub(super) fn router() -> Router<Arc<ServerState>> {
    Router::new()
        .route(paths::NAMES, get(all).post(add))
        .route(paths::NAME, get(of_name).put(replace_name).delete(remove_name))
        .route(paths::NAME_ADDRESS, put(add_address).delete(remove_address))
        .route(paths::ADDRESS, get(of_address).delete(remove_everywhere))
        .route(paths::INSTANCES, get(instances))
        .route(paths::INSTANCE, get(of_instance).put(replace_instance).delete(remove_instance))
        .route(paths::BATCH, post(batch))
}

use crate::store::Cursor;

/// What of a name is meant.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Which {
    instance: Option<String>,
    /// Several with commas between them.
    address: Option<String>,
}

/// A step of a batch.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
enum Step {
    /// Register this.
    Add(RegisterRequest),
    /// Register this in place of what the name has of the instance.
    Replace(RegisterRequest),
    /// Remove what is meant.
    Remove(Meant),
}

/// What a step of a batch removes; what is left out can be any.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Meant {
    name: Option<String>,
    instance: Option<String>,
    #[serde(default)]
    addresses: Vec<IpAddr>,
}

/// An instance of this node or others.
#[derive(Serialize)]
struct Instance {
    instance: String,
    node: String,
    registrations: usize,
}

impl ServerState {
    /// The steps that register `additions`.
    pub(super) fn puts(&self, additions: &[RegisterRequest]) -> Result<Vec<Change>, Problem> {
        let registrations = register::registrations(additions, &self.domains, self.check_dir.as_deref())
            .map_err(Problem::bad)?;
        Ok(registrations.into_iter().map(|(key, attributes)| Change::Put(key, attributes)).collect())
    }

    /// What these words stand for.
    fn selector(
        &self,
        name: Option<&str>,
        instance: Option<&str>,
        addresses: Vec<IpAddr>,
    ) -> Result<Selector, Problem> {
        let name = name.map(|name| register::name(name, &self.domains)).transpose().map_err(Problem::bad)?;
        let instance = instance.map(|it| register::instance(Some(it))).transpose().map_err(Problem::bad)?;
        Ok(Selector { name, instance: instance.map(Into::into), addresses, ..Selector::default() })
    }

    /// What this removes of a name: what is of one instance, by default the one of registrations by hand.
    fn of_name(
        &self,
        name: &str,
        instance: Option<&str>,
        addresses: Vec<IpAddr>,
    ) -> Result<Selector, Problem> {
        let instance = register::instance(instance).map_err(Problem::bad)?;
        self.selector(Some(name), Some(instance), addresses)
    }

    pub(super) async fn change(&self, changes: Vec<Change>) -> Result<Json<Changed>, Problem> {
        Ok(Json(self.ask(|reply| Request::Change(changes, reply)).await??))
    }
}

/// A body as what it should be. It is read in two steps, so that a mistake is told of the form that was meant.
fn read<T: serde::de::DeserializeOwned>(value: Value) -> Result<T, Problem> {
    // Where it is wrong is told, too.
    serde_path_to_error::deserialize(value).map_err(|error| Problem::bad(error.to_string()))
}

fn read_list<T: serde::de::DeserializeOwned>(value: Value) -> Result<Vec<T>, Problem> {
    match value {
        Value::Array(list) => {
            let item = |(i, it): (usize, Value)| {
                yield_every(SHORT_STEPS, i);
                read(it).map_err(|problem| Problem::bad(format!("item {}: {}", i + 1, problem.detail())))
            };
            list.into_iter().enumerate().map(item).collect()
        }
        one => Ok(vec![read(one)?]),
    }
}

pub(super) fn address(text: &str) -> Result<IpAddr, Problem> {
    text.parse().map_err(|_| Problem::bad(format!("{text:?} is no IP address")))
}

type Body = Result<Json<Value>, JsonRejection>;

async fn add(State(shared): State<Arc<ServerState>>, body: Body) -> Result<Json<Changed>, Problem> {
    let additions: Vec<RegisterRequest> = read_list(body?.0)?;
    shared.change(shared.puts(&additions)?).await
}

async fn replace_name(
    State(shared): State<Arc<ServerState>>,
    Path(name): Path<String>,
    body: Body,
) -> Result<Json<Changed>, Problem> {
    let Json(mut body) = body?;
    // The name is said by the path already.
    if let Value::Object(fields) = &mut body {
        fields.entry("name").or_insert_with(|| Value::from(&*name));
    }
    let addition: RegisterRequest = read(body)?;
    let gone = shared.of_name(&name, addition.instance.as_deref(), Vec::new())?;
    if register::name(&addition.name, &shared.domains).ok() != gone.name {
        return Err(Problem::bad(format!("the path says {name:?} and the body {:?}", addition.name)));
    }
    let mut changes = vec![Change::Remove(gone)];
    changes.extend(shared.puts(&[addition])?);
    shared.change(changes).await
}

async fn remove_name(
    State(shared): State<Arc<ServerState>>,
    Path(name): Path<String>,
    which: Result<Query<Which>, QueryRejection>,
) -> Result<Json<Changed>, Problem> {
    let Query(which) = which?;
    let addresses = which.address.iter().flat_map(|list| list.split(',')).map(address);
    let addresses = addresses.collect::<Result<_, _>>()?;
    shared.change(vec![Change::Remove(shared.of_name(&name, which.instance.as_deref(), addresses)?)]).await
}

/// What an address is registered with.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct With {
    instance: Option<String>,
    ttl_s: Option<u32>,
    weight: Option<u32>,
    tier: Option<u32>,
    check: Option<String>,
    slow_start_s: Option<u32>,
}

async fn add_address(
    State(shared): State<Arc<ServerState>>,
    Path((name, text)): Path<(String, String)>,
    with: Result<Query<With>, QueryRejection>,
) -> Result<Json<Changed>, Problem> {
    let Query(With { instance, ttl_s, weight, tier, check, slow_start_s }) = with?;
    let addresses = vec![address(&text)?];
    let rest = RegisterRequest::default();
    let addition =
        RegisterRequest { name, addresses, instance, ttl_s, weight, tier, check, slow_start_s, ..rest };
    shared.change(shared.puts(&[addition])?).await
}

async fn remove_address(
    State(shared): State<Arc<ServerState>>,
    Path((name, text)): Path<(String, String)>,
    which: Result<Query<Which>, QueryRejection>,
) -> Result<Json<Changed>, Problem> {
    let Query(which) = which?;
    let gone = shared.of_name(&name, which.instance.as_deref(), vec![address(&text)?])?;
    shared.change(vec![Change::Remove(gone)]).await
}

async fn remove_everywhere(
    State(shared): State<Arc<ServerState>>,
    Path(text): Path<String>,
) -> Result<Json<Changed>, Problem> {
    let gone = Selector { addresses: vec![address(&text)?], ..Selector::default() };
    shared.change(vec![Change::Remove(gone)]).await
}

async fn replace_instance(
    State(shared): State<Arc<ServerState>>,
    Path(instance): Path<String>,
    body: Body,
) -> Result<Json<Changed>, Problem> {
    let mut additions: Vec<RegisterRequest> = read_list(body?.0)?;
    for addition in &mut additions {
        if addition.instance.as_ref().is_some_and(|other| *other != instance) {
            return Err(Problem::bad(format!(
                "{:?} is of another instance than the path says",
                addition.name
            )));
        }
        addition.instance = Some(instance.clone());
    }
    let mut changes = vec![Change::Remove(shared.selector(None, Some(&instance), Vec::new())?)];
    changes.extend(shared.puts(&additions)?);
    shared.change(changes).await
}

async fn remove_instance(
    State(shared): State<Arc<ServerState>>,
    Path(instance): Path<String>,
) -> Result<Json<Changed>, Problem> {
    shared.change(vec![Change::Remove(shared.selector(None, Some(&instance), Vec::new())?)]).await
}

async fn batch(State(shared): State<Arc<ServerState>>, body: Body) -> Result<Json<Changed>, Problem> {
    let mut changes = Vec::new();
    for (i, step) in read_list(body?.0)?.into_iter().enumerate() {
        let steps = match step {
            Step::Add(addition) => shared.puts(&[addition]),
            Step::Replace(addition) => {
                let gone = shared.of_name(&addition.name, addition.instance.as_deref(), Vec::new());
                gone.and_then(|gone| {
                    let mut steps = vec![Change::Remove(gone)];
                    steps.extend(shared.puts(&[addition])?);
                    Ok(steps)
                })
            }
            Step::Remove(Meant { name: None, instance: None, addresses }) if addresses.is_empty() => {
                Err(Problem::bad("say what is to be removed: a name, an instance or addresses"))
            }
            Step::Remove(Meant { name, instance, addresses }) => {
                let gone = shared.selector(name.as_deref(), instance.as_deref(), addresses);
                gone.map(|gone| vec![Change::Remove(gone)])
            }
        };
        let told = |problem: Problem| {
            Problem::new(problem.code(), format!("item {}, nothing was changed: {}", i + 1, problem.detail()))
        };
        changes.extend(steps.map_err(told)?);
        if changes.len() > 2 * MAX_ADDITIONS {
            return Err(Problem::bad(format!(
                "more than {MAX_ADDITIONS} changes in one request: send several"
            )));
        }
    }
    shared.change(changes).await
}

/// Which names are meant.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Listing {
    /// They have this in them.
    #[serde(default)]
    search: String,
    /// No more than that.
    limit: Option<usize>,
    /// They stand behind those of an earlier answer, whose link has said this.
    cursor: Option<String>,
}

async fn all(
    State(shared): State<Arc<ServerState>>,
    listing: Result<Query<Listing>, QueryRejection>,
) -> Result<Response, Problem> {
    let Query(Listing { search, limit, cursor }) = listing?;
    let filter = Filter::Part(search.to_lowercase().into());
    let cursor = cursor.map(|text| {
        let wrong =
            || Problem::bad(format!("cursor={text:?}: no cursor; take it from the link of an answer"));
        Cursor::parse(&text).ok_or_else(wrong)
    });
    let cursor = cursor.transpose()?;
    let Some(limit) = limit.or(cursor.map(|_| MAX_LIMIT)) else {
        return Ok(stream_all(shared, filter, Some));
    };
    let link = |next| {
        let query = form_urlencoded::Serializer::new(String::new())
            .append_pair("search", &search)
            .append_pair("limit", &limit.to_string())
            .append_pair("cursor", &format!("{next}"))
            .finish();
        format!("<{}?{query}>; rel=\"next\"", paths::NAMES)
    };
    shared.limited(&filter, cursor.unwrap_or_default(), limit, link).await
}

async fn of_name(
    State(shared): State<Arc<ServerState>>,
    Path(name): Path<String>,
) -> Result<Json<Vec<Registration>>, Problem> {
    let name = register::name(&name, &shared.domains).map_err(Problem::bad)?;
    Ok(Json(shared.few(&Filter::Name(name)).await))
}

async fn of_address(
    State(shared): State<Arc<ServerState>>,
    Path(text): Path<String>,
) -> Result<Response, Problem> {
    let filter = Filter::Address(address(&text)?);
    Ok(stream_all(shared, filter, Some))
}

async fn of_instance(State(shared): State<Arc<ServerState>>, Path(instance): Path<String>) -> Response {
    stream_all(shared, Filter::Instance(instance.into()), Some)
}

async fn instances(State(shared): State<Arc<ServerState>>) -> Json<Vec<Instance>> {
    let mut counts = std::collections::BTreeMap::new();
    shared.each(&Filter::All, |it| *counts.entry((it.instance, it.node)).or_insert(0) += 1).await;
    let count = |((instance, node), registrations)| Instance { instance, node, registrations };
    Json(counts.into_iter().map(count).collect())
}
