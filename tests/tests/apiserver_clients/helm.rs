//! helm's life of a release: lint, template, install, upgrade, rollback, uninstall; with this project's charts and a small one.

use k8s_openapi::api::rbac::v1::PolicyRule;
use kubelb_manager::controllers::permissions::{PERMISSIONS, Scope, rules};

use super::running::{Running, refuses, says};

const MANAGER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/kubelb-manager");
/// Rendering offline takes an old version of Kubernetes for granted.
const VERSION: &str = "--kube-version=1.36.0";

const CHART: &str = "apiVersion: v2\nname: small\nversion: 0.1.0\nappVersion: 1.0.0\n";
const VALUES: &str = "port: 80\ntext: first\n";
const TEMPLATES: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: "{{ .Release.Name }}-text", labels: {app.kubernetes.io/managed-by: "{{ .Release.Service }}"}}
data: {text: "{{ .Values.text }}", served: "{{ .Capabilities.APIVersions.Has "discovery.k8s.io/v1/EndpointSlice" }}"}
---
apiVersion: v1
kind: Service
metadata: {name: "{{ .Release.Name }}"}
spec: {selector: {app: x}, ports: [{port: {{ .Values.port }}}]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: "{{ .Release.Name }}"}
rules: [{apiGroups: [""], resources: [pods], verbs: [get]}]
"#;

fn start() -> Running {
    let running = Running::start();
    running.write("small/Chart.yaml", CHART);
    running.write("small/values.yaml", VALUES);
    running.write("small/templates/all.yaml", TEMPLATES);
    running
}

impl Running {
    #[track_caller]
    fn helm_says(&self, line: &str) -> String {
        says(&mut self.helm(line), "")
    }
}

/// A chart, what it needs to be told, and as much else as there is to tell.
struct Chart {
    name: &'static str,
    needed: &'static str,
    more: &'static str,
}

const CHARTS: [Chart; 4] = [
    Chart {
        name: "kubelb-manager",
        needed: "--set crds.install=false",
        more: "replicaCount: 3\ntenants: {apiServerURLs: ['https://api.example.com'], tokenLifetime: 24h}\n\
               xds: {names: [lb.example.com], agentServiceAccounts: [a/b, c/d], fleetServiceAccounts: ['e/f=t,u', 'g/h=*'], maxPeers: 2000000, maxConnectionAge: 60}\n\
               networkPolicy: {metricsFrom: [{namespaceSelector: {matchLabels: {team: x}}}]}\n\
               topologySpreadConstraints: [{maxSkew: 2, topologyKey: zone, whenUnsatisfiable: DoNotSchedule, labelSelector: {}}]\n",
    },
    Chart {
        name: "kubelb-agent",
        needed: "--set interfaces={eth0}",
        more: "interfaces: [eth0, eth1.7]\nattachModes: [auto, eth1.7=tcx]\nmanagers: ['https://lb.example.com:18000']\n\
               snat: {addresses: [192.0.2.1, '2001:db8::1'], ports: 32768-60999}\n\
               maxFlows: 16777216\nmaxBackends: 1048576\nmaxChecksPerSecond: 100000\n\
               metrics: {bindAddress: '[::]'}\nhostPaths: {subPathExpr: $(NODE_NAME)}\n",
    },
    Chart {
        name: "kubelb-envoy",
        needed: "--set tenants={*}",
        more: "tenants: [a, b]\nmanagers: ['https://lb.example.com:18000']\nconcurrency: 4\nlogLevel: error\n\
               bootstrap: {image: {repository: r, tag: t, pullPolicy: Never}, extraArgs: [--version], resources: {limits: {memory: 64Mi}}}\n\
               limits: {connections: 1000000, heapMiB: 65536}\nreadiness: {bindAddress: '[::1]', port: 9999}\n",
    },
    Chart {
        name: "kubelb-ccm",
        needed: "--set kubelb.tenantName=a",
        more: "kubelb: {tenantName: tenant-a, nodeAddressType: Hostname, nodeAddressLabelSelector: 'pool=edge,zone notin (b)', cleanupTimeout: 1h30m}\n\
               networkPolicy: {metricsFrom: [{podSelector: {}}]}\n\
               extraVolumes: [{name: x, emptyDir: {}}]\nextraVolumeMounts: [{name: x, mountPath: /x}]\n",
    },
];

/// What all charts take.
const MORE: &str = "image: {repository: 'registry.example.com:5000/x', tag: v1, pullPolicy: Always}\n\
    imagePullSecrets: [{name: s}]\nfullnameOverride: other\npodAnnotations: {a: b}\npodLabels: {c: d}\n\
    serviceAccount: {create: false, name: mine}\nextraArgs: [--version]\nextraEnv: [{name: A, value: b}]\n\
    nodeSelector: {e: f}\ntolerations: [{operator: Exists}]\naffinity: {nodeAffinity: {}}\npriorityClassName: p\n";

fn path(chart: &str) -> String {
    format!("{}/../charts/{chart}", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn our_charts_are_clean_and_the_server_takes_what_they_render() {
    let running = start();
    running.says("create namespace kubelb");
    // What a Pod needs to be admitted.
    running.says("create serviceaccount mine --namespace kubelb");
    running.says("create priorityclass p --value=1");
    for Chart { name, needed, more } in CHARTS {
        let chart = path(name);
        let file = format!("{name}.yaml");
        running.write(&file, &format!("{more}{MORE}"));
        let linted = running.helm_says(&format!("lint --strict {chart} {needed}"));
        assert!(linted.contains("0 chart(s) failed"), "{linted}");
        for values in [needed.to_owned(), format!("{needed} --values {file}")] {
            let rendered = running.helm_says(&format!("template r {chart} --namespace kubelb {VERSION} {values}"));
            // No Pod is admitted, not even in a dry run, without its account.
            let accounts = rendered
                .split("\n---\n")
                .filter(|object| object.contains("\nkind: ServiceAccount\n"));
            for account in accounts {
                running.says_of("apply -f -", account);
            }
            // Strict: a field that the server does not know is a mistake.
            running.says_of("apply --dry-run=server --validate=strict -f -", &rendered);
        }
    }
}

#[test]
fn what_our_charts_are_not_told_or_do_not_know_is_said() {
    let running = start();
    for (values, said) in [
        ("", [false, false]),
        ("--set limits.connections=7", [true, false]),
        ("--set limits.connections=7,limits.heapMiB=64", [true, true]),
    ] {
        let rendered = running.helm_says(&format!("template r {} {VERSION} {values}", path("kubelb-envoy")));
        let flags = ["- --max-connections=7\n", "- --max-heap=64\n"].map(|flag| rendered.contains(flag));
        assert_eq!(flags, said, "the others are left to the Config: {rendered}");
        assert_eq!(
            rendered.matches("--max-").count(),
            said.iter().filter(|said| **said).count()
        );
    }
    for (chart, values, said) in [
        ("kubelb-agent", "", "interfaces={eth0}"),
        ("kubelb-ccm", "", "kubelb.tenantName"),
        ("kubelb-ccm", "--set kubelb.tenantName=A_b", "Does not match pattern"),
        (
            "kubelb-ccm",
            "--set kubelb.tenantName=a,kubelb.disableGatewayController=true",
            "disableGatewayController is not allowed",
        ),
        ("kubelb-manager", "--set xds.port=70000", "less than or equal to 65535"),
        ("kubelb-envoy", "--set logLevel=info2", "logLevel"),
        (
            "kubelb-agent",
            "--set interfaces={eth0},attachModes={fast}",
            "attachModes.0",
        ),
    ] {
        let line = format!("template r {} {VERSION} {values}", path(chart));
        let refused = refuses(&mut running.helm(&line), "");
        assert!(refused.contains(said), "{line}: {refused}");
    }
}

#[test]
fn the_manager_s_chart_renders_every_definition() {
    let running = start();
    let rendered = running.helm_says(&format!(
        "template m {MANAGER} {VERSION} --show-only templates/crds.yaml"
    ));
    assert_eq!(
        rendered.matches("kind: CustomResourceDefinition").count(),
        9,
        "{rendered}"
    );
    let without = running.helm_says(&format!("template m {MANAGER} {VERSION} --set crds.install=false"));
    assert!(!without.contains("CustomResourceDefinition"), "{without}");
    // What is rendered is what the server takes.
    running.says_of("apply --server-side -f -", &rendered);
}

#[test]
fn the_manager_s_chart_grants_what_its_controllers_need() {
    let running = start();
    running.helm_says(&format!(
        "install m {MANAGER} --namespace kubelb --create-namespace --set crds.install=false"
    ));
    for scope in PERMISSIONS.iter().map(|permission| permission.scope) {
        let role = match scope {
            Scope::Cluster => "clusterrole/kubelb-manager".to_owned(),
            Scope::Manager => "-n kubelb role/kubelb-manager".to_owned(),
            Scope::Namespace(namespace) => format!("-n {namespace} role/kubelb-manager-kubeconfigs"),
        };
        let granted: Vec<PolicyRule> = serde_json::from_str(&running.field(&role, ".rules")).unwrap();
        for needed in rules(scope) {
            for verb in &needed.verbs {
                for resource in needed.resources.iter().flatten() {
                    let has =
                        |list: &Option<Vec<String>>, one: &String| list.iter().flatten().any(|other| other == one);
                    let is_granted = granted.iter().any(|rule| {
                        rule.verbs.contains(verb)
                            && has(&rule.resources, resource)
                            && rule.api_groups == needed.api_groups
                            && rule.resource_names == needed.resource_names
                    });
                    assert!(is_granted, "{role}: {verb} {resource} as in {needed:?}");
                }
            }
        }
    }
}

#[test]
fn the_manager_s_definitions_come_with_the_release_and_stay_after_it() {
    let running = start();
    // Without kubelets there are no managers to wait for.
    running.helm_says(&format!(
        "upgrade --install m {MANAGER} --namespace kubelb --create-namespace"
    ));
    running.says("wait --for=condition=Established --timeout=30s crd/loadbalancers.kubelb.k8c.io");
    let tenant = "---\n{apiVersion: kubelb.k8c.io/v1alpha1, kind: Tenant, metadata: {name: t}}";
    running.says_of("create -f -", tenant);
    let removed = running.helm_says("uninstall m --namespace kubelb");
    assert!(removed.contains("kept due to the resource policy"), "{removed}");
    assert!(running.says("get tenants").contains('t'));
    // The next release takes over what the last one left.
    running.helm_says(&format!("install m {MANAGER} --namespace kubelb"));
    running.helm_says(&format!("upgrade m {MANAGER} --namespace kubelb"));
    assert_eq!(running.field("tenants/t", ".metadata.name"), "t");
}

#[test]
fn an_upgrade_changes_what_differs_and_a_rollback_brings_it_back() {
    let running = start();
    let installed = running.helm_says("install s small --wait");
    assert!(installed.contains("STATUS: deployed"), "{installed}");
    assert_eq!(
        running.field("cm/s-text", ".data"),
        r#"{"served":"true","text":"first"}"#
    );
    assert!(refuses(&mut running.helm("install s small"), "").contains("cannot re-use a name"));

    // A hand's change to another field stays; helm compares three states.
    running.says("label svc s mine=kept");
    running.helm_says("upgrade s small --set port=81,text=second");
    assert_eq!(running.field("cm/s-text", ".data.text"), "second");
    assert_eq!(running.field("svc/s", ".spec.ports[*].port"), "81");
    assert_eq!(running.field("svc/s", ".metadata.labels.mine"), "kept");

    running.helm_says("rollback s 1 --wait");
    assert_eq!(running.field("cm/s-text", ".data.text"), "first");
    assert_eq!(running.field("svc/s", ".spec.ports[*].port"), "80");
    let history = running.helm_says("history s");
    assert!(
        history.contains("Rollback to 1") && history.contains("superseded"),
        "{history}"
    );
    assert!(running.helm_says("status s").contains("REVISION: 3"));
    assert!(running.helm_says("list --all-namespaces").contains("small-0.1.0"));
    assert!(running.helm_says("get manifest s").contains("text: \"first\""));
    assert!(running.helm_says("get values s --revision 2").contains("text: second"));
    assert!(running.helm_says("get all s").contains("kind: Role"));

    assert!(running.helm_says("uninstall s --wait").contains("uninstalled"));
    assert_eq!(
        running.says("get cm,svc,role -l app.kubernetes.io/managed-by=Helm --ignore-not-found"),
        ""
    );
    assert_eq!(running.helm_says("list -q"), "");
}

#[test]
fn an_atomic_upgrade_that_the_server_refuses_leaves_the_old_state() {
    let running = start();
    running.helm_says("install s small");
    let refused = refuses(
        &mut running.helm("upgrade s small --atomic --timeout 30s --set port=80000,text=second"),
        "",
    );
    assert!(
        refused.contains("spec.ports[0].port: Invalid value: 80000"),
        "{refused}"
    );
    assert_eq!(running.field("cm/s-text", ".data.text"), "first");
    assert!(running.helm_says("history s").contains("Rollback to 1"));
    let refused = refuses(&mut running.helm("install other small --set port=80000"), "");
    assert!(refused.contains("Invalid value: 80000"), "{refused}");
    running.helm_says("upgrade --install other small --set port=82");
    assert_eq!(running.field("svc/other", ".spec.ports[*].port"), "82");
}

#[test]
fn what_belongs_to_nobody_or_to_another_release_is_not_taken() {
    let running = start();
    running.says("create cm s-text");
    let refused = refuses(&mut running.helm("install s small"), "");
    assert!(refused.contains("invalid ownership metadata"), "{refused}");
    running.says("delete cm s-text");
    running.helm_says("install s small --dry-run");
    assert_eq!(running.says("get svc s --ignore-not-found"), "");
}
