//! A client that costs little, so that the figures are the server's: one connection, bytes in, bytes out.

use std::sync::Arc;

use anyhow::{Context as _, ensure};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::server::Server;

/// One connection to the server.
pub(crate) struct Client {
    sender: SendRequest<Full<Bytes>>,
    address: String,
    authorization: String,
}

impl Client {
    pub(crate) async fn connect(server: &Server) -> anyhow::Result<Self> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(server.ca()?.as_bytes()) {
            roots.add(certificate?)?;
        }
        let tls = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let address = server.address()?;
        let (host, _) = address.rsplit_once(':').context("an address without a port")?;
        let name = ServerName::try_from(host.to_owned())?;
        let stream = TcpStream::connect(&address).await?;
        stream.set_nodelay(true)?;
        let stream = TlsConnector::from(Arc::new(tls)).connect(name, stream).await?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        // Its end is seen by the sender.
        tokio::spawn(async move { drop(connection.await) });
        Ok(Self {
            sender,
            address,
            authorization: format!("Bearer {}", server.token()?),
        })
    }

    /// Sends a request; the answer must be a good one.
    pub(crate) async fn send(&mut self, method: &str, path: &str, body: Bytes) -> anyhow::Result<Response<Incoming>> {
        let kind = if method == "PATCH" {
            "application/merge-patch+json"
        } else {
            "application/json"
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", &self.address)
            .header("authorization", &self.authorization)
            .header("content-type", kind)
            .body(Full::new(body))?;
        self.sender.ready().await?;
        let response = self.sender.send_request(request).await?;
        ensure!(response.status().is_success(), "{method} {path}: {}", response.status());
        Ok(response)
    }

    /// The whole answer.
    pub(crate) async fn whole(&mut self, method: &str, path: &str, body: Bytes) -> anyhow::Result<Bytes> {
        let response = self.send(method, path, body).await?;
        Ok(response.into_body().collect().await?.to_bytes())
    }
}
