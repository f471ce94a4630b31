//! A stand-in for a kubelet: says what it was asked, streams, refuses, and echoes what comes over an upgraded connection.

use std::convert::Infallible;
use std::sync::Arc;

use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, KeyPair};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Serves until it is dropped.
pub(crate) struct Kubelet {
    pub(crate) port: u16,
    /// One line for every end of a stream that someone held open.
    pub(crate) ended: mpsc::Receiver<&'static str>,
    /// Lines for whoever follows the logs.
    pub(crate) lines: mpsc::Sender<Bytes>,
    task: JoinHandle<()>,
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Kubelet {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (say_ended, ended) = mpsc::channel(8);
        let (lines, followed) = mpsc::channel(8);
        let followed = Arc::new(tokio::sync::Mutex::new(Some(followed)));
        let acceptor = acceptor();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, say_ended, followed) = (acceptor.clone(), say_ended.clone(), Arc::clone(&followed));
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    let service = service_fn(move |request| {
                        let (say_ended, followed) = (say_ended.clone(), Arc::clone(&followed));
                        async move {
                            let lines = followed.lock().await.take_if(|_| asks_to_follow(&request));
                            Ok::<_, Infallible>(answer(request, lines, say_ended))
                        }
                    });
                    let served = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .with_upgrades();
                    drop(served.await);
                });
            }
        });
        Self {
            port,
            ended,
            lines,
            task,
        }
    }
}

fn acceptor() -> TlsAcceptor {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["somewhere".to_owned()]).unwrap();
    let certificate = certificate.self_signed(&key).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

fn asks_to_follow(request: &Request<Incoming>) -> bool {
    request.uri().query().unwrap_or_default().contains("follow=true")
}

fn whole(status: u16, text: &str) -> Response<Body> {
    let body = Full::new(Bytes::from(text.to_owned())).boxed_unsync();
    let response = Response::builder().status(status).header("content-type", "text/plain");
    response.body(body).unwrap()
}

fn answer(
    mut request: Request<Incoming>,
    lines: Option<mpsc::Receiver<Bytes>>,
    say_ended: mpsc::Sender<&'static str>,
) -> Response<Body> {
    let asked = request.uri().to_string();
    if let Some(lines) = lines {
        let next = |(mut lines, ended): (mpsc::Receiver<Bytes>, Ended)| async move {
            let line = lines.recv().await?;
            Some((Ok::<_, Infallible>(Frame::data(line)), (lines, ended)))
        };
        let stream = futures_util::stream::unfold((lines, Ended(say_ended)), next);
        return Response::new(StreamBody::new(stream).boxed_unsync());
    }
    if asked.contains("/waiting") {
        return whole(
            400,
            "container \"waiting\" in pod \"p\" is waiting to start: ContainerCreating",
        );
    }
    if asked.starts_with("/exec") || asked.starts_with("/attach") || asked.starts_with("/portForward") {
        let protocol = request.headers()["upgrade"].clone();
        let authorized = request.headers().contains_key("authorization");
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut stream = TokioIo::new(upgrade.await.unwrap());
            stream
                .write_all(format!("{asked} {authorized}\n").as_bytes())
                .await
                .unwrap();
            let mut buffer = vec![0; 4096];
            while let Ok(read) = stream.read(&mut buffer).await
                && read > 0
                && stream.write_all(&buffer[..read]).await.is_ok()
                && stream.flush().await.is_ok()
            {}
            drop(stream.shutdown().await);
            say_ended.send("stream").await.unwrap_or(());
        });
        return Response::builder()
            .status(101)
            .header("connection", "Upgrade")
            .header("upgrade", protocol)
            .body(Full::default().boxed_unsync())
            .unwrap();
    }
    whole(200, &asked)
}

/// Says so when a stream is given up.
struct Ended(mpsc::Sender<&'static str>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.try_send("logs").unwrap_or(());
    }
}
