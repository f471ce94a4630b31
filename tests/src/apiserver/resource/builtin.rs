//! The resources that every cluster has, as rows of a table.

use super::{Resource, Subresource, stored_verbs};

/// The object's status at a path of its own.
const STATUS: u8 = 1;
/// `autoscaling/v1` Scale.
const SCALE: u8 = 2;
/// `metadata.generation` is counted.
const GENERATION: u8 = 4;
/// Not bound to a namespace.
const CLUSTER: u8 = 8;
/// Only created, never stored.
const REVIEW: u8 = 16;
/// In the category `all`.
const ALL: u8 = 32;
/// Only looked at.
const READ: u8 = 64;

struct Row {
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    plural: &'static str,
    short: &'static [&'static str],
    is: u8,
}

const fn row(
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    plural: &'static str,
    short: &'static [&'static str],
    is: u8,
) -> Row {
    Row {
        group,
        version,
        kind,
        plural,
        short,
        is,
    }
}

const RBAC: &str = "rbac.authorization.k8s.io";
const AUTHORIZATION: &str = "authorization.k8s.io";
const AUTHENTICATION: &str = "authentication.k8s.io";
const HOOKS: &str = "admissionregistration.k8s.io";
const STORAGE: &str = "storage.k8s.io";
const DEVICES: &str = "resource.k8s.io";
const FLOWS: &str = "flowcontrol.apiserver.k8s.io";

#[rustfmt::skip]
const ROWS: &[Row] = &[
    row("", "v1", "Binding", "bindings", &[], REVIEW),
    row("", "v1", "ComponentStatus", "componentstatuses", &["cs"], CLUSTER | READ),
    row("", "v1", "ConfigMap", "configmaps", &["cm"], 0),
    row("", "v1", "Endpoints", "endpoints", &["ep"], 0),
    row("", "v1", "Event", "events", &["ev"], 0),
    row("", "v1", "LimitRange", "limitranges", &["limits"], 0),
    row("", "v1", "Namespace", "namespaces", &["ns"], CLUSTER | STATUS),
    row("", "v1", "Node", "nodes", &["no"], CLUSTER | STATUS),
    row("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims", &["pvc"], STATUS),
    row("", "v1", "PersistentVolume", "persistentvolumes", &["pv"], CLUSTER | STATUS),
    row("", "v1", "Pod", "pods", &["po"], STATUS | GENERATION | ALL),
    row("", "v1", "PodTemplate", "podtemplates", &[], 0),
    row("", "v1", "ReplicationController", "replicationcontrollers", &["rc"], STATUS | SCALE | GENERATION | ALL),
    row("", "v1", "ResourceQuota", "resourcequotas", &["quota"], STATUS),
    row("", "v1", "Secret", "secrets", &[], 0),
    row("", "v1", "ServiceAccount", "serviceaccounts", &["sa"], 0),
    row("", "v1", "Service", "services", &["svc"], STATUS | ALL),
    row("apiregistration.k8s.io", "v1", "APIService", "apiservices", &[], CLUSTER | STATUS),
    row("apps", "v1", "ControllerRevision", "controllerrevisions", &[], 0),
    row("apps", "v1", "DaemonSet", "daemonsets", &["ds"], STATUS | GENERATION | ALL),
    row("apps", "v1", "Deployment", "deployments", &["deploy"], STATUS | SCALE | GENERATION | ALL),
    row("apps", "v1", "ReplicaSet", "replicasets", &["rs"], STATUS | SCALE | GENERATION | ALL),
    row("apps", "v1", "StatefulSet", "statefulsets", &["sts"], STATUS | SCALE | GENERATION | ALL),
    row("events.k8s.io", "v1", "Event", "events", &["ev"], 0),
    row(AUTHENTICATION, "v1", "SelfSubjectReview", "selfsubjectreviews", &[], REVIEW | CLUSTER),
    row(AUTHENTICATION, "v1", "TokenReview", "tokenreviews", &[], REVIEW | CLUSTER),
    row(AUTHORIZATION, "v1", "LocalSubjectAccessReview", "localsubjectaccessreviews", &[], REVIEW),
    row(AUTHORIZATION, "v1", "SelfSubjectAccessReview", "selfsubjectaccessreviews", &[], REVIEW | CLUSTER),
    row(AUTHORIZATION, "v1", "SelfSubjectRulesReview", "selfsubjectrulesreviews", &[], REVIEW | CLUSTER),
    row(AUTHORIZATION, "v1", "SubjectAccessReview", "subjectaccessreviews", &[], REVIEW | CLUSTER),
    row("autoscaling", "v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers", &["hpa"], STATUS | ALL),
    row("autoscaling", "v1", "HorizontalPodAutoscaler", "horizontalpodautoscalers", &["hpa"], STATUS | ALL),
    row("batch", "v1", "CronJob", "cronjobs", &["cj"], STATUS | GENERATION | ALL),
    row("batch", "v1", "Job", "jobs", &[], STATUS | GENERATION | ALL),
    row("certificates.k8s.io", "v1", "CertificateSigningRequest", "certificatesigningrequests", &["csr"], CLUSTER | STATUS),
    row("networking.k8s.io", "v1", "IngressClass", "ingressclasses", &[], CLUSTER | GENERATION),
    row("networking.k8s.io", "v1", "Ingress", "ingresses", &["ing"], STATUS | GENERATION),
    row("networking.k8s.io", "v1", "IPAddress", "ipaddresses", &["ip"], CLUSTER),
    row("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies", &["netpol"], GENERATION),
    row("networking.k8s.io", "v1", "ServiceCIDR", "servicecidrs", &[], CLUSTER | STATUS),
    row("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets", &["pdb"], STATUS | GENERATION),
    row(RBAC, "v1", "ClusterRoleBinding", "clusterrolebindings", &[], CLUSTER),
    row(RBAC, "v1", "ClusterRole", "clusterroles", &[], CLUSTER),
    row(RBAC, "v1", "RoleBinding", "rolebindings", &[], 0),
    row(RBAC, "v1", "Role", "roles", &[], 0),
    row(STORAGE, "v1", "CSIDriver", "csidrivers", &[], CLUSTER),
    row(STORAGE, "v1", "CSINode", "csinodes", &[], CLUSTER),
    row(STORAGE, "v1", "CSIStorageCapacity", "csistoragecapacities", &[], 0),
    row(STORAGE, "v1", "StorageClass", "storageclasses", &["sc"], CLUSTER),
    row(STORAGE, "v1", "VolumeAttachment", "volumeattachments", &[], CLUSTER | STATUS),
    row(STORAGE, "v1", "VolumeAttributesClass", "volumeattributesclasses", &["vac"], CLUSTER),
    row(HOOKS, "v1", "MutatingAdmissionPolicy", "mutatingadmissionpolicies", &[], CLUSTER | GENERATION),
    row(HOOKS, "v1", "MutatingAdmissionPolicyBinding", "mutatingadmissionpolicybindings", &[], CLUSTER | GENERATION),
    row(HOOKS, "v1", "MutatingWebhookConfiguration", "mutatingwebhookconfigurations", &[], CLUSTER | GENERATION),
    row(HOOKS, "v1", "ValidatingAdmissionPolicy", "validatingadmissionpolicies", &[], CLUSTER | STATUS | GENERATION),
    row(HOOKS, "v1", "ValidatingAdmissionPolicyBinding", "validatingadmissionpolicybindings", &[], CLUSTER | GENERATION),
    row(HOOKS, "v1", "ValidatingWebhookConfiguration", "validatingwebhookconfigurations", &[], CLUSTER | GENERATION),
    row("apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions", &["crd", "crds"], CLUSTER | STATUS | GENERATION),
    row("scheduling.k8s.io", "v1", "PriorityClass", "priorityclasses", &["pc"], CLUSTER | GENERATION),
    row("coordination.k8s.io", "v1", "Lease", "leases", &[], 0),
    row("node.k8s.io", "v1", "RuntimeClass", "runtimeclasses", &[], CLUSTER),
    row("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices", &[], GENERATION),
    row(DEVICES, "v1", "DeviceClass", "deviceclasses", &[], CLUSTER | GENERATION),
    row(DEVICES, "v1", "ResourceClaim", "resourceclaims", &[], STATUS),
    row(DEVICES, "v1", "ResourceClaimTemplate", "resourceclaimtemplates", &[], 0),
    row(DEVICES, "v1", "ResourceSlice", "resourceslices", &[], CLUSTER | GENERATION),
    row(FLOWS, "v1", "FlowSchema", "flowschemas", &[], CLUSTER | STATUS | GENERATION),
    row(FLOWS, "v1", "PriorityLevelConfiguration", "prioritylevelconfigurations", &[], CLUSTER | STATUS | GENERATION),
];

/// Verbs of a path that leads on to another server.
const PROXY: &[&str] = &["create", "delete", "get", "patch", "update"];

type Below = (
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    &'static [&'static str],
);

/// Subresources of single kinds: plural, name, group and version and kind of what is sent there, verbs.
#[rustfmt::skip]
const MORE: &[Below] = &[
    ("certificatesigningrequests", "approval", "certificates.k8s.io", "v1", "CertificateSigningRequest", &["get", "patch", "update"]),
    ("namespaces", "finalize", "", "v1", "Namespace", &["update"]),
    ("nodes", "proxy", "", "v1", "NodeProxyOptions", PROXY),
    ("pods", "attach", "", "v1", "PodAttachOptions", &["create", "get"]),
    ("pods", "binding", "", "v1", "Binding", &["create"]),
    ("pods", "ephemeralcontainers", "", "v1", "Pod", &["get", "patch", "update"]),
    ("pods", "eviction", "policy", "v1", "Eviction", &["create"]),
    ("pods", "exec", "", "v1", "PodExecOptions", &["create", "get"]),
    ("pods", "log", "", "v1", "Pod", &["get"]),
    ("pods", "portforward", "", "v1", "PodPortForwardOptions", &["create", "get"]),
    ("pods", "proxy", "", "v1", "PodProxyOptions", PROXY),
    ("pods", "resize", "", "v1", "Pod", &["get", "patch", "update"]),
    ("services", "proxy", "", "v1", "ServiceProxyOptions", PROXY),
    ("serviceaccounts", "token", "authentication.k8s.io", "v1", "TokenRequest", &["create"]),
];

/// All of them, groups in the order of discovery.
pub(crate) fn resources() -> impl Iterator<Item = Resource> {
    ROWS.iter().map(resource)
}

fn resource(row: &Row) -> Resource {
    let has = |bit: u8| row.is & bit != 0;
    let verbs = match (has(REVIEW), row.kind) {
        (true, _) => vec!["create"],
        _ if has(READ) => vec!["get", "list"],
        (false, "Namespace") => stored_verbs()
            .into_iter()
            .filter(|verb| *verb != "deletecollection")
            .collect(),
        (false, _) => stored_verbs(),
    };
    let mut subresources: Vec<Subresource> = MORE
        .iter()
        .filter(|(plural, ..)| *plural == row.plural)
        .map(|(_, name, group, version, kind, verbs)| Subresource {
            name: (*name).to_owned(),
            group: (*group).to_owned(),
            version: (*version).to_owned(),
            kind: (*kind).to_owned(),
            verbs: verbs.to_vec(),
        })
        .collect();
    if has(SCALE) {
        subresources.push(scale());
    }
    if has(STATUS) {
        subresources.push(status(row.group, row.version, row.kind));
    }
    subresources.sort_by(|one, other| one.name.cmp(&other.name));
    let categories: &[&str] = match row.kind {
        "APIService" | "CustomResourceDefinition" => &["api-extensions"],
        _ if row.group == HOOKS => &["api-extensions"],
        _ if has(ALL) => &["all"],
        _ => &[],
    };
    Resource {
        group: row.group.to_owned(),
        version: row.version.to_owned(),
        plural: row.plural.to_owned(),
        singular: row.kind.to_lowercase(),
        kind: row.kind.to_owned(),
        list_kind: format!("{}List", row.kind),
        short_names: row.short.iter().map(|name| (*name).to_owned()).collect(),
        categories: categories.iter().map(|name| (*name).to_owned()).collect(),
        namespaced: !has(CLUSTER),
        verbs,
        subresources,
        generation: has(GENERATION),
        definition: definition(row.group, row.version, row.kind),
        custom: None,
        columns: Vec::new(),
        since: 0,
    }
}

/// The subresource that holds an object's status.
pub(crate) fn status(group: &str, version: &str, kind: &str) -> Subresource {
    Subresource {
        name: "status".to_owned(),
        group: group.to_owned(),
        version: version.to_owned(),
        kind: kind.to_owned(),
        verbs: vec!["get", "patch", "update"],
    }
}

/// The subresource that shows and sets the number of replicas.
pub(crate) fn scale() -> Subresource {
    Subresource {
        name: "scale".to_owned(),
        group: "autoscaling".to_owned(),
        version: "v1".to_owned(),
        kind: "Scale".to_owned(),
        verbs: vec!["get", "patch", "update"],
    }
}

/// How OpenAPI calls a built-in type.
pub(crate) fn definition(group: &str, version: &str, kind: &str) -> String {
    match group {
        "" => format!("io.k8s.api.core.{version}.{kind}"),
        "apiextensions.k8s.io" => {
            format!("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.{version}.{kind}")
        }
        "apiregistration.k8s.io" => format!("io.k8s.kube-aggregator.pkg.apis.apiregistration.{version}.{kind}"),
        _ => {
            let first = group.split('.').next().unwrap_or(group);
            format!("io.k8s.api.{first}.{version}.{kind}")
        }
    }
}
