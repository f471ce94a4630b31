//! kubectl and rights: who am I, may I, tokens, and the kubeconfig itself.

use super::running::{NOBODY, NOBODY_TOKEN, Running};

#[test]
fn questions_about_rights_are_answered() {
    let running = Running::start();
    assert_eq!(running.says("auth can-i list svc"), "yes\n");
    assert!(
        running
            .refuses(&format!("auth can-i list svc --as={NOBODY}"), "")
            .starts_with("no")
    );
    running.says("create role r --verb=list,watch --resource=services");
    running.says(&format!("create rolebinding r --role=r --user={NOBODY}"));
    assert_eq!(running.says(&format!("auth can-i list svc --as={NOBODY}")), "yes\n");
    assert!(
        running
            .refuses(&format!("auth can-i delete svc --as={NOBODY}"), "")
            .starts_with("no")
    );
    let list = running.says(&format!("auth can-i --list --as={NOBODY}"));
    assert!(list.contains("services") && list.contains("[list watch]"), "{list}");
    let me = running.says("auth whoami -o jsonpath={.status.userInfo.groups}");
    assert!(
        me.contains("system:masters") && me.contains("system:authenticated"),
        "{me}"
    );
}

#[test]
fn who_may_not_is_told_what_was_refused() {
    let running = Running::start();
    let refused = running.refuses(&format!("get pods --as={NOBODY}"), "");
    assert!(
        refused.contains("Forbidden") && refused.contains("User \"nobody\" cannot list resource \"pods\""),
        "{refused}"
    );
    let text = running
        .server
        .kubeconfig_with(&format!("https://{}", running.server.address()), NOBODY_TOKEN);
    running.write("nobody", &text.unwrap());
    let mut command = running.kubectl("get pods");
    let refused = super::running::refuses(command.env("KUBECONFIG", running.directory().join("nobody")), "");
    assert!(refused.contains("User \"nobody\" cannot list"), "{refused}");
}

#[test]
fn tokens_are_for_service_accounts() {
    let running = Running::start();
    running.says("create sa s");
    let token = running.says("create token s --duration=1h --audience=kubelb-xds");
    assert_eq!(token.split('.').count(), 3);
    assert!(running.refuses("create token nothing", "").contains("not found"));
    let usual = running.says("create token s");
    let text = running
        .server
        .kubeconfig_with(&format!("https://{}", running.server.address()), usual.trim());
    running.write("s", &text.unwrap());
    let mut command = running.kubectl("auth whoami -o jsonpath={.status.userInfo.username}");
    let me = super::running::says(command.env("KUBECONFIG", running.directory().join("s")), "");
    assert_eq!(me, "system:serviceaccount:default:s");
}

#[test]
fn roles_are_reconciled() {
    let running = Running::start();
    let role = "---\n{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: r, namespace: default},
        rules: [{apiGroups: [\"\"], resources: [pods], verbs: [get]}]}";
    let said = running.says_of("auth reconcile -f -", role);
    assert!(said.contains("role.rbac.authorization.k8s.io/r reconciled"), "{said}");
    let more = role.replace("[get]", "[list]");
    running.says_of("auth reconcile -f -", &more);
    assert!(running.field("role/r", ".rules").contains("list"));
}

#[test]
fn the_kubeconfig_is_one_like_any_other() {
    let running = Running::start();
    let context = running.says("config current-context");
    assert!(running.says("config get-contexts -o name").contains(&context));
    assert!(running.says("config view --minify").contains("server: https://"));
    running.says("config set-context --current --namespace=kube-system");
    running.says("create cm c");
    assert_eq!(
        running.says("get cm c -o jsonpath={.metadata.namespace}"),
        "kube-system"
    );
}
