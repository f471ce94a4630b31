//! What is wrong with objects whose status cannot say it, as Events: those that were never read as a whole, and kinds whose status is another's.
//!
//! Bounded, and never waited for: an Event that is lost is in the log and on the status page all the same.

use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kubelb_api::API_VERSION;
use kubelb_runtime::error_chain::chain;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::object::{Kind, ObjectKey};
use crate::problem::Problem;

/// Events that wait to be written; more are dropped.
const WAITING: usize = 256;
/// Longest time for one request.
const REQUEST_TIME: Duration = Duration::from_secs(5);
/// Longest note (the API's limit is 1,024 bytes).
const MAX_NOTE: usize = 1_000;
/// Where Events of objects without a namespace are.
const NAMESPACE_OF_CLUSTER: &str = "default";

/// See the module. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Complaints {
    sender: mpsc::Sender<(ObjectReference, Event)>,
    _task: JoinSet<()>,
}

impl Complaints {
    pub(super) fn start(client: &Client) -> Self {
        let (sender, receiver) = mpsc::channel(WAITING);
        let reporter = Reporter {
            controller: "kubelb-manager".to_owned(),
            instance: None,
        };
        let mut task = JoinSet::new();
        task.spawn(write(Recorder::new(client.clone(), reporter), receiver));
        Self { sender, _task: task }
    }

    /// Says what is wrong with an object.
    pub(super) fn tell(&self, key: &ObjectKey, uid: Option<String>, problem: &Problem) {
        let sentence = if problem.field.is_empty() {
            problem.message.clone()
        } else {
            format!("{}: {}", problem.field, problem.message)
        };
        let event = Event {
            type_: EventType::Warning,
            reason: problem.reason.as_str().to_owned(),
            note: Some(sentence.chars().take(MAX_NOTE / 4).collect()),
            action: "Read".to_owned(),
            secondary: None,
        };
        let namespace = if key.kind.is_namespaced() {
            key.name.namespace.to_string()
        } else {
            NAMESPACE_OF_CLUSTER.to_owned()
        };
        let about = ObjectReference {
            api_version: Some(API_VERSION.to_owned()),
            kind: Some(key.kind.as_str().to_owned()),
            name: Some(key.name.name.to_string()),
            namespace: Some(namespace),
            uid,
            ..ObjectReference::default()
        };
        if self.sender.try_send((about, event)).is_err() {
            tracing::debug!(object = %key, "an Event is left out: too many wait");
        }
    }
}

/// Whether an object's own status cannot say what is wrong with it. `is_read`: a version of it could be read.
pub(super) const fn needs_event(kind: Kind, is_read: bool) -> bool {
    match kind {
        // What a status has that nobody could read here is not replaced by a guess.
        Kind::Config | Kind::Addresses | Kind::LoadBalancer | Kind::Route => !is_read,
        Kind::Tenant | Kind::AddressClaim | Kind::VirtualAddressOwner | Kind::SyncSecret => true,
        // Whoever made it is told by the API server.
        Kind::Service => false,
    }
}

async fn write(recorder: Recorder, mut waiting: mpsc::Receiver<(ObjectReference, Event)>) {
    while let Some((about, event)) = waiting.recv().await {
        match tokio::time::timeout(REQUEST_TIME, recorder.publish(&event, &about)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(error = %chain(&error), "an Event could not be written"),
            Err(_) => tracing::debug!("an Event could not be written: no answer"),
        }
    }
}
