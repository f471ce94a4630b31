//! Objects of the Gateway API → Routes.
//!
//! Owns which objects are ours, what they refer to and whether they may, and how Services become reachable. Must not know: whether a route fits
//! its listeners, and what becomes of it; that is the manager's to say.

mod backend;
mod ours;
mod references;
mod route;

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;

use crate::layer7::object::Object;

pub use backend::{Carried, Reach, is_as_wanted, is_shadow_of, reach, shadow, shadow_name};
pub use ours::{GatewaySettings, accepted, is_our_gateway, is_our_route, our_parents};
pub use references::{Material, MaterialKind, References, permitted_materials, permitted_services, read};
pub use route::{Planned, route};

/// Namespace and name.
pub type Name = (String, String);

/// The tenant's cluster, as far as it is looked into for one object.
pub trait View {
    /// A GatewayClass.
    fn class(&self, name: &str) -> Option<Arc<Object>>;
    /// A Gateway.
    fn gateway(&self, namespace: &str, name: &str) -> Option<Arc<Object>>;
    /// A Service.
    fn service(&self, namespace: &str, name: &str) -> Option<Arc<Service>>;
    /// The ReferenceGrants of a namespace.
    fn grants(&self, namespace: &str) -> Vec<Arc<Object>>;
    /// Labels of a namespace.
    fn namespace_labels(&self, namespace: &str) -> BTreeMap<String, String>;
}

#[cfg(test)]
mod tests;
