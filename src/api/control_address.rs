//! Where a node's control listener is: a TCP address or the path of a Unix socket.
//!
//! Pure.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

/// The address of a control listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlAddress {
    /// An address and port.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

impl ControlAddress {
    /// Where it is unless told otherwise.
    pub const DEFAULT: Self = Self::Tcp(SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 6784));
}

impl fmt::Display for ControlAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl FromStr for ControlAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.is_empty() {
                Err("a path has to follow `unix:`".into())
            } else {
                Ok(Self::Unix(path.into()))
            };
        }
        text.parse().map(Self::Tcp).map_err(|_| "expected ADDR:PORT or unix:PATH".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_back_as_they_were_given() {
        for text in ["127.0.0.1:6784", "[::1]:80", "unix:/run/redbreast.sock"] {
            assert_eq!(text.parse::<ControlAddress>().unwrap().to_string(), text);
        }
        for wrong in ["", "unix:", "localhost:80", "127.0.0.1", "/run/redbreast.sock"] {
            assert!(wrong.parse::<ControlAddress>().is_err(), "{wrong}");
        }
        assert_eq!(ControlAddress::DEFAULT.to_string(), "127.0.0.1:6784");
    }
}
