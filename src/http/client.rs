//! Talks to a node's control listener, from another process.
//!
//! Runs on the thread that asks, for one request at a time.

use std::fmt;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::Runtime;

use crate::api::control_address::ControlAddress;

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

/// A node, as it is reached.
#[derive(Clone, Debug)]
pub struct ControlClient {
    /// Its control listener.
    pub address: ControlAddress,
    /// What it wants to be brought.
    pub token: Option<String>,
}

impl ControlClient {
    /// Sends a request and reads what is answered.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn request<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T, ClientError> {
        let request = self.prepare(method, path, body)?;
        let answered = runtime()?.block_on(async {
            let answered = async {
                let mut response = self.send(request).await?;
                let bytes = response.body_mut().collect().await?.to_bytes();
                Ok::<_, AnyError>((response.status(), bytes))
            };
            tokio::time::timeout(TIMEOUT, answered).await
        });
        let (status, bytes) = match answered {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return Err(self.unreachable(&error)),
            Err(_) => return Err(self.unreachable(&"it does not answer")),
        };
        if !status.is_success() {
            return Err(self.refused(status, &bytes));
        }
        serde_json::from_slice(&bytes)
            .map_err(|error| self.unreachable(&format_args!("what answers there is no redbreast ({error})")))
    }

    /// Reads lines as they come, until `tell` has had enough or there are no more.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn follow(&self, path: &str, mut tell: impl FnMut(&[u8]) -> bool) -> Result<(), ClientError> {
        let request = self.prepare(Method::GET, path, None::<&()>)?;
        let followed = runtime()?.block_on(async {
            let mut response = self.send(request).await?;
            if !response.status().is_success() {
                let bytes = response.body_mut().collect().await?.to_bytes();
                return Ok(Some((response.status(), bytes)));
            }
            let mut rest = Vec::new();
            while let Some(frame) = response.body_mut().frame().await {
                rest.extend_from_slice(&frame?.into_data().unwrap_or_default());
                while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                    let line: Vec<_> = rest.drain(..=end).collect();
                    if !tell(&line[..end]) {
                        return Ok(None);
                    }
                }
            }
            Ok::<_, AnyError>(None)
        });
        match followed {
            Ok(None) => Ok(()),
            Ok(Some((status, bytes))) => Err(self.refused(status, &bytes)),
            Err(error) => Err(self.unreachable(&error)),
        }
    }

    fn prepare(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<Request<Full<Bytes>>, ClientError> {
        let body = match body {
            Some(body) => serde_json::to_vec(body).map_err(|error| ClientError::Failed(error.to_string()))?,
            None => Vec::new(),
        };
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "redbreast")
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        request.body(Full::new(Bytes::from(body))).map_err(|error| ClientError::Wrong(error.to_string()))
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, AnyError> {
        match &self.address {
            ControlAddress::Tcp(address) => exchange(TcpStream::connect(address).await?, request).await,
            ControlAddress::Unix(path) => exchange(UnixStream::connect(path).await?, request).await,
        }
    }

    fn unreachable(&self, why: &dyn fmt::Display) -> ClientError {
        let address = &self.address;
        ClientError::Failed(format!(
            "cannot reach a node at {address}: {why}; is one running with that --control?"
        ))
    }

    fn refused(&self, status: StatusCode, bytes: &[u8]) -> ClientError {
        let problem: serde_json::Value = serde_json::from_slice(bytes).unwrap_or_default();
        let detail = problem["detail"].as_str().unwrap_or("it does not say why");
        if status.is_client_error() {
            ClientError::Wrong(detail.into())
        } else {
            ClientError::Failed(format!("the node at {} refused: {detail}", self.address))
        }
    }
}

type AnyError = Box<dyn std::error::Error + Send + Sync>;

fn runtime() -> Result<Runtime, ClientError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| ClientError::Failed(format!("cannot start: {error}")))
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
) -> Result<Response<Incoming>, AnyError> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // It drives the exchange, and ends with it.
    tokio::spawn(connection);
    Ok(sender.send_request(request).await?)
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
