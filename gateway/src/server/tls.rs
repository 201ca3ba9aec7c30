//! TLS: certificates and keys from PEM files, one for each name that a client asks for, TLS 1.2 and 1.3, HTTP/2 and
//! HTTP/1.1 by ALPN; certificates of clients, where an authority for them is named.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::RwLock;
use rustls::RootCertStore;
use rustls::client::verify_server_name;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;

/// Why TLS cannot be offered.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read or holds no PEM of the wanted kind.
    #[error("{}: {source}", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: rustls::pki_types::pem::Error,
    },
    /// The certificate file has no certificate.
    #[error("{}: no certificate in it", .0.display())]
    NoCertificate(PathBuf),
    /// No client could be known by these authorities.
    #[error("{}: no authority for clients: {why}", path.display())]
    Authority {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Certificate and key do not go together, or are of no known kind.
    #[error("certificate and key: {0}")]
    Rejected(#[from] rustls::Error),
}

/// Certificates with their keys, which others can take the place of while connections stand: who shakes hands from
/// then on is shown one of the others.
#[derive(Debug)]
pub struct Certificates(RwLock<Vec<Arc<CertifiedKey>>>);

impl ResolvesServerCert for Certificates {
    /// The first that is for the name that the client asks for; the first of all for who asks for none, or another.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let all = self.0.read();
        let asked = hello.server_name().filter(|_| all.len() > 1);
        let name = asked.and_then(|name| ServerName::try_from(name).ok());
        let named = name.and_then(|name| all.iter().find(|one| is_for(one, &name)));
        named.or(all.first()).cloned()
    }
}

fn is_for(certificate: &CertifiedKey, name: &ServerName<'_>) -> bool {
    certificate
        .end_entity_cert()
        .and_then(ParsedCertificate::try_from)
        .is_ok_and(|parsed| verify_server_name(&parsed, name).is_ok())
}

impl Certificates {
    /// Reads certificate chains (leaf first) and their private keys (PKCS#8, PKCS#1 or SEC1).
    ///
    /// # Errors
    /// [`TlsError`] says which file is wrong and how.
    pub fn read<'a>(
        pairs: impl IntoIterator<Item = &'a (PathBuf, PathBuf)>,
    ) -> Result<Self, TlsError> {
        let keys = pairs
            .into_iter()
            .map(|(certificate, key)| certified(chain(certificate)?, private_key(key)?));
        Ok(Self(RwLock::new(keys.collect::<Result<_, _>>()?)))
    }

    /// The others take the place of these.
    pub fn replace(&self, others: Self) {
        *self.0.write() = others.0.into_inner();
    }
}

fn pem(path: &Path) -> impl FnOnce(rustls::pki_types::pem::Error) -> TlsError {
    let path = path.to_owned();
    move |source| TlsError::Pem { path, source }
}

/// The certificates of a file; at least one.
fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(pem(path))?;
    match chain.is_empty() {
        true => Err(TlsError::NoCertificate(path.to_owned())),
        false => Ok(chain),
    }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_file(path).map_err(pem(path))
}

fn certified(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<CertifiedKey>, TlsError> {
    let key = CertifiedKey::from_der(chain, key, &ring::default_provider())?;
    Ok(Arc::new(key))
}

/// Reads a certificate chain (leaf first) and its private key (PKCS#8, PKCS#1 or SEC1).
///
/// # Errors
/// [`TlsError`] says which file is wrong and how.
pub fn from_pem_files(
    certificate: &Path,
    key: &Path,
) -> Result<Arc<rustls::ServerConfig>, TlsError> {
    let pair = (certificate.to_owned(), key.to_owned());
    with_certificates(Arc::new(Certificates::read([&pair])?), None)
}

/// Makes the configuration from what is in memory.
///
/// # Errors
/// `Rejected` where certificate and key do not go together.
pub fn server_config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<rustls::ServerConfig>, TlsError> {
    let one = certified(chain, key)?;
    with_certificates(Arc::new(Certificates(RwLock::new(vec![one]))), None)
}

/// Makes the configuration with certificates that may be replaced. With `clients`, a file of authorities, only who
/// shows a certificate that one of them signed gets in.
///
/// # Errors
/// What is wrong with the authorities.
pub fn with_certificates(
    certificates: Arc<Certificates>,
    clients: Option<&Path>,
) -> Result<Arc<rustls::ServerConfig>, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let verifier = match clients {
        None => WebPkiClientVerifier::no_client_auth(),
        Some(path) => {
            let failed = |why: String| TlsError::Authority {
                path: path.to_owned(),
                why,
            };
            let mut authorities = RootCertStore::empty();
            for authority in chain(path)? {
                authorities
                    .add(authority)
                    .map_err(|e| failed(e.to_string()))?;
            }
            let authorities = Arc::new(authorities);
            WebPkiClientVerifier::builder_with_provider(authorities, Arc::clone(&provider))
                .build()
                .map_err(|e| failed(e.to_string()))?
        }
    };
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(certificates);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
