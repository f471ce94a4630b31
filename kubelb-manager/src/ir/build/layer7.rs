//! Layer 7 in the IR that a [`Builder`] keeps.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use kubelb_api::names::TenantName;

use super::super::Tenant;
use super::super::http::Http;
use super::{Builder, TenantPolicy, Update};
use crate::object::{ObjectKey, ObjectName};
use crate::problem::Reason;
use crate::store::Store;

/// Takes in what changed; notes the addresses whose ports may be others.
pub(super) fn update(
    builder: &mut Builder,
    store: &Store,
    changed: &BTreeSet<ObjectKey>,
    update: &mut Update,
    addresses: &mut BTreeSet<IpAddr>,
) {
    let config = builder.config.clone();
    let mut allowed = |namespace: &str| allowed(store, &config, namespace);
    let namespaces = builder.http.update(store, changed, &config, &mut allowed);
    for namespace in namespaces {
        let Some(tenant) = TenantName::from_namespace(&namespace) else {
            continue;
        };
        let http = builder.http.assemble(&tenant, &namespace);
        put(builder, &tenant, &namespace, http, update, addresses);
    }
}

fn put(
    builder: &mut Builder,
    tenant: &TenantName,
    namespace: &Arc<str>,
    http: Option<Http>,
    update: &mut Update,
    addresses: &mut BTreeSet<IpAddr>,
) {
    let before = builder.ir.http(tenant).cloned();
    let http = http.map(|mut http| {
        if let Some(before) = &before {
            share(&before.tables, &mut http.tables);
            share(&before.listeners, &mut http.listeners);
            share(&before.clusters, &mut http.clusters);
            share(&before.certificates, &mut http.certificates);
            share(&before.outcomes, &mut http.outcomes);
        }
        http
    });
    if before.as_deref() == http.as_ref() {
        return;
    }
    let none = BTreeMap::new();
    let outcomes = |http: Option<&Http>| http.map_or_else(|| none.clone(), |http| http.outcomes.clone());
    let (old, new) = (outcomes(before.as_deref()), outcomes(http.as_ref()));
    for name in old.keys().chain(new.keys()) {
        if old.get(name) != new.get(name) {
            update.routes.insert(ObjectName {
                namespace: Arc::clone(namespace),
                name: Arc::clone(name),
            });
        }
    }
    let ports = http.as_ref().map(Http::ports).unwrap_or_default();
    let gone = builder.http_ports.iter().filter(|(_, (owner, _))| owner == tenant);
    let gone: Vec<IpAddr> = gone.map(|(address, _)| *address).collect();
    for address in gone {
        builder.http_ports.remove(&address);
        addresses.insert(address);
    }
    for (address, ports) in ports {
        builder.http_ports.insert(address, (tenant.clone(), ports));
        addresses.insert(address);
    }
    let mut of_tenant: Arc<Tenant> = builder.ir.tenants.remove(tenant).unwrap_or_default();
    Arc::make_mut(&mut of_tenant).http = http.map(Arc::new);
    if *of_tenant != Tenant::default() {
        builder.ir.tenants.insert(tenant.clone(), of_tenant);
    }
    update.http.insert(tenant.clone());
}

/// What did not change stays the same allocation.
fn share<T: PartialEq>(before: &BTreeMap<Arc<str>, Arc<T>>, now: &mut BTreeMap<Arc<str>, Arc<T>>) {
    for (name, value) in now {
        if let Some(known) = before.get(name).filter(|known| known == &value) {
            *value = Arc::clone(known);
        }
    }
}

fn allowed(store: &Store, config: &ObjectKey, namespace: &str) -> TenantPolicy {
    let (tenant, policy) = Builder::any_policy(store, config, namespace)?;
    let object = store.tenants().get(&ObjectName::new("", tenant.as_str()));
    let of_tenant = object.and_then(|tenant| tenant.spec.gateway_api.as_ref()?.disable);
    let of_all = store
        .configs()
        .get(&config.name)
        .and_then(|config| config.spec.gateway_api.as_ref()?.disable);
    if of_tenant.or(of_all) == Some(true) {
        let message = "Gateway API is switched off for this tenant (spec.gatewayAPI.disable of Tenant or Config)";
        return Err((Reason::Disabled, message.to_owned()));
    }
    Ok((tenant, policy))
}
