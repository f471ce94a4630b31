//! What one peer refuses, by object.

use std::collections::BTreeMap;
use std::sync::Arc;

use kubelb_xds::ResourceType;

use crate::object::ObjectName;
use crate::xds::object_of;
use crate::xds::server::registry::PeerRejection;

/// Resources of one object that are told; a condition has no room for all.
const TOLD: usize = 4;

#[derive(Clone, Debug)]
pub(super) struct Refusals {
    by_object: BTreeMap<ObjectName, (usize, String)>,
}

impl Refusals {
    pub(super) fn new(rejections: &BTreeMap<(ResourceType, Arc<str>), PeerRejection>) -> Self {
        let mut by_object: BTreeMap<ObjectName, (usize, String)> = BTreeMap::new();
        for ((kind, name), rejection) in rejections {
            let Some(object) = object_of(name) else { continue };
            let (many, text) = by_object.entry(object).or_default();
            *many += 1;
            if *many <= TOLD {
                let separator = if text.is_empty() { "" } else { "; " };
                // For people: the last part of `type.googleapis.com/envoy.config.cluster.v3.Cluster`.
                let kind = kind.type_url().rsplit('.').next().unwrap_or_default();
                text.push_str(&format!("{separator}{kind} {name}: {}", rejection.reason));
            }
        }
        Self { by_object }
    }

    /// As somebody else told of them.
    pub(super) fn told(by_object: impl IntoIterator<Item = (ObjectName, String)>) -> Self {
        let by_object = by_object.into_iter().map(|(object, text)| (object, (1, text)));
        Self {
            by_object: by_object.collect(),
        }
    }

    /// All objects of which it says something.
    pub(super) fn all(&self) -> impl Iterator<Item = (&ObjectName, &str)> {
        self.by_object.iter().map(|(object, (_, text))| (object, text.as_str()))
    }

    /// Everything that it says of this object.
    pub(super) fn of(&self, object: &ObjectName) -> Option<&str> {
        self.by_object.get(object).map(|(_, text)| text.as_str())
    }
}
