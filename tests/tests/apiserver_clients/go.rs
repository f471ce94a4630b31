//! client-go, which most controllers are written with. Its cold build takes minutes, so this is a soak test; where there is no
//! Go, `cargo xtask test --soak` says so and leaves it out.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use kubelb_tests::{tool, wait};

use super::running::Running;

const MODULE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/go");
/// Where Go's own archive is unpacked.
const USUAL: &str = "/usr/local/go/bin/go";
/// A build with nothing in Go's cache, on two busy cores, and the tests.
const PATIENCE: Duration = Duration::from_secs(30 * 60);

#[test]
fn client_go_finds_what_it_relies_on() {
    let mut running = Running::start();
    let restarts = running.directory().join("restarts");
    std::fs::write(&restarts, "").unwrap();
    let go = Some(PathBuf::from(USUAL)).filter(|go| go.is_file());
    let mut child = tool::bound(go.as_deref().unwrap_or(Path::new("go")))
        .current_dir(MODULE)
        .env("KUBECONFIG", running.server.kubeconfig())
        .env("RESTART", &restarts)
        .env("FORGETS", if running.server.is_real() { "yes" } else { "" })
        .args(["test", "-count=1", "-timeout=5m", "./..."])
        .stdin(Stdio::null())
        .spawn()
        .expect("this test needs Go");
    let mut done = 0;
    let ended = wait::until(PATIENCE, || {
        let wanted = std::fs::read_to_string(&restarts)?.lines().count();
        while done < wanted {
            running.kill_and_start();
            done += 1;
        }
        child.try_wait()?.context("the tests still run")
    });
    let (status, _) = ended.unwrap();
    assert!(status.success(), "see above: {status}");
    assert_eq!(done, 3);
}
