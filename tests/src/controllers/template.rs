//! Pod templates as contents to compare: what two ways of writing the same have in common. Pure.

use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde_json::Value;

use super::pods;

/// Labels that controllers add to tell their own templates apart.
const ADDED: [&str; 2] = ["pod-template-hash", "controller-revision-hash"];

/// The content of a template.
pub(super) fn content(template: &PodTemplateSpec) -> Value {
    let mut template = template.clone();
    if let Some(labels) = template.metadata.as_mut().and_then(|meta| meta.labels.as_mut()) {
        labels.retain(|label, _| !ADDED.contains(&label.as_str()));
    }
    serde_json::to_value(template).unwrap_or_default()
}

/// A word for the content of a template, for names and labels.
pub(super) fn hash(template: &PodTemplateSpec, collisions: i32) -> String {
    pods::short_hash(&content(template), collisions)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn added_labels_make_no_difference_but_all_else_does() {
        let content_of = |template: Value| content(&serde_json::from_value(template).unwrap());
        let plain = json!({
            "metadata": {"labels": {"app": "a", "empty": ""}},
            "spec": {"containers": [{"name": "c", "image": "i"}], "volumes": [{"name": "v", "emptyDir": {}}]},
        });
        let mut labelled = plain.clone();
        labelled["metadata"]["labels"]["pod-template-hash"] = "x".into();
        assert_eq!(content_of(plain.clone()), content_of(labelled));
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
