//! Objects of tenants, as a CCM writes them, and what a manager makes of them.

use std::net::SocketAddr;

use kubelb_manager::object::{self, Object};
use kubelb_manager::store::Store;
use kubelb_manager::{allocate, ir, xds};
use kubelb_tests::netns::Namespace;
use kubelb_xds::{Resource, ResourceType};
use serde_json::{Value, json};

use crate::world::World;

pub(crate) const VIP: &str = "198.51.100.1";
/// For a second tenant.
pub(crate) const OTHER_VIP: &str = "198.51.100.2";
const NODE: &str = "192.0.2.1";

/// An object of ours.
pub(crate) fn object(kind: &str, namespace: &str, name: &str, spec: Value) -> Value {
    let mut object = json!({"apiVersion": "kubelb.k8c.io/v1alpha1", "kind": kind, "metadata": {"name": name, "uid": name, "generation": 1}, "spec": spec});
    if !namespace.is_empty() {
        object["metadata"]["namespace"] = json!(namespace);
    }
    object
}

/// Everything but Routes: tenants with one node each, and pools with as many addresses as there are tenants.
pub(crate) fn base(tenants: &[&str], proxy: Value) -> Vec<Value> {
    let pools = json!([{"name": "all", "ranges": [format!("{VIP}-{OTHER_VIP}")]}]);
    let mut spec = json!({"addressPools": pools});
    if !proxy.is_null() {
        spec["envoyProxy"] = proxy;
    }
    let mut all = vec![object("Config", "kubelb", "default", spec)];
    for tenant in tenants {
        all.push(object("Tenant", "", tenant, json!({})));
        let spec = json!({"addresses": [{"ip": NODE}]});
        all.push(object("Addresses", &format!("tenant-{tenant}"), "default", spec));
    }
    all
}

/// Puts VIPs and nodes there.
pub(crate) fn addresses(namespace: &Namespace) {
    for address in [VIP, OTHER_VIP, NODE] {
        namespace
            .ip(&["address", "add", &format!("{address}/32"), "dev", "lo"])
            .unwrap();
    }
}

/// A tenant's object.
pub(crate) struct Origin<'a> {
    pub(crate) tenant: &'a str,
    pub(crate) kind: &'a str,
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
}

/// An object of tenant `a`.
pub(crate) fn of_a<'a>(kind: &'a str, namespace: &'a str, name: &'a str) -> Origin<'a> {
    Origin {
        tenant: "a",
        kind,
        namespace,
        name,
    }
}

impl Origin<'_> {
    /// Name of its Route.
    pub(crate) fn uid(&self) -> String {
        format!("{}-{}-{}", self.kind.to_ascii_lowercase(), self.namespace, self.name)
    }

    /// Its Route, with Services by name and node port, all with port 8080.
    pub(crate) fn route(&self, spec: Value, services: &[(&str, u16)]) -> Value {
        self.annotated(json!({}), spec, services)
    }

    pub(crate) fn annotated(&self, annotations: Value, spec: Value, services: &[(&str, u16)]) -> Value {
        let services: Vec<Value> = services
            .iter()
            .map(|(service, port)| {
                let (namespace, service) = service.split_once('/').unwrap_or((self.namespace, service));
                json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": namespace, "name": service},
                    "spec": {"ports": [{"port": 8080, "nodePort": port}]}})
            })
            .collect();
        let resource = json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": self.kind, "spec": spec,
            "metadata": {"namespace": self.namespace, "name": self.name, "generation": 1, "annotations": annotations}});
        let endpoints = json!([{"addressesReference": {"name": "default"}}]);
        let source = json!({"kubernetes": {"resource": resource, "services": services}});
        let namespace = format!("tenant-{}", self.tenant);
        object(
            "Route",
            &namespace,
            &self.uid(),
            json!({"endpoints": endpoints, "source": source}),
        )
    }
}

/// A Gateway of a tenant, called `my-gateway`.
pub(crate) fn gateway(tenant: &str, listeners: &Value) -> Value {
    gateway_with(tenant, json!({"gatewayClassName": "kubelb", "listeners": listeners}))
}

/// The same with a whole specification.
pub(crate) fn gateway_with(tenant: &str, spec: Value) -> Value {
    let origin = Origin {
        tenant,
        kind: "Gateway",
        namespace: "default",
        name: "my-gateway",
    };
    origin.route(spec, &[])
}

/// A certificate for a name, which has signed itself.
pub(crate) fn certificate(name: &str) -> rcgen::CertifiedKey<rcgen::KeyPair> {
    rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap()
}

/// A Secret of a tenant's namespace `default`.
pub(crate) fn secret(tenant: &str, name: &str, made: &rcgen::CertifiedKey<rcgen::KeyPair>) -> Value {
    json!({"apiVersion": "kubelb.k8c.io/v1alpha1", "kind": "SyncSecret", "type": "kubernetes.io/tls",
        "metadata": {"name": format!("uid-{name}"), "namespace": format!("tenant-{tenant}"),
            "labels": {"kubelb.k8c.io/origin-ns": "default", "kubelb.k8c.io/origin-name": name}},
        "stringData": {"tls.crt": made.cert.pem(), "tls.key": made.signing_key.serialize_pem()}})
}

/// A ConfigMap with authorities of a tenant's namespace `default`.
pub(crate) fn config_map(tenant: &str, name: &str, bundle: &str) -> Value {
    json!({"apiVersion": "kubelb.k8c.io/v1alpha1", "kind": "SyncSecret", "type": "Opaque",
        "metadata": {"name": format!("uid-map-{name}"), "namespace": format!("tenant-{tenant}"), "labels": {
            "kubelb.k8c.io/origin-ns": "default", "kubelb.k8c.io/origin-name": name, "kubelb.k8c.io/origin-resource-kind": "ConfigMap"}},
        "stringData": {"ca.crt": bundle}})
}

/// The objects of tenant `a`, which has one node and one Gateway.
pub(crate) struct Site {
    pub(crate) store: Store,
}

impl Site {
    pub(crate) fn new(world: &World, listeners: Value) -> Self {
        Self::with(world, &listeners, Value::Null)
    }

    /// The same with a Config for Envoys.
    pub(crate) fn with(world: &World, listeners: &Value, proxy: Value) -> Self {
        addresses(&world.namespace);
        let mut objects = base(&["a"], proxy);
        objects.push(gateway("a", listeners));
        Self::of(objects)
    }

    /// Just objects.
    pub(crate) fn of(objects: impl IntoIterator<Item = Value>) -> Self {
        let mut site = Self {
            store: Store::default(),
        };
        for object in objects {
            site.apply(object);
        }
        site
    }

    pub(crate) fn apply(&mut self, value: Value) {
        self.store.apply(Ok(object::decode(value).unwrap()));
    }

    /// A Route for an object of the tenant, with Services by name and node port, all with port 8080.
    pub(crate) fn route(&mut self, kind: &str, namespace: &str, name: &str, spec: Value, services: &[(&str, u16)]) {
        self.apply(of_a(kind, namespace, name).route(spec, services));
    }

    pub(crate) fn resources(&self) -> Vec<Resource> {
        let mut store = self.store.clone();
        for claim in allocate::plan(&store, "kubelb", allocate::Given::Held).write {
            store.apply(Ok(Object::AddressClaim(claim.into())));
        }
        let (ir, problems) = ir::build(&store, "kubelb");
        assert!(problems.is_empty(), "{problems:?}");
        let snapshot = xds::translate(&ir);
        let tables = ResourceType::ALL.into_iter().map(|kind| snapshot.table(kind));
        tables
            .flat_map(|table| table.values().map(|resource| Resource::clone(resource)))
            .collect()
    }
}

pub(crate) fn http() -> Value {
    json!([{"name": "http", "port": 80, "protocol": "HTTP", "allowedRoutes": {"namespaces": {"from": "All"}}}])
}

pub(crate) fn vip(port: u16) -> SocketAddr {
    format!("{VIP}:{port}").parse().unwrap()
}

pub(crate) fn to(name: &str) -> Value {
    json!([{"name": name, "port": 8080}])
}

pub(crate) fn path(kind: &str, value: &str) -> Value {
    json!({"path": {"type": kind, "value": value}})
}

/// A listener on port 443.
pub(crate) fn https(name: &str, hostname: &str, secret: &str) -> Value {
    json!({"name": name, "port": 443, "protocol": "HTTPS", "hostname": hostname,
        "tls": {"certificateRefs": [{"name": secret}]}})
}
