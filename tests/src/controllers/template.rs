//! Pod templates as contents to compare: what two ways of writing the same have in common. Pure.
//!
//! A server may keep a field's zero value that another client left out; such a difference must not start a rollout.

use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde_json::Value;

use super::pods;

/// Labels that controllers add to tell their own templates apart.
const ADDED: [&str; 2] = ["pod-template-hash", "controller-revision-hash"];

/// Fields whose zero value is not the same as none.
const TELLING: [&str; 18] = [
    "activeDeadlineSeconds",
    "allowPrivilegeEscalation",
    "automountServiceAccountToken",
    "defaultMode",
    "enableServiceLinks",
    "fsGroup",
    "hostUsers",
    "mode",
    "optional",
    "priority",
    "privileged",
    "readOnlyRootFilesystem",
    "runAsGroup",
    "runAsNonRoot",
    "runAsUser",
    "setHostnameAsFQDN",
    "terminationGracePeriodSeconds",
    "tolerationSeconds",
];

/// Objects whose keys are names that users chose.
const MAPS: [&str; 3] = ["annotations", "labels", "nodeSelector"];

/// The content of a template.
pub(super) fn content(template: &PodTemplateSpec) -> Value {
    let mut template = template.clone();
    if let Some(meta) = &mut template.metadata {
        meta.creation_timestamp = None;
        meta.generation = None;
        if let Some(labels) = &mut meta.labels {
            labels.retain(|label, _| !ADDED.contains(&label.as_str()));
        }
    }
    let mut content = serde_json::to_value(template).unwrap_or_default();
    strip(&mut content);
    content
}

/// A word for the content of a template, for names and labels.
pub(super) fn hash(template: &PodTemplateSpec, collisions: i32) -> String {
    pods::short_hash(&content(template), collisions)
}

fn strip(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|key, value| TELLING.contains(&key.as_str()) || !is_zero(value));
            for (key, value) in fields.iter_mut() {
                if !MAPS.contains(&key.as_str()) {
                    strip(value);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(strip),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(value) => value.as_i64() == Some(0),
        Value::String(value) => value.is_empty(),
        // An empty one can mean something: `emptyDir: {}`.
        Value::Array(_) | Value::Object(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn zero_values_and_added_labels_make_no_difference_but_names_do() {
        let content_of = |template: Value| content(&serde_json::from_value(template).unwrap());
        let plain = json!({
            "metadata": {"labels": {"app": "a", "empty": ""}},
            "spec": {"containers": [{"name": "c", "image": "i"}], "volumes": [{"name": "v", "emptyDir": {}}]},
        });
        let mut full = plain.clone();
        full["metadata"]["creationTimestamp"] = "1970-01-01T00:00:00Z".into();
        full["metadata"]["labels"]["pod-template-hash"] = "x".into();
        full["spec"]["hostNetwork"] = false.into();
        full["spec"]["containers"][0]["stdin"] = false.into();
        assert_eq!(content_of(plain.clone()), content_of(full));
        for (path, value) in [
            ("/spec/containers/0/image", json!("j")),
            ("/metadata/labels", json!({"app": "a"})),
            ("/spec/volumes/0", json!({"name": "v"})),
        ] {
            let mut other = plain.clone();
            *other.pointer_mut(path).unwrap() = value;
            assert_ne!(content_of(plain.clone()), content_of(other), "{path}");
        }
        let mut other = plain.clone();
        other["spec"]["automountServiceAccountToken"] = false.into();
        assert_ne!(content_of(plain), content_of(other));
    }
}
