//! `kubectl port-forward`.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::process::{Child, Stdio};

use serde_json::json;

use crate::bed::{Bed, with_node};
use crate::kubectl::{WAYS, Way, command};

/// Forwards a free port to this one of the Pod `p`.
fn forward(bed: &Bed, way: Way, port: u16) -> (Child, u16) {
    let mut command = command(
        bed,
        way,
        &["port-forward", "--address=127.0.0.1", "p", &format!(":{port}")],
    );
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    output.read_line(&mut line).unwrap();
    // A line for each connection follows.
    std::thread::spawn(move || std::io::copy(&mut output, &mut std::io::sink()));
    let local = line.strip_prefix("Forwarding from 127.0.0.1:");
    let local = local.unwrap_or_else(|| panic!("{line}")).split(' ').next().unwrap();
    (child, local.parse().unwrap())
}

fn end(mut child: Child) -> String {
    child.kill().unwrap();
    child.wait().unwrap();
    let mut text = String::new();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    text
}

#[test]
fn ports_are_forwarded() {
    with_node(async |bed| {
        let container = json!({"name": "c", "image": "echo-server", "args": ["--listen", "http=8080", "tcp=7000"]});
        bed.pod("p", json!({"containers": [container]})).await;
        bed.ready("p").await;
        for way in WAYS {
            let (child, port) = forward(bed, way, 8080);
            let url = format!("http://127.0.0.1:{port}/hostname");
            for _ in 0..3 {
                let answer = bed.run("curl", &["-sS", "--max-time", "10", "-w", "%{http_code}", &url]);
                assert!(
                    String::from_utf8_lossy(&answer.stdout).contains('p'),
                    "{way:?}: {answer:?}"
                );
                assert!(
                    answer.status.success() && answer.stdout.ends_with(b"200"),
                    "{way:?}: {answer:?}"
                );
            }
            end(child);
        }
    });
}

#[test]
fn connections_are_many_and_large_and_end_by_halves() {
    with_node(async |bed| {
        let container = json!({"name": "c", "image": "echo-server", "args": ["--listen", "tcp=7000"]});
        bed.pod("p", json!({"containers": [container]})).await;
        bed.ready("p").await;
        for way in WAYS {
            let (child, port) = forward(bed, way, 7000);
            let one = move |number: usize| {
                let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
                let mut writer = stream.try_clone().unwrap();
                let sent = format!("{number:08}").repeat(32 << 10).into_bytes();
                let expected = sent.clone();
                let writing = std::thread::spawn(move || {
                    writer.write_all(&sent).unwrap();
                    writer.shutdown(Shutdown::Write).unwrap();
                });
                let mut got = Vec::new();
                stream.read_to_end(&mut got).unwrap();
                writing.join().unwrap();
                assert!(got.ends_with(&expected), "{} of {}", got.len(), expected.len());
            };
            let all = (0..8).map(|number| {
                let inside = std::sync::Arc::clone(&bed.namespace);
                tokio::task::spawn_blocking(move || inside.run(move || one(number)).unwrap())
            });
            for result in all.collect::<Vec<_>>() {
                result.await.unwrap();
            }
            end(child);
        }
    });
}

#[test]
fn a_port_that_nobody_listens_on_is_named() {
    with_node(async |bed| {
        bed.script("p", "exec sleep 1000", json!({}), json!({})).await;
        bed.ready("p").await;
        for way in WAYS {
            let (child, port) = forward(bed, way, 81);
            let answer = bed.run(
                "curl",
                &["-sS", "--max-time", "10", &format!("http://127.0.0.1:{port}/")],
            );
            assert!(!answer.status.success(), "{answer:?}");
            let output = tokio::task::spawn_blocking(|| child.wait_with_output().unwrap())
                .await
                .unwrap();
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(
                text.contains("error forwarding port 81 to pod") && text.contains("Connection refused"),
                "{way:?}: {text}"
            );
        }
    });
}
