//! How connections over QUIC are set up: what each may take of time and memory, and what of QUIC is not used.
//!
//! Pure. Shared by all workers.

use std::sync::{Arc, LazyLock};

use quinn_proto::crypto::rustls::QuicClientConfig;
use quinn_proto::{
    ClientConfig, EndpointConfig, IdleTimeout, NoneTokenStore, RandomConnectionIdGenerator, TransportConfig,
    VarInt,
};

use crate::limits::{QUIC_WINDOW_LEN, UPSTREAM_QUEUE_LEN};
use crate::upstream::standing::{ANSWER_TIMEOUT, IDLE_TIMEOUT};
use crate::wire::framing::FRAME_LEN;

/// The one version that is spoken (RFC 9000).
const VERSION_1: u32 = 1;

/// Bytes of a server's handshake that may come before those in front of them: a long chain of certificates is 10 KiB.
const HANDSHAKE_LEN: usize = 64 << 10;

#[allow(clippy::cast_possible_truncation)] // each is below 2^24
static TRANSPORT: LazyLock<Arc<TransportConfig>> = LazyLock::new(|| {
    let mut transport = TransportConfig::default();
    // Servers open no streams (RFC 9250 §4.2): one that does breaks the protocol, and the connection ends.
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(0));
    // The longest answer fits whole. What has come is read at once, but for what comes out of order: so much is held of
    // that.
    transport.stream_receive_window(VarInt::from_u32(FRAME_LEN as u32));
    transport.receive_window(VarInt::from_u32(QUIC_WINDOW_LEN as u32));
    transport.send_window(UPSTREAM_QUEUE_LEN as u64);
    transport.crypto_buffer_size(HANDSHAKE_LEN);
    // Ours are shorter, and say what was waited for; the server's may be shorter still. It may forget the connection
    // after this.
    transport.max_idle_timeout(IdleTimeout::try_from(IDLE_TIMEOUT + ANSWER_TIMEOUT).ok());
    // Queries are short, and how long the server's packets are is for it to find out: so nothing is sent to find out
    // for ours.
    transport.mtu_discovery_config(None);
    // `pad_to_mtu` stays off, though it would hide lengths (RFC 9250 §5.4): it pads acknowledgements, too, which then
    // count as bytes in flight that nobody acknowledges. Who only receives has its congestion window full of them soon,
    // and acknowledges no more.
    transport.datagram_receive_buffer_size(None);
    transport.enable_segmentation_offload(false);
    // It would tell whoever watches how far the server is.
    transport.allow_spin(false);
    Arc::new(transport)
});

static ENDPOINT: LazyLock<Arc<EndpointConfig>> = LazyLock::new(|| {
    let mut config = EndpointConfig::default();
    // A connection has a socket of its own and stays on it: ids in each packet to us would only take room.
    config.cid_generator(|| Box::new(RandomConnectionIdGenerator::new(0)));
    config.supported_versions(vec![VERSION_1]);
    Arc::new(config)
});

/// What all endpoints have in common.
pub(super) fn endpoint_config() -> Arc<EndpointConfig> {
    Arc::clone(&ENDPOINT)
}

/// A connection's set-up, with sessions of `tls`, which is of TLS 1.3 alone and has RFC 9250's ALPN. 0-RTT stays off:
/// whoever has recorded a query could have the server answer it again (RFC 9250 §4.5).
///
/// # Errors
/// When `tls` lacks the cipher that every handshake of QUIC begins with.
pub(crate) fn client_config(tls: Arc<rustls::ClientConfig>) -> Result<ClientConfig, rustls::Error> {
    let crypto = QuicClientConfig::try_from(tls)
        .map_err(|_| rustls::Error::General("it cannot be used for QUIC".into()))?;
    let mut config = ClientConfig::new(Arc::new(crypto));
    config.version(VERSION_1);
    config.transport_config(Arc::clone(&TRANSPORT));
    // Nothing is kept of a server but its sessions of TLS.
    config.token_store(Arc::new(NoneTokenStore));
    Ok(config)
}
