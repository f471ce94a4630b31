//! kube-rs when the server is killed, comes back, or has forgotten: nothing is lost, nothing comes twice.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::runtime::controller::{Action, Controller};
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt as _, reflector, watcher as watch};
use kube::{Api, Client, Error, Resource as _, ResourceExt as _};
use kubelb_tests::wait;
use serde_json::json;
use tokio::task::JoinHandle;
use tokio::time::interval;

use super::running::Running;

const PATIENCE: Duration = Duration::from_secs(60);
/// Between two tries.
const STEP: Duration = Duration::from_millis(20);
const WRITERS: usize = 3;
const KILLS: usize = 3;
/// Acknowledged writes between two kills.
const BETWEEN: usize = 40;

fn config_map(name: &str, role: &str, value: &str) -> ConfigMap {
    let metadata = json!({"name": name, "labels": {"role": role}});
    serde_json::from_value(json!({"metadata": metadata, "data": {"value": value}})).unwrap()
}

fn revision(object: &ConfigMap) -> u64 {
    object.resource_version().unwrap().parse().unwrap()
}

fn chosen(role: &str) -> watcher::Config {
    watcher::Config::default().labels(&format!("role={role}"))
}

/// Whether the server has answered, and not only the connection failed.
fn is_answer(error: &Error) -> bool {
    matches!(error, Error::Api(_))
}

/// Does `write` again while the server is away. Without an answer nobody knows whether it was done; `None` says that the
/// repetition found it done.
async fn persist<F>(write: impl Fn() -> F) -> Option<ConfigMap>
where
    F: Future<Output = Result<ConfigMap, Error>>,
{
    let mut again = interval(STEP);
    loop {
        again.tick().await;
        match write().await {
            Ok(written) => return Some(written),
            Err(Error::Api(status)) if status.is_already_exists() => return None,
            Err(error) if is_answer(&error) => panic!("{error}"),
            Err(_) => {}
        }
    }
}

/// Creates and changes objects until told to stop; returns what was acknowledged, as name and revision.
fn writer(
    client: Client,
    number: usize,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicUsize>,
) -> JoinHandle<Vec<(String, u64)>> {
    tokio::spawn(async move {
        let api: Api<ConfigMap> = Api::default_namespaced(client);
        let mut done = Vec::new();
        for round in 0.. {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let name = format!("w{number}-{round}");
            let object = config_map(&name, "written", "first");
            let (merge, parameters) = (
                Patch::Merge(json!({"data": {"value": "second"}})),
                PatchParams::default(),
            );
            let created = persist(|| async { api.create(&PostParams::default(), &object).await }).await;
            let changed = persist(|| async { api.patch(&name, &parameters, &merge).await }).await;
            for written in created.iter().chain(&changed) {
                done.push((name.clone(), revision(written)));
                acknowledged.fetch_add(1, Ordering::Relaxed);
            }
        }
        done
    })
}

/// What a watcher knows, and the events that told it so.
#[derive(Debug, Default)]
struct Told {
    /// Revisions by name.
    objects: BTreeMap<String, u64>,
    /// Of a list that has not ended.
    listed: BTreeMap<String, u64>,
    lists: usize,
    changes: Vec<(String, u64)>,
}

impl Told {
    fn hear(&mut self, event: Event<ConfigMap>) {
        match event {
            Event::Init => self.listed.clear(),
            Event::InitApply(object) => drop(self.listed.insert(object.name_any(), revision(&object))),
            Event::InitDone => {
                self.objects = std::mem::take(&mut self.listed);
                self.lists += 1;
            }
            Event::Apply(object) => {
                let (name, revision) = (object.name_any(), revision(&object));
                let before = self.objects.insert(name.clone(), revision);
                assert!(
                    before.is_none_or(|before| before < revision),
                    "{name} went back to {revision}"
                );
                self.changes.push((name, revision));
            }
            Event::Delete(object) => panic!("nobody deleted {}", object.name_any()),
        }
    }
}

/// The own server forgets nothing when it is killed: its watchers go on where they were. A real one starts with an empty
/// memory of changes and answers 410 to every older position, so that its watchers list once more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_of_writes_survives_kills_and_a_watcher_sees_each_once() {
    let mut running = Running::start();
    let client = running.kube().await;
    let api: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let mut events = pin!(watch(api.clone(), chosen("written")).default_backoff());
    assert!(matches!(next(&mut events).await, Event::Init));
    assert!(matches!(next(&mut events).await, Event::InitDone));

    let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let writers: Vec<_> = (0..WRITERS)
        .map(|number| writer(client.clone(), number, stop.clone(), acknowledged.clone()))
        .collect();
    let until = |count: usize| {
        let enough = || match acknowledged.load(Ordering::Relaxed) {
            done if done >= count => Ok(()),
            done => Err(anyhow::anyhow!("{done} of {count} writes")),
        };
        wait::until(PATIENCE, enough).unwrap();
    };
    for kill in 1..=KILLS {
        until(kill * BETWEEN);
        running.kill_and_start();
    }
    until((KILLS + 1) * BETWEEN);
    stop.store(true, Ordering::Relaxed);
    let mut done = BTreeSet::new();
    for writer in writers {
        done.extend(writer.await.unwrap());
    }

    let list = api.list(&ListParams::default().labels("role=written")).await.unwrap();
    let last: BTreeMap<String, u64> = list
        .iter()
        .map(|object| (object.name_any(), revision(object)))
        .collect();
    let mut told = Told::default();
    while told.objects != last {
        told.hear(next(&mut events).await);
    }
    let written: Vec<_> = done
        .iter()
        .filter(|(name, revision)| last.get(name).is_none_or(|last| last < revision))
        .collect();
    assert!(written.is_empty(), "acknowledged and lost: {written:?}");
    if running.server.is_real() {
        assert!(
            told.lists <= KILLS,
            "a list for each time that it was away, not {}",
            told.lists
        );
        return;
    }
    assert_eq!(told.lists, 0, "a watch that was broken off goes on");
    let seen = told.changes;
    assert!(
        seen.is_sorted_by(|(_, one), (_, other)| one < other),
        "in order, and none twice"
    );
    let seen: BTreeSet<_> = seen.into_iter().collect();
    let lost: Vec<_> = done.difference(&seen).collect();
    assert!(lost.is_empty(), "acknowledged and never seen: {lost:?}");
}

/// The next event; what goes wrong in between is what the watcher gets over.
async fn next(events: &mut (impl Stream<Item = Result<Event<ConfigMap>, watcher::Error>> + Unpin)) -> Event<ConfigMap> {
    let event = async {
        loop {
            if let Ok(event) = events.next().await.unwrap() {
                return event;
            }
        }
    };
    tokio::time::timeout(PATIENCE, event).await.expect("an event in time")
}

/// The names of the next list.
async fn relisted(
    events: &mut (impl Stream<Item = Result<Event<ConfigMap>, watcher::Error>> + Unpin),
) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    loop {
        match next(events).await {
            Event::Init => names.clear(),
            Event::InitApply(object) => drop(names.insert(object.name_any())),
            Event::InitDone => return names,
            Event::Apply(_) | Event::Delete(_) => {}
        }
    }
}

async fn names(api: &Api<ConfigMap>, role: &str) -> BTreeSet<String> {
    let list = api
        .list(&ListParams::default().labels(&format!("role={role}")))
        .await
        .unwrap();
    list.iter().map(|object| object.name_any()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_that_resumes_too_late_lists_again() {
    let mut running = Running::start_own(|config| config.watch_log = 8);
    let api: Api<ConfigMap> = Api::default_namespaced(running.kube().await);
    let create = async |name: &str| {
        let object = config_map(name, "x", "");
        persist(|| async { api.create(&PostParams::default(), &object).await }).await;
    };
    create("gone").await;
    let mut events = pin!(watch(api.clone(), chosen("x")).default_backoff());
    assert_eq!(relisted(&mut events).await.len(), 1);
    // It is not asked for anything until the server has forgotten where it was.
    running.kill_and_start();
    for number in 0..20 {
        create(&format!("c{number}")).await;
    }
    api.delete("gone", &DeleteParams::default()).await.unwrap();
    assert_eq!(relisted(&mut events).await, names(&api, "x").await);
    create("after").await;
    assert!(matches!(next(&mut events).await, Event::Apply(object) if object.name_any() == "after"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_that_falls_behind_lists_again() {
    let running = Running::start_own(|config| config.watch_log = 8);
    let api: Api<ConfigMap> = Api::default_namespaced(running.kube().await);
    let mut events = pin!(watch(api.clone(), chosen("x")).default_backoff());
    assert!(relisted(&mut events).await.is_empty());
    // More than the buffers of a connection hold while nobody reads.
    let text = "x".repeat(400_000);
    for number in 0..60 {
        let object = config_map(&format!("c{number}"), "x", &text);
        api.create(&PostParams::default(), &object).await.unwrap();
    }
    assert_eq!(relisted(&mut events).await, names(&api, "x").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bookmark_keeps_a_quiet_watch_fresh() {
    let running = Running::start_own(|config| config.watch_log = 8);
    let client = running.kube().await;
    let (quiet, busy): (Api<Service>, Api<ConfigMap>) =
        (Api::default_namespaced(client.clone()), Api::default_namespaced(client));
    let start = quiet
        .list(&ListParams::default())
        .await
        .unwrap()
        .metadata
        .resource_version
        .unwrap();
    let mut written = 0;
    let mut position = start.clone();
    // Each time less is written than the server remembers, all in all more.
    for round in 0..5 {
        for number in 0..4 {
            let object = config_map(&format!("c{round}-{number}"), "x", "");
            written = revision(&busy.create(&PostParams::default(), &object).await.unwrap());
        }
        let mut events = pin!(
            quiet
                .watch(&WatchParams::default().timeout(1), &position)
                .await
                .unwrap()
        );
        let mut bookmark = None;
        while let Some(event) = events.next().await {
            match event.unwrap() {
                WatchEvent::Bookmark(at) => bookmark = Some(at.metadata.resource_version),
                WatchEvent::Added(_) | WatchEvent::Modified(_) | WatchEvent::Deleted(_) | WatchEvent::Error(_) => {
                    panic!("nothing happened to Services")
                }
            }
        }
        position = bookmark.expect("the server says how far it was");
        assert!(position.parse::<u64>().unwrap() >= written);
    }
    let mut late = pin!(quiet.watch(&WatchParams::default().timeout(1), &start).await.unwrap());
    let first = late.next().await.unwrap();
    let is_gone = |event: &WatchEvent<Service>| matches!(event, WatchEvent::Error(status) if status.code == 410);
    assert!(
        matches!(&first, Ok(event) if is_gone(event)),
        "without bookmarks it is too late: {first:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_go_on_after_a_restart_with_the_list_as_it_was() {
    let mut running = Running::start();
    let api: Api<ConfigMap> = Api::default_namespaced(running.kube().await);
    for number in 0..10 {
        let object = config_map(&format!("c{number}"), "x", "");
        api.create(&PostParams::default(), &object).await.unwrap();
    }
    let page = ListParams::default().labels("role=x").limit(4);
    let first = api.list(&page).await.unwrap();
    running.kill_and_start();
    let mut token = first.metadata.continue_.clone();
    let mut names: Vec<String> = first.iter().map(|object| object.name_any()).collect();
    while let Some(next) = token.filter(|token| !token.is_empty()) {
        let next = page.clone().continue_token(&next);
        let mut answer = api.list(&next).await;
        while answer.as_ref().is_err_and(|error| !is_answer(error)) {
            // A connection to the killed server was still in the pool.
            answer = api.list(&next).await;
        }
        let list = answer.unwrap();
        names.extend(list.iter().map(|object| object.name_any()));
        token = list.metadata.continue_;
    }
    assert_eq!(names, (0..10).map(|number| format!("c{number}")).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reflector_s_store_is_right_after_a_restart() {
    let mut running = Running::start();
    let api: Api<ConfigMap> = Api::default_namespaced(running.kube().await);
    let (store, writer) = reflector::store();
    let stream = reflector(writer, watch(api.clone(), chosen("x"))).default_backoff();
    let reflecting = tokio::spawn(stream.for_each(async |_| {}));
    store.wait_until_ready().await.unwrap();
    for number in 0..10 {
        if number == 5 {
            running.kill_and_start();
        }
        let object = config_map(&format!("c{number}"), "x", "");
        persist(|| async { api.create(&PostParams::default(), &object).await }).await;
    }
    let wanted = names(&api, "x").await;
    let equal = || {
        let has: BTreeSet<String> = store.state().iter().map(|object| object.name_any()).collect();
        anyhow::ensure!(has == wanted, "the store has {has:?}");
        Ok(())
    };
    wait::until(PATIENCE, equal).unwrap();
    reflecting.abort();
}

const PARENTS: usize = 12;

/// Gives every parent a child with the same value.
async fn reconcile(parent: Arc<ConfigMap>, client: Arc<Client>) -> Result<Action, Error> {
    let api: Api<ConfigMap> = Api::default_namespaced(client.as_ref().clone());
    let name = format!("{}-child", parent.name_any());
    let child = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "labels": {"role": "child"}, "ownerReferences": [parent.controller_owner_ref(&())]},
        "data": parent.data,
    });
    let parameters = PatchParams::apply("test").force();
    api.patch(&name, &parameters, &Patch::Apply(child)).await?;
    Ok(Action::await_change())
}

/// A controller's pause after an error of any of its watches. With the default, which doubles each time, a server that is away for
/// long and then asks every watch to list again has the controller wait for minutes.
struct Even;

impl Iterator for Even {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(Duration::from_millis(200))
    }
}

impl Backoff for Even {
    fn reset(&mut self) {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_controller_goes_on_where_it_was() {
    let mut running = Running::start();
    let client = running.kube().await;
    let api: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let controller = Controller::new(api.clone(), chosen("parent"))
        .owns(api.clone(), chosen("child"))
        .trigger_backoff(Even)
        .run(
            reconcile,
            |_, _, _| Action::requeue(Duration::from_millis(200)),
            Arc::new(client.clone()),
        );
    let controlling = tokio::spawn(controller.for_each(async |_| {}));
    let children = async |value: &str| {
        let settled = async {
            let mut again = interval(STEP);
            loop {
                again.tick().await;
                let children = api.list(&ListParams::default().labels("role=child")).await;
                let right = |child: &&ConfigMap| child.data.as_ref().is_some_and(|data| data["value"] == value);
                if children.is_ok_and(|list| list.iter().filter(right).count() == PARENTS) {
                    break;
                }
            }
        };
        let in_time = tokio::time::timeout(PATIENCE, settled).await;
        in_time.unwrap_or_else(|_| panic!("{PARENTS} children with {value} in time"));
    };
    for number in 0..PARENTS {
        if number == PARENTS / 2 {
            running.kill_and_start();
        }
        let parent = config_map(&format!("p{number}"), "parent", "first");
        persist(|| async { api.create(&PostParams::default(), &parent).await }).await;
    }
    children("first").await;
    let parameters = PatchParams::default();
    let second = Patch::Merge(json!({"data": {"value": "second"}}));
    for number in 0..PARENTS {
        if number == PARENTS / 2 {
            running.kill_and_start();
        }
        persist(|| async { api.patch(&format!("p{number}"), &parameters, &second).await }).await;
    }
    // An owned object that goes is a reason to look at its owner.
    api.delete("p0-child", &DeleteParams::default()).await.unwrap();
    children("second").await;
    controlling.abort();
}
