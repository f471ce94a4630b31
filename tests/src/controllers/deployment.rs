//! Brings a Deployment's Pods to its template: one ReplicaSet for each template, scaled up and down as the strategy says. Pure.

mod revision;
mod scale;
mod status;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::action::{Action, Plan};
use super::world::{Kind, World};
use super::{pods, template};
use scale::Counts;

/// The label that tells the Pods of one ReplicaSet from another's.
const HASH: &str = "pod-template-hash";

/// A Deployment with the ReplicaSets that are its own.
struct Rollout<'a> {
    deployment: &'a Deployment,
    spec: &'a DeploymentSpec,
    /// Pods that are asked for.
    replicas: i32,
    /// Pods beyond that, while the template changes.
    surge: i32,
    /// Pods that may be missing meanwhile.
    unavailable: i32,
    rolling: bool,
    /// The one of the template as it is now.
    new: Option<&'a ReplicaSet>,
    /// The others, oldest first.
    old: Vec<&'a ReplicaSet>,
}

/// Compares what is with what shall be.
pub(super) fn reconcile(world: &World, namespace: &str, name: &str, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let Some(deployment) = world.deployments.get(namespace, name) else {
        return plan;
    };
    let Some((spec, selector)) = deployment
        .spec
        .as_ref()
        .and_then(|spec| Some((spec, pods::selector(&spec.selector)?)))
    else {
        return plan;
    };
    let candidates = world.replica_sets.within(namespace);
    let owner = (Kind::Deployment, deployment);
    let owned = pods::claim(owner, &selector, Kind::ReplicaSet, candidates, &mut plan);
    if !plan.actions.is_empty() {
        // They count when they are ours.
        return plan;
    }
    let rollout = Rollout::new(deployment, spec, owned);
    if deployment.metadata.deletion_timestamp.is_some() {
        status::write(&rollout, None, now, &mut plan);
        return plan;
    }
    if spec.paused == Some(true) {
        revision::keep(&rollout, &mut plan);
        scale::to_size(&rollout, &mut plan);
        clean_up(&rollout, &mut plan);
        status::write(&rollout, None, now, &mut plan);
        return plan;
    }
    if scale::was_resized(&rollout) {
        revision::keep(&rollout, &mut plan);
        scale::to_size(&rollout, &mut plan);
        status::write(&rollout, None, now, &mut plan);
        return plan;
    }
    let event = if rollout.rolling {
        roll(&rollout, &mut plan)
    } else {
        recreate(world, &rollout, &mut plan)
    };
    if status::is_complete(&rollout) {
        clean_up(&rollout, &mut plan);
    }
    status::write(&rollout, event, now, &mut plan);
    plan
}

/// What a plan has done to the new ReplicaSet, for the condition `Progressing`.
enum Step {
    Created(String),
    /// The name is taken by another.
    Collided,
}

impl<'a> Rollout<'a> {
    fn new(deployment: &'a Deployment, spec: &'a DeploymentSpec, mut owned: Vec<&'a ReplicaSet>) -> Self {
        let replicas = spec.replicas.unwrap_or(1).max(0);
        let strategy = spec.strategy.as_ref();
        let rolling = strategy.and_then(|strategy| strategy.type_.as_deref()) != Some("Recreate");
        let limits = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
        let (mut surge, mut unavailable) = (0, 0);
        if rolling {
            surge = pods::resolve(limits.and_then(|limits| limits.max_surge.as_ref()), replicas, true);
            let missing = limits.and_then(|limits| limits.max_unavailable.as_ref());
            unavailable = pods::resolve(missing, replicas, false).min(replicas);
            if surge == 0 && unavailable == 0 {
                // Neither can go first otherwise.
                unavailable = 1.min(replicas);
            }
        }
        owned.sort_by_key(|set| {
            let created = set.metadata.creation_timestamp.as_ref().map(|time| time.0);
            (created, set.metadata.name.clone())
        });
        let wanted = template::content(&spec.template);
        let is_new = |set: &&ReplicaSet| {
            let template = set.spec.as_ref().and_then(|spec| spec.template.as_ref());
            template.map(template::content).as_ref() == Some(&wanted)
        };
        let new = owned.iter().copied().find(is_new);
        let old = owned
            .iter()
            .copied()
            .filter(|set| new.is_none_or(|new| new.metadata.uid != set.metadata.uid));
        Self {
            deployment,
            spec,
            replicas,
            surge,
            unavailable,
            rolling,
            new,
            old: old.collect(),
        }
    }

    fn namespace(&self) -> &str {
        self.deployment.metadata.namespace.as_deref().unwrap_or_default()
    }

    /// Old ones and then the new one.
    fn all(&self) -> impl Iterator<Item = &'a ReplicaSet> {
        self.old.iter().copied().chain(self.new)
    }

    fn is_recreated(&self) -> bool {
        !self.rolling
    }
}

/// Pods that a ReplicaSet is asked for.
fn size(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

fn available(set: &ReplicaSet) -> i32 {
    let status = set.status.as_ref();
    status.and_then(|status| status.available_replicas).unwrap_or_default()
}

/// `RollingUpdate`.
fn roll(rollout: &Rollout<'_>, plan: &mut Plan) -> Option<Step> {
    let Some(new) = rollout.new else {
        let counts = Counts::of(rollout);
        return create(rollout, scale::room(rollout, &counts, 0), plan);
    };
    revision::keep(rollout, plan);
    let mut counts = Counts::of(rollout);
    scale::up(rollout, new, &mut counts);
    if !counts.changed() {
        scale::down(rollout, new, &mut counts);
    }
    counts.write(rollout, plan);
    None
}

/// `Recreate`: nothing of the new before all of the old is gone.
fn recreate(world: &World, rollout: &Rollout<'_>, plan: &mut Plan) -> Option<Step> {
    let mut counts = Counts::of(rollout);
    for old in &rollout.old {
        counts.set(old, 0);
    }
    if counts.changed() {
        counts.write(rollout, plan);
        return None;
    }
    let is_old = |pod: &Pod| {
        let owned_by = |set: &&ReplicaSet| pods::is_controlled_by(&pod.metadata, set.metadata.uid.as_ref());
        pods::is_live(pod) && rollout.old.iter().any(owned_by)
    };
    if world.pods.within(rollout.namespace()).any(is_old) {
        return None;
    }
    let Some(new) = rollout.new else {
        return create(rollout, rollout.replicas, plan);
    };
    revision::keep(rollout, plan);
    counts.set(new, rollout.replicas);
    counts.write(rollout, plan);
    None
}

/// Makes the ReplicaSet of the template as it is now.
fn create(rollout: &Rollout<'_>, replicas: i32, plan: &mut Plan) -> Option<Step> {
    let Rollout { deployment, spec, .. } = *rollout;
    let collisions = deployment.status.as_ref().and_then(|status| status.collision_count);
    let hash = template::hash(&spec.template, collisions.unwrap_or_default());
    let name = format!("{}-{hash}", deployment.metadata.name.as_deref().unwrap_or_default());
    if rollout.all().any(|set| set.metadata.name.as_ref() == Some(&name)) {
        return Some(Step::Collided);
    }
    let template_meta = spec.template.metadata.clone().unwrap_or_default();
    let mut labels = template_meta.labels.clone().unwrap_or_default();
    labels.insert(HASH.to_owned(), hash.clone());
    let mut labelled = spec.template.clone();
    labelled.metadata.get_or_insert_default().labels = Some(labels.clone());
    let mut selector = spec.selector.clone();
    selector
        .match_labels
        .get_or_insert_default()
        .insert(HASH.to_owned(), hash);
    plan.act(Action::Create {
        kind: Kind::ReplicaSet,
        namespace: rollout.namespace().to_owned(),
        object: json!({
            "apiVersion": "apps/v1",
            "kind": "ReplicaSet",
            "metadata": {
                "name": name,
                "labels": labels,
                "annotations": revision::annotations_of_new(rollout),
                "ownerReferences": [pods::owner_reference(Kind::Deployment, deployment)],
            },
            "spec": {
                "replicas": replicas,
                "minReadySeconds": spec.min_ready_seconds.unwrap_or_default(),
                "selector": selector,
                "template": labelled,
            },
        }),
    });
    let message = format!("Scaled up replica set {name} from 0 to {replicas}");
    plan.tell(Kind::Deployment, deployment, "ScalingReplicaSet", message);
    Some(Step::Created(name))
}

/// Deletes old ReplicaSets beyond the history that is asked for.
fn clean_up(rollout: &Rollout<'_>, plan: &mut Plan) {
    let limit = rollout.spec.revision_history_limit.unwrap_or(10);
    let is_unused = |set: &&&ReplicaSet| {
        size(set) == 0
            && set.status.as_ref().is_none_or(|status| status.replicas == 0)
            && set.metadata.deletion_timestamp.is_none()
    };
    let mut unused: Vec<&ReplicaSet> = rollout.old.iter().filter(is_unused).copied().collect();
    unused.sort_by_key(|set| revision::of(&set.metadata));
    let excess = unused
        .len()
        .saturating_sub(usize::try_from(limit).unwrap_or(usize::MAX));
    for set in unused.iter().take(excess) {
        plan.delete(Kind::ReplicaSet, *set);
    }
}

/// One annotation of an object.
fn annotation<'a>(meta: &'a k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta, key: &str) -> Option<&'a str> {
    meta.annotations.as_ref()?.get(key).map(String::as_str)
}

/// A patch that sets annotations.
fn annotate(annotations: &Value) -> Value {
    json!({"metadata": {"annotations": annotations}})
}
