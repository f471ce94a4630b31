//! Definitions of the built-in types, brought into the form in which a server publishes them.

use k8s_openapi::api::{
    admissionregistration::v1 as admission, apps::v1 as apps, authentication::v1 as authentication,
    authorization::v1 as authorization, autoscaling::v1 as autoscaling_v1, autoscaling::v2 as autoscaling,
    batch::v1 as batch, certificates::v1 as certificates, coordination::v1 as coordination, core::v1 as core,
    discovery::v1 as discovery, events::v1 as events, flowcontrol::v1 as flowcontrol, networking::v1 as networking,
    node::v1 as node, policy::v1 as policy, rbac::v1 as rbac, resource::v1 as resource, scheduling::v1 as scheduling,
    storage::v1 as storage,
};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1 as extensions;
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use k8s_openapi::apimachinery::pkg::version::Info;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1 as registration;
use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::super::fields::{Field, Fields, Zero};
use super::{reference, referred};

macro_rules! add {
    ($generator:ident: $($kind:ty),+ $(,)?) => { $( drop($generator.subschema_for::<$kind>()); )+ };
}

/// All types that a served resource is made of.
pub(super) fn types(fields: &Fields) -> Map<String, Value> {
    let mut generator = SchemaSettings::openapi3().into_generator();
    add_kinds(&mut generator);
    let mut types = generator.take_definitions(true);
    for (name, node) in &mut types {
        wrap_references(node);
        // The crate requires `metadata`; the API does not.
        if let Some(map) = node.as_object_mut()
            && map.get("required") == Some(&json!(["metadata"]))
        {
            map.remove("required");
        }
        open_up(node, name);
        annotate(node, name, fields);
    }
    types
}

/// Types that hold anything are said to be objects without fields, or objects where they may be anything.
fn open_up(node: &mut Value, name: &str) {
    let last = name.rsplit('.').next().unwrap_or(name);
    let Some(map) = node.as_object_mut() else {
        return;
    };
    if last == "JSON" || last.starts_with("JSONSchemaPropsOr") {
        map.remove("type");
    } else if map.get("type") == Some(&json!("object"))
        && !map.contains_key("properties")
        && !map.contains_key("additionalProperties")
    {
        map.insert("x-kubernetes-preserve-unknown-fields".to_owned(), Value::Bool(true));
    }
}

fn add_kinds(generator: &mut SchemaGenerator) {
    add!(generator: core::ConfigMap, core::Endpoints, core::Event, core::LimitRange, core::Namespace, core::Node);
    add!(generator: core::PersistentVolumeClaim, core::PersistentVolume, core::Pod, core::PodTemplate);
    add!(generator: core::ReplicationController, core::ResourceQuota, core::Secret, core::ServiceAccount);
    add!(generator: core::Service, core::Binding, core::ComponentStatus);
    add!(generator: apps::ControllerRevision, apps::DaemonSet, apps::Deployment, apps::ReplicaSet, apps::StatefulSet);
    add!(generator: events::Event, coordination::Lease, discovery::EndpointSlice);
    add!(generator: authentication::SelfSubjectReview, authentication::TokenReview, authentication::TokenRequest);
    add!(generator: authorization::LocalSubjectAccessReview, authorization::SelfSubjectAccessReview);
    add!(generator: authorization::SelfSubjectRulesReview, authorization::SubjectAccessReview);
    add!(generator: autoscaling::HorizontalPodAutoscaler, autoscaling_v1::HorizontalPodAutoscaler);
    add!(generator: autoscaling_v1::Scale, batch::CronJob, batch::Job);
    add!(generator: networking::IngressClass, networking::Ingress, networking::NetworkPolicy);
    add!(generator: policy::PodDisruptionBudget, policy::Eviction, scheduling::PriorityClass, storage::StorageClass);
    add!(generator: rbac::ClusterRole, rbac::ClusterRoleBinding, rbac::Role, rbac::RoleBinding);
    add!(generator: admission::MutatingWebhookConfiguration, admission::ValidatingWebhookConfiguration);
    add!(generator: admission::ValidatingAdmissionPolicy, admission::ValidatingAdmissionPolicyBinding);
    add!(generator: admission::MutatingAdmissionPolicy, admission::MutatingAdmissionPolicyBinding);
    add!(generator: registration::APIService, certificates::CertificateSigningRequest, node::RuntimeClass);
    add!(generator: networking::IPAddress, networking::ServiceCIDR, storage::CSIDriver, storage::CSINode);
    add!(generator: storage::CSIStorageCapacity, storage::VolumeAttachment, storage::VolumeAttributesClass);
    add!(generator: resource::DeviceClass, resource::ResourceClaim, resource::ResourceClaimTemplate);
    add!(generator: resource::ResourceSlice, flowcontrol::FlowSchema, flowcontrol::PriorityLevelConfiguration);
    add!(generator: extensions::CustomResourceDefinition, meta::DeleteOptions, meta::Status, meta::Patch);
    add!(generator: meta::APIGroupList, meta::APIResourceList, meta::APIVersions, Info);
    add!(generator: meta::WatchEvent<k8s_openapi::apimachinery::pkg::runtime::RawExtension>);
}

/// Beside a reference nothing else may stand; a description moves out with the reference in `allOf`.
fn wrap_references(node: &mut Value) {
    match node {
        Value::Object(map) => {
            for child in map.values_mut() {
                wrap_references(child);
            }
            if map.len() > 1
                && let Some(name) = referred(node).map(str::to_owned)
                && let Some(map) = node.as_object_mut()
                && map.remove("$ref").is_some()
                && let Value::Object(wrapped) = reference(&name)
            {
                map.extend(wrapped);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(wrap_references),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn annotate(node: &mut Value, name: &str, fields: &Fields) {
    let Some(message) = fields.message(name) else {
        return;
    };
    if message.atomic
        && let Some(map) = node.as_object_mut()
    {
        map.insert("x-kubernetes-map-type".to_owned(), Value::from("atomic"));
    }
    for field in &message.fields {
        if field.name == "-" {
            // The fields of an inlined message are in this definition.
            annotate(node, &field.kind, fields);
        } else if let Some(property) = node.pointer_mut(&format!("/properties/{}", field.name)) {
            annotate_field(property, field, name);
        }
    }
}

/// Says of the fields of a type what they are when they were not set.
pub(super) fn publish(node: &mut Value, name: &str, fields: &Fields) {
    if let Some(map) = node.as_object_mut() {
        map.remove("x-kubernetes-preserve-unknown-fields");
    }
    let Some(message) = fields.message(name) else {
        return;
    };
    for field in &message.fields {
        if field.name == "-" {
            publish(node, &field.kind, fields);
        } else if field.zero == Some(Zero::Show)
            && let Some(property) = node.pointer_mut(&format!("/properties/{}", field.name))
            && let Some(map) = property.as_object_mut()
            && !map.contains_key("default")
        {
            map.insert("default".to_owned(), zero_of(&field.kind));
        }
    }
}

fn zero_of(kind: &str) -> Value {
    match kind {
        "string" | "bytes" => json!(""),
        "bool" => json!(false),
        "int32" | "int64" | "uint32" | "double" => json!(0),
        _ => json!({}),
    }
}

fn annotate_field(property: &mut Value, field: &Field, message: &str) {
    let Some(map) = property.as_object_mut() else {
        return;
    };
    if let Some(keys) = &field.list_keys {
        let kind = if keys.is_empty() { "set" } else { "map" };
        map.insert("x-kubernetes-list-type".to_owned(), Value::from(kind));
        if !keys.is_empty() {
            map.insert("x-kubernetes-list-map-keys".to_owned(), json!(keys));
        }
    }
    if field.atomic_list {
        map.insert("x-kubernetes-list-type".to_owned(), Value::from("atomic"));
    }
    if let Some(strategy) = field.patch_strategy {
        map.insert("x-kubernetes-patch-strategy".to_owned(), Value::from(strategy));
    }
    if let Some(key) = field.patch_key {
        map.insert("x-kubernetes-patch-merge-key".to_owned(), Value::from(key));
    }
    if field.atomic {
        map.insert("x-kubernetes-map-type".to_owned(), Value::from("atomic"));
    }
    // Part of a list's key, so that a port without it has one all the same.
    if field.name == "protocol" && (message.ends_with(".ServicePort") || message.ends_with(".ContainerPort")) {
        map.insert("default".to_owned(), Value::from("TCP"));
    }
}
