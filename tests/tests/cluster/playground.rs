//! The cluster that people start by hand.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::Context as _;
use kubelb_tests::{tool, wait};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::world::SOON;

fn entries(directory: &Path) -> Vec<String> {
    let listing = std::fs::read_dir(directory).unwrap();
    listing
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

/// Namespaces and directories that are the process's own.
fn belongings(process: u32) -> Vec<String> {
    let prefix = format!("kubelb-{process}-");
    let all = ["/run/netns".into(), std::env::temp_dir()].map(|directory| entries(&directory));
    all.into_iter()
        .flatten()
        .filter(|name| name.starts_with(&prefix))
        .collect()
}

#[test]
fn it_says_how_to_use_it_and_ctrl_c_leaves_nothing() {
    let mut command = tool::bound(tool::built("cluster").unwrap());
    command.args(["--nodes", "1", "--name", "fun"]).stdin(Stdio::null());
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let line = said.by_ref().find(|line| line.ends_with("kubectl get nodes"));
    let mut line = line.expect("it says how to call kubectl");
    let kubectl = tool::kubernetes::kubectl().unwrap().display();
    line = line.replace("kubectl get", &format!("{kubectl} get"));
    let nodes = tool::output(Command::new("sh").args(["-c", &format!("{line} -o name")])).unwrap();
    assert_eq!(nodes.trim(), "node/fun-node1");

    let id = child.id();
    let namespaces: Vec<String> = entries(Path::new("/run/netns"))
        .into_iter()
        .filter(|name| name.starts_with(&format!("kubelb-{id}-")))
        .collect();
    let processes: Vec<String> = namespaces
        .iter()
        .flat_map(|name| {
            let inside = tool::output(Command::new("ip").args(["netns", "pids", name])).unwrap();
            inside.lines().map(str::to_owned).collect::<Vec<_>>()
        })
        .collect();
    assert!(
        processes.len() >= 4,
        "an API server, controllers, a kubelet, a service proxy: {processes:?}"
    );
    // As a terminal does: to the whole group.
    killpg(Pid::from_raw(i32::try_from(id).unwrap()), Signal::SIGINT).unwrap();
    let (status, _) = wait::until(SOON, || child.try_wait()?.context("it still runs")).unwrap();
    assert!(status.success(), "{status}");
    assert_eq!(belongings(id), Vec::<String>::new());
    for process in processes {
        let process = Path::new("/proc").join(process);
        let gone = wait::until(SOON, || (!process.exists()).then_some(()).context("it is there"));
        gone.unwrap_or_else(|error| panic!("{process:?}: {error:#}"));
    }
}
