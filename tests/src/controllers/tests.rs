//! The loop, over a server that never answers and by a clock that stands still.

use kube::client::Body;
use serde_json::json;

use super::*;

/// A client whose requests end here, and are never answered.
fn unanswered() -> (Client, mpsc::Receiver<String>) {
    let (sender, receiver) = mpsc::channel(CHANNEL);
    let service = tower::service_fn(move |request: hyper::Request<Body>| {
        let sender = sender.clone();
        async move {
            let line = format!("{} {}", request.method(), request.uri().path());
            sender.send(line).await.expect("the test listens");
            std::future::pending::<Result<hyper::Response<Body>, std::io::Error>>().await
        }
    });
    (Client::new(service, "default"), receiver)
}

fn service() -> DynamicObject {
    let service = json!({
        "metadata": {"name": "web", "namespace": "default", "uid": "1", "resourceVersion": "1"},
        "spec": {"clusterIP": "10.96.0.9", "selector": {"app": "web"}, "ports": [{"port": 80}]},
    });
    serde_json::from_value(service).expect("an object")
}

#[tokio::test]
async fn a_change_is_acted_on_in_the_turn_in_which_it_is_heard() {
    let (client, mut requests) = unanswered();
    let (sender, _messages) = mpsc::channel(CHANNEL);
    let now = Timestamp::UNIX_EPOCH;
    let mut running = Loop::start(client, Options::default(), sender);
    for kind in Kind::ALL {
        let source = Source::typed(*kind);
        running.take(Message::Watched(Arc::clone(&source), Box::new(Event::Init)), now);
        running.take(Message::Watched(source, Box::new(Event::InitDone)), now);
    }
    running.dispatch(now);
    assert_eq!(running.busy, 0, "nothing is there yet");
    let services = Source::typed(Kind::Service);
    running.take(Message::Watched(services, Box::new(Event::Apply(service()))), now);
    running.dispatch(now);
    assert_eq!(running.busy, 1);
    loop {
        // The lists of the watches come first.
        let line = requests.recv().await.expect("a request");
        if !line.starts_with("GET ") {
            assert_eq!(line, "POST /apis/discovery.k8s.io/v1/namespaces/default/endpointslices");
            break;
        }
    }
    // Nothing else is due.
    assert_eq!(running.queue.next(), None);
}
