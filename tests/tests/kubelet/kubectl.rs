//! What people do to running Pods, with kubectl, through the API server.

use std::process::{Output, Stdio};

use serde_json::json;

use crate::bed::{Bed, with_node};

async fn kubectl(bed: &Bed, arguments: &[&str], input: &str) -> Output {
    use std::io::Write as _;
    let mut command = bed
        .namespace
        .command(kubelb_tests::tool::kubernetes::kubectl().unwrap());
    command
        .arg("--kubeconfig")
        .arg(bed.kubeconfig())
        .args(arguments)
        .env("HOME", bed.scratch.path())
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

async fn says(bed: &Bed, arguments: &[&str], input: &str) -> String {
    let output = kubectl(bed, arguments, input).await;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "kubectl {arguments:?}: {text}{}",
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
        assert_eq!(says(bed, &["logs", "x"], "").await, "up\n");
        let asked = [
            "exec",
            "x",
            "--",
            "sh",
            "-c",
            "echo $WHO $(pwd) $(id -u) $(hostname); echo bad >&2; exit 7",
        ];
        let output = kubectl(bed, &asked, "").await;
        assert_eq!(output.status.code(), Some(7), "{output:?}");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "me /srv 1000 x\n");
        assert!(
            String::from_utf8_lossy(&output.stderr).starts_with("bad\n"),
            "{output:?}"
        );
        assert_eq!(
            says(bed, &["exec", "-i", "x", "--", "tr", "a-z", "A-Z"], "hello\n").await,
            "HELLO\n"
        );
        let big = "0123456789abcdef".repeat(1 << 16);
        assert_eq!(
            says(bed, &["exec", "-i", "x", "--", "cat"], &big).await.len(),
            big.len()
        );
        let missing = kubectl(bed, &["exec", "x", "--", "no-such-program"], "").await;
        assert!(
            String::from_utf8_lossy(&missing.stderr).contains("executable file not found"),
            "{missing:?}"
        );
    });
}

#[test]
fn a_terminal_is_one() {
    with_node(async |bed| {
        bed.script("t", "exec sleep 1000", json!({}), json!({})).await;
        bed.ready("t").await;
        let kubectl = kubelb_tests::tool::kubernetes::kubectl().unwrap();
        let words = format!(
            "stty rows 33 cols 101; {} --kubeconfig {} exec -it t -- sh -c 'test -t 0 && test -t 1 && for i in 1 2 3 4 5 6 7 8 9 10; do stty size; sleep 0.1; done'",
            kubectl.display(),
            bed.kubeconfig().display()
        );
        let mut script = bed.namespace.command("script");
        script
            .args(["-qec", &words, "/dev/null"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let output = tokio::task::spawn_blocking(move || script.output().unwrap())
            .await
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains("33 101\r\n"), "{text}");
    });
}

#[test]
fn files_are_copied_both_ways() {
    with_node(async |bed| {
        bed.script("files", "exec sleep 1000", json!({}), json!({})).await;
        bed.ready("files").await;
        let (here, back) = (bed.scratch.path().join("here"), bed.scratch.path().join("back"));
        std::fs::write(&here, "content".repeat(10_000)).unwrap();
        says(bed, &["cp", here.to_str().unwrap(), "files:/tmp/there"], "").await;
        says(bed, &["cp", "files:/tmp/there", back.to_str().unwrap()], "").await;
        assert_eq!(std::fs::read(here).unwrap(), std::fs::read(back).unwrap());
    });
}

#[test]
fn a_pod_is_run_attached_to_and_removed() {
    with_node(async |bed| {
        let overrides = r#"{"apiVersion": "v1", "spec": {"nodeName": "node-1"}}"#;
        let overrides = format!("--overrides={overrides}");
        let asked = [
            "run",
            "-i",
            "--rm",
            "--restart=Never",
            "--image=busybox",
            &overrides,
            "once",
            "--command",
            "--",
            "sh",
            "-c",
            "read x; echo got $x",
        ];
        let text = says(bed, &asked, "line\n").await;
        assert!(
            text.contains("got line\n") && text.contains("pod \"once\" deleted"),
            "{text}"
        );
        bed.gone("once").await;
    });
}
