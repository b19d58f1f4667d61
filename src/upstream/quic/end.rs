//! Why a connection over QUIC has ended, in the words of the other streams.

use quinn_proto::{ApplicationClose, ConnectionError, TransportErrorCode, VarInt};
use rustls::AlertDescription;

use crate::upstream::standing::End;

/// Errors of TLS are those of QUIC from here on, each with its alert (RFC 9001 §4.8).
const CRYPTO_ERRORS: u64 = 0x100;

/// Why one has ended for this `reason`: with `refusal` if the server's certificate was refused, and with `silence` if
/// nothing came. Nothing of what the server may have put in words is in it.
pub(super) fn end_of(reason: &ConnectionError, refusal: Option<rustls::Error>, silence: End) -> End {
    match reason {
        ConnectionError::TransportError(error) => match refusal {
            Some(refusal) => End::Tls(refusal),
            None if alert_of(error.code).is_some() => End::Quic(format!("TLS has failed: {}", error.reason)),
            None => End::Quic(format!("it breaks the rules of QUIC: {}", error.code)),
        },
        ConnectionError::ConnectionClosed(close) => match alert_of(close.error_code) {
            Some(alert) => End::Tls(rustls::Error::AlertReceived(alert)),
            None if close.error_code == TransportErrorCode::NO_ERROR => End::ByServer,
            None => End::Quic(format!("it has ended the connection: {}", close.error_code)),
        },
        ConnectionError::ApplicationClosed(close) => of_application(close),
        ConnectionError::VersionMismatch => {
            End::Quic("it speaks no version of QUIC that is known here".into())
        }
        ConnectionError::Reset => End::Quic("it does not know the connection any more".into()),
        ConnectionError::TimedOut => silence,
        ConnectionError::LocallyClosed | ConnectionError::CidsExhausted => End::Quic(reason.to_string()),
    }
}

#[allow(clippy::cast_possible_truncation)] // of a number that has eight bits
fn alert_of(code: TransportErrorCode) -> Option<AlertDescription> {
    let code = u64::from(code);
    (code & !0xff == CRYPTO_ERRORS).then(|| AlertDescription::from(code as u8))
}

fn of_application(close: &ApplicationClose) -> End {
    match close.error_code.into_inner() {
        0 => End::ByServer,
        _ => End::Quic(format!("it has ended the connection: {}", meaning(close.error_code))),
    }
}

/// The errors of RFC 9250 §8.4.
pub(super) fn meaning(code: VarInt) -> String {
    match code.into_inner() {
        0 => "no error".into(),
        1 => "an internal error".into(),
        2 => "a protocol error".into(),
        3 => "it has cancelled what was asked".into(),
        4 => "excessive load".into(),
        5 => "an error that it does not specify".into(),
        code => format!("error {code}"),
    }
}
