//! What a TLS connection of the load generator needs: made by the main thread, shared by all connections.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};

use crate::sys::tls_error;
use crate::sys::tls_trust::Trust;

/// How connections are encrypted.
#[derive(Clone, Debug)]
pub struct Tls {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl Tls {
    /// For a server called `name`. With a file of `authorities` in PEM form the server's certificate has to be signed
    /// by one of them and to be for that name; without, any will do: what is measured is the server, and not who it is.
    ///
    /// # Errors
    /// What is wrong with the name or the file.
    pub fn new(name: &str, authorities: Option<&Path>) -> Result<Self, String> {
        let name = ServerName::try_from(name.to_owned())
            .map_err(|_| format!("`{name}` is no name or address that a certificate can be for"))?;
        let mut config = match authorities {
            Some(path) => {
                let trust = Trust::of_file(path).map_err(|error| {
                    format!("{}: cannot be read as certificates in PEM form: {error}", path.display())
                })?;
                trust.client_config(&[], true)
            }
            None => Trust::default().client_config(&[], false),
        }
        .map_err(|error| tls_error::text(&error))?;
        config.alpn_protocols = vec![b"dot".to_vec()];
        Ok(Self { config: Arc::new(config), name })
    }

    pub(super) fn connection(&self) -> Result<ClientConnection, rustls::Error> {
        ClientConnection::new(Arc::clone(&self.config), self.name.clone())
    }
}
