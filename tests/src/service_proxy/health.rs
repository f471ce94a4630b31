//! The HTTP server on each `healthCheckNodePort`: load balancers ask it whether this node has endpoints of the Service.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{Ipv6Addr, SocketAddr};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::state::HealthCheck;

/// One server for each port; all end on drop.
#[derive(Debug, Default)]
pub(super) struct HealthChecks {
    running: BTreeMap<u16, (watch::Sender<HealthCheck>, AbortHandle)>,
}

impl HealthChecks {
    /// Starts, changes and ends servers. A port that is taken is tried again at the next change.
    pub(super) async fn set(&mut self, wanted: &BTreeMap<u16, HealthCheck>) {
        self.running.retain(|port, (_, task)| {
            let keep = wanted.contains_key(port);
            if !keep {
                task.abort();
            }
            keep
        });
        for (port, check) in wanted {
            if let Some((sender, _)) = self.running.get(port) {
                sender.send_if_modified(|now| std::mem::replace(now, check.clone()) != *check);
                continue;
            }
            match TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, *port))).await {
                Ok(listener) => {
                    let (sender, receiver) = watch::channel(check.clone());
                    let task = tokio::spawn(serve(listener, receiver)).abort_handle();
                    self.running.insert(*port, (sender, task));
                }
                Err(error) => eprintln!(
                    "health checks of {}/{}: port {port}: {error}",
                    check.namespace, check.service
                ),
            }
        }
    }
}

impl Drop for HealthChecks {
    fn drop(&mut self) {
        for (_, task) in self.running.values() {
            task.abort();
        }
    }
}

async fn serve(listener: TcpListener, check: watch::Receiver<HealthCheck>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        let check = check.clone();
        tokio::spawn(async move {
            let service = service_fn(async |_: Request<Incoming>| Ok::<_, Infallible>(answer(&check.borrow())));
            let connection = hyper::server::conn::http1::Builder::new()
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), service);
            // A client that goes away is nobody's error.
            drop(connection.await);
        });
    }
}

fn answer(check: &HealthCheck) -> Response<Full<Bytes>> {
    let body = json!({
        "service": {"namespace": check.namespace, "name": check.service},
        "localEndpoints": check.local_endpoints,
        "serviceProxyHealthy": true,
    });
    let mut response = Response::new(Full::from(body.to_string()));
    if check.local_endpoints == 0 {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    let headers = response.headers_mut();
    headers.insert(
        "content-type",
        hyper::header::HeaderValue::from_static("application/json"),
    );
    headers.insert("x-load-balancing-endpoint-weight", check.local_endpoints.into());
    response
}
