//! Which classes, Gateways and routes are ours.

use kubelb_api::gateway_api::{CONTROLLER_NAME, GROUP, GatewaySpec, ParentReference};
use kubelb_api::names::CLASS;
use serde::Deserialize;
use serde_json::Value;

use super::{Name, References, View};
use crate::layer7::object::Object;

/// What holds for all Gateways of a tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GatewaySettings {
    /// Only Gateways of our classes are ours, not all.
    pub use_class: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ClassSpec {
    #[serde(default)]
    controller_name: String,
    parameters_ref: Option<Value>,
}

/// Whether a GatewayClass is taken; `None` when it is another controller's. The error says why one of ours is not.
#[must_use]
pub fn accepted(class: &Object) -> Option<Result<(), String>> {
    let spec: ClassSpec = class.read()?;
    if spec.controller_name != CONTROLLER_NAME {
        return None;
    }
    Some(match spec.parameters_ref {
        None => Ok(()),
        Some(_) => Err("spec.parametersRef: parameters are not known; leave it out".to_owned()),
    })
}

/// Whether a Gateway is ours: of a class that is. The class `kubelb` needs no object.
#[must_use]
pub fn is_our_gateway(gateway: &Object, settings: GatewaySettings, view: &dyn View) -> bool {
    if gateway.metadata.deletion_timestamp.is_some() {
        return false;
    }
    let Some(spec) = gateway.read::<GatewaySpec>() else {
        return false;
    };
    let class = view.class(&spec.gateway_class_name);
    match class.as_deref().map(accepted) {
        Some(Some(answer)) => answer.is_ok(),
        Some(None) => !settings.use_class,
        None => !settings.use_class || spec.gateway_class_name == CLASS,
    }
}

/// Whether a route wants to be attached to a Gateway of ours; `is_ours` says which are.
#[must_use]
pub fn is_our_route(route: &Object, references: &References, is_ours: &mut dyn FnMut(&Name) -> bool) -> bool {
    route.metadata.deletion_timestamp.is_none() && references.gateways.iter().any(is_ours)
}

/// The `parentRefs` of a route that name a Gateway of ours, as they are written.
#[must_use]
pub fn our_parents(route: &Object, settings: GatewaySettings, view: &dyn View) -> Vec<Value> {
    let spec = route.spec.value();
    let written = spec.get("parentRefs").and_then(Value::as_array);
    let is_ours = |parent: &&Value| {
        let parsed = ParentReference::deserialize(*parent).ok();
        let gateway = parsed.and_then(|parent| gateway_of(&parent, route.namespace()));
        let gateway = gateway.and_then(|(namespace, name)| view.gateway(&namespace, &name));
        gateway.is_some_and(|gateway| is_our_gateway(&gateway, settings, view))
    };
    written.into_iter().flatten().filter(is_ours).cloned().collect()
}

/// Namespace and name of the Gateway that a route names as parent; `None` when the parent is of another kind.
pub(super) fn gateway_of(parent: &ParentReference, namespace: &str) -> Option<Name> {
    let group = parent.group.as_deref().unwrap_or(GROUP);
    let kind = parent.kind.as_deref().unwrap_or("Gateway");
    let namespace = parent
        .namespace
        .as_deref()
        .filter(|given| !given.is_empty())
        .unwrap_or(namespace);
    (group == GROUP && kind == "Gateway").then(|| (namespace.to_owned(), parent.name.clone()))
}
