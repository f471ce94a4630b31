//! Keeps the configuration up with the objects of an API server, and the objects up with it.
//!
//! Owns the order of things: nothing is served before every kind was listed, claims are granted by the server before a resource is published
//! that uses their addresses, and only the leader writes. Every manager serves the same, whoever leads.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::{Api, Client};
use kubelb_api::names::TenantName;
use kubelb_api::v1alpha1::{AddressClaim, VirtualAddressOwner};
use kubelb_runtime::or_never::or_never;
use serde_json::Value;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::complaints::{Complaints, needs_event};
use super::leading::Standing;
use super::outbox::{Letter, Outbox, Told};
use super::output::Output;
use super::requests::ask_for;
use super::telling::{Due, Telling};
use crate::desk::Cluster;
use crate::hub::{Hub, Settled};
use crate::ledger::Ledger;
use crate::object::{Kind, Object, ObjectKey, ObjectName};
use crate::problem::Problem;
use crate::source::cluster::{Awaited, Entry, News, Version, Watches};

/// How often claims are planned again at once, when others have been faster.
const ROUNDS: usize = 8;
/// Pause before claims are planned again, after a server that did not answer.
const RETRY: Duration = Duration::from_secs(1);

/// See the module.
pub(super) struct Follower {
    client: Client,
    namespace: String,
    hub: Hub,
    watches: Watches,
    awaited: Awaited,
    claims: Ledger<AddressClaim>,
    claim_api: Api<AddressClaim>,
    owners: Ledger<VirtualAddressOwner>,
    owner_api: Api<VirtualAddressOwner>,
    outbox: Outbox,
    complaints: Complaints,
    /// Objects whose status was written, or is about to be, and which the watch has not told of with it.
    told: BTreeMap<ObjectKey, Pending>,
    output: Output,
    standing: Standing,
    /// When claims are planned again.
    retry: Option<Instant>,
    conflicts: u64,
}

/// A status on its way.
#[derive(Debug, Default)]
struct Pending {
    /// The version that has it.
    written: Option<Version>,
    /// What the watch told meanwhile.
    held: Option<Entry>,
}

/// What a [`Follower`] works with.
pub(super) struct Parts {
    pub(super) client: Client,
    pub(super) namespace: String,
    pub(super) announces: bool,
    pub(super) output: Output,
    pub(super) standing: Standing,
}

impl Follower {
    pub(super) fn new(parts: Parts) -> Self {
        let Parts {
            client,
            namespace,
            announces,
            output,
            standing,
        } = parts;
        let mut hub = Hub::of_cluster(&namespace);
        hub.announce(announces);
        if output.telling.is_some() {
            hub.await_peers();
        }
        Self {
            watches: Watches::start(&client, &namespace),
            outbox: Outbox::start(&client),
            complaints: Complaints::start(&client),
            claim_api: Api::all(client.clone()),
            owners: Ledger::default(),
            owner_api: Api::all(client.clone()),
            hub,
            awaited: Awaited::default(),
            claims: Ledger::default(),
            told: BTreeMap::new(),
            retry: None,
            conflicts: 0,
            client,
            namespace,
            output,
            standing,
        }
    }

    pub(super) async fn follow(mut self, shutdown: CancellationToken) -> anyhow::Result<()> {
        self.output.desk.waits_for(self.awaited.sentence());
        if *self.standing.leads.borrow() {
            self.turn();
        }
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                news = self.watches.next() => {
                    for news in news {
                        self.take(news);
                    }
                }
                told = self.outbox.told() => {
                    let mut any = false;
                    for (key, told) in told {
                        any |= self.note(&key, &told);
                    }
                    self.show_writing();
                    if !any {
                        continue;
                    }
                }
                changed = self.standing.leads.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    self.turn();
                }
                () = or_never(self.retry.map(sleep_until)) => {
                    self.retry = None;
                    self.hub.own_again();
                    self.hub.plan_addresses(true);
                }
                due = or_never(self.output.telling.as_mut().map(Telling::due)) => match due {
                    Due::Reports => {
                        self.tell();
                        continue;
                    }
                    // Settling looks at them.
                    Due::Nodes => {}
                },
            }
            if self.awaited.is_over() {
                self.settle().await;
            }
        }
    }

    /// Takes in what a watch tells.
    fn take(&mut self, news: News) {
        if !self.awaited.is_over() {
            self.awaited.take(&news);
            self.output.desk.waits_for(self.awaited.sentence());
        }
        match news {
            News::Listing(Kind::AddressClaim) => self.claims.listing(),
            News::Listing(Kind::VirtualAddressOwner) => self.owners.listing(),
            News::Listing(_) => {}
            News::Listed(kind, entries) => self.listed(kind, entries),
            News::Seen(entry) => self.seen(entry),
            News::Gone(key) => self.gone(&key),
            News::Failed(kind, why) => {
                tracing::warn!(
                    kind = kind.as_str(),
                    why,
                    "is not followed; tried again, and what is known of it stays"
                );
            }
        }
    }

    fn listed(&mut self, kind: Kind, entries: Vec<Entry>) {
        let keys: BTreeSet<ObjectKey> = entries.iter().map(key_of).collect();
        for entry in entries {
            self.seen(entry);
        }
        let names = keys.iter().map(|key| key.name.name.to_string()).collect();
        let known: BTreeSet<String> = match kind {
            Kind::AddressClaim => {
                self.claims.listed(&names);
                self.claims.names().cloned().collect()
            }
            Kind::VirtualAddressOwner => {
                self.owners.listed(&names);
                self.owners.names().cloned().collect()
            }
            Kind::Config
            | Kind::Tenant
            | Kind::Addresses
            | Kind::LoadBalancer
            | Kind::Route
            | Kind::SyncSecret
            | Kind::Service => BTreeSet::new(),
        };
        let is_over = |key: &ObjectKey| !keys.contains(key) && !known.contains(&*key.name.name);
        let all = self.hub.store().keys(kind).into_iter();
        for key in all.filter(is_over).collect::<Vec<_>>() {
            self.forget(&key);
        }
    }

    fn seen(&mut self, entry: Entry) {
        let is_news = match &entry.seen {
            Ok(Object::AddressClaim(claim)) => self.claims.seen(claim),
            Ok(Object::VirtualAddressOwner(owner)) => self.owners.seen(owner),
            Ok(_) | Err(_) => true,
        };
        if !is_news {
            return;
        }
        let key = key_of(&entry);
        if let Some(pending) = self.told.get_mut(&key) {
            if pending.written.is_none_or(|version| entry.version < version) {
                pending.held = Some(entry.clone());
            } else {
                self.told.remove(&key);
                self.hub.forget_status(&key);
            }
        }
        self.hub.apply(entry.seen);
    }

    fn gone(&mut self, key: &ObjectKey) {
        let name = &*key.name.name;
        // A new one of the same name may have been made here since.
        let is_known = match key.kind {
            Kind::AddressClaim => !self.claims.gone(name) && self.claims.get(name).is_some(),
            Kind::VirtualAddressOwner => !self.owners.gone(name) && self.owners.get(name).is_some(),
            Kind::Config
            | Kind::Tenant
            | Kind::Addresses
            | Kind::LoadBalancer
            | Kind::Route
            | Kind::SyncSecret
            | Kind::Service => false,
        };
        if !is_known {
            self.forget(key);
        }
    }

    fn forget(&mut self, key: &ObjectKey) {
        self.told.remove(key);
        self.hub.forget_status(key);
        self.hub.delete(key);
    }

    /// Takes in what became of a status; whether that changes an object.
    fn note(&mut self, key: &ObjectKey, told: &Told) -> bool {
        let Some(pending) = self.told.get_mut(key) else {
            return false;
        };
        let over = match told {
            Told::Written(version) => {
                pending.written = Some(*version);
                pending.held.as_ref().is_some_and(|held| held.version >= *version)
            }
            Told::Dropped => true,
        };
        if !over {
            return false;
        }
        let held = self.told.remove(key).and_then(|pending| pending.held);
        self.hub.forget_status(key);
        held.is_some_and(|held| self.hub.apply(held.seen))
    }

    /// Begins or ends to lead.
    fn turn(&mut self) {
        let leads = *self.standing.leads.borrow_and_update();
        let vacated = *self.standing.vacated.borrow();
        self.hub.lead(leads);
        if let Some(telling) = &mut self.output.telling {
            telling.lead(leads, vacated);
        }
        if leads {
            // The leader before has told objects of all peers; this one will know them in a moment.
            if vacated.is_some() {
                self.hub.await_peers();
            }
            return;
        }
        // What was not written any more is not what the objects have: they are read anew.
        self.outbox = Outbox::start(&self.client);
        for key in std::mem::take(&mut self.told).into_keys() {
            self.hub.forget_status(&key);
        }
        self.claims = Ledger::default();
        self.owners = Ledger::default();
        self.watches = Watches::start(&self.client, &self.namespace);
    }

    async fn settle(&mut self) {
        let mut statuses: BTreeMap<ObjectKey, Value> = BTreeMap::new();
        let mut changed: BTreeSet<ObjectName> = BTreeSet::new();
        let mut tenants: BTreeSet<TenantName> = BTreeSet::new();
        let mut concerned: BTreeSet<ObjectKey> = BTreeSet::new();
        for round in 1.. {
            let now = Time(Timestamp::now());
            let mut settled = self.hub.settle(&now);
            let patches = std::mem::take(&mut settled.statuses).into_iter();
            statuses.extend(patches.map(|patch| (patch.object, patch.status)));
            changed.append(&mut settled.load_balancers);
            tenants.append(&mut settled.http);
            concerned.append(&mut settled.problems);
            if self.write_claims(settled).await && !self.write_owners(&now).await {
                break;
            }
            if round >= ROUNDS {
                self.pause();
            }
        }
        for key in &concerned {
            let problems = self.hub.problems_of(key);
            if problems.is_empty() {
                tracing::info!("{key}: nothing is wrong with it any more");
            }
            self.complain(key, &problems);
        }
        self.output.publish(&self.hub, changed, &tenants);
        self.post(statuses);
        self.show_writing();
    }

    /// Says what is wrong with an object: in the log, and where its own status cannot say it, as Events.
    fn complain(&self, key: &ObjectKey, problems: &[Problem]) {
        let object = self.hub.store().get(key);
        let as_event = *self.standing.leads.borrow() && needs_event(key.kind, object.is_some());
        let uid = object.and_then(|object| object.meta().uid.clone());
        for problem in problems {
            tracing::warn!("{problem}");
            if as_event {
                self.complaints.tell(key, uid.clone(), problem);
            }
        }
    }

    /// Writes claims; whether all are as they were planned. Where they are not, the hub knows by then what there is instead.
    async fn write_claims(&mut self, settled: Settled) -> bool {
        let over = settled.claims_over.iter().map(ToString::to_string);
        let same_tenant = |old: &AddressClaim, new: &AddressClaim| old.spec.tenant == new.spec.tenant;
        let denied = ask_for(&self.claim_api, &mut self.claims, over, settled.claims, same_tenant).await;
        self.conflicts += denied.conflicts;
        if denied.failed {
            self.pause();
        }
        let as_planned = denied.instead.is_empty();
        for (name, instead) in denied.instead {
            match instead {
                Some(claim) => self.hub.apply(Ok(Object::AddressClaim(claim.into()))),
                None => self.hub.delete(&ObjectKey::new(Kind::AddressClaim, "", &name)),
            };
        }
        as_planned
    }

    /// Chooses who announces addresses, and writes that; whether there is something else to serve now.
    async fn write_owners(&mut self, now: &Time) -> bool {
        let Some(telling) = self.output.telling.as_mut().filter(|_| self.retry.is_none()) else {
            return false;
        };
        let nodes = telling.nodes(self.hub.ir());
        let plan = self.hub.own(nodes, now);
        if plan.is_empty() {
            return false;
        }
        let over = plan.over.iter().map(ToString::to_string);
        let denied = ask_for(&self.owner_api, &mut self.owners, over, plan.write, |_, _| true).await;
        self.conflicts += denied.conflicts;
        if denied.failed {
            self.pause();
        }
        for (name, instead) in denied.instead {
            self.hub.own_again();
            match instead {
                Some(owner) => self.hub.apply(Ok(Object::VirtualAddressOwner(owner.into()))),
                None => self.hub.delete(&ObjectKey::new(Kind::VirtualAddressOwner, "", &name)),
            };
        }
        true
    }

    /// The server does not answer, or others are always faster: what can be served without its leave is, and it is asked again later.
    fn pause(&mut self) {
        self.hub.plan_addresses(false);
        self.retry = Some(Instant::now() + RETRY);
    }

    /// Brings the statuses up with what peers tell.
    fn tell(&mut self) {
        let Some(telling) = &mut self.output.telling else {
            return;
        };
        let (reports, about) = telling.look(self.hub.ir());
        let patches = self.hub.report(reports, &about, &Time(Timestamp::now())).into_iter();
        self.post(patches.map(|patch| (patch.object, patch.status)).collect());
    }

    fn post(&mut self, statuses: BTreeMap<ObjectKey, Value>) {
        for (key, status) in statuses {
            let Some(object) = self.hub.store().get(&key) else {
                continue;
            };
            let uid = object.meta().uid.clone();
            self.told.entry(key.clone()).or_default().written = None;
            self.outbox.put(key, Letter { uid, status });
        }
    }

    fn show_writing(&self) {
        let outbox = self.outbox.figures();
        self.output.desk.writes(Cluster {
            leads: *self.standing.leads.borrow(),
            claim_conflicts: self.conflicts,
            statuses_written: outbox.written,
            statuses_failed: outbox.failed,
            statuses_waiting: outbox.waiting,
        });
    }
}

fn key_of(entry: &Entry) -> ObjectKey {
    match &entry.seen {
        Ok(object) => object.key(),
        Err(malformed) => malformed.key.clone(),
    }
}
