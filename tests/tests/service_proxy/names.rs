//! The cluster's DNS, asked from a pod.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::str::FromStr as _;
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use kubelb_tests::netns::Namespace;
use kubelb_tests::wait;
use serde_json::json;

use super::world::{READY, World};

const SERVERS: [&str; 2] = ["10.96.0.10:53", "[fd00:96::a]:53"];

/// Asks; what the answers are, as text, sorted.
fn lookup(
    from: &Namespace,
    server: &str,
    name: &str,
    kind: RecordType,
    over_tcp: bool,
) -> anyhow::Result<(ResponseCode, Vec<String>)> {
    let mut question = Message::new(7, MessageType::Query, OpCode::Query);
    question.metadata.recursion_desired = true;
    question.add_query(Query::query(Name::from_str(name)?, kind));
    let bytes = question.to_vec()?;
    let server: SocketAddr = server.parse()?;
    let patience = Some(Duration::from_secs(2));
    let answer = from.run(|| -> anyhow::Result<Vec<u8>> {
        if over_tcp {
            let mut stream = TcpStream::connect(server)?;
            stream.set_read_timeout(patience)?;
            stream.write_all(&u16::try_from(bytes.len())?.to_be_bytes())?;
            stream.write_all(&bytes)?;
            let mut length = [0; 2];
            stream.read_exact(&mut length)?;
            let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
            stream.read_exact(&mut answer)?;
            return Ok(answer);
        }
        let socket = UdpSocket::bind(if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
        socket.set_read_timeout(patience)?;
        socket.send_to(&bytes, server)?;
        let mut buffer = [0; 4096];
        let length = socket.recv(&mut buffer)?;
        Ok(buffer[..length].to_vec())
    })??;
    let answer = Message::from_vec(&answer)?;
    let mut texts: Vec<String> = answer.answers.iter().map(|record| record.data.to_string()).collect();
    texts.sort();
    Ok((answer.metadata.response_code, texts))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_of_services_and_their_endpoints_are_answered_on_every_node() {
    let world = World::start().await;
    let given = world.service("s", json!({})).await;
    world.service("headless", json!({"clusterIP": "None"})).await;
    world.endpoints("headless", &[(0, READY), (1, READY)]).await;
    let no_error = ResponseCode::NoError;
    let (v4, v6) = (given.addresses[0].to_string(), given.addresses[1].to_string());
    let pod = |index: usize| world.pods[index].v4.to_string();
    let cases = [
        (
            "s.default.svc.cluster.local.",
            RecordType::A,
            no_error,
            vec![v4.clone()],
        ),
        ("S.Default.svc.cluster.local.", RecordType::AAAA, no_error, vec![v6]),
        (
            "kubernetes.default.svc.cluster.local.",
            RecordType::A,
            no_error,
            vec!["10.96.0.1".to_owned()],
        ),
        (
            "_u._udp.s.default.svc.cluster.local.",
            RecordType::SRV,
            no_error,
            vec!["0 100 80 s.default.svc.cluster.local.".to_owned()],
        ),
        (
            "headless.default.svc.cluster.local.",
            RecordType::A,
            no_error,
            vec![pod(0), pod(1)],
        ),
        (
            "pod2.headless.default.svc.cluster.local.",
            RecordType::A,
            no_error,
            vec![pod(1)],
        ),
        ("default.svc.cluster.local.", RecordType::A, no_error, vec![]),
        ("s.default.svc.cluster.local.", RecordType::MX, no_error, vec![]),
        (
            "none.default.svc.cluster.local.",
            RecordType::A,
            ResponseCode::NXDomain,
            vec![],
        ),
        ("example.com.", RecordType::A, ResponseCode::NXDomain, vec![]),
    ];
    for (name, kind, code, texts) in cases {
        for pod in &world.pods {
            for server in SERVERS {
                for over_tcp in [false, true] {
                    let found = wait::until(Duration::from_secs(10), || {
                        let found = lookup(&pod.namespace, server, name, kind, over_tcp)?;
                        anyhow::ensure!(found == (code, texts.clone()), "{found:?}");
                        Ok(())
                    });
                    found.unwrap_or_else(|error| panic!("{name} {kind} at {server}: {error:#}"));
                }
            }
        }
    }
    let reversed: Vec<&str> = v4.split('.').rev().collect();
    let reverse = format!("{}.in-addr.arpa.", reversed.join("."));
    let found = lookup(&world.pods[0].namespace, SERVERS[0], &reverse, RecordType::PTR, false).unwrap();
    assert_eq!(found, (no_error, vec!["s.default.svc.cluster.local.".to_owned()]));
}
