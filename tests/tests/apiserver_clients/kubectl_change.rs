//! kubectl changes objects: patch, edit, label, annotate, set, wait for it.

use super::kubectl_apply::{SERVICE, config_map};
use super::running::{Running, finish, refuses, says, start};

const POD: &str = "---\n{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {containers: [{name: c, image: i}]}}";

#[test]
fn patch_in_three_ways() {
    let running = Running::start();
    running.says_of("apply -f -", SERVICE);
    let patch = |kind: &str, patch: &str| {
        let mut command = running.kubectl(&format!("patch svc ap --type={kind} -p"));
        says(command.arg(patch), "")
    };
    // By its key, the other port stays.
    assert_eq!(
        patch("strategic", r#"{"spec":{"ports":[{"port":81,"name":"x"}]}}"#),
        "service/ap patched\n"
    );
    assert_eq!(running.field("svc/ap", ".spec.ports[*].port"), "81 80");
    patch("merge", r#"{"spec":{"ports":[{"port":82}],"selector":null}}"#);
    assert_eq!(running.field("svc/ap", ".spec.ports[*].port"), "82");
    assert_eq!(running.field("svc/ap", ".spec.selector"), "");
    patch("json", r#"[{"op":"replace","path":"/spec/ports/0/port","value":83}]"#);
    assert_eq!(running.field("svc/ap", ".spec.ports[*].port"), "83");
    assert_eq!(patch("merge", "{}"), "service/ap patched (no change)\n");
    let mut wrong = running.kubectl("patch svc ap --type=json -p");
    let said = refuses(wrong.arg(r#"[{"op":"remove","path":"/spec/nothing"}]"#), "");
    assert!(said.contains("invalid") || said.contains("remove"), "{said}");
    let mut status = running.kubectl("patch svc ap --subresource=status --type=merge -p");
    says(
        status.arg(r#"{"status":{"loadBalancer":{"ingress":[{"ip":"192.0.2.1"}]}}}"#),
        "",
    );
    assert!(running.says("get svc ap").contains("192.0.2.1"));
}

#[test]
fn edit_opens_an_editor() {
    let running = Running::start();
    running.says_of("apply -f -", SERVICE);
    running.write("editor", "sed -i 's/port: 80$/port: 84/' \"$1\"\n");
    let edit = |editor: &str| {
        let mut command = running.kubectl("edit svc ap");
        command.env("KUBE_EDITOR", editor);
        says(&mut command, "")
    };
    let editor = format!("sh {}/editor", running.directory().display());
    assert_eq!(edit(&editor), "service/ap edited\n");
    assert_eq!(running.field("svc/ap", ".spec.ports[0].port"), "84");
    assert_eq!(edit("true"), "");
}

#[test]
fn label_and_annotate() {
    let running = Running::start();
    running.says_of("apply -f -", SERVICE);
    assert_eq!(running.says("label svc ap a=b"), "service/ap labeled\n");
    assert!(running.refuses("label svc ap a=c", "").contains("already has a value"));
    assert_eq!(running.says("label svc ap a=c --overwrite"), "service/ap labeled\n");
    assert_eq!(running.says("label svc ap a-"), "service/ap unlabeled\n");
    assert_eq!(running.says("annotate svc ap a=b"), "service/ap annotated\n");
    assert_eq!(running.field("svc/ap", ".metadata.annotations.a"), "b");
    assert_eq!(running.says("annotate svc --all a-").lines().count(), 2);
}

#[test]
fn wait_for_a_field_a_condition_and_an_end() {
    let running = Running::start();
    running.says_of("apply -f -", SERVICE);
    let met = "service/ap condition met\n";
    assert_eq!(
        running.says("wait --for=jsonpath={.spec.type}=LoadBalancer svc/ap --timeout=20s"),
        met
    );
    let late = running.refuses("wait --for=jsonpath={.spec.type}=NodePort svc/ap --timeout=1s", "");
    assert!(late.contains("timed out waiting"), "{late}");

    running.says("create sa sa");
    running.says_of(
        "create -f -",
        &POD.replace("spec: {", "spec: {serviceAccountName: sa, "),
    );
    let waiting = start(
        &mut running.kubectl("wait --for=condition=Ready pod/p --timeout=20s"),
        "",
    );
    let mut status = running.kubectl("patch pod p --subresource=status --type=merge -p");
    says(
        status.arg(r#"{"status":{"conditions":[{"type":"Ready","status":"True"}]}}"#),
        "",
    );
    let output = finish(waiting);
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "pod/p condition met\n",
        "{output:?}"
    );

    running.says_of("create -f -", &config_map("c", "x", "v"));
    let mut finalizer = running.kubectl("patch cm c --type=merge -p");
    says(finalizer.arg(r#"{"metadata":{"finalizers":["example.com/f"]}}"#), "");
    running.says("delete cm c --wait=false");
    let waiting = start(&mut running.kubectl("wait --for=delete cm/c --timeout=20s"), "");
    let mut gone = running.kubectl("patch cm c --type=json -p");
    says(gone.arg(r#"[{"op":"remove","path":"/metadata/finalizers"}]"#), "");
    assert!(finish(waiting).status.success());
    assert_eq!(running.says("get cm c --ignore-not-found"), "");
}

#[test]
fn set_changes_parts() {
    let running = Running::start();
    running.says("create deployment d --image=one --replicas=2");
    assert_eq!(
        running.says("set image deploy/d one=two"),
        "deployment.apps/d image updated\n"
    );
    assert_eq!(running.says("set env deploy/d A=b"), "deployment.apps/d env updated\n");
    running.says("set resources deploy/d --limits=cpu=1,memory=64Mi");
    let container = running.field("deploy/d", ".spec.template.spec.containers[0]");
    for part in [r#""image":"two""#, r#""name":"A","value":"b""#, r#""memory":"64Mi""#] {
        assert!(container.contains(part), "{part}: {container}");
    }
}
