//! What is told of managers: noted by the stream as things happen, shown to whoever looks.
//!
//! Pure but for a watch that says that something has changed; times come in. Decides nothing: no stream is opened or ended because of this.

use std::collections::BTreeMap;
use std::net::IpAddr;

use kubelb_xds::ResourceType;
use tokio::sync::watch;

use super::{Credential, Manager};
use crate::model::{Owner, VirtualAddress};
use crate::status::address::OwnerReport;
use crate::status::xds::{
    CredentialKind, CredentialReport, FailureReport, ManagerReport, RejectionReport, TypeReport, XdsReport,
};

/// Rejections that are shown; the others are counted.
const SHOWN: usize = 20;
/// Types that the agent asks for.
const KINDS: [ResourceType; 4] = [
    ResourceType::Cluster,
    ResourceType::Endpoints,
    ResourceType::Listener,
    ResourceType::VirtualAddress,
];
/// Addresses whose owners are shown.
const OWNERS: usize = 16_384;

/// See the module.
pub(super) struct Standing {
    shown: watch::Sender<XdsReport>,
}

impl Standing {
    /// Nothing has happened yet; `current_at`: when an earlier agent wrote what is taken up.
    pub(super) fn new(node: &str, managers: &[Manager], current_at: Option<u64>, now: u64) -> Self {
        let manager = |manager: &Manager| ManagerReport {
            url: manager.url.clone(),
            is_insecure: manager.ca.is_none(),
            credential: CredentialReport {
                kind: kind_of(&manager.credential),
                expires_at: None,
            },
            ..ManagerReport::default()
        };
        let kind = |kind: ResourceType| TypeReport {
            kind: kind.label().to_owned(),
            ..TypeReport::default()
        };
        let report = XdsReport {
            at: now,
            node: node.to_owned(),
            managers: managers.iter().map(manager).collect(),
            current_at,
            types: KINDS.map(kind).into(),
            ..XdsReport::default()
        };
        Self {
            shown: watch::Sender::new(report),
        }
    }

    /// What there is to see, now and later.
    pub(super) fn watch(&self) -> watch::Receiver<XdsReport> {
        self.shown.subscribe()
    }

    /// The manager at `turn` is tried, with a credential that says this of its end.
    pub(super) fn tries(&self, turn: usize, expires_at: Option<u64>, now: u64) {
        self.note(now, |report| {
            report.back_off_ms = None;
            if let Some(manager) = report.managers.get_mut(turn) {
                manager.credential.expires_at = expires_at;
            }
        });
    }

    /// It has answered.
    pub(super) fn opened(&self, turn: usize, now: u64) {
        self.note(now, |report| {
            if let Some(manager) = report.managers.get_mut(turn) {
                manager.connected_since = Some(now);
                manager.streams += 1;
            }
        });
    }

    /// There is no stream with it, or no longer.
    pub(super) fn ended(&self, turn: usize, reason: &str, now: u64) {
        self.note(now, |report| {
            if std::mem::take(&mut report.is_current) {
                report.current_at = Some(now);
            }
            if let Some(manager) = report.managers.get_mut(turn) {
                manager.connected_since = None;
                manager.failures += 1;
                manager.last_failure = Some(FailureReport {
                    at: now,
                    reason: reason.to_owned(),
                });
            }
        });
    }

    /// The next is tried after this pause.
    pub(super) fn pauses(&self, milliseconds: u64, now: u64) {
        self.note(now, |report| report.back_off_ms = Some(milliseconds));
    }

    /// A response was answered; there are so many resources of its type now.
    pub(super) fn answered(&self, kind: ResourceType, is_ack: bool, resources: usize, now: u64) {
        self.note(now, |report| {
            let shown = report.types.iter_mut().find(|shown| shown.kind == kind.label());
            let Some(shown) = shown else { return };
            shown.resources = u64::try_from(resources).unwrap_or(u64::MAX);
            let answer = if is_ack {
                &mut shown.acked_at
            } else {
                &mut shown.nacked_at
            };
            *answer = Some(now);
        });
    }

    /// So many resources of a type there are.
    pub(super) fn has(&self, kind: ResourceType, resources: usize, now: u64) {
        self.note(now, |report| {
            if let Some(shown) = report.types.iter_mut().find(|shown| shown.kind == kind.label()) {
                shown.resources = u64::try_from(resources).unwrap_or(u64::MAX);
            }
        });
    }

    /// Everything that was asked for has been answered on this stream, or not yet; and this is what is refused.
    pub(super) fn stands(&self, is_current: bool, rejected: &BTreeMap<(ResourceType, String), String>, now: u64) {
        self.note(now, |report| {
            report.is_current = is_current;
            if is_current {
                report.current_at = Some(now);
            }
            report.rejected = u64::try_from(rejected.len()).unwrap_or(u64::MAX);
            let shown = rejected.iter().take(SHOWN);
            report.rejections = shown
                .map(|((kind, name), reason)| RejectionReport {
                    kind: kind.label().to_owned(),
                    name: name.clone(),
                    reason: reason.clone(),
                })
                .collect();
        });
    }

    /// Addresses are announced so.
    pub(super) fn announces(&self, addresses: Option<&BTreeMap<IpAddr, VirtualAddress>>) {
        self.shown.send_if_modified(|report| {
            let owners: Vec<OwnerReport> = addresses
                .into_iter()
                .flatten()
                .take(OWNERS)
                .map(|(address, announced)| OwnerReport {
                    address: address.to_string(),
                    owner: match &announced.owner {
                        Owner::This => report.node.clone(),
                        Owner::Other(node) => node.clone(),
                        Owner::Nobody => String::new(),
                    },
                    epoch: announced.epoch,
                    tenant: announced.tenant.clone(),
                })
                .collect();
            let changed = report.owners != owners;
            report.owners = owners;
            changed
        });
    }

    fn note(&self, now: u64, change: impl FnOnce(&mut XdsReport)) {
        self.shown.send_modify(|report| {
            report.at = now;
            change(report);
        });
    }
}

fn kind_of(credential: &Credential) -> CredentialKind {
    match credential {
        Credential::None => CredentialKind::None,
        Credential::Token(_) => CredentialKind::Token,
        Credential::Certificate { .. } => CredentialKind::Certificate,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing() -> Standing {
        let manager = |url: &str, ca: Option<&str>, credential| Manager {
            url: url.to_owned(),
            ca: ca.map(Into::into),
            credential,
        };
        let managers = [
            manager("https://a:1", Some("ca"), Credential::Token("t".into())),
            manager("http://b:1", None, Credential::None),
        ];
        Standing::new("n", &managers, Some(50), 100)
    }

    fn shown(standing: &Standing) -> XdsReport {
        standing.watch().borrow().clone()
    }

    #[test]
    fn a_stream_that_ends_leaves_the_time_at_which_the_configuration_was_the_newest() {
        let standing = standing();
        assert_eq!(shown(&standing).at(200).age(), Some(150), "what an earlier agent kept");
        standing.tries(0, Some(900), 200);
        standing.opened(0, 201);
        standing.answered(ResourceType::Cluster, true, 3, 202);
        standing.stands(true, &BTreeMap::new(), 202);
        let report = shown(&standing).at(300);
        assert_eq!(report.connected().unwrap().url, "https://a:1");
        assert_eq!(report.age(), Some(0), "as long as the stream lives");
        assert_eq!(report.types[0].resources, 3);
        assert_eq!(report.types[0].acked_at, Some(202));
        standing.ended(0, "gone", 400);
        standing.pauses(100, 400);
        let report = shown(&standing).at(460);
        assert!(report.connected().is_none());
        assert_eq!((report.age(), report.back_off_ms), (Some(60), Some(100)));
        assert_eq!(report.managers[0].credential.expires_at, Some(900));
        assert_eq!(report.managers[0].last_failure.as_ref().unwrap().reason, "gone");
        assert_eq!((report.managers[0].streams, report.managers[0].failures), (1, 1));
    }

    #[test]
    fn a_stream_that_fails_before_it_has_answered_makes_nothing_newer() {
        let standing = standing();
        standing.tries(1, None, 300);
        standing.ended(1, "refused", 301);
        assert_eq!(shown(&standing).current_at, Some(50));
        assert!(shown(&standing).managers[1].is_insecure);
    }

    #[test]
    fn rejections_are_named_as_far_as_one_reads() {
        let standing = standing();
        let rejected: BTreeMap<(ResourceType, String), String> = (0..30)
            .map(|number| ((ResourceType::Listener, format!("l{number:02}")), "why".to_owned()))
            .collect();
        standing.answered(ResourceType::Listener, false, 0, 150);
        standing.stands(true, &rejected, 150);
        let report = shown(&standing);
        assert_eq!((report.rejections.len(), report.rejected), (SHOWN, 30));
        assert_eq!(report.rejections[0].name, "l00");
        assert_eq!((report.types[2].acked_at, report.types[2].nacked_at), (None, Some(150)));
    }
}
