//! kubectl makes and drives workloads, as far as that is the server's part: no controller runs here.

use serde_json::{Value, json};

use super::running::Running;

#[test]
fn create_makes_every_kind_that_it_knows() {
    let running = Running::start();
    for (line, said) in [
        ("cm c --from-literal=a=b", "configmap/c created\n"),
        ("secret generic s --from-literal=a=b", "secret/s created\n"),
        ("sa a", "serviceaccount/a created\n"),
        ("deployment d --image=i --port=80", "deployment.apps/d created\n"),
        ("service clusterip cip --tcp=80:8080", "service/cip created\n"),
        ("service nodeport np --tcp=80", "service/np created\n"),
        ("service loadbalancer lb --tcp=80", "service/lb created\n"),
        (
            "service externalname en --external-name=example.com",
            "service/en created\n",
        ),
        (
            "ingress i --class=kubelb --rule=example.com/*=cip:80",
            "ingress.networking.k8s.io/i created\n",
        ),
        ("job j --image=i", "job.batch/j created\n"),
        (
            "role r --verb=get --resource=pods",
            "role.rbac.authorization.k8s.io/r created\n",
        ),
        (
            "rolebinding rb --role=r --user=u",
            "rolebinding.rbac.authorization.k8s.io/rb created\n",
        ),
        (
            "clusterrole cr --verb=get --resource=nodes",
            "clusterrole.rbac.authorization.k8s.io/cr created\n",
        ),
        (
            "clusterrolebinding crb --clusterrole=cr --user=u",
            "clusterrolebinding.rbac.authorization.k8s.io/crb created\n",
        ),
        (
            "pdb p --selector=app=d --min-available=1",
            "poddisruptionbudget.policy/p created\n",
        ),
        ("quota q --hard=pods=3", "resourcequota/q created\n"),
        (
            "priorityclass pc --value=7",
            "priorityclass.scheduling.k8s.io/pc created\n",
        ),
    ] {
        assert_eq!(running.says(&format!("create {line}")), said);
    }
    assert_eq!(running.field("cm/c", ".data.a"), "b");
    assert_eq!(running.field("secret/s", ".data.a"), "Yg==");
    assert!(running.says("get ingress i").contains("example.com"));
    // The parts that are optional in kubectl's own request are filled in.
    assert_eq!(running.field("deploy/d", ".spec.strategy.type"), "RollingUpdate");
}

#[test]
fn a_deployment_in_protobuf_reads_back_like_any_other() {
    let running = Running::start();
    running.says("create deployment d --image=i --port=80");
    let mut object: Value = serde_json::from_str(&running.says("get deploy d -o json")).unwrap();
    let metadata = object["metadata"].as_object_mut().unwrap();
    for volatile in ["creationTimestamp", "resourceVersion", "uid"] {
        assert!(metadata.remove(volatile).is_some(), "{volatile}");
    }
    let container = json!({
        "image": "i",
        "imagePullPolicy": "Always",
        "name": "i",
        "ports": [{"containerPort": 80, "protocol": "TCP"}],
        "resources": {},
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
    });
    let pod = json!({
        "containers": [container],
        "dnsPolicy": "ClusterFirst",
        "restartPolicy": "Always",
        "schedulerName": "default-scheduler",
        "securityContext": {},
        "terminationGracePeriodSeconds": 30,
    });
    let wanted = json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"generation": 1, "labels": {"app": "d"}, "name": "d", "namespace": "default"},
        "spec": {
            "progressDeadlineSeconds": 600,
            "replicas": 1,
            "revisionHistoryLimit": 10,
            "selector": {"matchLabels": {"app": "d"}},
            "strategy": {"rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}, "type": "RollingUpdate"},
            "template": {"metadata": {"labels": {"app": "d"}}, "spec": pod},
        },
        "status": {},
    });
    assert_eq!(object, wanted);
}

#[test]
fn expose_scale_and_rollout() {
    let running = Running::start();
    running.says("create deployment d --image=i --replicas=2");
    assert_eq!(
        running.says("expose deploy/d --port=80 --target-port=8080 --type=NodePort"),
        "service/d exposed\n"
    );
    assert_eq!(running.field("svc/d", ".spec.selector.app"), "d");
    assert_eq!(
        running.says("scale deploy/d --replicas=5"),
        "deployment.apps/d scaled\n"
    );
    assert_eq!(running.field("deploy/d", ".spec.replicas"), "5");
    let refused = running.refuses("scale deploy/d --current-replicas=2 --replicas=1", "");
    assert!(refused.contains("Expected replicas to be 2, was 5"), "{refused}");
    assert_eq!(
        running.says("rollout restart deploy/d"),
        "deployment.apps/d restarted\n"
    );
    let restarted = ".spec.template.metadata.annotations.kubectl\\.kubernetes\\.io/restartedAt";
    assert_ne!(running.field("deploy/d", restarted), "");
    assert_eq!(running.says("rollout pause deploy/d"), "deployment.apps/d paused\n");
    assert_eq!(running.says("rollout resume deploy/d"), "deployment.apps/d resumed\n");
    let status = running.says("rollout status deploy/d --watch=false");
    assert!(status.contains("Waiting for deployment"), "{status}");
    assert!(running.says("rollout history deploy/d").contains("deployment.apps/d"));
}

#[test]
fn nodes_are_marked() {
    let running = Running::start();
    running.says_of(
        "create -f -",
        "---\n{apiVersion: v1, kind: Node, metadata: {name: \"n\"}}",
    );
    assert_eq!(running.says("cordon n"), "node/n cordoned\n");
    assert!(running.says("get node n").contains("SchedulingDisabled"));
    assert_eq!(running.says("uncordon n"), "node/n uncordoned\n");
    assert_eq!(running.says("taint node n a=b:NoSchedule"), "node/n tainted\n");
    assert!(running.field("node/n", ".spec.taints").contains(r#""key":"a""#));
    assert_eq!(running.says("taint node n a:NoSchedule-"), "node/n untainted\n");
    // The server's own, which a controller takes off when the node is ready.
    let described = running.says("describe node n");
    assert!(
        described.contains("Taints:             node.kubernetes.io/not-ready:NoSchedule\n"),
        "{described}"
    );
}
