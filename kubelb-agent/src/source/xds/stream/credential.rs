//! When what the agent shows expires, as far as it says so. For people: managers decide, and nothing here is checked.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::Credential;

/// Reads the credential's file. Seconds since 1970; `None` when it says nothing, or cannot be read.
pub(super) async fn expires_at(credential: &Credential) -> Option<u64> {
    match credential {
        Credential::None => None,
        Credential::Token(path) => of_token(&read(path).await?),
        Credential::Certificate { chain, .. } => of_certificate(&read(chain).await?),
    }
}

async fn read(path: &Path) -> Option<Vec<u8>> {
    // Opening the stream reads it too, and says what is wrong.
    tokio::fs::read(path).await.ok()
}

/// `exp` of a JSON Web Token (RFC 7519 §4.1.4).
fn of_token(token: &[u8]) -> Option<u64> {
    let claims = std::str::from_utf8(token).ok()?.trim().split('.').nth(1)?;
    let claims = URL_SAFE_NO_PAD.decode(claims.trim_end_matches('=')).ok()?;
    let claims: serde_json::Value = serde_json::from_slice(&claims).ok()?;
    claims.get("exp")?.as_u64()
}

/// `notAfter` of the first certificate of a PEM file.
fn of_certificate(pem: &[u8]) -> Option<u64> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem).ok()?;
    let certificate = pem.parse_x509().ok()?;
    u64::try_from(certificate.validity().not_after.timestamp()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_says_when_it_ends() {
        let claims = URL_SAFE_NO_PAD.encode(r#"{"sub":"x","exp":1800000000}"#);
        assert_eq!(of_token(format!("h.{claims}.s\n").as_bytes()), Some(1_800_000_000));
        for strange in ["", "abc", "a.b.c", "h.e30.s", "\u{fffd}.\u{fffd}"] {
            assert_eq!(of_token(strange.as_bytes()), None, "{strange}");
        }
    }

    #[test]
    fn what_is_no_certificate_says_nothing() {
        assert_eq!(of_certificate(b""), None);
        assert_eq!(
            of_certificate(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
            None
        );
    }
}
