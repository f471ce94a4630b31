//! Logs, as the kubelet's own API gives them.

use serde_json::json;

use crate::bed::{eventually, with_node};

#[test]
fn logs_are_cut_as_asked() {
    with_node(async |bed| {
        let never = json!({"restartPolicy": "Never"});
        bed.script(
            "l",
            "for i in 1 2 3; do echo $i; done; echo err >&2; printf end",
            json!({}),
            never,
        )
        .await;
        bed.phase("l", "Succeeded").await;
        let path = "/containerLogs/default/l/c";
        let all = bed.log("l");
        assert!(
            all.contains("1\n2\n3\n") && all.contains("err\n") && all.contains("end"),
            "{all}"
        );
        assert_eq!(bed.get(&format!("{path}?tailLines=1")).1.trim(), "end");
        assert_eq!(bed.get(&format!("{path}?limitBytes=3")).1, "1\n2");
        let stamped = bed.get(&format!("{path}?timestamps=true&tailLines=1")).1;
        assert!(stamped.starts_with("20") && stamped.contains("Z end"), "{stamped}");
        assert_eq!(bed.get(&format!("{path}?sinceTime=2100-01-01T00:00:00Z")).1, "");
        assert_eq!(bed.get("/containerLogs/default/l/x").0, "404");
        assert_eq!(bed.get(&format!("{path}?previous=true")).0, "400");
    });
}

#[test]
fn logs_are_followed_to_the_end() {
    with_node(async |bed| {
        let script = "echo one; while ! test -e /v/go; do sleep 0.05; done; echo two";
        let directory = bed.scratch.path().join("v");
        let volumes = json!([{"name": "v", "hostPath": {"path": directory, "type": "DirectoryOrCreate"}}]);
        let container = json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]});
        bed.script(
            "f",
            script,
            container,
            json!({"restartPolicy": "Never", "volumes": volumes}),
        )
        .await;
        bed.ready("f").await;
        eventually(async || (bed.log("f") == "one\n").then_some(())).await;
        let url = format!(
            "https://{}:10250/containerLogs/default/f/c?follow=true",
            crate::bed::NODE_IP
        );
        let mut curl = bed.namespace.command("curl");
        let follower = curl
            .args(["-gskN", "--max-time", "20", &url])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        std::fs::write(directory.join("go"), "").unwrap();
        let output = tokio::task::spawn_blocking(|| follower.wait_with_output().unwrap())
            .await
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "one\ntwo\n");
    });
}
