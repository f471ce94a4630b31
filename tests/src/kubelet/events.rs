//! Events of Pods, as `kubectl describe` shows them. The same event again counts up.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource as _, ResourceExt as _};
use serde_json::json;
use tokio::sync::mpsc;

use super::clock;

const COMPONENT: &str = "kubelet";
/// Events that may wait to be written; more are lost, and said so.
const WAITING: usize = 256;
/// Events whose count is remembered.
const REMEMBERED: usize = 1024;

struct Note {
    about: ObjectReference,
    warning: bool,
    reason: String,
    message: String,
}

/// Takes events; writing them holds up nobody.
#[derive(Clone)]
pub(super) struct Recorder(mpsc::Sender<Note>);

impl Recorder {
    pub(super) fn start(client: Client, node: String) -> Self {
        let (sender, receiver) = mpsc::channel(WAITING);
        tokio::spawn(write_all(client, node, receiver));
        Self(sender)
    }

    pub(super) fn normal(&self, pod: &Pod, container: Option<&str>, reason: &str, message: impl Into<String>) {
        self.record(pod, container, false, reason, message.into());
    }

    pub(super) fn warning(&self, pod: &Pod, container: Option<&str>, reason: &str, message: impl Into<String>) {
        self.record(pod, container, true, reason, message.into());
    }

    fn record(&self, pod: &Pod, container: Option<&str>, warning: bool, reason: &str, message: String) {
        let mut about = pod.object_ref(&());
        about.field_path = container.map(|name| format!("spec.containers{{{name}}}"));
        let note = Note {
            about,
            warning,
            reason: reason.to_owned(),
            message,
        };
        if self.0.try_send(note).is_err() {
            eprintln!(
                "warning: too many events at once; {reason} of {} is lost",
                pod.name_any()
            );
        }
    }
}

async fn write_all(client: Client, node: String, mut notes: mpsc::Receiver<Note>) {
    let mut written: BTreeMap<String, (String, i32)> = BTreeMap::new();
    let mut serial = 0_u64;
    while let Some(note) = notes.recv().await {
        let about = &note.about;
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let api: Api<Event> = Api::namespaced(client.clone(), &text(&about.namespace));
        let key = format!(
            "{}/{}/{}/{}",
            text(&about.uid),
            text(&about.field_path),
            note.reason,
            note.message
        );
        let now = clock::now();
        if let Some((name, count)) = written.get_mut(&key) {
            *count += 1;
            let patch = json!({"count": *count, "lastTimestamp": Time(now)});
            if api
                .patch(name, &PatchParams::default(), &Patch::Merge(patch))
                .await
                .is_ok()
            {
                continue;
            }
        }
        serial += 1;
        let name = format!("{}.{:x}{serial:x}", text(&about.name), now.as_nanosecond());
        let event = Event {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: about.namespace.clone(),
                ..ObjectMeta::default()
            },
            type_: Some(if note.warning { "Warning" } else { "Normal" }.to_owned()),
            reason: Some(note.reason),
            message: Some(note.message),
            involved_object: note.about,
            count: Some(1),
            first_timestamp: Some(Time(now)),
            last_timestamp: Some(Time(now)),
            source: Some(EventSource {
                component: Some(COMPONENT.to_owned()),
                host: Some(node.clone()),
            }),
            reporting_component: Some(COMPONENT.to_owned()),
            reporting_instance: Some(node.clone()),
            ..Event::default()
        };
        // An event that can't be written (its namespace is going away) is not worth a second try.
        if api.create(&PostParams::default(), &event).await.is_ok() {
            if written.len() >= REMEMBERED {
                written.clear();
            }
            written.insert(key, (name, 1));
        }
    }
}
