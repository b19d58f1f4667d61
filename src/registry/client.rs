//! Talks to a node's control listener, from another process.
//!
//! Runs on the thread that asks, for one request at a time.

use std::fmt;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use super::control_address::ControlAddress;

/// How long a node may take: it answers at once, but for what has to get to a slow disk first.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Why a node did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientError {
    /// What was asked makes no sense to it.
    Wrong(String),
    /// It cannot be reached, or cannot do it.
    Failed(String),
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Wrong(what) | Self::Failed(what)) = self;
        f.write_str(what)
    }
}

impl std::error::Error for ClientError {}

/// Part of a path, with what is special there escaped.
#[must_use]
pub fn escape(text: &str) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~".contains(byte);
    text.bytes()
        .map(|byte| if plain(&byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

/// Sends a request and reads what is answered.
///
/// # Errors
/// [`ClientError`].
pub fn request<T: DeserializeOwned>(
    address: &ControlAddress,
    method: Method,
    path: &str,
    body: Option<&impl Serialize>,
) -> Result<T, ClientError> {
    let unreachable = |why: &dyn std::fmt::Display| {
        ClientError::Failed(format!(
            "cannot reach a node at {address}: {why}; is one running with that --control?"
        ))
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| ClientError::Failed(format!("cannot start: {error}")))?;
    let body = match body {
        Some(body) => serde_json::to_vec(body).map_err(|error| ClientError::Failed(error.to_string()))?,
        None => Vec::new(),
    };
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, "redbreast")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| ClientError::Wrong(error.to_string()))?;
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
            ClientError::Wrong(detail.into())
        } else {
            ClientError::Failed(format!("the node at {address} refused: {detail}"))
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
