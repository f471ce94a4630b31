//! The certificate authority that server and peers trust: kept in the state directory, and what it issues.
//!
//! The file's first certificate and key issue; its other certificates are trusted too, so that an authority can be replaced ([`rotation`]).
//! Knows no peers beyond their names; who may be issued what is decided by whoever may read the key.

pub mod rotation;

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use time::OffsetDateTime;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use super::SpiffeId;
use super::state_dir;

/// File of certificate and key, and of other certificates that are trusted. One file, so that no two processes can ever mix two of them.
pub const FILE: &str = "xds-ca.pem";
const NAME: &str = "kubelb xDS authority";

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Long enough that nobody has to think of it, short enough that a forgotten one ends.
const AUTHORITY_LIFETIME: Duration = Duration::from_secs(10 * 365 * DAY.as_secs());
/// Of the server's certificates, which are renewed while it runs.
pub const SERVER_LIFETIME: Duration = Duration::from_secs(30 * DAY.as_secs());
/// Of peers' certificates; `bootstrap` issues the next one.
pub const PEER_LIFETIME: Duration = Duration::from_secs(365 * DAY.as_secs());
/// Clocks differ.
const BACKDATED: Duration = Duration::from_secs(60 * 60);

/// Why there is no authority, or no certificate of it.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The state directory.
    #[error("cannot read or write the state directory")]
    Directory(#[from] io::Error),
    /// What the file holds.
    #[error("{path} holds no certificate and key")]
    Content {
        /// The file.
        path: String,
        /// What is wrong with it.
        #[source]
        source: BoxedError,
    },
    /// Making a key or a certificate.
    #[error("cannot make a certificate")]
    Certificate(#[from] rcgen::Error),
    /// The clock shows no time that a certificate can hold.
    #[error("the clock shows a time that no certificate can hold")]
    Clock(#[from] time::error::ComponentRange),
}

/// Any error of a library.
pub type BoxedError = Box<dyn std::error::Error + Send + Sync>;

/// A certificate with its key.
#[derive(Debug)]
pub struct Issued {
    /// PEM.
    pub certificate: String,
    /// PEM, PKCS #8.
    pub key: String,
    /// DER of the certificate.
    pub certificate_der: CertificateDer<'static>,
    /// DER of the key.
    pub key_der: PrivateKeyDer<'static>,
    /// The certificate's end.
    pub expires: SystemTime,
}

/// The authority.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    trusted: Vec<CertificateDer<'static>>,
    pem: String,
    file: PathBuf,
    text: String,
}

impl Authority {
    /// Reads the authority of `directory`, or makes one there.
    ///
    /// # Errors
    /// When the directory cannot be written or holds something else.
    pub fn open(directory: &Path, now: SystemTime) -> Result<Self, AuthorityError> {
        state_dir::create(directory)?;
        let path = directory.join(FILE);
        if !path.try_exists()? {
            // Whoever loses the race reads the winner's.
            state_dir::create_new(&path, &made(now)?)?;
        }
        let text = std::fs::read_to_string(&path)?;
        Self::read(text, path)
    }

    /// What the file holds by now, if that is something else.
    ///
    /// # Errors
    /// When it cannot be read, or holds no authority.
    pub fn changed(&self) -> Result<Option<Self>, AuthorityError> {
        let text = std::fs::read_to_string(&self.file)?;
        if text == self.text {
            return Ok(None);
        }
        Self::read(text, self.file.clone()).map(Some)
    }

    /// What the text of `file` says.
    ///
    /// # Errors
    /// When it is no authority.
    pub(super) fn read(text: String, file: PathBuf) -> Result<Self, AuthorityError> {
        let parse = || -> Result<_, BoxedError> {
            let trusted: Vec<CertificateDer<'static>> =
                CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<_, _>>()?;
            let issuer = trusted.first().ok_or("there is no certificate")?;
            let key = PrivatePkcs8KeyDer::from_pem_slice(text.as_bytes())?;
            let issuer = Issuer::from_ca_cert_der(issuer, KeyPair::try_from(&key)?)?;
            Ok((issuer, trusted))
        };
        let (issuer, trusted) = parse().map_err(|source| AuthorityError::Content {
            path: file.display().to_string(),
            source,
        })?;
        Ok(Self {
            pem: rotation::certificates(&text).concat(),
            issuer,
            trusted,
            file,
            text,
        })
    }

    /// What peers trust, PEM: all of it.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// What peers and the server trust, DER. The first one issues.
    #[must_use]
    pub fn trusted(&self) -> &[CertificateDer<'static>] {
        &self.trusted
    }

    /// A server's certificate for `names`, which are addresses or DNS names.
    ///
    /// # Errors
    /// When a name is neither.
    pub fn issue_server(
        &self,
        names: &[String],
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<Issued, AuthorityError> {
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name.push(DnType::CommonName, "kubelb-manager");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.issue(params, lifetime, now)
    }

    /// A peer's certificate.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn issue_peer(&self, id: &SpiffeId, lifetime: Duration, now: SystemTime) -> Result<Issued, AuthorityError> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, id.node_id());
        params.subject_alt_names = vec![SanType::URI(id.to_string().try_into()?)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(params, lifetime, now)
    }

    fn issue(
        &self,
        mut params: CertificateParams,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<Issued, AuthorityError> {
        let expires = now + lifetime;
        params.not_before = date(now - BACKDATED)?;
        params.not_after = date(expires)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Issued {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
            certificate_der: certificate.der().clone(),
            key_der: PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
            expires,
        })
    }
}

/// A new authority, as the file holds it.
pub(super) fn made(now: SystemTime) -> Result<String, AuthorityError> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, NAME);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = date(now - BACKDATED)?;
    params.not_after = date(now + AUTHORITY_LIFETIME)?;
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    Ok(format!("{}{}", certificate.pem(), key.serialize_pem()))
}

fn date(time: SystemTime) -> Result<OffsetDateTime, time::error::ComponentRange> {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    OffsetDateTime::from_unix_timestamp(i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const NOW: Duration = Duration::from_secs(1_800_000_000);

    #[test]
    fn the_authority_is_made_once_and_only_its_owner_may_read_it() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("a/b");
        let now = SystemTime::UNIX_EPOCH + NOW;
        let first = Authority::open(&state, now).unwrap();
        let second = Authority::open(&state, now + DAY).unwrap();
        assert_eq!(first.pem(), second.pem());
        assert_eq!(first.trusted(), second.trusted());
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&state.join(FILE)), 0o600);
        assert_eq!(mode(&state), 0o700);
        assert!(!first.pem().contains("PRIVATE"));
    }

    #[test]
    fn of_many_who_make_it_at_once_all_have_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let now = SystemTime::UNIX_EPOCH + NOW;
        let open = || Authority::open(directory.path(), now).unwrap().pem().to_owned();
        let made: Vec<String> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(open)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(made.iter().all(|pem| *pem == made[0]));
    }

    #[test]
    fn a_file_with_something_else_is_named() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join(FILE), "hello").unwrap();
        let error = Authority::open(directory.path(), SystemTime::UNIX_EPOCH + NOW).unwrap_err();
        assert!(error.to_string().contains(FILE), "{error}");
    }
}
