//! Gateway, HTTPRoute or GRPCRoute → Route.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::core::ObjectMeta;
use kubelb_api::gateway_api::GROUP;
use kubelb_api::labels::{Label, MANAGED_BY_KUBELB};
use kubelb_api::names::{DEFAULT_ADDRESSES, TenantName};
use kubelb_api::raw_object::{RawObject, WriteError};
use kubelb_api::v1alpha1::{KubernetesSource, LoadBalancerEndpoints, RefusedReference, Route, RouteSource, RouteSpec};
use serde_json::{Map, Value, json};

use super::references::may_refer;
use super::{Material, MaterialKind, Name, Reach, References, View};
use crate::layer7::object::{Kind, Object};
use crate::plan::Notice;

/// Annotations that say how the object was written, not what is wanted.
const NOT_COPIED: &[&str] = &["kubectl.kubernetes.io/last-applied-configuration"];
/// Longest value of a label.
const MAX_LABEL: usize = 63;
/// Most groups of endpoints of a Route.
const MAX_GROUPS: usize = 16;
/// Most references that are listed as refused.
const MAX_REFUSED: usize = 4_096;

/// What the management cluster shall hold for an object.
#[derive(Clone, Debug, PartialEq)]
pub struct Planned {
    /// The Route.
    pub route: Route,
    /// What of the object is not done.
    pub notices: Vec<Notice>,
}

/// The Route of an object that is ours. `reaches`: of the Services that it may refer to and that are there; `missing`: what it may refer to
/// for TLS and is not there.
///
/// # Errors
/// When the object has no JSON form.
pub fn route(
    kind: Kind,
    object: &Object,
    references: &References,
    reaches: &BTreeMap<Name, Reach>,
    missing: &BTreeSet<Material>,
    tenant: &TenantName,
    view: &dyn View,
) -> Result<Planned, WriteError> {
    let mut notices = Vec::new();
    let mut source = KubernetesSource {
        resource: Some(resource(kind, object)?),
        refused: refused(kind, object, references, reaches, missing, view),
        ..KubernetesSource::default()
    };
    if kind != Kind::Gateway {
        source.namespace_labels = view.namespace_labels(object.namespace());
    }
    let mut endpoints = vec![everywhere()];
    for ((namespace, name), reach) in reaches {
        let Reach::Carried(carried) = reach else { continue };
        source.services.push(RawObject::new(&carried.service)?);
        let Some(own) = &carried.endpoints else { continue };
        if endpoints.len() < MAX_GROUPS {
            endpoints.push(own.clone());
        } else {
            let message = format!(
                "at most {} backends of a route can have nodes of their own; requests for {namespace}/{name} are tried at all nodes",
                MAX_GROUPS.saturating_sub(1)
            );
            notices.push(Notice::new("spec.rules", message));
        }
    }
    let mut metadata = ObjectMeta {
        name: object.metadata.uid.clone(),
        namespace: Some(tenant.namespace()),
        ..ObjectMeta::default()
    };
    Label::ORIGIN_NAMESPACE.set(&mut metadata, object.namespace());
    if object.name().len() <= MAX_LABEL {
        Label::ORIGIN_NAME.set(&mut metadata, object.name());
    }
    Label::ORIGIN_RESOURCE_KIND.set(&mut metadata, kind.qualified());
    Label::MANAGED_BY.set(&mut metadata, MANAGED_BY_KUBELB);
    Label::TENANT.set(&mut metadata, tenant.as_str());
    let spec = RouteSpec {
        endpoints,
        source: Some(RouteSource {
            kubernetes: Some(source),
        }),
    };
    Ok(Planned {
        route: Route {
            metadata,
            spec,
            status: None,
        },
        notices,
    })
}

/// All nodes that take traffic.
fn everywhere() -> LoadBalancerEndpoints {
    LoadBalancerEndpoints {
        name: Some(DEFAULT_ADDRESSES.to_owned()),
        addresses_reference: Some(ObjectReference {
            name: Some(DEFAULT_ADDRESSES.to_owned()),
            ..ObjectReference::default()
        }),
        ..LoadBalancerEndpoints::default()
    }
}

/// The object as the tenant wrote it.
fn resource(kind: Kind, object: &Object) -> Result<RawObject, WriteError> {
    let from = &object.metadata;
    let mut metadata = Map::new();
    let mut put = |key: &str, value: Value| {
        let is_empty = value.is_null() || value.as_object().is_some_and(Map::is_empty);
        if !is_empty {
            metadata.insert(key.to_owned(), value);
        }
    };
    put("namespace", json!(from.namespace));
    put("name", json!(from.name));
    put("uid", json!(from.uid));
    put("generation", json!(from.generation));
    put("creationTimestamp", json!(from.creation_timestamp));
    put("labels", json!(from.labels));
    let annotations = from.annotations.iter().flatten();
    let kept: BTreeMap<&String, &String> = annotations
        .filter(|(key, _)| !NOT_COPIED.contains(&key.as_str()))
        .collect();
    put("annotations", json!(kept));
    RawObject::new(&json!({
        "apiVersion": format!("{GROUP}/{}", kind.version()),
        "kind": kind.as_str(),
        "metadata": metadata,
        "spec": object.spec,
    }))
}

/// References that may not be followed, and those to other namespaces that lead nowhere: only here is known that they might.
fn refused(
    kind: Kind,
    object: &Object,
    references: &References,
    reaches: &BTreeMap<Name, Reach>,
    missing: &BTreeSet<Material>,
    view: &dyn View,
) -> Vec<RefusedReference> {
    let own = object.namespace();
    let mut all = Vec::new();
    let mut refuse = |to_kind: &str, (namespace, name): &Name, reason: &str, message: String| {
        all.push(RefusedReference {
            group: String::new(),
            kind: to_kind.to_owned(),
            namespace: namespace.clone(),
            name: name.clone(),
            reason: reason.to_owned(),
            message: message.chars().take(1_024).collect(),
        });
    };
    let no_grant = |to_kind: &str, (namespace, name): &Name| {
        format!(
            "no ReferenceGrant in {namespace} lets {}s of {own} refer to the {to_kind} {name}",
            kind.as_str()
        )
    };
    for to in references.services.keys() {
        if !may_refer(kind, own, "Service", to, view) {
            refuse("Service", to, "RefNotPermitted", no_grant("Service", to));
            continue;
        }
        match reaches.get(to) {
            Some(Reach::Carried(_) | Reach::NeedsShadow) => {}
            Some(Reach::Not(why)) => refuse(
                "Service",
                to,
                "BackendNotFound",
                format!("Service {}/{}: {why}", to.0, to.1),
            ),
            None if to.0 != own => {
                refuse(
                    "Service",
                    to,
                    "BackendNotFound",
                    format!("there is no Service {}/{}", to.0, to.1),
                );
            }
            None => {}
        }
    }
    for material in &references.materials {
        let (to_kind, to) = (material.kind.as_str(), &material.name);
        if !may_refer(kind, own, to_kind, to, view) {
            refuse(to_kind, to, "RefNotPermitted", no_grant(to_kind, to));
        } else if missing.contains(material) && to.0 != own {
            let reason = match material.kind {
                MaterialKind::Secret => "InvalidCertificateRef",
                MaterialKind::ConfigMap => "InvalidCACertificateRef",
            };
            refuse(to_kind, to, reason, format!("there is no {to_kind} {}/{}", to.0, to.1));
        }
    }
    all.truncate(MAX_REFUSED);
    all
}
