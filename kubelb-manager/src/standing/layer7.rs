//! What Envoys' acknowledgements come to for layer 7 of each tenant, by resource.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kubelb_api::names::TenantName;
use kubelb_xds::ResourceType;

use super::{ANSWER_TIME, Names, View, sees};
use crate::ir::Ir;
use crate::object::ObjectName;
use crate::relay::layer7;
use crate::status::HttpReport;
use crate::xds::LAYER7;
use crate::xds::server::registry::PeerRejection;

/// What changes all the time is never acknowledged in its last version; then it is said after so long.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

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
    pub(super) fn new(pending: Option<&Names>, rejections: &Rejections) -> Self {
        let pending = pending.map(|names| {
            let ours = names
                .iter()
                .filter(|(kind, name)| layer7::counts(*kind) && is_ours(name));
            ours.map(|(_, name)| Arc::clone(name)).collect()
        });
        let refused = rejections.iter().filter(|((_, name), _)| is_ours(name));
        let mut rejected: BTreeMap<Arc<str>, String> = BTreeMap::new();
        for ((kind, name), rejection) in refused {
            let kind = kind.type_url().rsplit('.').next().unwrap_or_default();
            // A cluster and its endpoints have one name.
            let text = rejected.entry(Arc::clone(name)).or_default();
            let separator = if text.is_empty() { "" } else { "; " };
            text.push_str(&format!("{separator}{kind} {name}: {}", rejection.reason));
        }
        Self { pending, rejected }
    }

    /// As somebody else told of it: names that are behind, unless all may be, and texts by name. Those of objects are left out.
    pub(super) fn relayed<'a>(
        pending: Option<impl Iterator<Item = &'a str>>,
        rejected: impl Iterator<Item = (&'a str, &'a str)>,
    ) -> Self {
        let rejected = rejected.filter(|(name, _)| is_ours(name));
        Self {
            pending: pending.map(|names| names.filter(|name| is_ours(name)).map(Arc::from).collect()),
            rejected: rejected.map(|(name, text)| (name.into(), text.to_owned())).collect(),
        }
    }

    /// Names that are behind, unless all may be.
    pub(super) fn pending(&self) -> impl Iterator<Item = &Arc<str>> {
        self.pending.iter().flatten()
    }

    /// What is refused, with the peer's text.
    pub(super) fn rejected(&self) -> impl Iterator<Item = (&str, &str)> {
        self.rejected.iter().map(|(name, text)| (&**name, text.as_str()))
    }
}

fn is_ours(name: &str) -> bool {
    name.strip_prefix(LAYER7).is_some_and(|rest| rest.starts_with('/'))
}

/// Something is pending.
#[derive(Clone, Copy, Debug)]
struct Wait {
    /// For so long.
    first: Instant,
    /// In its last version for so long.
    since: Instant,
    /// That is for too long, which is said.
    is_said: bool,
}

impl Wait {
    fn new(now: Instant) -> Self {
        Self {
            first: now,
            since: now,
            is_said: false,
        }
    }

    fn end(&self) -> Instant {
        (self.since + ANSWER_TIME).min(self.first + LONGEST_WAIT)
    }
}

/// Of one tenant: by resource, and for all of them where some peer may have taken nothing.
type Waits = BTreeMap<Option<Arc<str>>, Wait>;

/// Since when something is pending.
#[derive(Debug, Default)]
pub(super) struct Tenants {
    waits: BTreeMap<TenantName, Waits>,
}

impl Tenants {
    /// When to look again although nothing has changed.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let all = self.waits.values().flat_map(BTreeMap::values);
        all.filter(|wait| !wait.is_said).map(Wait::end).min()
    }

    /// What all peers come to for every tenant that has some who see it. Resources that `changed` have time again.
    pub(super) fn look(
        &mut self,
        ir: &Ir,
        peers: &[View],
        changed: &BTreeSet<ObjectName>,
        now: Instant,
    ) -> BTreeMap<TenantName, HttpReport> {
        let mut reports = BTreeMap::new();
        for (tenant, _) in ir.tenants.iter().filter(|(_, tenant)| tenant.http.is_some()) {
            let mut seeing = peers.iter().filter(|peer| sees(&peer.scope, tenant)).peekable();
            if seeing.peek().is_none() {
                self.waits.remove(tenant);
                continue;
            }
            let mut report = HttpReport::default();
            for peer in seeing {
                add(&mut report, peer, tenant);
            }
            let waits = self.waits.entry(tenant.clone()).or_default();
            let is_pending = |name: &Option<Arc<str>>| match name {
                None => report.everything_pending,
                Some(name) => report.pending.contains(name),
            };
            waits.retain(|name, _| is_pending(name));
            let pending = report.pending.iter().cloned().map(Some);
            let pending = pending.chain(report.everything_pending.then_some(None));
            for name in pending {
                waits.entry(name).or_insert_with(|| Wait::new(now));
            }
            let mut news = layer7::among(changed, tenant).peekable();
            if news.peek().is_some()
                && let Some(wait) = waits.get_mut(&None)
            {
                wait.since = now;
            }
            for name in news {
                if let Some(wait) = waits.get_mut(&Some(name.to_string().into())) {
                    wait.since = now;
                }
            }
            for wait in waits.values_mut() {
                wait.is_said |= wait.end() <= now;
            }
            report.awaited = waits.get(&None).is_some_and(|wait| !wait.is_said);
            let overdue = waits.iter().filter(|(_, wait)| wait.is_said);
            report.overdue = overdue.filter_map(|(name, _)| name.clone()).collect();
            reports.insert(tenant.clone(), report);
        }
        self.waits
            .retain(|tenant, waits| !waits.is_empty() && reports.contains_key(tenant));
        reports
    }
}

/// What one peer says of a tenant.
fn add(report: &mut HttpReport, peer: &View, tenant: &TenantName) {
    let own = format!("{LAYER7}/{tenant}/");
    let first = || -> Arc<str> { own.as_str().into() };
    match &peer.http.pending {
        None => report.everything_pending = true,
        Some(names) => {
            let ours = names.range(first()..).take_while(|name| name.starts_with(&own));
            report.pending.extend(ours.cloned());
            // Another manager's peer has taken what that one serves.
            let differing = layer7::among(&peer.differing, tenant);
            report.pending.extend(differing.map(|name| name.to_string().into()));
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
