//! A client for this process whose connections are made inside another network namespace.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use hyper::Uri;
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::rt::{TokioExecutor, TokioIo};
use kube::Client;
use kube::client::ConfigExt as _;
use kube::config::{KubeConfigOptions, Kubeconfig};
use tokio::net::TcpStream;
use tower::{BoxError, ServiceBuilder, service_fn};

use crate::netns::{Namespace, enter};

/// A client as the kubeconfig says; its server must be named by address.
pub(super) async fn client(namespace: &Namespace, kubeconfig: &Path) -> anyhow::Result<Client> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig).context("cannot read the kubeconfig")?;
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    let namespace = Arc::new(File::open(namespace.path())?);
    let connector = service_fn(move |uri: Uri| {
        let namespace = Arc::clone(&namespace);
        async move { connect(namespace, uri).await.map(TokioIo::new) }
    });
    let https = config.rustls_https_connector_with_connector(connector)?;
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .map_err(BoxError::from)
        .service(HttpClient::builder(TokioExecutor::new()).build(https));
    Ok(Client::new(service, config.default_namespace))
}

async fn connect(namespace: Arc<File>, uri: Uri) -> io::Result<TcpStream> {
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let address: std::net::IpAddr = host.parse().map_err(io::Error::other)?;
    let address = SocketAddr::new(address, uri.port_u16().unwrap_or(443));
    // A socket belongs to the namespace that it was made in; a thread of its own goes there and ends.
    let made = std::thread::spawn(move || -> io::Result<std::net::TcpStream> {
        enter(namespace.as_fd()).map_err(io::Error::other)?;
        std::net::TcpStream::connect(address)
    });
    let joined = tokio::task::spawn_blocking(move || made.join())
        .await
        .map_err(io::Error::other)?;
    let stream = joined.map_err(|_panic| io::Error::other("the connecting thread panicked"))??;
    stream.set_nonblocking(true)?;
    stream.set_nodelay(true)?;
    TcpStream::from_std(stream)
}
