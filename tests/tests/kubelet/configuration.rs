//! What a Pod is given: volumes, environment, names, privileges.

use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::bed::{NODE_IP, container, eventually, with_node};

#[test]
fn volumes_and_variables_come_from_objects() {
    with_node(async |bed| {
        let _map: ConfigMap = bed
            .create(json!({"metadata": {"name": "m"}, "data": {"k": "v1", "f.conf": "x"}}))
            .await;
        let _secret: Secret = bed
            .create(json!({"metadata": {"name": "s"}, "stringData": {"password": "hush"}}))
            .await;
        let sources = json!([
            {"serviceAccountToken": {"path": "token", "audience": "kubelb", "expirationSeconds": 600}},
            {"downwardAPI": {"items": [{"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]}},
        ]);
        let mounts = json!([
            {"name": "m", "mountPath": "/m"},
            {"name": "m", "mountPath": "/etc/f.conf", "subPath": "f.conf"},
            {"name": "s", "mountPath": "/s"},
            {"name": "p", "mountPath": "/var/run/secrets/tokens"},
            {"name": "mem", "mountPath": "/mem"},
        ]);
        let volumes = json!([
            {"name": "m", "configMap": {"name": "m"}},
            {"name": "s", "secret": {"secretName": "s", "defaultMode": 0o400}},
            {"name": "p", "projected": {"sources": sources}},
            {"name": "mem", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
        ]);
        let env = json!([
            {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "HOST", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}},
            {"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "s", "key": "password"}}},
            {"name": "BOTH", "value": "$(HOST)/$(PASSWORD)"},
        ]);
        let script = "cat /m/k /etc/f.conf /s/password /var/run/secrets/tokens/name; echo; echo $BOTH; hostname; pwd; \
            cut -d. -f2 /var/run/secrets/tokens/token | tr _- /+ | base64 -d 2>/dev/null | grep -o '\"kubelb\"'; \
            stat -L -c %a /s/password; stat -f -c %T /mem; touch /m/new 2>/dev/null || echo read-only; grep -c $IP /etc/hosts; \
            cat /etc/resolv.conf; while grep -q v1 /m/k; do sleep 0.05; done; cat /m/k; echo; exec sleep 1000";
        let spec = json!({"volumes": volumes, "hostAliases": [{"ip": "1.2.3.4", "hostnames": ["alias"]}]});
        bed.script(
            "given",
            script,
            json!({"env": env, "volumeMounts": mounts, "workingDir": "/srv/here"}),
            spec,
        )
        .await;
        bed.ready("given").await;
        let log = eventually(async || Some(bed.log("given")).filter(|log| log.contains("ndots"))).await;
        assert!(
            log.starts_with(&format!(
                "v1xhushgiven\n{NODE_IP}/hush\ngiven\n/srv/here\n\"kubelb\"\n400\ntmpfs\n"
            )),
            "{log}"
        );
        assert!(
            log.contains("read-only\n1\nsearch default.svc.cluster.local svc.cluster.local cluster.local"),
            "{log}"
        );
        let api: Api<ConfigMap> = bed.api();
        let patch = Patch::Merge(json!({"data": {"k": "v2"}}));
        api.patch("m", &PatchParams::default(), &patch).await.unwrap();
        eventually(async || bed.log("given").ends_with("v2\n").then_some(())).await;
    });
}

#[test]
fn what_is_missing_is_named_and_waited_for() {
    with_node(async |bed| {
        let env = json!([{"name": "X", "valueFrom": {"secretKeyRef": {"name": "later", "key": "k"}}}]);
        bed.script("needs", "echo $X; exec sleep 1000", json!({"env": env}), json!({}))
            .await;
        let pod = bed
            .wait("needs", |pod| {
                container(pod)["state"]["waiting"]["reason"] == "CreateContainerConfigError"
            })
            .await;
        assert_eq!(
            container(&pod)["state"]["waiting"]["message"],
            "secret \"later\" not found"
        );
        let _secret: Secret = bed
            .create(json!({"metadata": {"name": "later"}, "stringData": {"k": "now"}}))
            .await;
        bed.ready("needs").await;

        bed.pod("mounts", json!({"volumes": [{"name": "v", "configMap": {"name": "absent"}}], "containers": [{"name": "c", "image": "busybox"}]})).await;
        eventually(async || {
            let events = bed.events("mounts").await;
            events
                .iter()
                .any(|event| event.starts_with("FailedMount:") && event.contains("configmap \"absent\" not found"))
                .then_some(())
        })
        .await;
        bed.pod("image", json!({"containers": [{"name": "c", "image": "no/such:1"}]}))
            .await;
        bed.wait("image", |pod| {
            container(pod)["state"]["waiting"]["reason"] == "ImagePullBackOff"
        })
        .await;
        bed.script(
            "command",
            "",
            json!({"command": ["no-such-program"]}),
            json!({"restartPolicy": "Never"}),
        )
        .await;
        let pod: Pod = bed.phase("command", "Failed").await;
        let ended = &container(&pod)["state"]["terminated"];
        assert_eq!(ended["exitCode"], 128);
        assert_eq!(
            ended["message"],
            "exec: \"no-such-program\": executable file not found in $PATH"
        );
    });
}

#[test]
fn privileges_are_those_that_were_asked_for() {
    with_node(async |bed| {
        let never = json!({"restartPolicy": "Never"});
        let script = "id -u; ip link add x type bridge 2>/dev/null && echo admin; echo 1 > /proc/sys/net/ipv4/ip_forward && echo sys; \
            touch /usr/x 2>/dev/null && echo write; ls /dev/kmsg 2>/dev/null; grep CapEff /proc/self/status; true";
        let run = async |name: &str, context: serde_json::Value| {
            bed.script(name, script, json!({"securityContext": context}), never.clone())
                .await;
            bed.phase(name, "Succeeded").await;
            bed.log(name)
        };
        let plain = run("plain", json!({})).await;
        assert!(plain.starts_with("0\n") && plain.contains("write"), "{plain}");
        assert!(
            !plain.contains("admin") && !plain.contains("sys\n") && !plain.contains("kmsg"),
            "{plain}"
        );
        assert!(
            plain.contains("00000000a80425fb"),
            "the set that container engines leave: {plain}"
        );
        let added = run(
            "added",
            json!({"capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]}, "readOnlyRootFilesystem": true}),
        )
        .await;
        assert!(
            added.contains("admin") && !added.contains("write") && added.contains("0000000000001000"),
            "{added}"
        );
        let other = run(
            "other",
            json!({"runAsUser": 1000, "capabilities": {"add": ["NET_ADMIN"]}}),
        )
        .await;
        assert!(
            other.starts_with("1000\n") && other.contains("CapEff:\t0000000000000000"),
            "{other}"
        );
        let privileged = run("privileged", json!({"privileged": true})).await;
        assert!(
            privileged.contains("admin") && privileged.contains("sys"),
            "{privileged}"
        );
        bed.script(
            "root",
            "true",
            json!({"securityContext": {"runAsNonRoot": true}}),
            json!({}),
        )
        .await;
        let pod = bed
            .wait("root", |pod| {
                container(pod)["state"]["waiting"]["reason"] == "CreateContainerConfigError"
            })
            .await;
        assert_eq!(
            container(&pod)["state"]["waiting"]["message"],
            "container has runAsNonRoot and image will run as root"
        );
        bed.script(
            "nonroot",
            "id -u",
            json!({"image": "nonroot", "securityContext": {"runAsNonRoot": true}}),
            never.clone(),
        )
        .await;
        bed.phase("nonroot", "Succeeded").await;
        assert_eq!(bed.log("nonroot"), "65532\n");
    });
}

#[test]
fn the_host_network_is_the_nodes() {
    with_node(async |bed| {
        let spec = json!({"hostNetwork": true, "restartPolicy": "Never"});
        bed.script("host", "ip -br address show lo; hostname", json!({}), spec)
            .await;
        let pod = bed.phase("host", "Succeeded").await;
        assert_eq!(pod.status.unwrap().pod_ip.as_deref(), Some(NODE_IP));
        let log = bed.log("host");
        assert!(log.contains(NODE_IP) && log.ends_with("node-1\n"), "{log}");
    });
}
