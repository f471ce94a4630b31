//! Speaks to the server over real sockets, as a scraper or a kubelet would.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;

use super::*;

#[derive(Default)]
struct Fake {
    ready: AtomicBool,
}

impl Answers for Fake {
    fn healthy(&self) -> Result<(), String> {
        Ok(())
    }

    fn ready(&self) -> Result<(), String> {
        if self.ready.load(Ordering::Relaxed) {
            Ok(())
        } else {
            Err("maps are not written yet".to_owned())
        }
    }

    fn metrics(&self) -> Result<String, String> {
        Ok("up 1\n".to_owned())
    }

    fn status(&self) -> Result<String, String> {
        panic!("a handler that panics")
    }
}

struct Server {
    address: SocketAddr,
    fake: Arc<Fake>,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

async fn start() -> Server {
    let listener = bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
    let address = listener.local_addr().unwrap();
    let fake = Arc::new(Fake::default());
    let shutdown = CancellationToken::new();
    let answers: Arc<dyn Answers> = Arc::<Fake>::clone(&fake);
    let task = tokio::spawn(serve(listener, answers, shutdown.clone()));
    Server {
        address,
        fake,
        shutdown,
        task,
    }
}

async fn send(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

async fn get(address: SocketAddr, path: &str) -> String {
    send(
        address,
        &format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"),
    )
    .await
}

#[tokio::test]
async fn serves_what_the_binary_answers() {
    let server = start().await;
    assert!(get(server.address, "/healthz").await.starts_with("HTTP/1.1 200"));
    let metrics = get(server.address, "/metrics?x=y").await;
    assert!(
        metrics.contains("text/plain; version=0.0.4") && metrics.ends_with("up 1\n"),
        "{metrics}"
    );
    assert!(get(server.address, "/nothing").await.starts_with("HTTP/1.1 404"));
    let posted = send(
        server.address,
        "POST /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
    )
    .await;
    assert!(posted.starts_with("HTTP/1.1 405"), "{posted}");
}

#[tokio::test]
async fn readiness_gives_its_reason_until_it_is_there() {
    let server = start().await;
    let answer = get(server.address, "/readyz").await;
    assert!(
        answer.starts_with("HTTP/1.1 503") && answer.ends_with("maps are not written yet\n"),
        "{answer}"
    );
    server.fake.ready.store(true, Ordering::Relaxed);
    assert!(get(server.address, "/readyz").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_panic_in_an_answer_costs_that_request_only() {
    let server = start().await;
    assert!(get(server.address, "/status").await.starts_with("HTTP/1.1 500"));
    assert!(get(server.address, "/healthz").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn an_oversized_head_is_refused() {
    let server = start().await;
    let answer = send(server.address, &format!("GET /{} HTTP/1.1\r\n", "a".repeat(MAX_HEAD))).await;
    assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");
}

#[tokio::test]
async fn a_client_that_sends_nothing_is_dropped_and_its_place_freed() {
    let server = start().await;
    let mut idle = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        idle.push(TcpStream::connect(server.address).await.unwrap());
    }
    // Every place is taken by a silent client: this answer comes only once the header timeout has thrown them out.
    tokio::time::pause();
    let answer = get(server.address, "/healthz").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    for mut stream in idle {
        let mut rest = Vec::new();
        // A reset counts as dropped too.
        drop(stream.read_to_end(&mut rest).await);
    }
}

#[tokio::test]
async fn shutdown_ends_the_server_with_idle_clients_connected() {
    let server = start().await;
    let _idle = TcpStream::connect(server.address).await.unwrap();
    server.shutdown.cancel();
    tokio::time::timeout(Duration::from_secs(10), server.task)
        .await
        .unwrap()
        .unwrap();
}
