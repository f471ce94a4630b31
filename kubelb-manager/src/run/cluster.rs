//! Keeps the configuration up with the objects of an API server, and the objects up with it.
//!
//! Owns the order of things: nothing is served before every kind was listed, claims are granted by the server before a resource is published
//! that uses their addresses, and only the leader writes. Every manager serves the same, whoever leads.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::{Api, Client};
use kubelb_api::v1alpha1::AddressClaim;
use kubelb_xds::Snapshot;
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::outbox::{Letter, Outbox, Told};
use super::requests::carry_out;
use super::telling::{self, Telling};
use crate::desk::{Cluster, Desk, View};
use crate::hub::{Hub, Settled};
use crate::ledger::{Ledger, Outcome};
use crate::object::{Kind, Object, ObjectKey, ObjectName};
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
    api: Api<AddressClaim>,
    outbox: Outbox,
    /// Objects whose status was written, or is about to be, and which the watch has not told of with it.
    told: BTreeMap<ObjectKey, Pending>,
    desk: Arc<Desk>,
    publish: watch::Sender<Option<Arc<Snapshot>>>,
    telling: Option<Telling>,
    leads: watch::Receiver<bool>,
    /// When claims are planned again.
    retry: Option<Instant>,
    settled: u64,
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
    pub(super) desk: Arc<Desk>,
    pub(super) publish: watch::Sender<Option<Arc<Snapshot>>>,
    pub(super) telling: Option<Telling>,
    pub(super) leads: watch::Receiver<bool>,
}

impl Follower {
    pub(super) fn new(parts: Parts) -> Self {
        let Parts {
            client,
            namespace,
            desk,
            publish,
            telling,
            leads,
        } = parts;
        let mut hub = Hub::of_cluster(&namespace);
        if telling.is_some() {
            hub.await_peers();
        }
        Self {
            watches: Watches::start(&client, &namespace),
            outbox: Outbox::start(&client),
            api: Api::all(client.clone()),
            hub,
            awaited: Awaited::default(),
            claims: Ledger::default(),
            told: BTreeMap::new(),
            retry: None,
            settled: 0,
            conflicts: 0,
            client,
            namespace,
            desk,
            publish,
            telling,
            leads,
        }
    }

    pub(super) async fn follow(mut self, shutdown: CancellationToken) -> anyhow::Result<()> {
        self.desk.waits_for(self.awaited.sentence());
        let leads = *self.leads.borrow_and_update();
        self.hub.lead(leads);
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
                changed = self.leads.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    self.turn();
                }
                () = due(self.retry) => {
                    self.retry = None;
                    self.hub.plan_addresses(true);
                }
                () = telling::due(self.telling.as_mut()) => {
                    self.tell();
                    continue;
                }
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
            self.desk.waits_for(self.awaited.sentence());
        }
        match news {
            News::Listing(Kind::AddressClaim) => self.claims.listing(),
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
        if kind == Kind::AddressClaim {
            let names = keys.iter().map(|key| key.name.name.to_string()).collect();
            for name in self.claims.listed(&names) {
                self.hub.delete(&claim_key(&name));
            }
            // Claims that no ledger knows, for nobody can read them.
            let known = |key: &ObjectKey| self.claims.get(&key.name.name).is_some();
            let unread: Vec<ObjectKey> = self
                .hub
                .store()
                .keys(kind)
                .into_iter()
                .filter(|key| !keys.contains(key) && !known(key))
                .collect();
            for key in unread {
                self.hub.delete(&key);
            }
            return;
        }
        for key in self
            .hub
            .store()
            .keys(kind)
            .difference(&keys)
            .cloned()
            .collect::<Vec<_>>()
        {
            self.gone(&key);
        }
    }

    fn seen(&mut self, entry: Entry) {
        if let Ok(Object::AddressClaim(claim)) = &entry.seen
            && !self.claims.seen(claim)
        {
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
        if key.kind == Kind::AddressClaim
            && !self.claims.gone(&key.name.name)
            && self.claims.get(&key.name.name).is_some()
        {
            return;
        }
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
        let leads = *self.leads.borrow_and_update();
        self.hub.lead(leads);
        if leads {
            return;
        }
        // What was not written any more is not what the objects have: they are read anew.
        self.outbox = Outbox::start(&self.client);
        for key in std::mem::take(&mut self.told).into_keys() {
            self.hub.forget_status(&key);
        }
        self.claims = Ledger::default();
        self.watches = Watches::start(&self.client, &self.namespace);
    }

    async fn settle(&mut self) {
        let mut statuses: BTreeMap<ObjectKey, Value> = BTreeMap::new();
        let mut changed: BTreeSet<ObjectName> = BTreeSet::new();
        let mut concerned: BTreeSet<ObjectKey> = BTreeSet::new();
        for round in 1.. {
            let mut settled = self.hub.settle(&Time(Timestamp::now()));
            let patches = std::mem::take(&mut settled.statuses).into_iter();
            statuses.extend(patches.map(|patch| (patch.object, patch.status)));
            changed.append(&mut settled.load_balancers);
            concerned.append(&mut settled.problems);
            if self.write_claims(settled).await {
                break;
            }
            if round >= ROUNDS {
                self.hub.plan_addresses(false);
                self.retry = Some(Instant::now() + RETRY);
            }
        }
        for key in &concerned {
            let problems = self.hub.problems_of(key);
            if problems.is_empty() {
                tracing::info!("{key}: nothing is wrong with it any more");
            }
            for problem in problems {
                tracing::warn!("{problem}");
            }
        }
        self.settled += 1;
        let snapshot = Arc::new(self.hub.snapshot().clone());
        self.desk.show(self.view(Snapshot::clone(&snapshot)));
        if let Some(telling) = &mut self.telling {
            telling.published(&snapshot, changed);
        }
        self.publish.send_replace(Some(snapshot));
        self.post(statuses);
        self.show_writing();
    }

    /// Writes claims; whether all are as they were planned. Where they are not, the hub knows by then what there is instead.
    async fn write_claims(&mut self, settled: Settled) -> bool {
        let over = settled.claims_over.iter().map(ToString::to_string);
        let over = over.filter_map(|name| Some((name.clone(), vec![self.claims.removal(&name)?])));
        let removals: Vec<_> = over.collect();
        let same_tenant = |old: &AddressClaim, new: &AddressClaim| old.spec.tenant == new.spec.tenant;
        let writes = settled.claims.into_iter().map(|claim| {
            let name = claim.metadata.name.clone().unwrap_or_default();
            (name, self.claims.requests(claim, same_tenant))
        });
        let writes: Vec<_> = writes.collect();
        let mut as_planned = true;
        for jobs in [removals, writes] {
            for (name, outcome) in carry_out(&self.api, &mut self.claims, jobs).await {
                match outcome {
                    Outcome::Done(_) => continue,
                    Outcome::Lost(_) => {
                        self.conflicts += 1;
                        tracing::info!(
                            claim = name,
                            "another manager has written it; addresses are planned again"
                        );
                    }
                    Outcome::Failed(why) => {
                        tracing::warn!(
                            claim = name,
                            why,
                            "could not be written; its address is not served until it is"
                        );
                        self.hub.plan_addresses(false);
                        self.retry = Some(Instant::now() + RETRY);
                    }
                }
                as_planned = false;
                match self.claims.get(&name) {
                    Some(claim) => self.hub.apply(Ok(Object::AddressClaim(claim.clone().into()))),
                    None => self.hub.delete(&claim_key(&name)),
                };
            }
        }
        as_planned
    }

    /// Brings the statuses up with what peers tell.
    fn tell(&mut self) {
        let Some(telling) = &mut self.telling else {
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

    fn view(&self, snapshot: Snapshot) -> View {
        let count = |kind: &Kind| (*kind, self.hub.store().count(*kind));
        View {
            ir: self.hub.ir().clone(),
            snapshot,
            problems: self.hub.problems(),
            objects: Kind::ALL.iter().map(count).collect::<BTreeMap<_, _>>(),
            settled: self.settled,
        }
    }

    fn show_writing(&self) {
        let outbox = self.outbox.figures();
        self.desk.writes(Cluster {
            leads: *self.leads.borrow(),
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

fn claim_key(name: &str) -> ObjectKey {
    ObjectKey::new(Kind::AddressClaim, "", name)
}

async fn due(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
