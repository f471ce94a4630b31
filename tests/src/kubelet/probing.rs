//! Runs probes and lifecycle hooks: commands inside, requests from the node.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper::header::{HOST, USER_AGENT};
use hyper::{Request, Uri};
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_openapi::api::core::v1::{
    Container, ExecAction, GRPCAction, HTTPGetAction, LifecycleHandler, Probe, TCPSocketAction,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use super::command::{self, Inside};
use crate::traffic::unverified;

/// Bytes of a command's output or a body that a message shows.
const SHOWN: u64 = 10 << 10;

/// Where a container's actions act.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) inside: Arc<Inside>,
    pub(super) address: IpAddr,
    pub(super) container: Container,
}

impl Place {
    /// Runs `probe` once. The error says how it failed.
    pub(super) async fn probe(&self, probe: &Probe) -> Result<(), String> {
        let seconds = super::probe::at_least_one(probe.timeout_seconds, 1);
        let limit = Duration::from_secs(seconds.into());
        let work = async {
            if let Some(action) = &probe.exec {
                self.exec(action).await
            } else if let Some(action) = &probe.http_get {
                self.http(action, "kube-probe/1.36").await
            } else if let Some(action) = &probe.tcp_socket {
                self.tcp(action).await
            } else if let Some(action) = &probe.grpc {
                self.grpc(action).await
            } else {
                Ok(())
            }
        };
        let late = || Err(format!("command timed out or no answer within {seconds}s"));
        tokio::time::timeout(limit, work)
            .await
            .unwrap_or_else(|_elapsed| late())
    }

    /// Does what a lifecycle hook says, without a limit of its own.
    pub(super) async fn hook(&self, hook: &LifecycleHandler) -> Result<(), String> {
        if let Some(action) = &hook.exec {
            self.exec(action).await
        } else if let Some(action) = &hook.http_get {
            self.http(action, "kube-lifecycle/1.36").await
        } else if let Some(action) = &hook.sleep {
            let seconds = u64::try_from(action.seconds).unwrap_or(0);
            super::clock::pause(Duration::from_secs(seconds)).await;
            Ok(())
        } else if let Some(action) = &hook.tcp_socket {
            self.tcp(action).await
        } else {
            Ok(())
        }
    }

    async fn exec(&self, action: &ExecAction) -> Result<(), String> {
        let argv = action.command.clone().unwrap_or_default();
        let (code, output) = command::output(&self.inside, argv, SHOWN)
            .await
            .map_err(|error| error.to_string())?;
        if code == 0 { Ok(()) } else { Err(output) }
    }

    async fn tcp(&self, action: &TCPSocketAction) -> Result<(), String> {
        self.connect(action.host.as_deref(), self.port(&action.port)?)
            .await
            .map(drop)
    }

    async fn connect(&self, host: Option<&str>, port: u16) -> Result<TcpStream, String> {
        let host = self.host(host);
        TcpStream::connect((host.as_str(), port))
            .await
            .map_err(|error| format!("dial tcp {host}:{port}: {error}"))
    }

    fn host(&self, host: Option<&str>) -> String {
        host.filter(|host| !host.is_empty())
            .map_or_else(|| self.address.to_string(), str::to_owned)
    }

    fn port(&self, port: &IntOrString) -> Result<u16, String> {
        let number = match port {
            IntOrString::Int(number) => Some(*number),
            IntOrString::String(name) => {
                let ports = self.container.ports.iter().flatten();
                let named = ports
                    .clone()
                    .find(|port| port.name.as_deref() == Some(name))
                    .map(|port| port.container_port);
                named.or_else(|| name.parse().ok())
            }
        };
        let unknown = || format!("no such port: {port:?}");
        number.and_then(|number| u16::try_from(number).ok()).ok_or_else(unknown)
    }

    async fn http(&self, action: &HTTPGetAction, agent: &str) -> Result<(), String> {
        let port = self.port(&action.port)?;
        let stream = self
            .connect(action.host.as_deref(), port)
            .await
            .map_err(|error| format!("Get: {error}"))?;
        if action.scheme.as_deref() == Some("HTTPS") {
            let host = self.host(action.host.as_deref());
            let name = ServerName::try_from(host).map_err(|error| error.to_string())?;
            let config = unverified::client().map_err(|error| error.to_string())?;
            let stream = TlsConnector::from(config).connect(name, stream).await;
            self.request(action, agent, port, stream.map_err(|error| error.to_string())?)
                .await
        } else {
            self.request(action, agent, port, stream).await
        }
    }

    async fn request<S>(&self, action: &HTTPGetAction, agent: &str, port: u16, stream: S) -> Result<(), String>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let text = |error: hyper::Error| format!("Get: {error}");
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(text)?;
        let connection = tokio::spawn(connection);
        let path = action.path.as_deref().filter(|path| !path.is_empty()).unwrap_or("/");
        let path = if path.starts_with('/') {
            path.to_owned()
        } else {
            format!("/{path}")
        };
        let uri: Uri = path.parse().map_err(|error| format!("{path}: {error}"))?;
        let host = match self.address {
            IpAddr::V6(v6) if action.host.is_none() => format!("[{v6}]:{port}"),
            IpAddr::V4(_) | IpAddr::V6(_) => format!("{}:{port}", self.host(action.host.as_deref())),
        };
        let mut request = Request::get(uri);
        let headers = action.http_headers.iter().flatten();
        let own_host = headers.clone().any(|header| header.name.eq_ignore_ascii_case("host"));
        for header in headers {
            request = request.header(&header.name, &header.value);
        }
        if !own_host {
            request = request.header(HOST, host);
        }
        let request = request
            .header(USER_AGENT, agent)
            .body(Empty::<Bytes>::new())
            .map_err(|error| error.to_string())?;
        let response = sender.send_request(request).await.map_err(text);
        connection.abort();
        let code = response?.status().as_u16();
        if (200..400).contains(&code) {
            Ok(())
        } else {
            Err(format!("HTTP probe failed with statuscode: {code}"))
        }
    }

    /// <https://github.com/grpc/grpc/blob/master/doc/health-checking.md>, whose messages are short enough to be written
    /// down by hand: the request is the service's name as field 1, the answer a status as field 1, where 1 is SERVING.
    async fn grpc(&self, action: &GRPCAction) -> Result<(), String> {
        let port = u16::try_from(action.port).map_err(|_error| format!("no such port: {}", action.port))?;
        let stream = self.connect(None, port).await?;
        let text = |error: hyper::Error| format!("gRPC: {error}");
        let builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
        let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(text)?;
        let connection = tokio::spawn(connection);
        let service = action.service.clone().unwrap_or_default();
        let length = u8::try_from(service.len())
            .ok()
            .filter(|length| *length < 0x80)
            .ok_or("the service's name is too long")?;
        let mut message = Vec::new();
        if length > 0 {
            message.extend_from_slice(&[0x0a, length]);
            message.extend_from_slice(service.as_bytes());
        }
        let mut body = vec![0, 0, 0, 0, u8::try_from(message.len()).unwrap_or(u8::MAX)];
        body.append(&mut message);
        let request = Request::post(format!(
            "http://{}/grpc.health.v1.Health/Check",
            std::net::SocketAddr::new(self.address, port)
        ))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(http_body_util::Full::new(Bytes::from(body)))
        .map_err(|error| error.to_string())?;
        let response = sender.send_request(request).await.map_err(text)?;
        let answer = response.into_body().collect().await.map_err(text)?.to_bytes();
        connection.abort();
        match answer.as_ref() {
            [0, _, _, _, _, 0x08, 1, ..] => Ok(()),
            _ => Err(format!("service unhealthy (responded with {answer:02x?})")),
        }
    }
}

/// Reads what is left, up to a limit, and throws the rest away.
pub(super) async fn read_some(mut from: impl AsyncRead + Unpin, limit: u64) -> Vec<u8> {
    let mut text = Vec::new();
    // What came before an error is what there is to show.
    drop((&mut from).take(limit).read_to_end(&mut text).await);
    drop(tokio::io::copy(&mut from, &mut tokio::io::sink()).await);
    text
}
