//! Columns of the built-in kinds, and what is said of them.

use serde_json::Value;

use super::super::resource::Resource;
use super::super::schema::{Definitions, OBJECT_META};
use super::column;

/// Name, type, description and priority of each column. A description is that of a field, named by type and field, or else a text;
/// it is empty where the name says which field of the metadata it is.
type Columns = &'static [(&'static str, &'static str, &'static str, i64)];

#[rustfmt::skip]
const COLUMNS: &[(&str, &str, Columns)] = &[
    ("", "configmaps", &[
        ("Name", "string", "", 0),
        ("Data", "string", "ConfigMap.data", 0),
        ("Age", "string", "", 0),
    ]),
    ("", "secrets", &[
        ("Name", "string", "", 0),
        ("Type", "string", "Secret.type", 0),
        ("Data", "string", "Secret.data", 0),
        ("Age", "string", "", 0),
    ]),
    ("", "serviceaccounts", &[
        ("Name", "string", "", 0),
        ("Age", "string", "", 0),
    ]),
    ("", "services", &[
        ("Name", "string", "", 0),
        ("Type", "string", "ServiceSpec.type", 0),
        ("Cluster-IP", "string", "ServiceSpec.clusterIP", 0),
        ("External-IP", "string", "ServiceSpec.externalIPs", 0),
        ("Port(s)", "string", "ServiceSpec.ports", 0),
        ("Age", "string", "", 0),
        ("Selector", "string", "ServiceSpec.selector", 1),
    ]),
    ("", "endpoints", &[
        ("Name", "string", "", 0),
        ("Endpoints", "string", "Endpoints.subsets", 0),
        ("Age", "string", "", 0),
    ]),
    ("", "namespaces", &[
        ("Name", "string", "", 0),
        ("Status", "string", "The status of the namespace", 0),
        ("Age", "string", "", 0),
    ]),
    ("", "nodes", &[
        ("Name", "string", "", 0),
        ("Status", "string", "The status of the node", 0),
        ("Roles", "string", "The roles of the node", 0),
        ("Age", "string", "", 0),
        ("Version", "string", "NodeSystemInfo.kubeletVersion", 0),
        ("Internal-IP", "string", "NodeStatus.addresses", 1),
        ("External-IP", "string", "NodeStatus.addresses", 1),
        ("OS-Image", "string", "NodeSystemInfo.osImage", 1),
        ("Kernel-Version", "string", "NodeSystemInfo.kernelVersion", 1),
        ("Container-Runtime", "string", "NodeSystemInfo.containerRuntimeVersion", 1),
    ]),
    ("", "pods", &[
        ("Name", "string", "", 0),
        ("Ready", "string", "The aggregate readiness state of this pod for accepting traffic.", 0),
        ("Status", "string", "The aggregate status of the containers in this pod.", 0),
        ("Restarts", "string", "The number of times the containers in this pod have been restarted and when the last container in this pod has restarted.", 0),
        ("Age", "string", "", 0),
        ("IP", "string", "PodStatus.podIP", 1),
        ("Node", "string", "PodSpec.nodeName", 1),
        ("Nominated Node", "string", "PodStatus.nominatedNodeName", 1),
        ("Readiness Gates", "string", "PodSpec.readinessGates", 1),
    ]),
    ("", "events", &[
        ("Last Seen", "string", "Event.lastTimestamp", 0),
        ("Type", "string", "Event.type", 0),
        ("Reason", "string", "Event.reason", 0),
        ("Object", "string", "Event.involvedObject", 0),
        ("Subobject", "string", "ObjectReference.fieldPath", 1),
        ("Source", "string", "Event.source", 1),
        ("Message", "string", "Event.message", 0),
        ("First Seen", "string", "Event.firstTimestamp", 1),
        ("Count", "string", "Event.count", 1),
        ("Name", "string", "", 1),
    ]),
    ("events.k8s.io", "events", &[
        ("Last Seen", "string", "Event.lastTimestamp", 0),
        ("Type", "string", "Event.type", 0),
        ("Reason", "string", "Event.reason", 0),
        ("Object", "string", "Event.involvedObject", 0),
        ("Subobject", "string", "ObjectReference.fieldPath", 1),
        ("Source", "string", "Event.source", 1),
        ("Message", "string", "Event.message", 0),
        ("First Seen", "string", "Event.firstTimestamp", 1),
        ("Count", "string", "Event.count", 1),
        ("Name", "string", "", 1),
    ]),
    ("apps", "deployments", &[
        ("Name", "string", "", 0),
        ("Ready", "string", "Number of the pod with ready state", 0),
        ("Up-to-date", "string", "DeploymentStatus.updatedReplicas", 0),
        ("Available", "string", "DeploymentStatus.availableReplicas", 0),
        ("Age", "string", "", 0),
        ("Containers", "string", "Names of each container in the template.", 1),
        ("Images", "string", "Images referenced by each container in the template.", 1),
        ("Selector", "string", "DeploymentSpec.selector", 1),
    ]),
    ("apps", "replicasets", &[
        ("Name", "string", "", 0),
        ("Desired", "integer", "ReplicaSetSpec.replicas", 0),
        ("Current", "integer", "ReplicaSetStatus.replicas", 0),
        ("Ready", "integer", "ReplicaSetStatus.readyReplicas", 0),
        ("Age", "string", "", 0),
        ("Containers", "string", "Names of each container in the template.", 1),
        ("Images", "string", "Images referenced by each container in the template.", 1),
        ("Selector", "string", "ReplicaSetSpec.selector", 1),
    ]),
    ("apps", "statefulsets", &[
        ("Name", "string", "", 0),
        ("Ready", "string", "Number of the pod with ready state", 0),
        ("Age", "string", "", 0),
        ("Containers", "string", "Names of each container in the template.", 1),
        ("Images", "string", "Images referenced by each container in the template.", 1),
    ]),
    ("apps", "daemonsets", &[
        ("Name", "string", "", 0),
        ("Desired", "integer", "DaemonSetStatus.desiredNumberScheduled", 0),
        ("Current", "integer", "DaemonSetStatus.currentNumberScheduled", 0),
        ("Ready", "integer", "DaemonSetStatus.numberReady", 0),
        ("Up-to-date", "integer", "DaemonSetStatus.updatedNumberScheduled", 0),
        ("Available", "integer", "DaemonSetStatus.numberAvailable", 0),
        ("Node Selector", "string", "PodSpec.nodeSelector", 0),
        ("Age", "string", "", 0),
        ("Containers", "string", "Names of each container in the template.", 1),
        ("Images", "string", "Images referenced by each container in the template.", 1),
        ("Selector", "string", "DaemonSetSpec.selector", 1),
    ]),
    ("networking.k8s.io", "ingresses", &[
        ("Name", "string", "", 0),
        ("Class", "string", "The name of the IngressClass resource that should be used for additional configuration", 0),
        ("Hosts", "string", "Hosts that incoming requests are matched against before the ingress rule", 0),
        ("Address", "string", "Address is a list containing ingress points for the load-balancer", 0),
        ("Ports", "string", "Ports of TLS configurations that open", 0),
        ("Age", "string", "", 0),
    ]),
    ("networking.k8s.io", "ingressclasses", &[
        ("Name", "string", "", 0),
        ("Controller", "string", "Controller that is responsible for handling this class", 0),
        ("Parameters", "string", "A reference to a resource with additional parameters", 0),
        ("Age", "string", "", 0),
    ]),
    ("discovery.k8s.io", "endpointslices", &[
        ("Name", "string", "", 0),
        ("AddressType", "string", "EndpointSlice.addressType", 0),
        ("Ports", "string", "EndpointSlice.ports", 0),
        ("Endpoints", "string", "EndpointSlice.endpoints", 0),
        ("Age", "string", "", 0),
    ]),
    ("coordination.k8s.io", "leases", &[
        ("Name", "string", "", 0),
        ("Holder", "string", "LeaseSpec.holderIdentity", 0),
        ("Age", "string", "", 0),
    ]),
    ("batch", "jobs", &[
        ("Name", "string", "", 0),
        ("Status", "string", "Status of the job.", 0),
        ("Completions", "string", "JobStatus.succeeded", 0),
        ("Duration", "string", "Time required to complete the job.", 0),
        ("Age", "string", "", 0),
        ("Containers", "string", "Names of each container in the template.", 1),
        ("Images", "string", "Images referenced by each container in the template.", 1),
        ("Selector", "string", "JobSpec.selector", 1),
    ]),
    ("apiextensions.k8s.io", "customresourcedefinitions", &[
        ("Name", "string", "", 0),
        ("Created At", "date", "", 0),
    ]),
    ("rbac.authorization.k8s.io", "clusterroles", &[
        ("Name", "string", "", 0),
        ("Created At", "date", "", 0),
    ]),
    ("rbac.authorization.k8s.io", "roles", &[
        ("Name", "string", "", 0),
        ("Created At", "date", "", 0),
    ]),
    ("rbac.authorization.k8s.io", "clusterrolebindings", &[
        ("Name", "string", "", 0),
        ("Role", "string", "ClusterRoleBinding.roleRef", 0),
        ("Age", "string", "", 0),
        ("Users", "string", "Users in the clusterRoleBinding", 1),
        ("Groups", "string", "Groups in the clusterRoleBinding", 1),
        ("ServiceAccounts", "string", "ServiceAccounts in the clusterRoleBinding", 1),
    ]),
    ("rbac.authorization.k8s.io", "rolebindings", &[
        ("Name", "string", "", 0),
        ("Role", "string", "RoleBinding.roleRef", 0),
        ("Age", "string", "", 0),
        ("Users", "string", "Users in the roleBinding", 1),
        ("Groups", "string", "Groups in the roleBinding", 1),
        ("ServiceAccounts", "string", "ServiceAccounts in the roleBinding", 1),
    ]),
    ("", "componentstatuses", &[
        ("Name", "string", "", 0),
        ("Status", "string", "Status of the component conditions", 0),
        ("Message", "string", "Message of the component conditions", 0),
        ("Error", "string", "Error of the component conditions", 0),
    ]),
];

/// Of kinds that have none of their own.
const PLAIN: Columns = &[("Name", "string", "", 0), ("Age", "string", "", 0)];

/// Names of the columns.
pub(super) fn names(resource: &Resource) -> impl Iterator<Item = &'static str> {
    of(resource).iter().map(|(name, ..)| *name)
}

fn of(resource: &Resource) -> Columns {
    let found = COLUMNS.iter().find(|(group, plural, _)| resource.is(group, plural));
    found.map_or(PLAIN, |(_, _, columns)| columns)
}

/// The columns as a Table shows them.
pub(super) fn describe(resource: &Resource, definitions: &Definitions) -> Vec<Value> {
    of(resource)
        .iter()
        .map(|(name, kind, text, priority)| {
            column(name, kind, &description(resource, definitions, name, text), *priority)
        })
        .collect()
}

fn description(resource: &Resource, definitions: &Definitions, name: &str, text: &str) -> String {
    let of_metadata = match name {
        _ if !text.is_empty() => None,
        "Name" => definitions.described(OBJECT_META, "name"),
        _ => definitions.described(OBJECT_META, "creationTimestamp"),
    };
    let of_field = || {
        let (kind, field) = text.split_once('.').filter(|_| !text.contains(' '))?;
        // Its own group's type, or one of the core that it uses.
        let (package, _) = resource.stored_definition().rsplit_once('.')?;
        definitions
            .described(&format!("{package}.{kind}"), field)
            .or_else(|| definitions.described(&format!("io.k8s.api.core.v1.{kind}"), field))
    };
    of_metadata.or_else(of_field).unwrap_or(text).to_owned()
}
