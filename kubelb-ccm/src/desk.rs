//! What the process tells about itself: health, metrics, status.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::jiff::Timestamp;
use kube::runtime::reflector::Store;
use kubelb_api::v1alpha1::LoadBalancer;
use kubelb_runtime::admin::Answers;
use serde_json::json;

use crate::keeper::Standing;
use crate::plan::{AddressType, Nodes, Settings, is_ours};
use crate::route::Route;
use crate::watch::Link;

/// What there is to look at once the work has begun.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) settings: Settings,
    pub(crate) address_type: AddressType,
    pub(crate) services: Store<Service>,
    pub(crate) nodes: Store<Node>,
    pub(crate) load_balancers: Store<LoadBalancer>,
    pub(crate) tenant: Arc<Link>,
    pub(crate) hub: Arc<Link>,
    pub(crate) route: Route,
    pub(crate) credential: Arc<RwLock<Standing>>,
}

impl View {
    fn credential(&self) -> Standing {
        self.credential.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Answers of the admin server.
#[derive(Debug, Default)]
pub(crate) struct Desk {
    view: RwLock<Option<View>>,
    counts: RwLock<Counts>,
    is_leader: OnceLock<()>,
}

#[derive(Debug, Default)]
struct Counts {
    succeeded: u64,
    failed: u64,
    /// Services whose last look failed.
    failing: BTreeSet<(String, String)>,
}

impl Desk {
    pub(crate) fn show(&self, view: View) {
        *self.view.write().unwrap_or_else(PoisonError::into_inner) = Some(view);
    }

    /// This replica does the work from now on.
    pub(crate) fn leads(&self) {
        self.is_leader.get_or_init(|| ());
    }

    /// A Service was looked at.
    pub(crate) fn reconciled(&self, key: &(String, String), succeeded: bool) {
        let mut counts = self.counts.write().unwrap_or_else(PoisonError::into_inner);
        if succeeded {
            counts.succeeded = counts.succeeded.saturating_add(1);
            counts.failing.remove(key);
        } else {
            counts.failed = counts.failed.saturating_add(1);
            counts.failing.insert(key.clone());
        }
    }

    fn look<T>(&self, read: impl FnOnce(&View) -> T) -> Option<T> {
        let view = self.view.read().unwrap_or_else(PoisonError::into_inner);
        view.as_ref().map(read)
    }
}

impl Answers for Desk {
    fn healthy(&self) -> Result<(), String> {
        Ok(())
    }

    /// Ready when the tenant's cluster answers, or another replica does the work. The management cluster is not asked for: its outage is no
    /// reason to restart, and no other replica would reach it.
    fn ready(&self) -> Result<(), String> {
        if self.is_leader.get().is_none() {
            return Ok(());
        }
        match self.look(|view| view.tenant.state()) {
            None => Err("has not begun".to_owned()),
            Some(state) if state.lists == 0 => Err(format!(
                "the tenant's cluster has not answered: {}",
                state.error.unwrap_or_else(|| "no answer yet".to_owned())
            )),
            Some(_) => Ok(()),
        }
    }

    fn metrics(&self) -> Result<String, String> {
        let mut text = String::new();
        let mut gauge = |name: &str, kind: &str, help: &str, value: u64| {
            let written = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
            written.map_err(|error| error.to_string())
        };
        let (succeeded, failed, failing) = {
            let counts = self.counts.read().unwrap_or_else(PoisonError::into_inner);
            (counts.succeeded, counts.failed, counts.failing.len())
        };
        let figures = self.look(|view| {
            let services = view.services.state();
            let managed = services
                .iter()
                .filter(|service| is_ours(service, &view.settings))
                .count();
            let nodes = view.nodes.state();
            let chosen = Nodes::choose(nodes.iter().map(AsRef::as_ref), view.address_type);
            (managed, chosen.len(), view.hub.state(), view.credential())
        });
        if let Some((managed, nodes, hub, credential)) = figures {
            let connected = u64::from(hub.error.is_none() && hub.lists > 0);
            gauge(
                "kubelb_ccm_managed_services",
                "gauge",
                "Services that are served.",
                count(managed),
            )?;
            gauge("kubelb_ccm_nodes", "gauge", "Nodes that take traffic.", count(nodes))?;
            gauge(
                "kubelb_ccm_kubelb_cluster_connected",
                "gauge",
                "Whether the management cluster answers.",
                connected,
            )?;
            gauge(
                "kubelb_ccm_credential_good",
                "gauge",
                "Whether nothing is wrong with the credential for the management cluster.",
                u64::from(credential.error.is_none()),
            )?;
            if let Some(expires) = credential.expires {
                gauge(
                    "kubelb_ccm_credential_expires_timestamp_seconds",
                    "gauge",
                    "When the token for the management cluster ends.",
                    u64::try_from(expires.as_second()).unwrap_or_default(),
                )?;
            }
        }
        gauge(
            "kubelb_ccm_services_failing",
            "gauge",
            "Services whose last look failed.",
            count(failing),
        )?;
        let name = "kubelb_ccm_service_reconcile_total";
        let lines = writeln!(
            text,
            "# HELP {name} Looks at a Service.\n# TYPE {name} counter\n{name}{{result=\"success\"}} {succeeded}\n\
             {name}{{result=\"error\"}} {failed}"
        );
        lines.map_err(|error| error.to_string())?;
        Ok(text)
    }

    fn status(&self) -> Result<String, String> {
        let failing: Vec<String> = {
            let counts = self.counts.read().unwrap_or_else(PoisonError::into_inner);
            counts
                .failing
                .iter()
                .map(|(namespace, name)| format!("{namespace}/{name}"))
                .collect()
        };
        let document = self.look(|view| {
            let cluster = |link: &Link| {
                let state = link.state();
                json!({"answers": state.error.is_none() && state.lists > 0, "error": state.error})
            };
            let credential = view.credential();
            let time = |time: Option<Timestamp>| time.map(|time| time.to_string());
            json!({
                "tenant": view.settings.tenant.as_str(),
                "namespace": view.settings.tenant.namespace(),
                "isLeader": self.is_leader.get().is_some(),
                "tenantCluster": cluster(&view.tenant),
                "managementCluster": cluster(&view.hub),
                "managementAddress": view.route.address(),
                "credential": {
                    "expires": time(credential.expires),
                    "renewed": time(credential.renewed),
                    "error": credential.error,
                },
                "services": view.services.state().iter().filter(|service| is_ours(service, &view.settings)).count(),
                "loadBalancers": view.load_balancers.state().len(),
                "failing": failing,
            })
        });
        let document = document.unwrap_or_else(|| json!({"isLeader": self.is_leader.get().is_some()}));
        serde_json::to_string_pretty(&document).map_err(|error| error.to_string())
    }
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}
