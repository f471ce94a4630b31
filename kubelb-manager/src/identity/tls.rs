//! TLS of the server: a certificate that is renewed while it runs, and client certificates of the same authority.

use std::io;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::server::{NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier};
use tokio_rustls::rustls::{self, CertificateError, RootCertStore, ServerConfig};

use super::Authority;
use super::authority::AuthorityError;

/// HTTP/2 over TLS (RFC 9113, section 3.2).
const H2: &[u8] = b"h2";
/// A certificate is replaced after this part of its life.
const RENEW_AFTER: (u32, u32) = (2, 3);
/// Pause before the next try, after one that failed.
const RETRY: Duration = Duration::from_secs(60);

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The authority issues nothing.
    #[error("cannot issue the server's certificate")]
    Authority(#[from] AuthorityError),
    /// The TLS library refuses it.
    #[error("cannot set TLS up")]
    Rustls(#[from] rustls::Error),
    /// The TLS library refuses the authority.
    #[error("cannot verify client certificates")]
    Verifier(#[from] VerifierBuilderError),
}

/// What connections are accepted with.
#[derive(Debug)]
pub struct ServerTls {
    authority: Mutex<Followed>,
    names: Vec<String>,
    lifetime: Duration,
    current: RwLock<Arc<ServerConfig>>,
}

#[derive(Debug)]
struct Followed {
    authority: Authority,
    /// What was wrong with the file when it was last looked at, so that it is said once.
    wrong: Option<String>,
}

impl ServerTls {
    /// With a certificate for `names` (addresses or DNS names), and when to [renew](Self::renew) it.
    ///
    /// # Errors
    /// When a name is neither, or the TLS library refuses what the authority gives.
    pub fn new(
        authority: Authority,
        names: Vec<String>,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<(Self, SystemTime), TlsError> {
        let config = configuration(&authority, &names, lifetime, now)?;
        let tls = Self {
            authority: Mutex::new(Followed { authority, wrong: None }),
            names,
            lifetime,
            current: RwLock::new(Arc::new(config)),
        };
        let next = tls.renewal(now);
        Ok((tls, next))
    }

    /// For the next connection. Those that are open keep what they were opened with.
    #[must_use]
    pub fn current(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Issues the next certificate; when to call it again. A failure leaves the current one, and says so in the log.
    pub fn renew(&self, now: SystemTime) -> SystemTime {
        let followed = self.authority.lock().unwrap_or_else(PoisonError::into_inner);
        match configuration(&followed.authority, &self.names, self.lifetime, now) {
            Ok(config) => {
                self.replace(config);
                self.renewal(now)
            }
            Err(error) => {
                let error = kubelb_runtime::error_chain::chain(&error).to_string();
                tracing::error!(error, "the xDS server's certificate was not renewed");
                now + RETRY
            }
        }
    }

    /// Looks at the authority's file. When it has another authority than before, the next connections are accepted with that; when to
    /// [renew](Self::renew) then. A file that is none leaves everything as it is, and is told in the log.
    pub fn follow(&self, now: SystemTime) -> Option<SystemTime> {
        let mut followed = self.authority.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = followed.authority.changed().map_err(TlsError::from);
        let taken = changed.and_then(|changed| {
            let with = |authority: Authority| {
                let config = configuration(&authority, &self.names, self.lifetime, now)?;
                Ok((authority, config))
            };
            changed.map(with).transpose()
        });
        match taken {
            Ok(None) => {
                followed.wrong = None;
                None
            }
            Ok(Some((authority, config))) => {
                tracing::info!(trusted = authority.trusted().len(), "the xDS authority has changed");
                *followed = Followed { authority, wrong: None };
                self.replace(config);
                Some(self.renewal(now))
            }
            Err(error) => {
                let error = kubelb_runtime::error_chain::chain(&error).to_string();
                if followed.wrong.as_ref() != Some(&error) {
                    tracing::error!(error, "the xDS authority's file is no good; the last good one is used");
                    followed.wrong = Some(error);
                }
                None
            }
        }
    }

    fn replace(&self, config: ServerConfig) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
    }

    fn renewal(&self, now: SystemTime) -> SystemTime {
        let (part, whole) = RENEW_AFTER;
        now + self.lifetime * part / whole
    }
}

fn configuration(
    authority: &Authority,
    names: &[String],
    lifetime: Duration,
    now: SystemTime,
) -> Result<ServerConfig, TlsError> {
    let issued = authority.issue_server(names, lifetime, now)?;
    let provider = Arc::new(default_provider());
    let mut roots = RootCertStore::empty();
    for trusted in authority.trusted() {
        roots.add(trusted.clone())?;
    }
    // A peer may show a token instead; whether it shows anything is looked at for each stream.
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .allow_unauthenticated()
        .build()?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![issued.certificate_der], issued.key_der)?;
    config.alpn_protocols = vec![H2.to_vec()];
    // A resumed session would bring a client certificate back without looking at it again.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// Every value of [`failure`].
pub const FAILURES: [&str; 7] = [
    "certificate_expired",
    "certificate_unknown_issuer",
    "certificate_purpose",
    "certificate_invalid",
    "peer_alert",
    "closed",
    "protocol",
];

/// A fixed word for why a handshake failed: the label of its counter.
#[must_use]
pub fn failure(error: &io::Error) -> &'static str {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::InvalidCertificate(why)) => certificate_failure(why),
        // The peer does not trust our certificate, most often.
        Some(rustls::Error::AlertReceived(_)) => "peer_alert",
        Some(_) => "protocol",
        None => "closed",
    }
}

fn certificate_failure(why: &CertificateError) -> &'static str {
    if matches!(why, CertificateError::Expired | CertificateError::ExpiredContext { .. }) {
        "certificate_expired"
    } else if matches!(why, CertificateError::UnknownIssuer | CertificateError::BadSignature) {
        "certificate_unknown_issuer"
    } else if matches!(
        why,
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. }
    ) {
        "certificate_purpose"
    } else {
        "certificate_invalid"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_certificate_is_renewed_in_time_and_the_next_connection_gets_it() {
        let directory = tempfile::tempdir().unwrap();
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let authority = Authority::open(directory.path(), now).unwrap();
        let lifetime = Duration::from_secs(300);
        let (tls, next) = ServerTls::new(authority, vec!["localhost".to_owned()], lifetime, now).unwrap();
        assert_eq!(next, now + Duration::from_secs(200));
        let first = tls.current();
        assert!(Arc::ptr_eq(&first, &tls.current()));
        assert_eq!(tls.renew(next), next + Duration::from_secs(200));
        assert!(!Arc::ptr_eq(&first, &tls.current()));
    }

    #[test]
    fn the_authoritys_file_is_followed_and_a_broken_one_changes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let authority = Authority::open(directory.path(), now).unwrap();
        let lifetime = Duration::from_secs(300);
        let (tls, _) = ServerTls::new(authority, vec!["localhost".to_owned()], lifetime, now).unwrap();
        let first = tls.current();
        assert_eq!(tls.follow(now), None);
        let file = directory.path().join(crate::identity::authority::FILE);
        let good = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, "hello").unwrap();
        assert_eq!(tls.follow(now), None);
        assert!(Arc::ptr_eq(&first, &tls.current()));
        std::fs::write(&file, good).unwrap();
        crate::identity::authority::rotation::step(directory.path(), now).unwrap();
        assert_eq!(tls.follow(now), Some(now + Duration::from_secs(200)));
        assert!(!Arc::ptr_eq(&first, &tls.current()));
    }
}
