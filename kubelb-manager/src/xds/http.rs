//! Layer 7: listeners, tables of routes, clusters and certificates of one tenant.

mod cluster;
mod listener;
mod route;

use std::collections::BTreeMap;
use std::sync::Arc;

use kubelb_api::names::TenantName;
use kubelb_xds::pb::envoy::config::core::v3 as core;
use kubelb_xds::pb::envoy::extensions::transport_sockets::tls::v3 as tls;
use kubelb_xds::{Audience, Owner, Reference, Resource, ResourceType, Snapshot};

use super::wire;
use crate::ir::http::{Authorities, Certificate, Http};

/// Resources that differ between two states of a tenant, and the names of those that are gone.
#[derive(Default)]
pub(super) struct Difference {
    pub(super) changed: Vec<Resource>,
    pub(super) removed: Vec<(ResourceType, Arc<str>)>,
}

/// What differs. What is the same in both is not translated again; `made` is what was made of what was before.
pub(super) fn difference(
    tenant: &TenantName,
    before: Option<&Http>,
    after: Option<&Http>,
    made: &Snapshot,
) -> Difference {
    let owner = wire::owner(tenant);
    let none = Http::default();
    let (before, after) = (before.unwrap_or(&none), after.unwrap_or(&none));
    let mut found = Difference::default();
    each(
        &before.certificates,
        &after.certificates,
        ResourceType::Secret,
        &mut found,
        |name, value| vec![certificate(name, value, &owner)],
    );
    each(
        &before.authorities,
        &after.authorities,
        ResourceType::Secret,
        &mut found,
        |name, value| vec![authorities(name, value, &owner)],
    );
    each(
        &before.clusters,
        &after.clusters,
        ResourceType::Cluster,
        &mut found,
        |name, value| cluster::resources(name, value, &owner),
    );
    each(
        &before.tables,
        &after.tables,
        ResourceType::Route,
        &mut found,
        |name, value| {
            let known = before.tables.get(name).zip(made.get(ResourceType::Route, name));
            let known = known.map(|(table, made)| (&**table, &**made));
            vec![route::resource(name, value, known, &owner)]
        },
    );
    each(
        &before.listeners,
        &after.listeners,
        ResourceType::Listener,
        &mut found,
        |name, value| vec![listener::resource(name, value, &owner)],
    );
    // Endpoints go with their cluster, and where they are in it from now on. Whoever takes this in knows that what changed is not gone.
    let names = before.clusters.keys();
    let stays = |name: &&Arc<str>| after.clusters.get(*name) == before.clusters.get(*name);
    let endpoints = names
        .filter(|name| !stays(name))
        .map(|name| (ResourceType::Endpoints, Arc::clone(name)));
    found.removed.extend(endpoints);
    found
}

fn each<T: PartialEq>(
    before: &BTreeMap<Arc<str>, Arc<T>>,
    after: &BTreeMap<Arc<str>, Arc<T>>,
    kind: ResourceType,
    found: &mut Difference,
    translate: impl Fn(&str, &T) -> Vec<Resource>,
) {
    for (name, value) in after {
        let is_same = before
            .get(name)
            .is_some_and(|known| Arc::ptr_eq(known, value) || known == value);
        if !is_same {
            found.changed.extend(translate(name, value));
        }
    }
    let gone = before.keys().filter(|name| !after.contains_key(*name));
    found.removed.extend(gone.map(|name| (kind, Arc::clone(name))));
}

fn certificate(name: &str, certificate: &Certificate, owner: &Owner) -> Resource {
    let message = tls::Secret {
        name: name.to_owned(),
        r#type: Some(tls::secret::Type::TlsCertificate(tls::TlsCertificate {
            certificate_chain: Some(inline(&certificate.chain)),
            private_key: Some(inline(&certificate.key.0)),
            ..tls::TlsCertificate::default()
        })),
    };
    Resource::new(&message, owner.clone(), Audience::Fleets)
}

fn authorities(name: &str, authorities: &Authorities, owner: &Owner) -> Resource {
    let message = tls::Secret {
        name: name.to_owned(),
        r#type: Some(tls::secret::Type::ValidationContext(
            tls::CertificateValidationContext {
                trusted_ca: Some(inline(&authorities.bundle)),
                ..tls::CertificateValidationContext::default()
            },
        )),
    };
    Resource::new(&message, owner.clone(), Audience::Fleets)
}

fn inline(text: &str) -> core::DataSource {
    core::DataSource {
        specifier: Some(core::data_source::Specifier::InlineString(text.to_owned())),
        ..core::DataSource::default()
    }
}

fn needs(kind: ResourceType, name: &str) -> Reference {
    Reference {
        kind,
        name: name.into(),
    }
}

fn ads() -> core::ConfigSource {
    core::ConfigSource {
        resource_api_version: core::ApiVersion::V3.into(),
        config_source_specifier: Some(core::config_source::ConfigSourceSpecifier::Ads(
            core::AggregatedConfigSource {},
        )),
        ..core::ConfigSource::default()
    }
}
