//! Objects as the manager reads them: their keys, and the way from JSON to a type.
//!
//! Must not know: where objects come from, and what is made of them. What a type cannot read is [`Malformed`], with the field at fault.

use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use kube::core::ObjectMeta;
use kubelb_api::v1alpha1::{
    AddressClaim, Addresses, Config, LoadBalancer, Route, SyncSecret, Tenant, VirtualAddressOwner,
};
use kubelb_api::{API_VERSION, GROUP};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// The kinds that the configuration depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Kind {
    /// What holds for all tenants.
    Config,
    /// A cluster whose Services are exposed.
    Tenant,
    /// The nodes of a tenant.
    Addresses,
    /// A Service on layer 4.
    LoadBalancer,
    /// A Gateway or a route, on layer 7.
    Route,
    /// Who has an address.
    AddressClaim,
    /// Which node announces an address.
    VirtualAddressOwner,
    /// A Secret of a tenant.
    SyncSecret,
    /// A Service of the management cluster, made for a LoadBalancer.
    Service,
}

impl Kind {
    /// Every kind.
    pub const ALL: &[Self] = &[
        Self::Config,
        Self::Tenant,
        Self::Addresses,
        Self::LoadBalancer,
        Self::Route,
        Self::AddressClaim,
        Self::VirtualAddressOwner,
        Self::SyncSecret,
        Self::Service,
    ];

    /// The kind as objects write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Config => "Config",
            Self::Tenant => "Tenant",
            Self::Addresses => "Addresses",
            Self::LoadBalancer => "LoadBalancer",
            Self::Route => "Route",
            Self::AddressClaim => "AddressClaim",
            Self::VirtualAddressOwner => "VirtualAddressOwner",
            Self::SyncSecret => "SyncSecret",
            Self::Service => "Service",
        }
    }

    /// Whether its objects are in namespaces.
    #[must_use]
    pub const fn is_namespaced(self) -> bool {
        match self {
            Self::Config | Self::Addresses | Self::LoadBalancer | Self::Route | Self::SyncSecret | Self::Service => {
                true
            }
            Self::Tenant | Self::AddressClaim | Self::VirtualAddressOwner => false,
        }
    }

    /// The kind of kubelb's API group of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        let ours = Self::ALL.iter().copied().filter(|kind| *kind != Self::Service);
        ours.into_iter().find(|kind| kind.as_str() == name)
    }
}

/// Namespace and name; the namespace of an object without one is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct ObjectName {
    /// Its namespace, or nothing.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

impl ObjectName {
    /// An object in a namespace, or in none when that is empty.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// What tells an object from all others.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct ObjectKey {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace and name.
    #[serde(flatten)]
    pub name: ObjectName,
}

impl ObjectKey {
    /// An object in a namespace, or in none when that is empty.
    #[must_use]
    pub fn new(kind: Kind, namespace: &str, name: &str) -> Self {
        Self {
            kind,
            name: ObjectName::new(namespace, name),
        }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.as_str(), self.name)
    }
}

/// An object that its type can read.
#[derive(Clone, Debug, PartialEq)]
pub enum Object {
    /// What holds for all tenants.
    Config(Arc<Config>),
    /// A cluster whose Services are exposed.
    Tenant(Arc<Tenant>),
    /// The nodes of a tenant.
    Addresses(Arc<Addresses>),
    /// A Service on layer 4.
    LoadBalancer(Arc<LoadBalancer>),
    /// A Gateway or a route, on layer 7.
    Route(Arc<Route>),
    /// Who has an address.
    AddressClaim(Arc<AddressClaim>),
    /// Which node announces an address.
    VirtualAddressOwner(Arc<VirtualAddressOwner>),
    /// A Secret of a tenant.
    SyncSecret(Arc<SyncSecret>),
    /// A Service of the management cluster, made for a LoadBalancer.
    Service(Arc<Service>),
}

impl Object {
    /// Its kind.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Config(_) => Kind::Config,
            Self::Tenant(_) => Kind::Tenant,
            Self::Addresses(_) => Kind::Addresses,
            Self::LoadBalancer(_) => Kind::LoadBalancer,
            Self::Route(_) => Kind::Route,
            Self::AddressClaim(_) => Kind::AddressClaim,
            Self::VirtualAddressOwner(_) => Kind::VirtualAddressOwner,
            Self::SyncSecret(_) => Kind::SyncSecret,
            Self::Service(_) => Kind::Service,
        }
    }

    /// Its metadata.
    #[must_use]
    pub fn meta(&self) -> &ObjectMeta {
        match self {
            Self::Config(object) => &object.metadata,
            Self::Tenant(object) => &object.metadata,
            Self::Addresses(object) => &object.metadata,
            Self::LoadBalancer(object) => &object.metadata,
            Self::Route(object) => &object.metadata,
            Self::AddressClaim(object) => &object.metadata,
            Self::VirtualAddressOwner(object) => &object.metadata,
            Self::SyncSecret(object) => &object.metadata,
            Self::Service(object) => &object.metadata,
        }
    }

    /// Its key.
    #[must_use]
    pub fn key(&self) -> ObjectKey {
        let meta = self.meta();
        ObjectKey::new(
            self.kind(),
            meta.namespace.as_deref().unwrap_or_default(),
            meta.name.as_deref().unwrap_or_default(),
        )
    }
}

/// Why something is no object, or none that is read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// Not of a kind that the manager reads; others may.
    #[error("{api_version} {kind} is not read")]
    Foreign {
        /// Its API group and version.
        api_version: String,
        /// Its kind.
        kind: String,
    },
    /// It cannot be told which object it is.
    #[error("{field}: {reason}")]
    Nameless {
        /// The field that is missing or wrong.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The object is known, its content is not.
    #[error("{0}")]
    Malformed(Malformed),
}

/// An object whose type cannot read it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {field}: {reason}")]
pub struct Malformed {
    /// Which object.
    pub key: ObjectKey,
    /// The field at fault, such as `spec.ports[0].port`; empty when the object as a whole is.
    pub field: String,
    /// What is wrong with it.
    pub reason: String,
}

/// Reads an object. Fields that its type does not know are passed over, as an API server's are.
///
/// # Errors
/// When it is of another kind, has no name, or does not fit its type.
pub fn decode(mut value: Value) -> Result<Object, Unreadable> {
    let key = key_of(&value)?;
    forget_bookkeeping(&mut value);
    if let (Kind::Config | Kind::Tenant, Some(object)) = (key.kind, value.as_object_mut()) {
        // As an API server does: both have nothing that must be said.
        object
            .entry("spec")
            .or_insert_with(|| Value::Object(serde_json::Map::new()));
    }
    let object = match key.kind {
        Kind::Config => Object::Config(closed(&key, typed(&key, value)?)?),
        Kind::Tenant => Object::Tenant(typed(&key, value)?),
        Kind::Addresses => Object::Addresses(typed(&key, value)?),
        Kind::LoadBalancer => Object::LoadBalancer(typed(&key, value)?),
        Kind::Route => Object::Route(typed(&key, value)?),
        Kind::AddressClaim => Object::AddressClaim(typed(&key, value)?),
        Kind::VirtualAddressOwner => Object::VirtualAddressOwner(typed(&key, value)?),
        Kind::SyncSecret => Object::SyncSecret(typed(&key, value)?),
        Kind::Service => Object::Service(typed(&key, value)?),
    };
    Ok(object)
}

/// Reads a Service of the management cluster: whose it is, and what became of it.
///
/// # Errors
/// When it does not fit its type.
pub fn decode_service(value: Value) -> Result<Object, Unreadable> {
    let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let key = ObjectKey::new(Kind::Service, text("/metadata/namespace"), text("/metadata/name"));
    let service: Arc<Service> = typed(&key, value)?;
    let metadata = ObjectMeta {
        name: service.metadata.name.clone(),
        namespace: service.metadata.namespace.clone(),
        uid: service.metadata.uid.clone(),
        owner_references: service.metadata.owner_references.clone(),
        deletion_timestamp: service.metadata.deletion_timestamp.clone(),
        ..ObjectMeta::default()
    };
    Ok(Object::Service(Arc::new(Service {
        metadata,
        spec: None,
        status: service.status.clone(),
    })))
}

fn typed<T: DeserializeOwned>(key: &ObjectKey, value: Value) -> Result<Arc<T>, Unreadable> {
    serde_path_to_error::deserialize(value).map(Arc::new).map_err(|error| {
        let path = error.path().to_string();
        let field = if path == "." { String::new() } else { path };
        Unreadable::Malformed(Malformed {
            key: key.clone(),
            field,
            reason: error.into_inner().to_string(),
        })
    })
}

/// A Config that forbids what nobody can read is not taken at all: half of a prohibition would let in what the other half keeps out.
fn closed(key: &ObjectKey, config: Arc<Config>) -> Result<Arc<Config>, Unreadable> {
    let networks = config
        .spec
        .denied_ranges
        .iter()
        .map(|range| range.parse::<ipnet::IpNet>());
    for (index, network) in networks.enumerate() {
        if let Err(error) = network {
            return Err(Unreadable::Malformed(Malformed {
                key: key.clone(),
                field: format!("spec.deniedRanges[{index}]"),
                reason: format!("not a network such as 203.0.113.0/24 or 2001:db8::/32: {error}"),
            }));
        }
    }
    Ok(config)
}

fn key_of(value: &Value) -> Result<ObjectKey, Unreadable> {
    let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str);
    let nameless = |field, reason: &str| {
        Err(Unreadable::Nameless {
            field,
            reason: reason.to_owned(),
        })
    };
    let Some(api_version) = text("/apiVersion") else {
        return nameless("apiVersion", "missing; every object has one");
    };
    let Some(kind) = text("/kind") else {
        return nameless("kind", "missing; every object has one");
    };
    let is_ours = api_version.split_once('/').is_some_and(|(group, _)| group == GROUP);
    if is_ours && api_version != API_VERSION {
        return nameless(
            "apiVersion",
            &format!("{api_version:?} is not known; use {API_VERSION}"),
        );
    }
    let Some(known) = Kind::from_name(kind).filter(|_| is_ours) else {
        return Err(Unreadable::Foreign {
            api_version: api_version.to_owned(),
            kind: kind.to_owned(),
        });
    };
    let Some(name) = text("/metadata/name").filter(|name| kubelb_api::names::is_subdomain(name)) else {
        return nameless(
            "metadata.name",
            "must be a DNS name of small letters, digits, '-' and '.'",
        );
    };
    let namespace = text("/metadata/namespace").unwrap_or_default();
    if known.is_namespaced() && !kubelb_api::names::is_label(namespace) {
        return nameless(
            "metadata.namespace",
            "must be a DNS label: small letters, digits and '-'",
        );
    }
    let namespace = if known.is_namespaced() { namespace } else { "" };
    Ok(ObjectKey::new(known, namespace, name))
}

/// Takes out what only an API server needs: it is long, and changes when nothing has.
fn forget_bookkeeping(value: &mut Value) {
    let Some(meta) = value.get_mut("metadata").and_then(Value::as_object_mut) else {
        return;
    };
    meta.remove("managedFields");
    if let Some(annotations) = meta.get_mut("annotations").and_then(Value::as_object_mut) {
        annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_field_at_fault_is_named() {
        let object = json!({
            "apiVersion": "kubelb.k8c.io/v1alpha1", "kind": "LoadBalancer",
            "metadata": {"name": "a", "namespace": "tenant-x"},
            "spec": {"endpoints": [], "ports": [{"port": 80}, {"port": "http"}]},
        });
        let Err(Unreadable::Malformed(malformed)) = decode(object) else {
            panic!("read");
        };
        assert_eq!(malformed.key.to_string(), "LoadBalancer tenant-x/a");
        assert_eq!(malformed.field, "spec.ports[1].port");
        assert!(malformed.reason.contains("expected i32"), "{}", malformed.reason);
    }

    #[test]
    fn other_kinds_are_told_from_mistakes() {
        let foreign = decode(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}}));
        assert!(matches!(foreign, Err(Unreadable::Foreign { .. })), "{foreign:?}");
        for (object, field) in [
            (json!({"kind": "Tenant"}), "apiVersion"),
            (json!({"apiVersion": "kubelb.k8c.io/v1alpha1"}), "kind"),
            (
                json!({"apiVersion": "kubelb.k8c.io/v1beta1", "kind": "Tenant"}),
                "apiVersion",
            ),
            (
                json!({"apiVersion": "kubelb.k8c.io/v1alpha1", "kind": "Tenant"}),
                "metadata.name",
            ),
            (
                json!({"apiVersion": "kubelb.k8c.io/v1alpha1", "kind": "Config", "metadata": {"name": "a"}}),
                "metadata.namespace",
            ),
        ] {
            let Err(Unreadable::Nameless { field: found, .. }) = decode(object) else {
                panic!("{field}");
            };
            assert_eq!(found, field);
        }
    }
}
