//! The API of weaveDNS 1.1, so that scripts that were written for it keep working. docs/weave.md has what differs.
//!
//! Runs on the thread `http`, asynchronously.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, RawQuery, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::{get, put};
use serde::Serialize;

use super::ServerState;
use super::listing::stream_all;
use super::names::address;
use super::problem::Problem;
use crate::api::register;
use crate::api::request::{Change, Filter, NODE_INSTANCE, RegisterRequest, Registration, Selector};

pub(super) fn router() -> Router<Arc<ServerState>> {
    Router::new()
        .route("/name", get(entries).delete(remove_all))
        .route("/name/{container}", axum::routing::delete(remove_container))
        .route("/name/{container}/{ip}", put(add).delete(remove))
        .route("/domain", get(domain))
        .route("/dns-address", get(dns_address))
        .route("/dns-address-port", get(dns_address_port))
}

/// The fields of a form: those in the address and those in the body.
struct Form(Vec<(String, String)>);

impl Form {
    fn read(query: Option<&str>, body: &str) -> Self {
        let parse = |text: &str| {
            let pairs = form_urlencoded::parse(text.as_bytes());
            pairs.map(|(name, value)| (name.into_owned(), value.into_owned())).collect::<Vec<_>>()
        };
        Self([parse(body), parse(query.unwrap_or_default())].concat())
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(it, _)| it == name).map(|(_, value)| value.as_str()).filter(|it| !it.is_empty())
    }
}

async fn add(
    State(shared): State<Arc<ServerState>>,
    Path((container, ip)): Path<(String, String)>,
    RawQuery(query): RawQuery,
    body: String,
) -> Result<StatusCode, Problem> {
    let form = Form::read(query.as_deref(), &body);
    let name = form.get("fqdn").ok_or_else(|| Problem::bad("say which name: ?fqdn=NAME"))?;
    let addition = RegisterRequest {
        name: name.into(),
        addresses: vec![address(&ip)?],
        instance: Some(container.clone()),
        ..RegisterRequest::default()
    };
    let changes = shared.puts(&[addition])?;
    if form.get("check-alive") == Some("true") && shared.view.is_running(&container) == Some(false) {
        // As there: whoever dies before its name is there does not leave it behind.
        return Ok(StatusCode::NO_CONTENT);
    }
    let _ = shared.change(changes).await?;
    Ok(StatusCode::NO_CONTENT)
}

impl ServerState {
    /// Removes all that matches what is said.
    async fn remove_matching(
        &self,
        container: Option<&str>,
        ip: Option<&str>,
        form: &Form,
    ) -> Result<StatusCode, Problem> {
        let name = form.get("fqdn").map(|name| register::name(name, &self.domains));
        let instance = container.filter(|it| *it != "*").map(|it| register::instance(Some(it)));
        let ip = ip.filter(|it| *it != "*").map(address).transpose()?;
        let which = Selector {
            name: name.transpose().map_err(Problem::bad)?,
            instance: instance.transpose().map_err(Problem::bad)?.map(Into::into),
            addresses: ip.into_iter().collect(),
            ..Selector::default()
        };
        let _ = self.change(vec![Change::Remove(which)]).await?;
        Ok(StatusCode::NO_CONTENT)
    }

    /// Where this node answers DNS queries.
    fn dns(&self) -> Result<std::net::SocketAddr, Problem> {
        let status = self.view.status();
        let unspecified = || Problem::new(StatusCode::NOT_FOUND, "the node answers at all addresses");
        status.dns.into_iter().find(|address| !address.ip().is_unspecified()).ok_or_else(unspecified)
    }
}

async fn remove(
    State(shared): State<Arc<ServerState>>,
    Path((container, ip)): Path<(String, String)>,
    RawQuery(query): RawQuery,
    body: String,
) -> Result<StatusCode, Problem> {
    shared.remove_matching(Some(&container), Some(&ip), &Form::read(query.as_deref(), &body)).await
}

async fn remove_container(
    State(shared): State<Arc<ServerState>>,
    Path(container): Path<String>,
    RawQuery(query): RawQuery,
    body: String,
) -> Result<StatusCode, Problem> {
    shared.remove_matching(Some(&container), None, &Form::read(query.as_deref(), &body)).await
}

async fn remove_all(
    State(shared): State<Arc<ServerState>>,
    RawQuery(query): RawQuery,
    body: String,
) -> Result<StatusCode, Problem> {
    shared.remove_matching(None, None, &Form::read(query.as_deref(), &body)).await
}

/// An address of a name, with the names that weaveDNS has for its fields.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct WeaveAddress {
    #[serde(rename = "ContainerID")]
    container_id: String,
    origin: String,
    addr: String,
    hostname: String,
    version: u64,
    /// When it was removed; what is told here has not been.
    tombstone: i64,
}

async fn entries(State(shared): State<Arc<ServerState>>) -> Response {
    // The node's own name is not somebody's.
    let is_answered =
        |it: &Registration| it.up && matches!(&*it.rtype, "A" | "AAAA") && it.instance != NODE_INSTANCE;
    let entry = move |it: Registration| {
        if !is_answered(&it) {
            return None;
        }
        let Registration { instance, node, data, name, .. } = it;
        Some(WeaveAddress {
            container_id: instance,
            origin: node,
            addr: data,
            hostname: name,
            version: 0,
            tombstone: 0,
        })
    };
    stream_all(shared, Filter::All, entry)
}

async fn domain(State(shared): State<Arc<ServerState>>) -> String {
    shared.domains.first().map(ToString::to_string).unwrap_or_default()
}

async fn dns_address(State(shared): State<Arc<ServerState>>) -> Result<String, Problem> {
    Ok(shared.dns()?.ip().to_string())
}

async fn dns_address_port(State(shared): State<Arc<ServerState>>) -> Result<String, Problem> {
    Ok(shared.dns()?.to_string())
}
