//! Talks to a node's control listener.
//!
//! Runs on the main thread, for one request.

use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use super::Failure;
use crate::registry::control_address::ControlAddress;

/// How long a node may take: it answers at once, but for what has to get to a slow disk first.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Which node to talk to, and how to tell what it says.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct ControlArgs {
    /// The node's control address
    #[arg(long, value_name = "ADDR:PORT|unix:PATH", default_value_t = ControlAddress::DEFAULT)]
    pub(super) control: ControlAddress,

    /// Tell it as JSON
    #[arg(long)]
    pub(super) json: bool,
}

/// Part of a path, with what is special there escaped.
pub(super) fn escape(text: &str) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~".contains(byte);
    text.bytes()
        .map(|byte| if plain(&byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

/// Sends a request and reads what is answered.
///
/// # Errors
/// A failure that tells what the node refused and why (exit status 2 if the request was wrong), or that it cannot be
/// reached.
pub(super) fn request<T: DeserializeOwned>(
    address: &ControlAddress,
    method: Method,
    path: &str,
    body: Option<&impl Serialize>,
) -> Result<T, Failure> {
    let unreachable = |why: &dyn std::fmt::Display| {
        Failure::failed(format!(
            "cannot reach a node at {address}: {why}; is one running with that --control?"
        ))
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::failed(format!("cannot start: {error}")))?;
    let body = match body {
        Some(body) => serde_json::to_vec(body).map_err(|error| Failure::failed(error.to_string()))?,
        None => Vec::new(),
    };
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, "redbreast")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| Failure::usage(error.to_string()))?;
    let answered = runtime.block_on(async {
        let answered = async {
            match address {
                ControlAddress::Tcp(address) => exchange(TcpStream::connect(address).await?, request).await,
                ControlAddress::Unix(path) => exchange(UnixStream::connect(path).await?, request).await,
            }
        };
        tokio::time::timeout(TIMEOUT, answered).await
    });
    let (status, bytes) = match answered {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => return Err(unreachable(&error)),
        Err(_) => return Err(unreachable(&"it does not answer")),
    };
    if !status.is_success() {
        let problem: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let detail = problem["detail"].as_str().unwrap_or("it does not say why");
        return Err(if status.is_client_error() {
            Failure::usage(detail)
        } else {
            Failure::failed(format!("the node at {address} refused: {detail}"))
        });
    }
    serde_json::from_slice(&bytes)
        .map_err(|error| unreachable(&format_args!("what answers there is no redbreast ({error})")))
}

type AnyError = Box<dyn std::error::Error + Send + Sync>;

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
) -> Result<(StatusCode, Bytes), AnyError> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // It drives the exchange, and ends with it.
    let driver = tokio::spawn(connection);
    let response = sender.send_request(request).await?;
    let status = response.status();
    let bytes = response.into_body().collect().await?.to_bytes();
    driver.abort();
    Ok((status, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_special_in_a_path_is_escaped() {
        assert_eq!(escape("web-1.example"), "web-1.example");
        assert_eq!(escape("a/b ?%\u{e4}"), "a%2Fb%20%3F%25%C3%A4");
    }
}
