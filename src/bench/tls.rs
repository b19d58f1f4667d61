//! What a TLS connection of the load generator needs: made by the main thread, shared by all connections.

use std::path::Path;
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use crate::any_certificate;

/// How connections are encrypted.
#[derive(Clone, Debug)]
pub struct Tls {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    verified: bool,
}

impl Tls {
    /// For a server called `name`. With a file of `authorities` in PEM form the server's certificate has to be signed by
    /// one of them and to be for that name; without, any will do: what is measured is the server, and not who it is.
    ///
    /// # Errors
    /// What is wrong with the name or the file.
    pub fn new(name: &str, authorities: Option<&Path>) -> Result<Self, String> {
        let name = ServerName::try_from(name.to_owned())
            .map_err(|_| format!("`{name}` is no name or address that a certificate can be for"))?;
        let mut config = match authorities {
            Some(path) => {
                let roots = read_authorities(path)?;
                let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
                    .with_safe_default_protocol_versions();
                config.map(|config| config.with_root_certificates(roots).with_no_client_auth())
            }
            None => any_certificate::client_config(),
        }
        .map_err(|error| error.to_string())?;
        config.alpn_protocols = vec![b"dot".to_vec()];
        Ok(Self { config: Arc::new(config), name, verified: authorities.is_some() })
    }

    /// Whether the server's certificate is looked at.
    #[must_use]
    pub fn is_verified(&self) -> bool {
        self.verified
    }

    pub(super) fn connection(&self) -> Result<ClientConnection, rustls::Error> {
        ClientConnection::new(Arc::clone(&self.config), self.name.clone())
    }
}

fn read_authorities(path: &Path) -> Result<RootCertStore, String> {
    let file = path.display();
    let bad = |error: &dyn std::fmt::Display| {
        format!("{file}: cannot be read as certificates in PEM form: {error}")
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| bad(&error))? {
        roots.add(certificate.map_err(|error| bad(&error))?).map_err(|error| bad(&error))?;
    }
    if roots.is_empty() { Err(bad(&"there is none in it")) } else { Ok(roots) }
}
