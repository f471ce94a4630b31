//! The bench of the control plane in small: everything works, whatever it takes.

use std::process::Command;

use kubelb_tests::scratch::Scratch;
use kubelb_tests::tool;
use serde_json::Value;

#[test]
fn a_small_control_plane_comes_up_and_every_peer_gets_each_change() {
    let scratch = Scratch::new().expect("a directory");
    let json = scratch.path().join("figures.json");
    let mut bench = Command::new(env!("CARGO_BIN_EXE_bench-xds"));
    let text = tool::output(bench.args(["--quick", "--json"]).arg(&json)).expect("a bench that passes");
    assert!(text.contains("20 peers have it"), "{text}");

    let report: Value =
        serde_json::from_slice(&std::fs::read(&json).expect("the figures")).expect("the figures as JSON");
    let figures = report["figures"].as_array().expect("figures");
    let value = |part: &str, name: &str| {
        let found = figures.iter().find(|figure| {
            figure["part"] == part && figure["name"].as_str().is_some_and(|known| known.starts_with(name))
        });
        found.expect(name)["value"].as_f64().expect("a number")
    };
    assert!((value("change", "to an agent: resources") - 1.0).abs() < 1e-9);
    assert!(value("change", "to an agent: response") <= 1_024.0);
    assert!(value("peers", "resources sent for a change") <= 20.0);
    for row in [
        "50 clusters",
        "50 chains, 2 in a listener",
        "50 hosts of one certificate",
    ] {
        assert!(value("scale", &format!("{row}: requests that failed")) < 1.0);
    }
}
