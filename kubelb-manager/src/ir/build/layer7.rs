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
            share(&before.authorities, &mut http.authorities);
            share(&before.outcomes, &mut http.outcomes);
        }
        http
    });
    if before.as_deref() == http.as_ref() {
        return;
    }
    let none = BTreeMap::new();
    let outcomes = |http| Option::<&Http>::map_or(http, &none, |http| &http.outcomes);
    let routes = differing(outcomes(before.as_deref()), outcomes(http.as_ref()));
    update.routes.extend(routes.into_iter().map(|name| ObjectName {
        namespace: Arc::clone(namespace),
        name: Arc::clone(name),
    }));
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
    // Both are in the order of the names: a walk is less than thousands of searches.
    let mut before = before.iter().peekable();
    for (name, value) in now {
        while before.next_if(|(known, _)| *known < name).is_some() {}
        if let Some((_, known)) = before.next_if(|(known, _)| *known == name)
            && known == value
        {
            *value = Arc::clone(known);
        }
    }
}

/// Names of what is only in one of them, or differs; after [`share`], that is seen by the allocation.
fn differing<'a, T: Eq>(
    before: &'a BTreeMap<Arc<str>, Arc<T>>,
    now: &'a BTreeMap<Arc<str>, Arc<T>>,
) -> Vec<&'a Arc<str>> {
    let mut found = Vec::new();
    let mut old = before.iter().peekable();
    for (name, value) in now {
        while let Some((gone, _)) = old.next_if(|(known, _)| *known < name) {
            found.push(gone);
        }
        match old.next_if(|(known, _)| *known == name) {
            Some((_, known)) if known == value => {}
            Some(_) | None => found.push(name),
        }
    }
    found.extend(old.map(|(name, _)| name));
    found
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

#[cfg(test)]
mod tests {
    use super::*;

    fn map(entries: &[(&str, u8)]) -> BTreeMap<Arc<str>, Arc<u8>> {
        entries
            .iter()
            .map(|(name, value)| ((*name).into(), Arc::new(*value)))
            .collect()
    }

    #[test]
    fn what_is_the_same_is_shared_and_all_else_differs() {
        let before = map(&[("a", 1), ("b", 1), ("d", 1), ("f", 1)]);
        let mut now = map(&[("b", 1), ("c", 1), ("d", 2), ("e", 1)]);
        share(&before, &mut now);
        assert!(Arc::ptr_eq(&before["b"], &now["b"]));
        assert_eq!(now, map(&[("b", 1), ("c", 1), ("d", 2), ("e", 1)]));
        let found: Vec<&str> = differing(&before, &now).into_iter().map(AsRef::as_ref).collect();
        assert_eq!(found, ["a", "c", "d", "e", "f"]);
    }
}
