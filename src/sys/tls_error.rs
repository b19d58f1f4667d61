//! Why a TLS server was not believed, for the person who set it up: what is wrong, and what to do.
//!
//! Pure.

use std::fmt;
use std::io;

use jiff::Timestamp;
use rustls::pki_types::UnixTime;
use rustls::{CertificateError, Error, ExtendedKeyPurpose, PeerIncompatible};

/// That a server's key is none of those that are known; this is its pin.
#[derive(Debug)]
pub struct WrongKey(pub String);

impl fmt::Display for WrongKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "its key is {}, which is not one that is given here: another server answers at this address, or it has a \
             new key. Ask whoever runs it for the hash, and give that, too",
            self.0
        )
    }
}

impl std::error::Error for WrongKey {}

/// Whether a server has shown a certificate that may only sign others.
#[must_use]
pub fn is_authority_as_server(error: &Error) -> bool {
    let Error::InvalidCertificate(CertificateError::Other(other)) = error else { return false };
    other.to_string() == AUTHORITY_AS_SERVER
}

/// What the library says then. It has no variant for it that could be matched; a test sees that it still says so.
const AUTHORITY_AS_SERVER: &str = "CaUsedAsEndEntity";

/// What is wrong, and what to do.
#[must_use]
pub fn text(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(error) => of_certificate(error),
        Error::NoCertificatesPresented => "it has shown no certificate: give it one, with its key".into(),
        Error::AlertReceived(alert) => {
            format!("it has ended the handshake: {}", words(&format!("{alert:?}")))
        }
        Error::InvalidMessage(_) | Error::InappropriateMessage { .. } => {
            format!(
                "what it sends is no TLS ({error}): is this the port of plain DNS? DNS over TLS is at port 853"
            )
        }
        Error::PeerIncompatible(PeerIncompatible::ServerDoesNotSupportTls12Or13) => {
            "it speaks neither TLS 1.2 nor TLS 1.3: bring it up to date".into()
        }
        Error::PeerIncompatible(why) => {
            format!("there is nothing that both sides know: {}", words(&format!("{why:?}")))
        }
        Error::PeerMisbehaved(why) => format!("it breaks the rules of TLS: {}", words(&format!("{why:?}"))),
        Error::NoApplicationProtocol => {
            "it speaks something else than DNS over TLS at this port (ALPN)".into()
        }
        Error::DecryptError => {
            "what it sends cannot be decrypted: it was changed on its way, or is no TLS".into()
        }
        Error::FailedToGetCurrentTime => "this machine has no clock to check its certificate by".into(),
        other => other.to_string(),
    }
}

/// The same of an error that may be one of TLS within.
#[must_use]
pub fn text_of_io(error: &io::Error) -> String {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(error) => text(error),
        None => error.to_string(),
    }
}

fn of_certificate(error: &CertificateError) -> String {
    use CertificateError as E;
    match error {
        E::ExpiredContext { time, not_after } => format!(
            "its certificate has expired: it was valid until {}, and now it is {}. Renew it there, or set this \
             machine's clock",
            date(*not_after),
            date(*time)
        ),
        E::Expired => "its certificate has expired, or ends before it begins: renew it there".into(),
        E::NotValidYetContext { time, not_before } => format!(
            "its certificate is not valid yet: it will be from {} on, and now it is {}. Set this machine's clock, or \
             the one where it was made",
            date(*not_before),
            date(*time)
        ),
        E::NotValidYet => "its certificate is not valid yet: set this machine's clock, or the one where it was \
                           made".into(),
        E::UnknownIssuer => "its certificate was signed by nobody who is trusted here: give the certificate of its \
                             authority, or the server's own if it has signed itself, as PEM; and see that the server \
                             shows the certificates between that and its own, too"
            .into(),
        E::NotValidForNameContext { expected, presented } if presented.is_empty() => format!(
            "its certificate is for no name at all, and {} was expected (the common name does not count): make one \
             with subjectAltName={}",
            expected.to_str(),
            alternative_name(&expected.to_str())
        ),
        E::NotValidForNameContext { expected, presented } => format!(
            "its certificate is for {}, and not for {}: ask for it by a name that it has, or make one with \
             subjectAltName={}",
            presented.iter().map(|name| plain(name)).collect::<Vec<_>>().join(", "),
            expected.to_str(),
            alternative_name(&expected.to_str())
        ),
        E::NotValidForName => "its certificate is for another name".into(),
        E::BadSignature => "its certificate, or the handshake, has a signature that is not by the key that it should \
                            be by: the certificate was changed, or an authority of the same name has another key by now"
            .into(),
        E::BadEncoding => "its certificate cannot be read: it is damaged, or of a kind that is no longer used".into(),
        E::InvalidPurposeContext { presented, .. } => {
            let purposes: Vec<_> = presented.iter().map(purpose).collect();
            format!(
                "its certificate is for {}, and not for servers: make one with extendedKeyUsage=serverAuth",
                purposes.join(", ")
            )
        }
        E::InvalidPurpose => "its certificate is not for servers: make one with extendedKeyUsage=serverAuth".into(),
        E::Revoked => "its certificate has been revoked: get a new one".into(),
        E::UnhandledCriticalExtension => "its certificate has an extension that is critical and not known here: make \
                                          one without it"
            .into(),
        E::UnsupportedSignatureAlgorithmContext { .. }
        | E::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            "its certificate, or one that it shows besides, is signed in a way that is not taken here (SHA-1, DSA, \
             Ed448 or a short RSA key, for example): make one with ECDSA P-256, or RSA with 2048 bits and SHA-256"
                .into()
        }
        E::Other(other) => of_verifier(&other.to_string()),
        other => match other.to_string() {
            text if text.contains(' ') => text,
            text => format!("its certificate cannot be used: {}", words(&text)),
        },
    }
}

/// What the library that checks certificates says by a word.
fn of_verifier(word: &str) -> String {
    match word {
        AUTHORITY_AS_SERVER => "its certificate is that of an authority (CA:TRUE), which can sign others but is no \
                                server's. Make one for the server with basicConstraints=CA:FALSE; or give this very \
                                certificate as one that is trusted, or the hash of its key"
            .into(),
        "UnsupportedCertVersion" => "its certificate is of version 1, which has no names: make one of version 3, with \
                                     subjectAltName"
            .into(),
        "EndEntityUsedAsCa" => "one of the certificates that it shows is signed by a certificate that may sign none: \
                                have it signed by one with basicConstraints=CA:TRUE"
            .into(),
        "NameConstraintViolation" => "its authority may not sign for the name in its certificate (nameConstraints): \
                                      have it signed by another"
            .into(),
        "PathLenConstraintViolated" => "there are more certificates between its own and its authority than that \
                                        authority allows (pathlen)"
            .into(),
        // Ours is a sentence by itself.
        own if own.contains(' ') => own.into(),
        other => format!("its certificate cannot be used: {}", words(other)),
    }
}

/// A name as the library lists it: `DnsName("dns.example")`, `IpAddress(192.0.2.1)`.
fn plain(presented: &str) -> &str {
    let inner = presented.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')')).unwrap_or(presented);
    inner.trim_matches('"')
}

/// As a request for a certificate has it.
fn alternative_name(name: &str) -> String {
    let is_address = name.parse::<std::net::IpAddr>().is_ok();
    format!("{}:{name}", if is_address { "IP" } else { "DNS" })
}

fn purpose(purpose: &ExtendedKeyPurpose) -> String {
    match purpose {
        ExtendedKeyPurpose::ServerAuth => "servers".into(),
        ExtendedKeyPurpose::ClientAuth => "clients".into(),
        ExtendedKeyPurpose::Other(id) => id.iter().map(ToString::to_string).collect::<Vec<_>>().join("."),
    }
}

fn date(time: UnixTime) -> String {
    let time = i64::try_from(time.as_secs()).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    time.map_or_else(
        || "a time that no calendar has".into(),
        |time| time.strftime("%Y-%m-%d %H:%M UTC").to_string(),
    )
}

/// The words in the name of a variant: `HandshakeFailure` is "handshake failure".
fn words(name: &str) -> String {
    let mut words = String::new();
    let mut before = ' ';
    for letter in name.chars() {
        if letter.is_uppercase() && before.is_lowercase() {
            words.push(' ');
        }
        words.extend(letter.to_lowercase());
        before = letter;
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::AlertDescription;
    use std::time::Duration;

    fn at(seconds: u64) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs(seconds))
    }

    #[test]
    fn times_and_names_are_told_as_people_write_them() {
        let expired =
            CertificateError::ExpiredContext { time: at(1_780_272_000), not_after: at(1_735_689_600) };
        let told = text(&Error::InvalidCertificate(expired));
        assert!(told.contains("until 2025-01-01 00:00 UTC, and now it is 2026-06-01 00:00 UTC"), "{told}");
        let early = CertificateError::NotValidYetContext { time: at(0), not_before: at(1_735_689_600) };
        let told = text(&Error::InvalidCertificate(early));
        assert!(told.contains("from 2025-01-01 00:00 UTC on, and now it is 1970-01-01"), "{told}");
        assert_eq!(date(at(u64::MAX)), "a time that no calendar has");
    }

    #[test]
    fn nothing_is_told_as_the_library_has_it_in_its_code() {
        for (error, expected) in [
            (Error::AlertReceived(AlertDescription::HandshakeFailure), "handshake failure"),
            (Error::AlertReceived(AlertDescription::UnknownCA), "unknown ca"),
            (Error::PeerIncompatible(PeerIncompatible::ServerDoesNotSupportTls12Or13), "neither TLS 1.2 nor"),
            (Error::PeerIncompatible(PeerIncompatible::NoCipherSuitesInCommon), "no cipher suites in common"),
            (Error::NoApplicationProtocol, "something else than DNS over TLS"),
            (Error::NoCertificatesPresented, "no certificate"),
            (Error::InvalidCertificate(CertificateError::Revoked), "revoked"),
            (
                Error::InvalidCertificate(CertificateError::UnknownRevocationStatus),
                "unknown revocation status",
            ),
        ] {
            let told = text(&error);
            assert!(told.contains(expected), "{told}");
            assert!(!told.contains("Other(") && !told.contains("::"), "{told}");
        }
    }
}
