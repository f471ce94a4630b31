//! The smallest HTTP client that can say everything the tests want to say.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// Longer than any answer or any line of a watch takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// Requests to one server, with one token.
#[derive(Clone)]
pub(crate) struct Client {
    address: String,
    tls: TlsConnector,
    token: Option<String>,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) content_type: String,
    pub(crate) warning: String,
    pub(crate) retry_after: String,
    pub(crate) etag: String,
    pub(crate) bytes: Bytes,
    /// `Null` when it is no JSON.
    pub(crate) body: Value,
}

impl Reply {
    /// The body of an answer with this status.
    #[track_caller]
    pub(crate) fn ok(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.body);
        self.body
    }

    /// The Status of a failure with this code and reason (empty for none).
    #[track_caller]
    pub(crate) fn fails(self, code: u16, reason: &str) -> Value {
        assert_eq!(self.status, code, "{}", self.body);
        assert_eq!(self.body["kind"], "Status", "{}", self.body);
        assert_eq!(self.body["status"], "Failure");
        assert_eq!(self.body["code"], code);
        assert_eq!(
            self.body["reason"].as_str().unwrap_or_default(),
            reason,
            "{}",
            self.body
        );
        self.body
    }
}

/// The lines of a watch as they come.
pub(crate) struct Stream {
    body: Incoming,
    buffer: Vec<u8>,
}

impl Stream {
    /// The next event; `None` when the server has ended the watch.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).expect("a watch is lines of JSON"));
            }
            let frame = tokio::time::timeout(PATIENCE, self.body.frame())
                .await
                .expect("an event or the end comes in time")?;
            let frame = frame.ok()?;
            self.buffer.extend_from_slice(frame.data_ref()?);
        }
    }

    /// The type and the object of the next event.
    pub(crate) async fn event(&mut self) -> (String, Value) {
        let event = self.next().await.expect("an event");
        (event["type"].as_str().unwrap().to_owned(), event["object"].clone())
    }
}

impl Client {
    pub(crate) fn new(address: &str, ca: &str, token: Option<&str>) -> Self {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(ca.as_bytes()) {
            roots.add(certificate.unwrap()).unwrap();
        }
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self {
            address: address.to_owned(),
            tls: TlsConnector::from(Arc::new(config)),
            token: token.map(str::to_owned),
        }
    }

    /// The same server with another token, or with none.
    pub(crate) fn with_token(&self, token: Option<&str>) -> Self {
        Self {
            token: token.map(str::to_owned),
            ..self.clone()
        }
    }

    /// A connection on which anything can be said.
    pub(crate) async fn connect(&self) -> TlsStream<TcpStream> {
        let stream = TcpStream::connect(&self.address).await.unwrap();
        let host = self.address.rsplit_once(':').unwrap().0.to_owned();
        let name = ServerName::try_from(host).unwrap();
        self.tls.connect(name, stream).await.unwrap()
    }

    /// Host and port.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// What the client shows as its token; empty for none.
    pub(crate) fn token(&self) -> &str {
        self.token.as_deref().unwrap_or_default()
    }

    pub(crate) async fn raw(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> hyper::Response<Incoming> {
        let stream = self.connect().await;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection.with_upgrades());
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", &self.address);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let request = request.body(Full::new(body)).unwrap();
        tokio::time::timeout(PATIENCE, sender.send_request(request))
            .await
            .expect("an answer comes in time")
            .unwrap()
    }

    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Reply {
        let response = self.raw(method, path, headers, body.into()).await;
        let header = |name: &str| {
            let value = response.headers().get(name);
            value
                .map(|value| value.to_str().unwrap().to_owned())
                .unwrap_or_default()
        };
        let (content_type, warning) = (header("content-type"), header("warning"));
        let (retry_after, etag) = (header("retry-after"), header("etag"));
        let status = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        Reply {
            status,
            content_type,
            warning,
            retry_after,
            etag,
            body: serde_json::from_slice(&bytes).unwrap_or_default(),
            bytes,
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.send("GET", path, &[], "").await
    }

    pub(crate) async fn get_as(&self, path: &str, accept: &str) -> Reply {
        self.send("GET", path, &[("accept", accept)], "").await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Reply {
        self.send("POST", path, &[("content-type", "application/json")], body.to_string())
            .await
    }

    pub(crate) async fn put(&self, path: &str, body: &Value) -> Reply {
        self.send("PUT", path, &[("content-type", "application/json")], body.to_string())
            .await
    }

    /// `kind` is `merge-patch+json`, `apply-patch+yaml`, …
    pub(crate) async fn patch(&self, path: &str, kind: &str, body: Value) -> Reply {
        let kind = format!("application/{kind}");
        self.send("PATCH", path, &[("content-type", &kind)], body.to_string())
            .await
    }

    pub(crate) async fn merge(&self, path: &str, body: Value) -> Reply {
        self.patch(path, "merge-patch+json", body).await
    }

    pub(crate) async fn apply(&self, path: &str, body: Value) -> Reply {
        self.patch(path, "apply-patch+yaml", body).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Reply {
        self.send("DELETE", path, &[], "").await
    }

    /// Opens a watch; `query` comes after `watch=true`.
    pub(crate) async fn watch(&self, path: &str, query: &str) -> Stream {
        let response = self
            .raw("GET", &format!("{path}?watch=true&{query}"), &[], Bytes::new())
            .await;
        assert_eq!(response.status().as_u16(), 200);
        assert_eq!(response.headers()["content-type"], "application/json");
        Stream {
            body: response.into_body(),
            buffer: Vec::new(),
        }
    }

    /// Creates a ConfigMap with one key, for tests that need an object.
    pub(crate) async fn config_map(&self, namespace: &str, name: &str, labels: Value) -> Value {
        let object = json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": name, "labels": labels},
            "data": {"k": "v"},
        });
        let path = format!("/api/v1/namespaces/{namespace}/configmaps");
        self.post(&path, object).await.ok(201)
    }
}

/// `metadata.resourceVersion`.
pub(crate) fn revision(object: &Value) -> &str {
    object["metadata"]["resourceVersion"]
        .as_str()
        .expect("a resourceVersion")
}

/// Managers of an object with their operation, and the fields of each.
pub(crate) fn owners(object: &Value) -> Vec<(String, String, Value)> {
    let entries = object["metadata"]["managedFields"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let text = |entry: &Value, key: &str| entry[key].as_str().unwrap_or_default().to_owned();
    let mut owners: Vec<(String, String, Value)> = entries
        .iter()
        .map(|entry| {
            assert_eq!(entry["fieldsType"], "FieldsV1");
            assert!(entry["time"].is_string() && entry["apiVersion"].is_string());
            let operation = match text(entry, "subresource").as_str() {
                "" => text(entry, "operation"),
                subresource => format!("{} {subresource}", text(entry, "operation")),
            };
            (text(entry, "manager"), operation, entry["fieldsV1"].clone())
        })
        .collect();
    owners.sort_by(|one, other| (&one.0, &one.1).cmp(&(&other.0, &other.1)));
    owners
}

/// Fields that a Status blames, sorted.
pub(crate) fn blamed(status: &Value) -> Vec<(String, String)> {
    let causes = status["details"]["causes"].as_array().cloned().unwrap_or_default();
    let mut blamed: Vec<(String, String)> = causes
        .iter()
        .map(|cause| {
            (
                cause["field"].as_str().unwrap().to_owned(),
                cause["reason"].as_str().unwrap().to_owned(),
            )
        })
        .collect();
    blamed.sort();
    blamed.dedup();
    blamed
}
