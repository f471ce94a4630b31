//! A peer as one manager tells another of it. Owns what is left out, so that one peer is never more than a message holds.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kubelb_xds::contract::relay::{RelayedRefusal, RelayedView};
use kubelb_xds::contract::reports::Standing;
use kubelb_xds::reports::Received;
use kubelb_xds::{Scope, Tenants};

use super::refusals::Refusals;
use super::{BehindObjects, View, layer7};
use crate::object::ObjectName;
use crate::relay::{OutgoingPeer, object};
use crate::xds::LAYER7;

/// Objects of which refusals are told, as many resources of layer 7, and the longest text of one, in bytes.
const REFUSALS: (usize, usize) = (512, 1_024);

impl View {
    /// For a manager that hears of it.
    #[must_use]
    pub fn to_outgoing(&self) -> OutgoingPeer {
        let (agent, all_tenants, tenants) = match &self.scope {
            Scope::Agent => (true, false, Vec::new()),
            Scope::Fleet(Tenants::All) => (false, true, Vec::new()),
            Scope::Fleet(Tenants::Only(tenants)) => (false, false, tenants.iter().map(ToString::to_string).collect()),
        };
        let (all_behind, behind) = match &self.behind {
            BehindObjects::Everything => (true, Vec::new()),
            BehindObjects::Objects(objects) => {
                let objects = objects.iter().map(ToString::to_string);
                (
                    false,
                    objects.chain(self.http.pending().map(ToString::to_string)).collect(),
                )
            }
        };
        let objects = self.refusals.all().map(|(object, text)| (object.to_string(), text));
        let http = self.http.rejected().map(|(name, text)| (name.to_owned(), text));
        let refusals = objects
            .take(REFUSALS.0)
            .chain(http.take(REFUSALS.0))
            .map(|(object, text)| {
                let mut reason = text.to_owned();
                reason.truncate(reason.floor_char_boundary(REFUSALS.1));
                RelayedRefusal { object, reason }
            });
        let standings = self.received.as_ref().map(|received| {
            let all = received.standings();
            let standings: BTreeMap<String, Standing> = all
                .map(|(name, known)| (name.to_string(), known.to_standing()))
                .collect();
            standings
        });
        OutgoingPeer {
            view: RelayedView {
                name: self.name.clone(),
                node: self.node.clone().unwrap_or_default(),
                agent,
                all_tenants,
                tenants,
                all_behind,
                behind,
                refusals: refusals.collect(),
                reports: standings.is_some(),
            },
            standings,
        }
    }

    /// As another manager tells of it.
    #[must_use]
    pub fn relayed(told: &RelayedView) -> Self {
        let tenants = || told.tenants.iter().map(|tenant| Arc::from(tenant.as_str())).collect();
        let is_layer7 = |name: &ObjectName| &*name.namespace == LAYER7;
        let objects = told.behind.iter().filter_map(|name| object(name));
        let objects = objects.filter(|name| !is_layer7(name)).collect();
        let refusals = told.refusals.iter();
        let http = refusals
            .clone()
            .map(|refusal| (refusal.object.as_str(), refusal.reason.as_str()));
        let refusals = refusals.filter_map(|refusal| Some((object(&refusal.object)?, refusal.reason.clone())));
        let refusals = refusals.filter(|(name, _)| !is_layer7(name));
        let pending = (!told.all_behind).then(|| told.behind.iter().map(String::as_str));
        Self {
            name: told.name.clone(),
            node: (!told.node.is_empty()).then(|| told.node.clone()),
            scope: match (told.agent, told.all_tenants) {
                (true, _) => Scope::Agent,
                (false, true) => Scope::Fleet(Tenants::All),
                (false, false) => Scope::Fleet(Tenants::Only(tenants())),
            },
            behind: if told.all_behind {
                BehindObjects::Everything
            } else {
                BehindObjects::Objects(objects)
            },
            differing: Arc::default(),
            refusals: Refusals::told(refusals),
            http: layer7::Told::relayed(pending, http),
            received: None,
        }
    }

    /// The same where these objects are not what they are for the manager that tells of it.
    #[must_use]
    pub fn relayed_with(&self, differing: &Arc<BTreeSet<ObjectName>>, received: Option<Arc<Received>>) -> Self {
        Self {
            differing: Arc::clone(differing),
            received,
            ..self.clone()
        }
    }
}
