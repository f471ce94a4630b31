//! HTTPS clients that trust one certificate and nothing else, and may have one of their own.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use anyhow::Context as _;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::client::PATIENCE;
use crate::netns::Namespace;

/// Which certificate is trusted.
#[derive(Clone, Debug)]
pub struct Trust {
    config: Arc<ClientConfig>,
}

impl Trust {
    /// Just this one, which may have signed itself.
    ///
    /// # Errors
    /// When it is none.
    pub fn only(certificate: &CertificateDer<'_>) -> anyhow::Result<Self> {
        Self::with(certificate, None)
    }

    /// The same of a client of an authority, who shows its certificate to who asks for one.
    ///
    /// # Errors
    /// When it is none.
    pub fn of_client(certificate: &CertificateDer<'_>, authority: &ClientAuthority) -> anyhow::Result<Self> {
        let key = PrivateKeyDer::Pkcs8(authority.key.serialize_der().into());
        Self::with(certificate, Some((authority.client.clone(), key)))
    }

    fn with(
        certificate: &CertificateDer<'_>,
        own: Option<(CertificateDer<'static>, PrivateKeyDer<'static>)>,
    ) -> anyhow::Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(certificate.clone().into_owned())?;
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        let config = match own {
            Some((own, key)) => config.with_client_auth_cert(vec![own], key)?,
            None => config.with_no_client_auth(),
        };
        Ok(Self {
            config: Arc::new(config),
        })
    }

    /// A connection that asks for `host`. The handshake happens with the first byte.
    pub(super) fn connect(
        &self,
        to: SocketAddr,
        host: &str,
    ) -> anyhow::Result<StreamOwned<ClientConnection, TcpStream>> {
        let session = ClientConnection::new(Arc::clone(&self.config), host.to_owned().try_into()?)?;
        let socket = TcpStream::connect_timeout(&to, PATIENCE).with_context(|| format!("cannot connect to {to}"))?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(StreamOwned::new(session, socket))
    }
}

/// An authority, with one client.
#[derive(Debug)]
pub struct ClientAuthority {
    /// The authority's own certificate.
    pub pem: String,
    client: CertificateDer<'static>,
    key: KeyPair,
}

impl ClientAuthority {
    /// With a client of the subject `CN=client of <name>`, and the URI `spiffe://<name>/client`.
    ///
    /// # Errors
    /// When the name is no part of a URI.
    pub fn new(name: &str) -> anyhow::Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key)?.pem();
        let issuer = Issuer::new(params, key);
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, format!("client of {name}"));
        params
            .subject_alt_names
            .push(SanType::URI(format!("spiffe://{name}/client").try_into()?));
        let client = params.signed_by(&key, &issuer)?;
        Ok(Self {
            pem,
            client: client.der().clone(),
            key,
        })
    }
}

/// The status of an answer over TLS, on a connection of its own, from who can show the trusted certificate for `host`.
///
/// # Errors
/// When it shows another one or none, does not answer in time, or not in HTTP.
pub fn https_get(from: &Namespace, to: SocketAddr, host: &str, trust: &Trust) -> anyhow::Result<u16> {
    from.run(|| {
        let mut stream = trust.connect(to, host)?;
        write!(stream, "GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n")?;
        let mut answer = [0; 12];
        stream.read_exact(&mut answer)?;
        let status = std::str::from_utf8(&answer)?.rsplit(' ').next().unwrap_or_default();
        Ok(status.parse()?)
    })?
}
