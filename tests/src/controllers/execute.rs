//! Carries out what was decided: one request after the other, answers handed back as they come. No decisions here, except that
//! what is gone need not be deleted.

use std::sync::Arc;

use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions, PropagationPolicy};
use kube::core::DynamicObject;
use kube::{Client, Error};
use serde_json::{Value, json};

use super::action::{Action, Event, Target};
use super::namespace::{self, Left};
use super::world::{Kind, Source};
use super::{accounts, clock};

/// Who owns the fields that we write.
const MANAGER: &str = "kube-controller-manager";

/// Lifetime that is asked for a token in a Secret: ten years. A server may grant less.
const TOKEN_SECONDS: i64 = 315_360_000;

/// Objects of one kind that are looked at for their finalizers when a namespace does not become empty.
const LOOKED_AT: u32 = 500;

/// What a request has told.
#[derive(Debug)]
pub(super) enum Told {
    /// The object as it is now.
    Is(Arc<Source>, Box<DynamicObject>),
    /// The object with this uid is gone.
    Gone(Arc<Source>, String),
}

/// Talks to the API.
#[derive(Clone)]
pub(super) struct Executor {
    pub(super) client: Client,
    pub(super) api_ca: Arc<str>,
}

impl Executor {
    /// Carries out one action.
    pub(super) async fn run(&self, action: Action, told: &mut Vec<Told>) -> Result<(), Error> {
        match action {
            Action::Create {
                kind,
                namespace,
                object,
            } => {
                let source = Source::typed(kind);
                let made = self.api(&source, &namespace).create(&post(), &dynamic(object)?).await?;
                told.push(Told::Is(source, Box::new(made)));
            }
            Action::Patch { target, patch } => {
                let (source, api) = self.target(&target);
                let params = PatchParams {
                    field_manager: Some(MANAGER.to_owned()),
                    ..PatchParams::default()
                };
                let patched = api.patch(&target.key.1, &params, &Patch::Merge(patch)).await;
                if let Some(patched) = unless_gone(patched)? {
                    told.push(Told::Is(source, Box::new(patched)));
                }
            }
            Action::Status { target, object } => {
                let (source, api) = self.target(&target);
                let written = api.replace_status(&target.key.1, &post(), &dynamic(object)?).await;
                if let Some(written) = unless_gone(written)? {
                    told.push(Told::Is(source, Box::new(written)));
                }
            }
            Action::Delete {
                target,
                uid,
                grace,
                foreground,
            } => self.delete(&target, uid, grace, foreground, told).await?,
            Action::DeleteIfAbsent {
                target,
                uid,
                grace,
                absent,
            } => {
                for (other, known) in absent {
                    let there = self.target(&other).1.get_metadata_opt(&other.key.1).await?;
                    if there.is_some_and(|there| known.is_none() || there.metadata.uid == known) {
                        return Ok(());
                    }
                }
                self.delete(&target, uid, grace, false, told).await?;
            }
            Action::Bind { pod, uid, node } => self.bind(pod, uid, node).await?,
            Action::Event(event) => self.tell(event).await,
            Action::FillToken { secret, account, uid } => self.fill_token(secret, account, uid, told).await?,
            Action::EmptyNamespace { namespace, sources } => self.empty(&namespace, &sources, told).await?,
        }
        Ok(())
    }

    fn api(&self, source: &Source, namespace: &str) -> Api<DynamicObject> {
        if source.namespaced {
            Api::namespaced_with(self.client.clone(), namespace, &source.resource)
        } else {
            Api::all_with(self.client.clone(), &source.resource)
        }
    }

    fn target(&self, target: &Target) -> (Arc<Source>, Api<DynamicObject>) {
        let mut kinds = Kind::ALL.iter().copied();
        let source = Arc::new(Source {
            kind: kinds.find(|kind| kind.resource() == target.resource),
            resource: target.resource.clone(),
            namespaced: target.namespaced,
        });
        let api = self.api(&source, &target.key.0);
        (source, api)
    }

    async fn delete(
        &self,
        target: &Target,
        uid: String,
        grace: Option<u32>,
        foreground: bool,
        told: &mut Vec<Told>,
    ) -> Result<(), Error> {
        let (source, api) = self.target(target);
        let params = DeleteParams {
            grace_period_seconds: grace,
            propagation_policy: Some(if foreground {
                PropagationPolicy::Foreground
            } else {
                PropagationPolicy::Background
            }),
            preconditions: Some(Preconditions {
                uid: Some(uid.clone()),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        let Some(answer) = unless_gone(api.delete(&target.key.1, &params).await)? else {
            told.push(Told::Gone(source, uid));
            return Ok(());
        };
        match answer.left() {
            // It stays until its finalizers or its grace period are over.
            Some(object) if object.metadata.deletion_timestamp.is_some() => {
                told.push(Told::Is(source, Box::new(object)));
            }
            Some(_) | None => told.push(Told::Gone(source, uid)),
        }
        Ok(())
    }

    async fn bind(&self, (namespace, name): (String, String), uid: String, node: String) -> Result<(), Error> {
        let source = Source::typed(Kind::Pod);
        let binding = json!({
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"namespace": namespace, "name": name, "uid": uid},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        });
        let api = self.api(&source, &namespace);
        let bound = api
            .create_subresource::<_, Value>("binding", &name, &post(), &binding)
            .await;
        unless_gone(bound).map(drop)
    }

    /// Events are for people: one that is refused is not missed.
    async fn tell(&self, event: Event) {
        let now = clock::now();
        let time = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now);
        let name = event.regarding.get("name").and_then(Value::as_str).unwrap_or_default();
        let object = json!({
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": format!("{name}.{:016x}", fastrand::u64(..)), "namespace": event.namespace},
            "involvedObject": event.regarding,
            "reason": event.reason,
            "message": event.message,
            "type": if event.warning { "Warning" } else { "Normal" },
            "source": {"component": event.component},
            "reportingComponent": event.component,
            "count": 1,
            "firstTimestamp": time,
            "lastTimestamp": time,
        });
        let api: Api<DynamicObject> = Api::namespaced_with(
            self.client.clone(),
            &event.namespace,
            &kube::core::ApiResource::erase::<k8s_openapi::api::core::v1::Event>(&()),
        );
        if let Ok(object) = dynamic(object) {
            drop(api.create(&post(), &object).await);
        }
    }

    async fn fill_token(
        &self,
        (namespace, name): (String, String),
        account: String,
        uid: String,
        told: &mut Vec<Told>,
    ) -> Result<(), Error> {
        let request: TokenRequest = serde_json::from_value(json!({
            "spec": {
                "audiences": [],
                "expirationSeconds": TOKEN_SECONDS,
                "boundObjectRef": {"apiVersion": "v1", "kind": "Secret", "name": name, "uid": uid},
            },
        }))
        .map_err(Error::SerdeError)?;
        let accounts = self.api(&Source::typed(Kind::ServiceAccount), &namespace);
        let params = post();
        let granted = accounts.create_subresource::<_, TokenRequest>("token", &account, &params, &request);
        let Some(token) = granted.await?.status.and_then(|status| status.token) else {
            return Ok(());
        };
        let account_uid = accounts.get_metadata(&account).await?.metadata.uid.unwrap_or_default();
        let patch = accounts::filled(&self.api_ca, &namespace, &account_uid, &token);
        let source = Source::typed(Kind::Secret);
        let secrets = self.api(&source, &namespace);
        let patched = secrets
            .patch(&name, &PatchParams::default(), &Patch::Merge(patch))
            .await;
        if let Some(patched) = unless_gone(patched)? {
            told.push(Told::Is(source, Box::new(patched)));
        }
        Ok(())
    }

    /// Asks the server, and not what we have seen, whether something is left: a watch may be behind.
    async fn empty(&self, name: &str, sources: &[Arc<Source>], told: &mut Vec<Told>) -> Result<(), Error> {
        let mut left = Vec::new();
        for source in sources {
            let api = self.api(source, name);
            if unless_gone(api.list_metadata(&ListParams::default().limit(1)).await)?
                .is_none_or(|list| list.items.is_empty())
            {
                continue;
            }
            unless_gone(
                api.delete_collection(&DeleteParams::background(), &ListParams::default())
                    .await,
            )?;
            let rest = api.list_metadata(&ListParams::default().limit(LOOKED_AT)).await?;
            if rest.items.is_empty() {
                continue;
            }
            let finalizers = rest
                .items
                .iter()
                .flat_map(|item| item.metadata.finalizers.clone().unwrap_or_default());
            left.push(Left {
                resource: match source.resource.group.as_str() {
                    "" => format!("{}.", source.resource.plural),
                    group => format!("{}.{group}", source.resource.plural),
                },
                count: rest.items.len(),
                finalizers: finalizers.collect(),
            });
        }
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let Some(mut namespace) = unless_gone(namespaces.get(name).await)? else {
            return Ok(());
        };
        if !left.is_empty() {
            if let Some(changed) = namespace::waits_for(&namespace, &left, clock::now()) {
                namespaces.replace_status(name, &post(), &changed).await?;
            }
            return Ok(());
        }
        if let Some(held) = namespace.spec.as_mut().and_then(|spec| spec.finalizers.as_mut()) {
            held.retain(|one| one != namespace::FINALIZER);
        }
        let source = Source::typed(Kind::Namespace);
        let uid = namespace.metadata.uid.clone();
        let is_last = namespace.metadata.finalizers.as_ref().is_none_or(Vec::is_empty);
        let bytes = serde_json::to_vec(&namespace).map_err(Error::SerdeError)?;
        let request = kube::core::Request::new("/api/v1/namespaces")
            .replace_subresource("finalize", name, &post(), bytes)
            .map_err(Error::BuildRequest)?;
        unless_gone(self.client.request::<Value>(request).await)?;
        if let (Some(uid), true) = (uid, is_last) {
            told.push(Told::Gone(source, uid));
        }
        Ok(())
    }
}

fn post() -> PostParams {
    PostParams {
        field_manager: Some(MANAGER.to_owned()),
        dry_run: false,
    }
}

fn dynamic(object: Value) -> Result<DynamicObject, Error> {
    serde_json::from_value(object).map_err(Error::SerdeError)
}

/// What is gone is no error for who changes or deletes it.
fn unless_gone<T>(result: Result<T, Error>) -> Result<Option<T>, Error> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(Error::Api(status)) if status.code == 404 => Ok(None),
        Err(error) => Err(error),
    }
}
