//! Who a TLS server has to be, and how it shows that: by a certificate of an authority, by the very certificate that is
//! known here, or by its key.
//!
//! Read by the main thread at the start; the checks run on the threads that connect. RFC 8310 calls this the strict
//! profile: there is no way round the check. A pin is that of RFC 7858 §4.2, in the form of RFC 7469.

use std::cell::Cell;
use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use domain::utils::base64;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::version::TLS13;
use rustls::{
    ALL_VERSIONS, CertificateError, ClientConfig, DigitallySignedStruct, Error, OtherError, RootCertStore,
    SignatureScheme, SupportedProtocolVersion,
};
use sha2::{Digest, Sha256};

use crate::sys::tls_error::{self, WrongKey};

/// Sessions that one set of rules can resume: some of each upstream.
const MAX_RESUMED: usize = 256;

/// What a pin begins with: how the key is hashed.
const PIN_PREFIX: &str = "sha256//";

/// The SHA-256 hash of a server's public key, as its certificate has it (SubjectPublicKeyInfo).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyPin([u8; 32]);

impl KeyPin {
    /// Whether `text` is meant to be one.
    #[must_use]
    pub fn is_meant(text: &str) -> bool {
        text.contains("//")
    }

    fn of(certificate: &ParsedCertificate<'_>) -> Self {
        Self(Sha256::digest(certificate.subject_public_key_info()).into())
    }
}

impl fmt::Display for KeyPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PIN_PREFIX)?;
        base64::display(&self.0[..], f)
    }
}

impl fmt::Debug for KeyPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for KeyPin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let hash = text.strip_prefix(PIN_PREFIX).and_then(|text| base64::decode::<Vec<u8>>(text).ok());
        hash.and_then(|hash| <[u8; 32]>::try_from(hash).ok()).map(Self).ok_or_else(|| {
            format!(
                "`{text}` is no hash of a key; expected `{PIN_PREFIX}` and the SHA-256 hash in base64, 44 \
                     characters"
            )
        })
    }
}

/// Who a server has to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerIdentity {
    /// The name that its certificate has to be for: a DNS name, or its address.
    pub name: ServerName<'static>,
    /// It has to have one of these keys, if there are any.
    pub pins: Vec<KeyPin>,
    /// Its certificate has to hold, and to be for the name. Where there are pins it need not.
    pub certified: bool,
}

/// What is known here of authorities, and of servers themselves.
#[derive(Clone, Debug)]
pub struct Trust {
    roots: RootCertStore,
    /// The certificates of a file. One that a server shows is that server's.
    known: Vec<CertificateDer<'static>>,
}

impl Default for Trust {
    /// Nobody is trusted.
    fn default() -> Self {
        Self { roots: RootCertStore::empty(), known: Vec::new() }
    }
}

impl Trust {
    /// That in a file of certificates in PEM form, and nothing else.
    ///
    /// # Errors
    /// When there are none in it, or what is in it is none.
    pub fn of_file(path: &Path) -> Result<Self, String> {
        let mut trust = Self::default();
        let bad = |error: &dyn fmt::Display| error.to_string();
        for certificate in CertificateDer::pem_file_iter(path).map_err(|error| bad(&error))? {
            let certificate = certificate.map_err(|error| bad(&error))?;
            trust.roots.add(certificate.clone()).map_err(|error| tls_error::text(&error))?;
            trust.known.push(certificate);
        }
        if trust.is_empty() { Err("there is none in it".into()) } else { Ok(trust) }
    }

    /// The authorities of this system, and what was in the way, if anything. Of a system's many authorities some may be
    /// unreadable or of a kind that is no longer used; the others will do.
    #[must_use]
    pub fn of_system() -> (Self, Option<String>) {
        let found = rustls_native_certs::load_native_certs();
        let mut trust = Self::default();
        trust.roots.add_parsable_certificates(found.certs);
        (trust, found.errors.first().map(ToString::to_string))
    }

    /// Whether nobody is trusted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.roots.is_empty()
    }

    /// What a client needs to check servers that have these `pins`, and have to be `certified` or not.
    /// Without either any server will do, as long as its signatures are not forged.
    ///
    /// # Errors
    /// When a certificate would have to be checked, and nobody is trusted.
    pub fn client_config(&self, pins: &[KeyPin], certified: bool) -> Result<ClientConfig, Error> {
        self.config_of(ALL_VERSIONS, pins, certified)
    }

    /// The same for QUIC, which knows no TLS before 1.3 (RFC 9001 §4.2).
    ///
    /// # Errors
    /// When a certificate would have to be checked, and nobody is trusted.
    pub fn quic_config(&self, pins: &[KeyPin], certified: bool) -> Result<ClientConfig, Error> {
        self.config_of(&[&TLS13], pins, certified)
    }

    fn config_of(
        &self,
        versions: &[&'static SupportedProtocolVersion],
        pins: &[KeyPin],
        certified: bool,
    ) -> Result<ClientConfig, Error> {
        let provider = Arc::new(ring::default_provider());
        let authorities = || {
            let roots = Arc::new(self.roots.clone());
            let verifier = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider)).build();
            verifier.map_err(|error| Error::General(format!("no authority is trusted: {error}")))
        };
        let verifier = Verifier {
            authorities: certified.then(authorities).transpose()?,
            known: self.known.clone(),
            pins: pins.to_owned(),
            provider: Arc::clone(&provider),
        };
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        // Of its own: a session that was begun under other rules is not resumed under these.
        config.resumption = Resumption::in_memory_sessions(MAX_RESUMED);
        Ok(config)
    }
}

thread_local! {
    /// Why the certificate that was checked last on this thread was refused, if it was.
    static REFUSAL: Cell<Option<Error>> = const { Cell::new(None) };
}

/// Why the certificate that was checked last on this thread was refused, if it was, and if nobody has asked since. What
/// runs TLS within QUIC knows no more of that than an alert and a line of text.
#[must_use]
pub fn take_refusal() -> Option<Error> {
    REFUSAL.take()
}

#[derive(Debug)]
struct Verifier {
    /// `None` where a certificate need not hold.
    authorities: Option<Arc<WebPkiServerVerifier>>,
    known: Vec<CertificateDer<'static>>,
    pins: Vec<KeyPin>,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    fn is_known(&self, certificate: &CertificateDer<'_>) -> bool {
        self.known.iter().any(|known| known.as_ref() == certificate.as_ref())
    }

    fn verify(
        &self,
        (certificate, others): (&CertificateDer<'_>, &[CertificateDer<'_>]),
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<(), Error> {
        if !self.pins.is_empty() {
            let pin = KeyPin::of(&ParsedCertificate::try_from(certificate)?);
            if !self.pins.contains(&pin) {
                let wrong = OtherError(Arc::new(WrongKey(pin.to_string())));
                return Err(CertificateError::Other(wrong).into());
            }
        }
        let Some(authorities) = &self.authorities else { return Ok(()) };
        match authorities.verify_server_cert(certificate, others, name, ocsp, now) {
            // Its time has been checked before that, and its signature is its own.
            Err(error) if tls_error::is_authority_as_server(&error) && self.is_known(certificate) => {
                verify_server_name(&ParsedCertificate::try_from(certificate)?, name)
            }
            verified => verified.map(drop),
        }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = self.verify((certificate, others), name, ocsp, now);
        REFUSAL.set(verified.as_ref().err().cloned());
        verified.map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{
        BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose,
        GeneralSubtree, IsCa, KeyPair, KeyUsagePurpose, NameConstraints, PublicKeyData, date_time_ymd,
    };
    use rustls::pki_types::PrivateKeyDer;
    use rustls::sign::{CertifiedKey, SingleCertAndKey};
    use rustls::{ClientConnection, ServerConfig, ServerConnection};

    type Issuer = CertifiedIssuer<'static, KeyPair>;

    const NAME: &str = "dns.test";

    #[test]
    fn pins_are_read_and_shown_as_rfc_7469_has_them() {
        let text = "sha256//d6qzRu9zOECb90Uez27xWltNsj0e1Md7GkYYkVoZWmM=";
        let pin: KeyPin = text.parse().unwrap();
        assert_eq!((pin.to_string(), format!("{pin:?}")), (text.into(), text.into()));
        assert_eq!(pin.0[..2], [0x77, 0xaa]);
        for wrong in
            ["sha256//", "sha256//AAAA", "sha1//d6qzRu9zOECb90Uez27xWltNsj0=", &text[..text.len() - 1], "//"]
        {
            assert!(KeyPin::is_meant(wrong));
            assert!(wrong.parse::<KeyPin>().unwrap_err().contains("expected `sha256//`"), "{wrong}");
        }
        assert!(!KeyPin::is_meant("dns.example"));
    }

    fn names(names: &[&str]) -> CertificateParams {
        CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap()
    }

    fn authority_params(name: &str) -> CertificateParams {
        let mut params = names(&[]);
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        params
    }

    fn authority(params: CertificateParams) -> Issuer {
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    }

    /// A server with its certificates and its key.
    struct Shown {
        chain: Vec<CertificateDer<'static>>,
        key: KeyPair,
    }

    impl Shown {
        fn signed(params: &CertificateParams, issuer: &Issuer) -> Self {
            let key = KeyPair::generate().unwrap();
            Self { chain: vec![params.signed_by(&key, issuer).unwrap().der().clone()], key }
        }

        fn by_itself(params: &CertificateParams) -> Self {
            let key = KeyPair::generate().unwrap();
            Self { chain: vec![params.self_signed(&key).unwrap().der().clone()], key }
        }

        fn pin(&self) -> KeyPin {
            KeyPin(Sha256::digest(self.key.subject_public_key_info()).into())
        }

        /// Has a client with this configuration connect. Returns why it does not believe it.
        fn meets(&self, config: ClientConfig) -> Result<(), String> {
            let key = PrivateKeyDer::try_from(self.key.serialize_der()).unwrap();
            // So it may show a certificate that is for another key.
            let shown = CertifiedKey::new(self.chain.clone(), ring::sign::any_supported_type(&key).unwrap());
            let server = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_cert_resolver(Arc::new(SingleCertAndKey::from(shown)));
            let mut server = ServerConnection::new(Arc::new(server)).unwrap();
            let name = ServerName::try_from(NAME).unwrap();
            let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
            while client.is_handshaking() {
                let mut bytes = Vec::new();
                client.write_tls(&mut bytes).unwrap();
                server.read_tls(&mut &bytes[..]).unwrap();
                server.process_new_packets().unwrap();
                let mut bytes = Vec::new();
                server.write_tls(&mut bytes).unwrap();
                client.read_tls(&mut &bytes[..]).unwrap();
                client.process_new_packets().map_err(|error| tls_error::text(&error))?;
            }
            Ok(())
        }

        /// The same by a file with these certificates.
        fn meets_file(&self, trusted: &[&CertificateDer<'static>]) -> Result<(), String> {
            let pem: String = trusted
                .iter()
                .map(|der| {
                    let text = base64::encode_string(der.as_ref());
                    format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
                })
                .collect();
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), pem).unwrap();
            self.meets(Trust::of_file(file.path()).unwrap().client_config(&[], true).unwrap())
        }
    }

    fn refused(met: Result<(), String>, expected: &str) {
        let told = met.unwrap_err();
        assert!(told.contains(expected), "{expected}: {told}");
        assert!(!["Other(", "Context", "CaUsed", "UNIX"].iter().any(|code| told.contains(code)), "{told}");
    }

    #[test]
    fn each_fault_of_a_certificate_is_told_with_what_to_make_instead() {
        let known = authority(authority_params("known"));
        let trusted = [known.der()];
        let changed = |change: &dyn Fn(&mut CertificateParams)| {
            let mut params = names(&[NAME]);
            change(&mut params);
            Shown::signed(&params, &known).meets_file(&trusted)
        };
        assert_eq!(changed(&|_| {}), Ok(()));
        refused(
            changed(&|it| {
                it.not_before = date_time_ymd(2019, 1, 1);
                it.not_after = date_time_ymd(2020, 1, 2);
            }),
            "has expired: it was valid until 2020-01-02 00:00 UTC",
        );
        refused(
            changed(&|it| {
                it.not_before = date_time_ymd(2999, 1, 1);
                it.not_after = date_time_ymd(3000, 1, 1);
            }),
            "not valid yet: it will be from 2999-01-01 00:00 UTC on",
        );
        let others = |it: &mut CertificateParams| {
            it.subject_alt_names = names(&["a.test", "*.b.test", "192.0.2.1"]).subject_alt_names;
        };
        refused(changed(&others), "is for a.test, *.b.test, 192.0.2.1, and not for dns.test");
        refused(changed(&others), "subjectAltName=DNS:dns.test");
        refused(
            changed(&|it| it.subject_alt_names.clear()),
            "is for no name at all, and dns.test was expected",
        );
        refused(
            changed(&|it| it.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]),
            "is for clients, and not for servers: make one with extendedKeyUsage=serverAuth",
        );
        refused(
            changed(&|it| it.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
            "basicConstraints=CA:FALSE",
        );
        let unknown = authority(authority_params("unknown"));
        refused(
            Shown::signed(&names(&[NAME]), &unknown).meets_file(&trusted),
            "signed by nobody who is trusted here",
        );
        // Another key under the name of the authority.
        let impostor = authority(authority_params("known"));
        refused(
            Shown::signed(&names(&[NAME]), &impostor).meets_file(&trusted),
            "not by the key that it should be by",
        );
    }

    #[test]
    fn each_fault_of_those_who_have_signed_is_told() {
        let known = authority(authority_params("known"));
        let through = |params: CertificateParams, root: &Issuer| {
            let middle = CertifiedIssuer::signed_by(params, KeyPair::generate().unwrap(), root).unwrap();
            let mut shown = Shown::signed(&names(&[NAME]), &middle);
            shown.chain.push(middle.der().clone());
            shown.meets_file(&[root.der()])
        };
        assert_eq!(through(authority_params("middle"), &known), Ok(()));
        let mut no_authority = names(&["middle.test"]);
        no_authority.distinguished_name.push(DnType::CommonName, "middle");
        refused(through(no_authority, &known), "may sign none");
        let mut narrow = authority_params("middle");
        let permitted_subtrees = vec![GeneralSubtree::DnsName("other.test".into())];
        narrow.name_constraints = Some(NameConstraints { permitted_subtrees, excluded_subtrees: Vec::new() });
        refused(through(narrow, &known), "may not sign for the name");
        let mut short = authority_params("short");
        short.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let short = authority(short);
        let met = through(authority_params("middle"), &short);
        // A root's limits are its own business: they are not looked at (RFC 5280 §6.1).
        assert!(met.is_ok() || met.unwrap_err().contains("pathlen"));
    }

    #[test]
    fn a_certificate_that_a_server_signed_itself_is_believed_if_it_is_the_one_that_is_given() {
        let own = |change: &dyn Fn(&mut CertificateParams)| {
            let mut params = authority_params("itself");
            params.subject_alt_names = names(&[NAME]).subject_alt_names;
            change(&mut params);
            Shown::by_itself(&params)
        };
        let shown = own(&|_| {});
        assert_eq!(shown.meets_file(&[&shown.chain[0]]), Ok(()));
        // As `openssl req -x509` makes it, and as it should be made.
        let plain = own(&|it| it.is_ca = IsCa::ExplicitNoCa);
        assert_eq!(plain.meets_file(&[&plain.chain[0]]), Ok(()));
        // One that says the same and is another.
        let other = own(&|_| {});
        refused(other.meets_file(&[&shown.chain[0]]), "CA:TRUE");
        refused(other.meets_file(&[&shown.chain[0]]), "give this very certificate");
        // It is for a name and a time like any other.
        let named = own(&|it| it.subject_alt_names = names(&["a.test"]).subject_alt_names);
        refused(named.meets_file(&[&named.chain[0]]), "is for a.test, and not for dns.test");
        let old = own(&|it| it.not_after = date_time_ymd(2020, 1, 2));
        refused(old.meets_file(&[&old.chain[0]]), "has expired");
        // Whoever has no more than the certificate has not got its key.
        let stolen = Shown { chain: shown.chain.clone(), key: KeyPair::generate().unwrap() };
        refused(stolen.meets_file(&[&shown.chain[0]]), "not by the key that it should be by");
        let pin = Trust::default().client_config(&[shown.pin()], false).unwrap();
        refused(stolen.meets(pin), "not by the key that it should be by");
    }

    #[test]
    fn a_key_that_is_given_is_enough_and_with_a_name_it_is_needed_too() {
        let known = authority(authority_params("known"));
        let mut params = names(&["a.test"]);
        params.not_after = date_time_ymd(2020, 1, 2);
        let shown = Shown::signed(&params, &known);
        let other = Shown::signed(&names(&[NAME]), &known);
        let nobody = Trust::default();
        let pinned = |pins: &[KeyPin]| nobody.client_config(pins, false).unwrap();
        assert_eq!(shown.meets(pinned(&[shown.pin()])), Ok(()));
        assert_eq!(shown.meets(pinned(&[other.pin(), shown.pin()])), Ok(()));
        refused(
            shown.meets(pinned(&[other.pin()])),
            &format!("its key is {}, which is not one", shown.pin()),
        );
        let mut trust = Trust::default();
        trust.roots.add(known.der().clone()).unwrap();
        let both = |pins: &[KeyPin]| trust.client_config(pins, true).unwrap();
        assert_eq!(other.meets(both(&[other.pin()])), Ok(()));
        refused(other.meets(both(&[shown.pin()])), "its key is");
        refused(shown.meets(both(&[shown.pin()])), "has expired");
        assert!(nobody.client_config(&[], true).is_err());
    }
}
