//! Volumes, claims and storage classes: stored with their defaults. Nothing provisions anything here.

use serde_json::Value;

use super::super::object::{as_map, default_to, field_mut};
use super::super::resource::Resource;

/// Fills in what a real server fills in.
pub(super) fn default(resource: &Resource, object: &mut Value) {
    match resource.kind.as_str() {
        "PersistentVolumeClaim" => default_to(field_mut(object, "spec"), "volumeMode", "Filesystem"),
        "PersistentVolume" => {
            let spec = field_mut(object, "spec");
            default_to(spec, "volumeMode", "Filesystem");
            default_to(spec, "persistentVolumeReclaimPolicy", "Retain");
        }
        "StorageClass" => {
            let map = as_map(object);
            default_to(map, "reclaimPolicy", "Delete");
            default_to(map, "volumeBindingMode", "Immediate");
        }
        "CSIDriver" => {
            let spec = field_mut(object, "spec");
            for (key, value) in [
                ("attachRequired", Value::from(true)),
                ("podInfoOnMount", Value::from(false)),
                ("storageCapacity", Value::from(false)),
                ("fsGroupPolicy", Value::from("ReadWriteOnceWithFSType")),
                ("requiresRepublish", Value::from(false)),
                ("seLinuxMount", Value::from(false)),
                ("volumeLifecycleModes", Value::from(vec!["Persistent"])),
            ] {
                default_to(spec, key, value);
            }
        }
        _ => {}
    }
}
