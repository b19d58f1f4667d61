//! Who may ask something of the control listener, and how much.
//!
//! Runs on the thread `http`, before each request is looked at.

use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};

use super::problem::Problem;
use super::{MAX_BODY_LEN, ServerState};
use crate::api::paths;
use crate::sys::file_error::{self, FileError};

/// Requests a second that are served in the long run, and at once after a pause.
const REQUESTS_PER_S: f64 = crate::limits::MAX_REQUESTS_PER_S as f64;

/// A request may take so long, with its body; what it asks for is done in milliseconds, on a slow disk in seconds.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Paths that need no token, and tell nothing: for those who supervise the process, and the page, which asks for the
/// token.
const OPEN: [&str; 3] = [paths::PAGE, paths::HEALTH, paths::READY];

/// Bytes of a token at least; one can be had by `openssl rand -hex 32`.
const MIN_TOKEN_LEN: usize = 16;

/// What a client has to bring, kept as its digest: so comparing takes the same time whatever comes.
#[derive(Clone, PartialEq, Eq)]
pub struct Token([u8; 32]);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

impl Token {
    /// The token that is the first line of a file.
    ///
    /// # Errors
    /// [`FileError`]: the file cannot be read, or what is in it can be guessed.
    pub fn read(path: &Path) -> Result<Self, FileError> {
        let text = String::from_utf8_lossy(&file_error::read_secret(path, "token")?).into_owned();
        let token = text.lines().next().unwrap_or_default().trim();
        if token.len() < MIN_TOKEN_LEN || token.contains(char::is_whitespace) {
            let why = format!(
                "a token has at least {MIN_TOKEN_LEN} characters and no space; `openssl rand -hex 32` makes one"
            );
            return Err(FileError::at(path, 1, why));
        }
        Ok(Self::of(token.as_bytes()))
    }

    fn of(token: &[u8]) -> Self {
        Self(Sha256::digest(token).into())
    }
}

/// What requests are measured against.
pub(super) struct Auth {
    token: Option<Token>,
    /// It is reached over TCP, and so by what runs in browsers on this machine, too.
    is_tcp: bool,
    budget: Mutex<Budget>,
}

/// A token bucket.
struct Budget {
    left: f64,
    as_of: Instant,
}

impl Budget {
    fn take(&mut self, now: Instant) -> bool {
        let earned = now.saturating_duration_since(self.as_of).as_secs_f64() * REQUESTS_PER_S;
        (self.left, self.as_of) = ((self.left + earned).min(REQUESTS_PER_S), now);
        let enough = self.left >= 1.0;
        self.left -= f64::from(u8::from(enough));
        enough
    }
}

impl Auth {
    pub(super) fn new(token: Option<Token>, is_tcp: bool) -> Self {
        let budget = Mutex::new(Budget { left: REQUESTS_PER_S, as_of: Instant::now() });
        Self { token, is_tcp, budget }
    }

    fn check(&self, path: &str, headers: &HeaderMap) -> Result<(), Problem> {
        if !self.budget.lock().is_ok_and(|mut budget| budget.take(Instant::now())) {
            return Err(Problem::new(
                StatusCode::TOO_MANY_REQUESTS,
                "more requests than are served: wait a second, and send registrations in batches",
            ));
        }
        let len =
            headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        if len.is_some_and(|len| len > MAX_BODY_LEN as u64) {
            return Err(Problem::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("a request can have {MAX_BODY_LEN} bytes: send several"),
            ));
        }
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        match &self.token {
            Some(_) if OPEN.contains(&path) => Ok(()),
            Some(token) => {
                let brought = text(header::AUTHORIZATION).and_then(|value| value.strip_prefix("Bearer "));
                if brought.is_some_and(|brought| Token::of(brought.trim().as_bytes()) == *token) {
                    return Ok(());
                }
                let why = "this node asks for its token: a header field `authorization: Bearer TOKEN`, or --token-file";
                Err(Problem::new(StatusCode::UNAUTHORIZED, why))
            }
            // A page from elsewhere, in a browser on this machine, can have its own name lead here (DNS rebinding):
            // such requests say that name.
            None if self.is_tcp && !text(header::HOST).is_none_or(is_own_host) => Err(Problem::new(
                StatusCode::FORBIDDEN,
                "without a token this node is asked by its address, as http://127.0.0.1:6784, or as localhost",
            )),
            None if self.is_tcp && !text(header::ORIGIN).is_none_or(is_own_origin) => Err(Problem::new(
                StatusCode::FORBIDDEN,
                "without a token pages from elsewhere cannot ask this node",
            )),
            None => Ok(()),
        }
    }
}

/// Whether a host field says an address or one of the names that nobody else can have.
fn is_own_host(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(v6) => return v6.split_once(']').is_some_and(|(v6, _)| v6.parse::<IpAddr>().is_ok()),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name.is_empty() || name.parse::<IpAddr>().is_ok() || ["localhost", "redbreast"].contains(&name)
}

fn is_own_origin(origin: &str) -> bool {
    origin.strip_prefix("http://").is_some_and(is_own_host)
}

/// Lets a request through, or says why not.
pub(super) async fn admit(State(shared): State<Arc<ServerState>>, request: Request, next: Next) -> Response {
    if let Err(problem) = shared.auth.check(request.uri().path(), request.headers()) {
        let is_unauthorized = problem.code() == StatusCode::UNAUTHORIZED;
        let mut response = problem.into_response();
        if is_unauthorized {
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
        }
        return response;
    }
    match tokio::time::timeout(REQUEST_TIMEOUT, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            Problem::new(StatusCode::REQUEST_TIMEOUT, "the request took too long to come, or to be done")
                .into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let parse = |(name, value): &(&'static str, &'static str)| {
            (header::HeaderName::from_static(name), header::HeaderValue::from_static(value))
        };
        fields.iter().map(parse).collect()
    }

    #[test]
    fn a_token_is_asked_for_where_there_is_one() {
        let auth = Auth::new(Some(Token::of(b"0123456789abcdef")), true);
        let check = |path: &str, value| auth.check(path, &headers(&[("authorization", value)])).is_ok();
        assert!(check("/v1/names", "Bearer 0123456789abcdef"));
        for wrong in ["Bearer 0123456789abcdeF", "Bearer", "Basic 0123456789abcdef", "0123456789abcdef"] {
            assert!(!check("/v1/names", wrong), "{wrong}");
        }
        assert!(auth.check("/v1/names", &HeaderMap::new()).is_err());
        assert!(auth.check("/health", &HeaderMap::new()).is_ok());
        assert!(auth.check("/metrics", &HeaderMap::new()).is_err());
    }

    #[test]
    fn pages_from_elsewhere_are_kept_out() {
        let auth = Auth::new(None, true);
        for host in ["127.0.0.1:6784", "localhost", "[::1]:80", "redbreast", "localhost:6784"] {
            assert!(auth.check("/", &headers(&[("host", host)])).is_ok(), "{host}");
        }
        for host in ["evil.example", "evil.example:6784", "[::1", "127.0.0.1.evil.example"] {
            assert!(auth.check("/", &headers(&[("host", host)])).is_err(), "{host}");
        }
        let of_page =
            |origin| auth.check("/", &headers(&[("host", "127.0.0.1"), ("origin", origin)])).is_ok();
        assert!(of_page("http://127.0.0.1:6784"));
        assert!(!of_page("https://evil.example") && !of_page("null"));
        assert!(Auth::new(None, false).check("/", &headers(&[("host", "any")])).is_ok());
    }

    #[test]
    fn there_is_an_end_to_how_much_is_served() {
        let begin = Instant::now();
        let mut budget = Budget { left: 2.0, as_of: begin };
        assert!(budget.take(begin) && budget.take(begin) && !budget.take(begin));
        assert!(budget.take(begin + Duration::from_millis(1)));
    }
}
