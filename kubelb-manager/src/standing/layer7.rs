//! What Envoys' acknowledgements come to for layer 7 of each tenant, by resource.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use kubelb_api::names::TenantName;
use kubelb_xds::ResourceType;

use super::{ANSWER_TIME, View, sees};
use crate::ir::Ir;
use crate::status::HttpReport;
use crate::xds::server::registry::PeerRejection;

/// How names of layer 7 begin.
const PREFIX: &str = "http/";

type Rejections = BTreeMap<(ResourceType, Arc<str>), PeerRejection>;

/// What one peer has not taken, or refuses.
#[derive(Clone, Debug, Default)]
pub(super) struct Told {
    /// `None`: perhaps everything.
    pending: Option<BTreeSet<Arc<str>>>,
    rejected: BTreeMap<Arc<str>, String>,
}

impl Told {
    /// `pending` is `None` when a peer is on its way to another configuration.
    pub(super) fn new(pending: Option<&BTreeSet<(ResourceType, Arc<str>)>>, rejections: &Rejections) -> Self {
        let is_ours = |name: &Arc<str>| name.starts_with(PREFIX);
        let pending = pending.map(|names| {
            names
                .iter()
                .map(|(_, name)| name)
                .filter(|name| is_ours(name))
                .cloned()
                .collect()
        });
        let refused = rejections.iter().filter(|((_, name), _)| is_ours(name));
        let rejected = refused.map(|((kind, name), rejection)| {
            let kind = kind.type_url().rsplit('.').next().unwrap_or_default();
            (Arc::clone(name), format!("{kind} {name}: {}", rejection.reason))
        });
        Self {
            pending,
            rejected: rejected.collect(),
        }
    }
}

/// Since when something is pending.
#[derive(Debug, Default)]
pub(super) struct Tenants {
    since: BTreeMap<TenantName, (Instant, bool)>,
}

impl Tenants {
    /// When to look again although nothing has changed.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let unsaid = self.since.values().filter(|(_, is_said)| !is_said);
        unsaid.map(|(since, _)| *since + ANSWER_TIME).min()
    }

    /// What all peers come to for every tenant that has some who see it.
    pub(super) fn look(&mut self, ir: &Ir, peers: &[View], now: Instant) -> BTreeMap<TenantName, HttpReport> {
        let mut reports = BTreeMap::new();
        for (tenant, _) in ir.tenants.iter().filter(|(_, tenant)| tenant.http.is_some()) {
            let own = format!("{PREFIX}{tenant}/");
            let mut report: Option<HttpReport> = None;
            for peer in peers.iter().filter(|peer| sees(&peer.scope, tenant)) {
                let report = report.get_or_insert_default();
                let first = || -> Arc<str> { own.as_str().into() };
                match &peer.http.pending {
                    None => report.everything_pending = true,
                    Some(names) => {
                        let ours = names.range(first()..).take_while(|name| name.starts_with(&own));
                        report.pending.extend(ours.cloned());
                    }
                }
                let ours = peer
                    .http
                    .rejected
                    .range(first()..)
                    .take_while(|(name, _)| name.starts_with(&own));
                for (name, text) in ours {
                    report
                        .rejected
                        .entry(Arc::clone(name))
                        .or_insert_with(|| format!("{}: {text}", peer.name));
                }
            }
            let Some(mut report) = report else {
                self.since.remove(tenant);
                continue;
            };
            if report.everything_pending || !report.pending.is_empty() {
                let (since, is_said) = self.since.entry(tenant.clone()).or_insert((now, false));
                *is_said |= *since + ANSWER_TIME <= now;
                report.awaited = !*is_said;
            } else {
                self.since.remove(tenant);
            }
            reports.insert(tenant.clone(), report);
        }
        self.since.retain(|tenant, _| reports.contains_key(tenant));
        reports
    }
}
