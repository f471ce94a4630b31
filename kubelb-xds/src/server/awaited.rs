//! Which listeners a peer serves. An acknowledged one does not yet: Envoy then asks for its certificates and routes, and accepts connections when it
//! has them. Owns that question; must not know requests or the order of pushes.

use std::collections::BTreeSet;

use crate::resource_type::ResourceType;
use crate::server::Session;
use crate::server::peer::Known;

impl Session {
    /// Whether the peer has a version of this listener and all that this version needs. A listener that it has not is no listener that is waited for.
    #[must_use]
    pub fn serves(&self, listener: &str) -> bool {
        let Some(Known::Has(listener)) = self.types.get(ResourceType::Listener).known.get(listener) else {
            return true;
        };
        let mut required = listener.references().iter().filter(|needs| needs.kind.is_required());
        required.all(|needs| {
            let peer = self.types.get(needs.kind);
            // What it rejects is told as such; what does not exist never comes.
            let rejected = peer.quarantine.contains_key(&needs.name);
            let exists = || self.snapshot.as_ref()?.visible(&self.scope, needs.kind, &needs.name);
            peer.acked(&needs.name).is_some() || rejected || exists().is_none()
        })
    }

    pub(super) fn forget_awaited(&mut self) {
        let awaited = std::mem::take(&mut self.awaited);
        self.awaited = awaited
            .into_iter()
            .filter(|listener| !self.serves(listener))
            .collect::<BTreeSet<_>>();
    }
}
