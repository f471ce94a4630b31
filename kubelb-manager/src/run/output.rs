//! Where the configuration goes each time it is settled: to what is shown, to who tells objects of peers, and to peers.

use std::collections::BTreeSet;
use std::sync::Arc;

use kubelb_api::names::TenantName;
use kubelb_xds::Snapshot;
use tokio::sync::watch;

use super::telling::Telling;
use crate::desk::{Desk, View};
use crate::hub::Hub;
use crate::object::{Kind, ObjectName};

pub(super) struct Output {
    pub(super) desk: Arc<Desk>,
    pub(super) publish: watch::Sender<Option<Arc<Snapshot>>>,
    /// What peers tell, where there can be any.
    pub(super) telling: Option<Telling>,
    pub(super) settled: u64,
}

impl Output {
    /// What the hub has now, with the LoadBalancers and the tenants whose layer 7 is otherwise than before.
    pub(super) fn publish(&mut self, hub: &Hub, load_balancers: BTreeSet<ObjectName>, http: &BTreeSet<TenantName>) {
        self.settled += 1;
        let snapshot = Arc::new(hub.snapshot().clone());
        self.desk.show(View {
            ir: hub.ir().clone(),
            snapshot: Snapshot::clone(&snapshot),
            problems: hub.problems(),
            objects: Kind::ALL.iter().map(|kind| (*kind, hub.store().count(*kind))).collect(),
            settled: self.settled,
        });
        if let Some(telling) = &mut self.telling {
            telling.limit(hub.process_settings());
            telling.published(&snapshot, load_balancers, http);
        }
        self.publish.send_replace(Some(snapshot));
    }
}
