//! What goes on beside a worker: probes, and watches over the objects that volumes show.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt as _;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{ConfigMap, Container, Probe, Secret};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, watch};

use super::super::container::Running;
use super::super::probe::{Machine, Purpose, at_least_one};
use super::super::probing::Place;
use super::super::registry::ContainerEntry;
use super::super::volumes::{self, Part, Source};
use super::{Happened, Worker};

impl Worker {
    pub(super) fn begin_probing(&mut self, index: usize) {
        let Some(running) = self.running.get_mut(&index) else {
            return;
        };
        for purpose in Purpose::ALL {
            if let Some(probe) = purpose.of(&running.place.container).cloned() {
                let task = Probing {
                    place: running.place.clone(),
                    purpose,
                    probe,
                    index,
                    run: running.run,
                    tell: self.tell.clone(),
                };
                running.probes.spawn(task.run(running.started.subscribe()));
            }
        }
    }

    /// Follows the ConfigMaps and Secrets of the Pod's volumes; called when all of them have been seen.
    pub(super) fn watch_objects(&mut self) {
        if !self.watches.is_empty() {
            return;
        }
        let (mut config_maps, mut secrets) = (BTreeSet::new(), BTreeSet::new());
        let list = self
            .pod
            .spec
            .as_ref()
            .and_then(|spec| spec.volumes.clone())
            .unwrap_or_default();
        for part in list.iter().filter_map(|volume| volumes::source(volume).ok()) {
            let Source::Files(parts) = part else { continue };
            for part in parts {
                match part {
                    Part::ConfigMap(part) => drop(config_maps.insert(part.name)),
                    Part::Secret(part) => drop(secrets.insert(part.name)),
                    Part::Downward(..) | Part::Token(..) => {}
                }
            }
        }
        for name in config_maps {
            self.follow::<ConfigMap>(name);
        }
        for name in secrets {
            self.follow::<Secret>(name);
        }
    }

    fn follow<K>(&mut self, name: String)
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + Debug
            + DeserializeOwned
            + Send
            + 'static,
    {
        let api: Api<K> = Api::namespaced(self.kubelet.client.clone(), &self.pod.namespace().unwrap_or_default());
        let tell = self.tell.clone();
        self.watches.spawn(async move {
            let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
            let mut changes = pin!(watcher(api, config).default_backoff());
            while let Some(change) = changes.next().await {
                let seen = matches!(
                    change,
                    Ok(watcher::Event::Apply(_) | watcher::Event::InitApply(_) | watcher::Event::Delete(_))
                );
                if seen && tell.send(Happened::ObjectChanged).await.is_err() {
                    return;
                }
            }
        });
    }
}

/// A container that has just been started, for those who ask for its logs.
pub(super) fn entry(container: &Container, running: &Running) -> ContainerEntry {
    ContainerEntry {
        run: running.run,
        output: Some(running.output.clone()),
        inside: Some(running.place.inside.clone()),
        stdin_once: container.stdin_once == Some(true),
    }
}

struct Probing {
    place: Place,
    purpose: Purpose,
    probe: Probe,
    index: usize,
    run: i32,
    tell: mpsc::Sender<Happened>,
}

impl Probing {
    async fn run(self, mut started: watch::Receiver<bool>) {
        let seconds =
            |value: Option<i32>| Duration::from_secs(value.and_then(|value| u64::try_from(value).ok()).unwrap_or(0));
        super::super::clock::pause(seconds(self.probe.initial_delay_seconds)).await;
        if self.purpose != Purpose::Startup && started.wait_for(|started| *started).await.is_err() {
            return;
        }
        let period = Duration::from_secs(at_least_one(self.probe.period_seconds, 10).into());
        let mut machine = Machine::new(&self.probe);
        loop {
            let failure = self.place.probe(&self.probe).await.err();
            let verdict = machine.on_result(failure.is_none());
            if failure.is_some() || verdict.is_some() {
                let what = Happened::Probed {
                    index: self.index,
                    run: self.run,
                    purpose: self.purpose,
                    failure,
                    verdict,
                };
                if self.tell.send(what).await.is_err() {
                    return;
                }
            }
            if self.purpose == Purpose::Startup && verdict == Some(true) {
                return;
            }
            super::super::clock::pause(period).await;
        }
    }
}
