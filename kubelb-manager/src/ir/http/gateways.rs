//! The Gateways of a tenant by their names, and what each of their listeners refers to.

use std::collections::BTreeMap;
use std::sync::Arc;

use kubelb_api::gateway_api as api;

use super::assembly::{Context, Draft};
use super::clients::Resolved;
use super::gateway::{GatewayDraft, ListenerDraft};
use super::route::RouteDraft;
use super::{Authorities, Clients, Verdict};
use crate::object::ObjectName;

/// The Gateways of a tenant; of several Routes about the same one, the oldest is it.
pub(super) struct Gateways<'a> {
    pub(super) all: Vec<Gateway<'a>>,
    places: BTreeMap<(&'a str, &'a str), usize>,
}

/// A Gateway with what its listeners refer to.
pub(super) struct Gateway<'a> {
    pub(super) object: &'a ObjectName,
    pub(super) draft: &'a GatewayDraft,
    pub(super) listeners: Vec<Listener<'a>>,
}

/// A listener with the authorities of clients' certificates: whether there are any decides whether it is served at all.
pub(super) struct Listener<'a> {
    pub(super) draft: &'a ListenerDraft,
    pub(super) accepted: Verdict,
    pub(super) resolved: Verdict,
    pub(super) clients: Option<(Clients, Arc<Authorities>)>,
}

impl<'a> Listener<'a> {
    fn new(draft: &'a ListenerDraft, context: &Context<'_>) -> Self {
        let mut listener = Self {
            draft,
            accepted: draft.accepted.clone(),
            resolved: draft.resolved.clone(),
            clients: None,
        };
        if let Some(asked) = &draft.clients {
            let Resolved { clients, refused } = asked.resolve(&format!("http/{}", context.tenant), context.authorities);
            if clients.is_none() && listener.accepted.holds {
                let why = refused.as_ref().map_or("there is none", |refused| &refused.message);
                listener.accepted = Verdict::no("NoValidCACertificate", why);
            }
            if let Some(refused) = refused.filter(|_| listener.resolved.holds) {
                listener.resolved = refused;
            }
            listener.clients = clients;
        }
        listener
    }

    /// Whether it can take routes at all.
    pub(super) fn is_served(&self) -> bool {
        self.accepted.holds && !self.draft.conflicted.holds && self.draft.speaks.is_some()
    }
}

impl<'a> Gateways<'a> {
    pub(super) fn of(drafts: &[(&'a ObjectName, &'a Draft)], context: &Context<'_>) -> Self {
        let mut gateways = Self {
            all: Vec::new(),
            places: BTreeMap::new(),
        };
        for (object, draft) in drafts {
            if let Draft::Gateway(draft) = draft {
                let place = gateways.places.entry((&draft.namespace, &draft.name));
                place.or_insert_with(|| {
                    let listeners = draft.listeners.iter().map(|listener| Listener::new(listener, context));
                    gateways.all.push(Gateway {
                        object,
                        draft,
                        listeners: listeners.collect(),
                    });
                    gateways.all.len() - 1
                });
            }
        }
        gateways
    }

    /// The place of a Gateway, when this Route is the one about it.
    pub(super) fn place(&self, route: &ObjectName, gateway: &GatewayDraft) -> Option<(usize, &Gateway<'a>)> {
        let place = *self.places.get(&(&*gateway.namespace, &*gateway.name))?;
        let first = self.all.get(place)?;
        (first.object == route).then_some((place, first))
    }

    pub(super) fn find(&self, route: &RouteDraft, parent: &api::ParentReference) -> Option<(usize, &Gateway<'a>)> {
        let is_gateway = parent.group.as_deref().unwrap_or(api::GROUP) == api::GROUP
            && parent.kind.as_deref().unwrap_or("Gateway") == "Gateway";
        let namespace = parent
            .namespace
            .as_deref()
            .filter(|text| !text.is_empty())
            .unwrap_or(&route.namespace);
        let place = *self.places.get(&(namespace, parent.name.as_str()))?;
        let gateway = self.all.get(place).filter(|_| is_gateway)?;
        Some((place, gateway))
    }
}
