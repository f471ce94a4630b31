//! Real sockets on loopback.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::*;
use crate::model::HealthCheck;

/// The SNAT ports of most tests: out of the way of any ephemeral range.
fn bind() -> ProbeBind {
    exclude(1, 1)
}

fn exclude(first: u16, last: u16) -> ProbeBind {
    ProbeBind {
        exclude: PortRange::new(first, last).unwrap(),
    }
}

fn target(address: SocketAddr, probe: Probe, timeout: Duration) -> CheckTarget {
    CheckTarget {
        address,
        check: HealthCheck {
            probe,
            port: None,
            interval: Duration::from_secs(5),
            timeout,
            healthy_threshold: 2,
            unhealthy_threshold: 3,
        }
        .into(),
    }
}

fn tcp(address: SocketAddr) -> CheckTarget {
    target(address, Probe::Tcp, Duration::from_secs(5))
}

fn http(address: SocketAddr) -> CheckTarget {
    let probe = Probe::Http {
        path: "/healthz?full=1".to_owned(),
        host: None,
    };
    target(address, probe, Duration::from_secs(5))
}

async fn listen() -> (TcpListener, SocketAddr) {
    listen_on("127.0.0.1:0").await
}

async fn listen_on(address: &str) -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind(address).await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// A port that nothing listens on.
async fn closed() -> SocketAddr {
    listen().await.1
}

/// Answers the first connection with `response` and gives back the request.
async fn server(response: impl Into<Vec<u8>>) -> (SocketAddr, JoinHandle<String>) {
    let (listener, address) = listen().await;
    let response = response.into();
    let task = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(stream.read_u8().await.unwrap());
        }
        // The client may reset as soon as it has seen enough.
        drop(stream.write_all(&response).await);
        drop(stream.read_u8().await);
        String::from_utf8(request).unwrap()
    });
    (address, task)
}

#[tokio::test]
async fn a_listener_passes_and_sees_no_payload_but_a_reset() {
    let (listener, address) = listen().await;
    probe(&tcp(address), bind()).await.unwrap();
    let (mut stream, _) = listener.accept().await.unwrap();
    let error = stream.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_closed_port_fails_at_once() {
    let error = probe(&tcp(closed().await), bind()).await.unwrap_err();
    assert!(
        matches!(&error, ProbeError::Connect(error) if error.kind() == io::ErrorKind::ConnectionRefused),
        "{error:?}"
    );
    assert!(!error.is_local());
}

#[tokio::test]
async fn a_backend_that_accepts_but_never_answers_times_out() {
    let (_listener, address) = listen().await;
    let mut slow = http(address);
    std::sync::Arc::make_mut(&mut slow.check).timeout = Duration::from_millis(100);
    let error = probe(&slow, bind()).await.unwrap_err();
    assert!(matches!(error, ProbeError::Timeout), "{error:?}");
}

#[tokio::test]
async fn statuses_from_200_to_399_pass() {
    for (status, passes) in [
        (200, true),
        (204, true),
        (302, true),
        (399, true),
        (400, false),
        (404, false),
        (500, false),
        (503, false),
    ] {
        let (address, _server) = server(format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n")).await;
        match probe(&http(address), bind()).await {
            Ok(()) => assert!(passes, "{status}"),
            Err(ProbeError::Status(seen)) => assert!(!passes && seen == status, "{status}: {seen}"),
            Err(error) => panic!("{status}: {error:?}"),
        }
    }
}

#[tokio::test]
async fn the_request_is_what_was_configured() {
    let (address, server_task) = server("HTTP/1.1 200 OK\r\n\r\n").await;
    probe(&http(address), bind()).await.unwrap();
    let request = server_task.await.unwrap().to_lowercase();
    assert!(request.starts_with("get /healthz?full=1 http/1.1\r\n"), "{request}");
    assert!(
        request.contains(&format!("host: {address}\r\n")) && request.contains("connection: close\r\n"),
        "{request}"
    );

    let (address, server_task) = server("HTTP/1.1 200 OK\r\n\r\n").await;
    let probe_host = Probe::Http {
        path: "/".to_owned(),
        host: Some("example.com".to_owned()),
    };
    probe(&target(address, probe_host, Duration::from_secs(5)), bind())
        .await
        .unwrap();
    assert!(
        server_task
            .await
            .unwrap()
            .to_lowercase()
            .contains("host: example.com\r\n")
    );
}

#[tokio::test]
async fn interim_responses_are_not_the_answer() {
    let (address, _server) = server("HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 503 X\r\n\r\n").await;
    let error = probe(&http(address), bind()).await.unwrap_err();
    assert!(matches!(error, ProbeError::Status(503)), "{error:?}");
}

#[tokio::test]
async fn a_body_without_end_does_not_keep_a_check() {
    let (address, _server) = server(format!(
        "HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n{}",
        "x".repeat(1 << 20)
    ))
    .await;
    probe(&http(address), bind()).await.unwrap();
}

#[tokio::test]
async fn what_is_not_http_fails() {
    for garbage in [
        b"SSH-2.0-OpenSSH\r\n\r\n".to_vec(),
        vec![0; 100_000],
        format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(100_000)).into(),
    ] {
        let (address, _server) = server(garbage).await;
        let error = probe(&http(address), bind()).await.unwrap_err();
        assert!(matches!(error, ProbeError::Response(_)), "{error:?}");
    }
}

#[tokio::test]
async fn a_close_without_response_fails() {
    let (listener, address) = listen().await;
    let closing = tokio::spawn(async move { drop(listener.accept().await) });
    let error = probe(&http(address), bind()).await.unwrap_err();
    assert!(matches!(error, ProbeError::Response(_)), "{error:?}");
    closing.await.unwrap();
}

/// Local ports of checks, as a listener sees them.
async fn ports_seen(address: &str, bind: ProbeBind) -> Vec<u16> {
    let (listener, address) = listen_on(address).await;
    let mut ports = Vec::new();
    for _ in 0..200 {
        let (probed, accepted) = tokio::join!(probe_from_port(address, bind), listener.accept());
        assert_eq!(probed, accepted.unwrap().1.port());
        ports.push(probed);
    }
    ports
}

async fn probe_from_port(address: SocketAddr, bind: ProbeBind) -> u16 {
    connect(address, bind).await.unwrap().local_addr().unwrap().port()
}

#[tokio::test]
async fn no_check_leaves_from_a_snat_port() {
    let ephemeral = local_port::ephemeral();
    let middle = ephemeral.first() + (ephemeral.last() - ephemeral.first()) / 2;
    let excluded = [
        exclude(ephemeral.first(), middle),
        exclude(middle, ephemeral.last()),
        exclude(ephemeral.first(), ephemeral.last()),
        exclude(2_000, 65_000),
    ];
    for bind in excluded {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            for port in ports_seen(address, bind).await {
                assert!(
                    !(bind.exclude.first()..=bind.exclude.last()).contains(&port),
                    "{port} with {bind:?} to {address}"
                );
            }
        }
    }
}

#[tokio::test]
async fn with_every_port_excluded_the_error_is_this_nodes() {
    let (_listener, address) = listen().await;
    let error = probe(&tcp(address), exclude(1, 65_535)).await.unwrap_err();
    assert!(error.is_local(), "{error:?}");
}

#[tokio::test]
async fn a_kernel_without_the_option_is_served_by_explicit_binds() {
    let (_listener, address) = listen().await;
    let ephemeral = PortRange::new(40_000, 41_000).unwrap();
    let exclude = PortRange::new(40_010, 41_000).unwrap();
    for _ in 0..20 {
        let stream = explicitly_bound(address, ephemeral, exclude).await.unwrap();
        assert!((40_000..40_010).contains(&stream.local_addr().unwrap().port()));
    }
}
