//! kubectl at a terminal, as a person has it.

use std::io::{Read as _, Write as _};
use std::process::{Child, Stdio};

use serde_json::json;

use crate::bed::{Bed, with_node};
use crate::kubectl::{WAYS, Way, command};

/// Starts kubectl at a terminal of 33 lines with 101 columns.
fn at_terminal(bed: &Bed, way: Way, arguments: &[&str]) -> Child {
    let kubectl = command(bed, way, arguments);
    let quoted = std::iter::once(kubectl.get_program())
        .chain(kubectl.get_args())
        .map(|word| format!("'{}'", word.to_str().unwrap().replace('\'', r"'\''")));
    let line = format!("stty rows 33 cols 101; {}", quoted.collect::<Vec<_>>().join(" "));
    let mut script = bed.namespace.command("script");
    way.apply(&mut script);
    script
        .args(["-qec", &line, "/dev/null"])
        .env("HOME", bed.scratch.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    script.spawn().unwrap()
}

/// Says each line once what stands before it was shown; all that was shown, and the exit code.
async fn talk(mut child: Child, lines: &'static [(&'static str, &'static str)]) -> (String, Option<i32>) {
    let talk = move || {
        let (mut input, mut output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let (mut shown, mut from, mut lines) = (String::new(), 0, lines.iter());
        let mut next = lines.next();
        let mut buffer = [0; 4096];
        loop {
            while let Some((after, line)) = next
                && let Some(at) = shown[from..].find(after)
            {
                from += at + after.len();
                input.write_all(line.as_bytes()).unwrap();
                next = lines.next();
            }
            match output.read(&mut buffer).unwrap() {
                0 => break,
                count => shown.push_str(&String::from_utf8_lossy(&buffer[..count])),
            }
        }
        drop(input);
        (shown, child.wait().unwrap().code())
    };
    tokio::task::spawn_blocking(talk).await.unwrap()
}

#[test]
fn a_terminal_is_one_and_has_its_size() {
    with_node(async |bed| {
        bed.script("t", "exec sleep 1000", json!({}), json!({})).await;
        bed.ready("t").await;
        for way in WAYS {
            let script = "test -t 0 && test -t 1 && test -t 2 && while ! stty size | grep '33 101'; do sleep 0.05; done; \
                echo say it; read x; echo it is $x; exit 5";
            let child = at_terminal(bed, way, &["exec", "-it", "t", "--", "sh", "-c", script]);
            let (shown, code) = talk(child, &[("say it", "so\r")]).await;
            assert!(
                shown.contains("33 101\r\n") && shown.contains("it is so\r\n"),
                "{shown}"
            );
            assert_eq!(code, Some(5), "{shown}");
        }
    });
}

#[test]
fn a_shell_of_its_own_is_run_and_removed() {
    with_node(async |bed| {
        let overrides = r#"--overrides={"apiVersion": "v1", "spec": {"nodeName": "node-1"}}"#;
        for way in WAYS {
            let asked = [
                "run",
                "-it",
                "--rm",
                "--restart=Never",
                "--image=busybox",
                overrides,
                "shell",
            ];
            // To have the screen drawn again, kubectl first says a size that is larger by one.
            let script = [
                "--command",
                "--",
                "sh",
                "-c",
                "read x; test -t 0 && echo \"got $x\"; until test \"$(stty size)\" = '33 101'; do sleep 0.1; done; \
                 stty size; echo more; read y; echo $((y * 6))",
            ];
            let child = at_terminal(bed, way, &[&asked[..], &script[..]].concat());
            let (shown, code) = talk(child, &[("try pressing enter", "one\r"), ("more", "7\r")]).await;
            assert!(
                shown.contains("got one\r\n33 101\r\n")
                    && shown.contains("42\r\n")
                    && shown.contains("pod \"shell\" deleted"),
                "{shown}"
            );
            assert_eq!(code, Some(0), "{shown}");
            bed.gone("shell").await;
        }
    });
}
