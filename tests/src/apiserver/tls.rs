//! The server's own certificate authority: made once, kept beside the journal, so that a kubeconfig outlives a restart.

use std::fs;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject as _};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

const CA_NAME: &str = "kubelb test API server";

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Keys on the disk.
    #[error("cannot read or write the keys")]
    File(#[from] io::Error),
    /// Making a certificate.
    #[error("cannot make a certificate")]
    Certificate(#[from] rcgen::Error),
    /// Reading it again.
    #[error("cannot read the certificate")]
    Pem(#[source] pem::Error),
    /// The TLS library refuses it.
    #[error("cannot set TLS up")]
    Rustls(#[from] tokio_rustls::rustls::Error),
}

/// What connections are accepted with.
pub(crate) struct Tls {
    pub(crate) acceptor: TlsAcceptor,
    /// PEM, for clients.
    pub(crate) ca: String,
}

/// What a server shows to clients, PEM.
pub(crate) struct Certificate {
    pub(crate) ca: String,
    pub(crate) chain: String,
    /// PKCS #8.
    pub(crate) key: String,
}

/// Sets TLS up with a certificate of [`certify`].
pub(crate) fn set_up(directory: &Path, names: &[String]) -> Result<Tls, TlsError> {
    let certificate = certify(directory, names)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificate.chain.as_bytes()).collect();
    let key = PrivateKeyDer::from_pem_slice(certificate.key.as_bytes()).map_err(TlsError::Pem)?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain.map_err(TlsError::Pem)?, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Tls {
        acceptor: TlsAcceptor::from(Arc::new(config)),
        ca: certificate.ca,
    })
}

/// Reads or makes the authority in `directory`, and a certificate for `names` (addresses or DNS names).
pub(crate) fn certify(directory: &Path, names: &[String]) -> Result<Certificate, TlsError> {
    let (key_file, ca_file) = (directory.join("ca.key"), directory.join("ca.crt"));
    let params = authority();
    let key = if key_file.exists() {
        KeyPair::from_pem(&fs::read_to_string(&key_file)?)?
    } else {
        let key = KeyPair::generate()?;
        write_secret(&key_file, &key.serialize_pem())?;
        key
    };
    let ca = if ca_file.exists() {
        fs::read_to_string(&ca_file)?
    } else {
        let ca = params.self_signed(&key)?.pem();
        fs::write(&ca_file, &ca)?;
        ca
    };
    let issuer = Issuer::new(params, key);

    let mut leaf = CertificateParams::new(names.to_vec())?;
    leaf.distinguished_name.push(DnType::CommonName, "kube-apiserver");
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let leaf_key = KeyPair::generate()?;
    let certificate = leaf.signed_by(&leaf_key, &issuer)?;
    Ok(Certificate {
        ca,
        chain: certificate.pem(),
        key: leaf_key.serialize_pem(),
    })
}

fn authority() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, CA_NAME);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// Writes a file that others can't read.
pub(crate) fn write_secret(path: &Path, text: &str) -> io::Result<()> {
    use std::io::Write as _;
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(text.as_bytes())
}

/// What is in the file `name`, or what `make` makes, which is then kept there.
pub(crate) fn kept_secret(directory: &Path, name: &str, make: impl FnOnce() -> String) -> io::Result<String> {
    let path = directory.join(name);
    match fs::read_to_string(&path) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let text = make();
            write_secret(&path, &text)?;
            Ok(text)
        }
        Err(error) => Err(error),
    }
}
