//! What people do to running Pods, with kubectl, through the API server.

use std::process::{Command, Output, Stdio};

use serde_json::json;

use crate::bed::{Bed, with_node};

/// What kubectl speaks.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Way {
    WebSocket,
    Spdy,
}

pub(crate) const WAYS: [Way; 2] = [Way::WebSocket, Way::Spdy];

impl Way {
    pub(crate) fn apply(self, command: &mut Command) {
        let websocket = match self {
            Self::WebSocket => "true",
            Self::Spdy => "false",
        };
        command
            .env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", websocket)
            .env("KUBECTL_PORT_FORWARD_WEBSOCKETS", websocket);
    }
}

pub(crate) fn command(bed: &Bed, way: Way, arguments: &[&str]) -> Command {
    let mut command = bed
        .namespace
        .command(kubelb_tests::tool::kubernetes::kubectl().unwrap());
    command
        .arg("--kubeconfig")
        .arg(bed.kubeconfig())
        .args(arguments)
        .env("HOME", bed.scratch.path());
    way.apply(&mut command);
    command
}

async fn kubectl(bed: &Bed, way: Way, arguments: &[&str], input: &str) -> Output {
    use std::io::Write as _;
    let mut command = command(bed, way, arguments);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let input = input.to_owned();
    let run = move || {
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    };
    tokio::task::spawn_blocking(run).await.unwrap()
}

async fn says(bed: &Bed, way: Way, arguments: &[&str], input: &str) -> String {
    let output = kubectl(bed, way, arguments, input).await;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "kubectl {arguments:?} ({way:?}): {text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

#[test]
fn commands_run_inside() {
    with_node(async |bed| {
        let container = json!({"env": [{"name": "WHO", "value": "me"}], "workingDir": "/srv", "securityContext": {"runAsUser": 1000}});
        bed.script("x", "echo up; exec sleep 1000", container, json!({})).await;
        bed.ready("x").await;
        for way in WAYS {
            assert_eq!(says(bed, way, &["logs", "x"], "").await, "up\n");
            let script = "echo $WHO $(pwd) $(id -u) $(hostname); echo bad >&2; exit 7";
            let output = kubectl(bed, way, &["exec", "x", "--", "sh", "-c", script], "").await;
            assert_eq!(output.status.code(), Some(7), "{output:?}");
            assert_eq!(String::from_utf8_lossy(&output.stdout), "me /srv 1000 x\n");
            assert!(
                String::from_utf8_lossy(&output.stderr).starts_with("bad\n"),
                "{output:?}"
            );
            let upper = ["exec", "-i", "x", "--", "tr", "a-z", "A-Z"];
            assert_eq!(says(bed, way, &upper, "hello\n").await, "HELLO\n");
            let big = "0123456789abcdef".repeat(1 << 16);
            assert!(says(bed, way, &["exec", "-i", "x", "--", "cat"], &big).await == big);
            let missing = kubectl(bed, way, &["exec", "x", "--", "no-such-program"], "").await;
            assert!(
                String::from_utf8_lossy(&missing.stderr).contains("executable file not found"),
                "{missing:?}"
            );
        }
    });
}

#[test]
fn files_are_copied_both_ways() {
    with_node(async |bed| {
        bed.script("files", "exec sleep 1000", json!({}), json!({})).await;
        bed.ready("files").await;
        let (here, back) = (bed.scratch.path().join("here"), bed.scratch.path().join("back"));
        for way in WAYS {
            std::fs::write(&here, format!("{way:?}").repeat(100_000)).unwrap();
            says(bed, way, &["cp", here.to_str().unwrap(), "files:/tmp/there"], "").await;
            says(bed, way, &["cp", "files:/tmp/there", back.to_str().unwrap()], "").await;
            assert!(std::fs::read(&here).unwrap() == std::fs::read(&back).unwrap());
        }
    });
}

#[test]
fn a_running_container_is_attached_to() {
    with_node(async |bed| {
        for way in WAYS {
            let name = format!("a-{way:?}").to_lowercase();
            let script = "read x; echo got $x; echo and >&2; read y; echo then $y";
            let spec = json!({"restartPolicy": "Never"});
            bed.script(&name, script, json!({"stdin": true}), spec).await;
            bed.ready(&name).await;
            let output = kubectl(bed, way, &["attach", "-i", &name], "one\ntwo\n").await;
            assert_eq!(
                String::from_utf8_lossy(&output.stdout),
                "got one\nthen two\n",
                "{output:?}"
            );
            assert!(String::from_utf8_lossy(&output.stderr).contains("and\n"), "{output:?}");
            bed.phase(&name, "Succeeded").await;
        }
    });
}

#[test]
fn a_pod_is_run_attached_to_and_removed() {
    with_node(async |bed| {
        let overrides = r#"--overrides={"apiVersion": "v1", "spec": {"nodeName": "node-1"}}"#;
        for way in WAYS {
            let asked = [
                "run",
                "-i",
                "--rm",
                "--restart=Never",
                "--image=busybox",
                overrides,
                "once",
            ];
            let script = ["--command", "--", "sh", "-c", "read x; echo got $x"];
            let text = says(bed, way, &[&asked[..], &script[..]].concat(), "line\n").await;
            assert!(
                text.contains("got line\n") && text.contains("pod \"once\" deleted"),
                "{text}"
            );
            bed.gone("once").await;
        }
    });
}
