//! Certificates of SyncSecrets, as far as Envoy takes them.

use kubelb_api::v1alpha1::SyncSecret;
use tokio_rustls::rustls;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{Certificate, Hidden};

/// Longest PEM that is read.
const MAX_BYTES: usize = 256 << 10;
/// Curve and hash that BoringSSL has in TLS certificates only when it is told to.
const ED25519: &str = "1.3.101.112";

/// Reads `tls.crt` and `tls.key`: they must belong together.
pub(super) fn read(object: &SyncSecret) -> Result<Certificate, String> {
    let chain = text(object, "tls.crt")?;
    let key = text(object, "tls.key")?;
    let certificates: Result<Vec<CertificateDer<'static>>, _> =
        CertificateDer::pem_slice_iter(chain.as_bytes()).collect();
    let certificates = certificates.map_err(|_unread| "tls.crt is not PEM".to_owned())?;
    let Some(own) = certificates.first() else {
        return Err("tls.crt has no certificate".to_owned());
    };
    let (_, parsed) =
        X509Certificate::from_der(own).map_err(|_unread| "tls.crt: the first certificate cannot be read".to_owned())?;
    for (index, certificate) in certificates.iter().enumerate() {
        X509Certificate::from_der(certificate)
            .map_err(|_unread| format!("tls.crt: certificate {} cannot be read", index + 1))?;
    }
    if parsed.public_key().algorithm.algorithm.to_id_string() == ED25519 {
        return Err("tls.crt: Ed25519 is not supported; use RSA or ECDSA".to_owned());
    }
    let private = PrivateKeyDer::from_pem_slice(key.as_bytes())
        .map_err(|_unread| "tls.key has no private key in PEM".to_owned())?;
    let provider = rustls::crypto::ring::default_provider();
    rustls::sign::CertifiedKey::from_der(certificates, private, &provider)
        .map_err(|error| format!("tls.crt and tls.key do not go together: {error}"))?;
    Ok(Certificate {
        chain,
        key: Hidden(key),
    })
}

fn text(object: &SyncSecret, key: &str) -> Result<String, String> {
    let content = &object.content;
    let bytes = content
        .string_data
        .get(key)
        .map(String::as_bytes)
        .or_else(|| content.data.get(key).map(|value| value.0.as_slice()))
        .ok_or_else(|| format!("there is no {key}"))?;
    if bytes.len() > MAX_BYTES {
        return Err(format!("{key} is longer than {MAX_BYTES} bytes"));
    }
    String::from_utf8(bytes.to_vec()).map_err(|_unread| format!("{key} is no text"))
}
