//! Certificates and authorities of SyncSecrets, as far as Envoy takes them. They are written anew, so that Envoy reads what was read here: around
//! what one reader of PEM takes, there may be something that another one stumbles over.

use kubelb_api::v1alpha1::SyncSecret;
use tokio_rustls::rustls;
use tokio_rustls::rustls::pki_types::pem::{PemObject as _, SectionKind};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use x509_cert::der::pem::{LineEnding, encode_string};

use super::{Authorities, Certificate, Hidden, x509};

/// Longest PEM that is read.
const MAX_BYTES: usize = 256 << 10;
/// What a certificate is called in PEM (RFC 7468).
const CERTIFICATE: &str = "CERTIFICATE";
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
    let parsed = x509::read(own).ok_or_else(|| "tls.crt: the first certificate cannot be read".to_owned())?;
    let mut chain = String::new();
    for (index, certificate) in certificates.iter().enumerate() {
        x509::read(certificate).ok_or_else(|| format!("tls.crt: certificate {} cannot be read", index + 1))?;
        chain.push_str(&pem(CERTIFICATE, certificate)?);
    }
    if parsed.public_key().algorithm.algorithm.to_id_string() == ED25519 {
        return Err("tls.crt: Ed25519 is not supported; use RSA or ECDSA".to_owned());
    }
    let private = PrivateKeyDer::from_pem_slice(key.as_bytes())
        .map_err(|_unread| "tls.key has no private key in PEM".to_owned())?;
    let kind = if matches!(private, PrivateKeyDer::Pkcs1(_)) {
        "RSA PRIVATE KEY"
    } else if matches!(private, PrivateKeyDer::Sec1(_)) {
        "EC PRIVATE KEY"
    } else {
        "PRIVATE KEY"
    };
    let key = pem(kind, private.secret_der())?;
    let provider = rustls::crypto::ring::default_provider();
    rustls::sign::CertifiedKey::from_der(certificates, private, &provider)
        .map_err(|error| format!("tls.crt and tls.key do not go together: {error}"))?;
    Ok(Certificate {
        chain,
        key: Hidden(key),
    })
}

/// Reads `ca.crt`: certificates and nothing else, for a list of revoked ones that went unheeded, or a key, would be worse than none.
pub(super) fn authorities(object: &SyncSecret) -> Result<Authorities, String> {
    let text = text(object, "ca.crt")?;
    let mut bundle = String::new();
    for (index, section) in <(SectionKind, Vec<u8>)>::pem_slice_iter(text.as_bytes()).enumerate() {
        let place = index + 1;
        let (kind, certificate) = section.map_err(|_unread| "ca.crt is not PEM".to_owned())?;
        if kind != SectionKind::Certificate {
            return Err(format!(
                "ca.crt: item {place} is no certificate; only certificates can be there"
            ));
        }
        x509::read(&certificate).ok_or_else(|| format!("ca.crt: certificate {place} cannot be read"))?;
        bundle.push_str(&pem(CERTIFICATE, &certificate)?);
    }
    if bundle.is_empty() {
        return Err("ca.crt has no certificate".to_owned());
    }
    Ok(Authorities { bundle })
}

fn pem(kind: &str, der: &[u8]) -> Result<String, String> {
    encode_string(kind, LineEnding::LF, der).map_err(|error| format!("a {kind} cannot be written: {error}"))
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

#[cfg(test)]
mod tests {
    use rcgen::{CertifiedKey, generate_simple_self_signed};
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_around_a_certificate_and_its_key_does_not_go_along() {
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed(vec!["a.example".to_owned()]).unwrap();
        let (chain, key) = (cert.pem(), signing_key.serialize_pem());
        // Blocks that rustls passes over, and BoringSSL reads: a certificate with trust, and a key that needs a password.
        let trusted = "-----BEGIN TRUSTED CERTIFICATE-----\nAAAA\n-----END TRUSTED CERTIFICATE-----\n";
        let locked = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
        let object = json!({
            "metadata": {"name": "u"},
            "stringData": {"tls.crt": format!("Bag\r\n{chain}{trusted}"), "tls.key": format!("{locked}{key}")},
        });
        let made = read(&serde_json::from_value(object).unwrap()).unwrap();
        let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(lines(&made.chain), lines(&chain));
        assert_eq!(lines(&made.key.0), lines(&key));
    }
}
