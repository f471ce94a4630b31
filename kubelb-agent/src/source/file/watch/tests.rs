//! Real files in a temporary directory: every way that editors and kubelets change one.

use std::fs;
use std::os::unix::fs::symlink;

use tempfile::TempDir;

use super::*;

/// Generous: only a watch that misses the change runs into it, short of the poll that would hide the miss.
const SOON: Duration = Duration::from_secs(5);
/// Several times the debounce: long enough for an update that should not come.
const QUIET: Duration = Duration::from_millis(400);

fn config(name: &str) -> String {
    format!("frontends:\n- {{name: {name}, vip: 192.0.2.1, port: 80, protocol: TCP, backends: []}}\n")
}

async fn next(updates: &mut mpsc::Receiver<Update>) -> Result<Vec<String>, String> {
    let update = timeout(SOON, updates.recv())
        .await
        .expect("no update in time")
        .expect("the watch ended");
    let desired = update.desired.ok_or_else(|| update.problem.unwrap_or_default())?;
    Ok(desired.frontends.into_keys().collect())
}

async fn assert_quiet(updates: &mut mpsc::Receiver<Update>) {
    assert!(
        timeout(QUIET, updates.recv()).await.is_err(),
        "an update without a change"
    );
}

#[tokio::test]
async fn edits_and_renames_arrive_and_a_rewrite_of_the_same_does_not() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("kubelb.yaml");
    fs::write(&path, config("first")).unwrap();
    let mut updates = watch(path.clone(), CancellationToken::new());
    assert_eq!(next(&mut updates).await.unwrap(), ["first"]);

    fs::write(&path, config("edited")).unwrap();
    assert_eq!(next(&mut updates).await.unwrap(), ["edited"]);

    fs::write(&path, config("edited")).unwrap();
    fs::write(directory.path().join("other.yaml"), "x").unwrap();
    assert_quiet(&mut updates).await;

    let temporary = directory.path().join(".kubelb.yaml.swp");
    fs::write(&temporary, config("renamed")).unwrap();
    fs::rename(&temporary, &path).unwrap();
    assert_eq!(next(&mut updates).await.unwrap(), ["renamed"]);
}

#[tokio::test]
async fn a_mistake_and_a_missing_file_are_told_once_and_recovery_follows() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("kubelb.yaml");
    let mut updates = watch(path.clone(), CancellationToken::new());
    assert!(
        next(&mut updates)
            .await
            .unwrap_err()
            .contains("create it or correct --config")
    );

    fs::write(&path, "frontends: 1").unwrap();
    assert!(
        next(&mut updates)
            .await
            .unwrap_err()
            .contains("kubelb.yaml:1: frontends:")
    );

    fs::write(&path, [0xff, 0xfe]).unwrap();
    assert!(next(&mut updates).await.unwrap_err().contains("save it as UTF-8"));

    fs::write(&path, config("good")).unwrap();
    assert_eq!(next(&mut updates).await.unwrap(), ["good"]);

    fs::remove_file(&path).unwrap();
    assert!(next(&mut updates).await.is_err());
    assert_quiet(&mut updates).await;
}

#[tokio::test]
async fn the_symlink_swap_of_a_mounted_config_map_arrives() {
    let directory = TempDir::new().unwrap();
    let root = directory.path();
    let publish = |version: &str, name: &str| {
        fs::create_dir(root.join(version)).unwrap();
        fs::write(root.join(version).join("kubelb.yaml"), config(name)).unwrap();
        symlink(version, root.join("..data_tmp")).unwrap();
        fs::rename(root.join("..data_tmp"), root.join("..data")).unwrap();
    };
    publish("..2026_01", "one");
    symlink("..data/kubelb.yaml", root.join("kubelb.yaml")).unwrap();
    let mut updates = watch(root.join("kubelb.yaml"), CancellationToken::new());
    assert_eq!(next(&mut updates).await.unwrap(), ["one"]);

    for (version, name) in [("..2026_02", "two"), ("..2026_03", "three")] {
        publish(version, name);
        assert_eq!(next(&mut updates).await.unwrap(), [name]);
    }
    fs::remove_dir_all(root.join("..2026_01")).unwrap();
    assert_quiet(&mut updates).await;
}

#[tokio::test]
async fn an_edit_behind_a_symlink_into_another_directory_arrives() {
    let (links, files) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let (link, file) = (links.path().join("kubelb.yaml"), files.path().join("real.yaml"));
    fs::write(&file, config("first")).unwrap();
    symlink(&file, &link).unwrap();
    let mut updates = watch(link, CancellationToken::new());
    assert_eq!(next(&mut updates).await.unwrap(), ["first"]);
    fs::write(&file, config("second")).unwrap();
    assert_eq!(next(&mut updates).await.unwrap(), ["second"]);
}

#[tokio::test]
async fn shutdown_ends_the_watch() {
    let directory = TempDir::new().unwrap();
    let shutdown = CancellationToken::new();
    let mut updates = watch(directory.path().join("kubelb.yaml"), shutdown.clone());
    assert!(next(&mut updates).await.is_err());
    shutdown.cancel();
    assert!(timeout(SOON, updates.recv()).await.unwrap().is_none());
}
