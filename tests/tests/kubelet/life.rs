//! How Pods start, fail, restart and end.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use serde_json::json;

use crate::bed::{NODE, condition, container, eventually, with_node};

#[test]
fn a_node_is_ready_and_renews_its_lease() {
    with_node(async |bed| {
        let nodes: Api<Node> = Api::all(bed.client.clone());
        let node = nodes.get(NODE).await.unwrap();
        let status = serde_json::to_value(node.status.unwrap()).unwrap();
        assert_eq!(status["daemonEndpoints"]["kubeletEndpoint"]["Port"], 10250);
        assert_eq!(status["conditions"][3]["status"], "True");
        assert_eq!(
            node.spec.unwrap().pod_cidrs.unwrap(),
            ["10.101.0.0/24", "fd00:101::/64"]
        );
        let leases: Api<Lease> = Api::namespaced(bed.client.clone(), "kube-node-lease");
        let renewed = async || leases.get_opt(NODE).await.unwrap()?.spec?.renew_time;
        let first = eventually(renewed).await;
        eventually(async || renewed().await.filter(|time| *time > first)).await;
    });
}

#[test]
fn a_pod_has_addresses_and_is_reached_from_its_node() {
    with_node(async |bed| {
        bed.pod(
            "echo",
            json!({"containers": [{"name": "c", "image": "agnhost:2", "readinessProbe":
            {"httpGet": {"port": "web", "path": "/healthz"}, "periodSeconds": 1},
            "ports": [{"name": "web", "containerPort": 8080}]}]}),
        )
        .await;
        let pod = bed.ready("echo").await;
        let status = pod.status.unwrap();
        assert_eq!(status.pod_ips.as_ref().unwrap().len(), 2);
        for ip in status.pod_ips.unwrap() {
            let host = if ip.ip.contains(':') {
                format!("[{}]", ip.ip)
            } else {
                ip.ip
            };
            let output = bed.run(
                "curl",
                &["-gsS", "--max-time", "5", &format!("http://{host}:8080/hostname")],
            );
            assert_eq!(String::from_utf8_lossy(&output.stdout), "echo", "{output:?}");
        }
        let output = bed.run(
            "curl",
            &[
                "-s",
                "-X",
                "POST",
                &format!("http://{}:8080/healthz?ready=false", status.pod_ip.unwrap()),
            ],
        );
        assert!(output.status.success());
        bed.wait("echo", |pod| condition(pod, "Ready") == Some("False")).await;
        eventually(async || {
            let events = bed.events("echo").await;
            events
                .iter()
                .any(|event| event == "Unhealthy: Readiness probe failed: HTTP probe failed with statuscode: 503")
                .then_some(())
        })
        .await;
    });
}

#[test]
fn a_pod_that_is_done_says_how_it_went() {
    with_node(async |bed| {
        let never = json!({"restartPolicy": "Never"});
        bed.script("well", "echo done > /dev/termination-log", json!({}), never.clone())
            .await;
        bed.script(
            "badly",
            "echo why; exit 3",
            json!({"terminationMessagePolicy": "FallbackToLogsOnError"}),
            never,
        )
        .await;
        let pod = bed.phase("well", "Succeeded").await;
        let ended = &container(&pod)["state"]["terminated"];
        assert_eq!(
            (&ended["reason"], &ended["message"]),
            (&json!("Completed"), &json!("done\n"))
        );
        assert_eq!(condition(&pod, "Ready"), Some("False"));
        let ended = container(&bed.phase("badly", "Failed").await)["state"]["terminated"].clone();
        assert_eq!((&ended["exitCode"], &ended["message"]), (&json!(3), &json!("why\n")));
    });
}

#[test]
fn what_crashes_is_restarted_later_and_later() {
    with_node(async |bed| {
        bed.script("crash", "echo run; exit 1", json!({}), json!({})).await;
        let pod = bed
            .wait("crash", |pod| {
                container(pod)["state"]["waiting"]["reason"] == "CrashLoopBackOff"
            })
            .await;
        let status = container(&pod);
        assert!(status["restartCount"].as_i64().unwrap() >= 1, "{status}");
        assert_eq!(status["lastState"]["terminated"]["exitCode"], 1);
        bed.wait("crash", |pod| container(pod)["restartCount"].as_i64() > Some(2))
            .await;
        assert_eq!(bed.get("/containerLogs/default/crash/c?previous=true").1, "run\n");
        let events = bed.events("crash").await;
        assert!(
            events
                .iter()
                .any(|event| event.starts_with("BackOff: Back-off restarting failed container c")),
            "{events:?}"
        );
    });
}

#[test]
fn init_containers_come_first_and_sidecars_stay() {
    with_node(async |bed| {
        let shell = |name: &str, script: &str| {
            json!({"name": name, "image": "busybox", "command": ["sh", "-c", script],
                "volumeMounts": [{"name": "v", "mountPath": "/v"}]})
        };
        let mut sidecar = shell(
            "side",
            "echo side >> /v/log; sleep 1000 & trap 'echo end >> /v/log; exit' TERM; wait",
        );
        sidecar["restartPolicy"] = "Always".into();
        let spec = json!({
            "restartPolicy": "Never",
            "volumes": [{"name": "v", "emptyDir": {}}],
            "initContainers": [shell("init", "echo init >> /v/log"), sidecar],
            "containers": [shell("c", "while ! grep -q side /v/log; do :; done; cat /v/log")],
        });
        bed.pod("order", spec).await;
        bed.phase("order", "Succeeded").await;
        assert_eq!(bed.log("order"), "init\nside\n");
    });
}

#[test]
fn a_failed_liveness_probe_restarts_and_hooks_run() {
    with_node(async |bed| {
        let probe = json!({"exec": {"command": ["sh", "-c", "echo sick; test -e /tmp/well"]}, "periodSeconds": 1, "failureThreshold": 1});
        let lifecycle = json!({
            "postStart": {"exec": {"command": ["touch", "/v/post"]}},
            "preStop": {"exec": {"command": ["touch", "/v/pre"]}},
        });
        let container_spec = json!({"livenessProbe": probe, "lifecycle": lifecycle,
            "volumeMounts": [{"name": "v", "mountPath": "/v"}]});
        let directory = bed.scratch.path().join("hooks");
        let spec = json!({"terminationGracePeriodSeconds": 1,
            "volumes": [{"name": "v", "hostPath": {"path": directory, "type": "DirectoryOrCreate"}}]});
        bed.script("sick", "sleep 1000", container_spec, spec).await;
        let pod = bed
            .wait("sick", |pod| container(pod)["restartCount"].as_i64() > Some(0))
            .await;
        assert_eq!(
            container(&pod)["lastState"]["terminated"]["exitCode"],
            137,
            "sleep as PID 1 takes no SIGTERM"
        );
        assert!(directory.join("post").exists() && directory.join("pre").exists());
        let events = bed.events("sick").await;
        assert!(
            events
                .iter()
                .any(|event| event.starts_with("Unhealthy: Liveness probe failed: sick")),
            "{events:?}"
        );
    });
}

#[test]
fn a_deleted_pod_gets_its_time_and_leaves_nothing() {
    with_node(async |bed| {
        let script = "trap 'echo bye; exit 0' TERM; echo up; while true; do sleep 0.1; done";
        bed.script("polite", script, json!({}), json!({})).await;
        bed.ready("polite").await;
        bed.script(
            "stubborn",
            "trap '' TERM; while true; do sleep 0.1; done",
            json!({}),
            json!({}),
        )
        .await;
        bed.ready("stubborn").await;
        let links = || {
            String::from_utf8(bed.run("ip", &["-br", "link"]).stdout)
                .unwrap()
                .lines()
                .count()
        };
        let before = links();
        bed.delete("polite", 30).await;
        bed.delete("stubborn", 1).await;
        bed.gone("polite").await;
        bed.gone("stubborn").await;
        eventually(async || (links() == before - 2).then_some(())).await;
        let pods = bed.scratch.path().join("node/pods");
        assert_eq!(std::fs::read_dir(pods).unwrap().count(), 0);
    });
}

#[test]
fn containers_end_with_their_kubelet_and_start_again_with_the_next() {
    with_node(async |bed| {
        let mark = format!("mark-{}", std::process::id());
        bed.script("again", &format!("echo {mark}; exec sleep 1000"), json!({}), json!({}))
            .await;
        bed.ready("again").await;
        let pid = bed.kubelet_pid().to_string();
        bed.kill_kubelet();
        let left = || {
            let commands = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
                let text = std::fs::read(entry.ok()?.path().join("cmdline")).ok()?;
                Some(String::from_utf8_lossy(&text).into_owned())
            });
            commands
                .filter(|text| text.contains("-init\0") && text.contains(&format!("\0{pid}\0")))
                .count()
        };
        eventually(async || (left() == 0).then_some(())).await;
        let links = || String::from_utf8(bed.run("ip", &["-br", "link"]).stdout).unwrap();
        eventually(async || (links().lines().count() == 1).then_some(())).await;
        bed.start_kubelet();
        let pod = bed
            .wait("again", |pod| {
                container(pod)["restartCount"] == 1 && condition(pod, "Ready") == Some("True")
            })
            .await;
        assert_eq!(container(&pod)["lastState"]["terminated"]["exitCode"], 137);
    });
}

#[test]
fn thirty_pods_run_on_one_node_and_one_starts_fast() {
    with_node(async |bed| {
        bed.script("first", "exec sleep 1000", json!({}), json!({})).await;
        bed.ready("first").await;
        let start = kubelb_tests::wait::now();
        bed.script("timed", "exec sleep 1000", json!({}), json!({})).await;
        bed.ready("timed").await;
        let one = start.elapsed();
        let start = kubelb_tests::wait::now();
        for number in 0..30 {
            bed.script(&format!("p{number}"), "exec sleep 1000", json!({}), json!({}))
                .await;
        }
        for number in 0..30 {
            bed.ready(&format!("p{number}")).await;
        }
        eprintln!("one Pod: {one:?}; thirty: {:?}", start.elapsed());
        assert!(one < Duration::from_secs(2), "{one:?}");
    });
}
