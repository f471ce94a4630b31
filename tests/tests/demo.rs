//! The demonstration: it tells its story to the end, and a Ctrl-C in the middle leaves nothing behind.
#![expect(clippy::unwrap_used, reason = "tests say what they expect")]

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Stdio};

use kubelb_tests::tool;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

fn start() -> Child {
    let mut command = tool::bound(tool::built("demo").unwrap());
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit());
    command.spawn().unwrap()
}

/// Names of network namespaces that a process has made.
fn namespaces_of(process: u32) -> Vec<String> {
    let entries = std::fs::read_dir("/run/netns").into_iter().flatten();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names
        .filter(|name| name.split('-').any(|part| part == process.to_string()))
        .collect()
}

#[test]
fn two_tenants_are_served_a_node_fails_and_a_tenant_goes() {
    let mut demo = start();
    let mut told = String::new();
    demo.stdout.take().unwrap().read_to_string(&mut told).unwrap();
    let status = demo.wait().unwrap();
    assert!(status.success(), "{status}: {told}");
    for part in [
        "blue, http://192.168.77.",
        "red, http://192.168.77.",
        "20 times",
        "xdp",
        "answers again after",
        "the tenant was deleted in the management cluster",
        "everything is removed again",
    ] {
        assert!(told.contains(part), "no {part:?} in:\n{told}");
    }
    assert_eq!(namespaces_of(demo.id()), Vec::<String>::new());
}

#[test]
fn ctrl_c_in_the_middle_leaves_nothing() {
    let mut demo = start();
    let process = demo.id();
    let mut lines = BufReader::new(demo.stdout.take().unwrap()).lines();
    let begun = lines.find(|line| line.as_ref().unwrap().starts_with("[2]"));
    assert!(begun.is_some(), "it ended before");
    assert!(
        !namespaces_of(process).is_empty(),
        "namespaces are named by their owner"
    );
    kill(Pid::from_raw(process.try_into().unwrap()), Signal::SIGINT).unwrap();
    let rest: Vec<String> = lines.map(Result::unwrap).collect();
    assert!(!demo.wait().unwrap().success(), "{rest:?}");
    assert_eq!(namespaces_of(process), Vec::<String>::new());
}
