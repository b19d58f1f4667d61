//! The connections of the control listener, with their limits.
//!
//! Runs on the thread `http`. A client that is slow, silent or one of too many costs the others nothing: it is let go.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Connections at the same time at most.
const MAX_CONNECTIONS: usize = crate::limits::MAX_CONTROL_CONNECTIONS;

/// A client may take so long to say what it wants, or between two requests.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes of a request before its body at most, and header fields.
const MAX_HEADER_LEN: usize = 16 << 10;
const MAX_HEADERS: usize = 64;

/// After the kernel had no descriptor for a connection it is tried again then.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What is said to one connection too many.
const FULL: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nretry-after: 1\r\nconnection: close\r\n\r\n";

/// Where connections come from.
pub(super) enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// Serves what connects, for as long as it is polled.
pub(super) async fn serve(socket: Socket, router: Router) {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let permit = Arc::clone(&permits).try_acquire_owned().ok();
        let accepted = match &socket {
            Socket::Tcp(listener) => listener.accept().await.map(|(stream, _)| {
                // Small answers shall not wait for each other's acknowledgements; a failure costs only time.
                let _ = stream.set_nodelay(true);
                begin(stream, permit, &router);
            }),
            Socket::Unix(listener) => {
                listener.accept().await.map(|(stream, _)| begin(stream, permit, &router))
            }
        };
        if accepted.is_err() {
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
    }
}

/// Serves one connection, if there was room for it, or tells it that there is none.
fn begin(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    permit: Option<OwnedSemaphorePermit>,
    router: &Router,
) {
    let router = router.clone();
    tokio::spawn(async move {
        let mut stream = stream;
        if permit.is_none() {
            // It may have gone.
            let _ = tokio::time::timeout(HEADER_TIMEOUT, stream.write_all(FULL)).await;
            return;
        }
        let service = TowerToHyperService::new(router);
        // What goes wrong with a connection is its client's: it is over.
        let _ = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .max_headers(MAX_HEADERS)
            .max_buf_size(MAX_HEADER_LEN)
            .serve_connection(TokioIo::new(stream), service)
            .await;
        drop(permit);
    });
}
