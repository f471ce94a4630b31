//! The bench runs to its end, fills every cell, and what it is about passes.

use std::process::Command;

use kubelb_tests::scratch::Scratch;
use kubelb_tests::tool;
use serde_json::Value;

#[test]
fn a_quick_bench_measures_everything_and_passes() {
    let scratch = Scratch::new().expect("a directory");
    let json = scratch.path().join("figures.json");
    let mut bench = Command::new(env!("CARGO_BIN_EXE_bench"));
    let text = tool::output(bench.args(["--quick", "--json"]).arg(&json)).expect("a bench that passes");
    assert!(text.contains("established TCPv4: "), "{text}");

    let report: Value =
        serde_json::from_slice(&std::fs::read(&json).expect("the figures")).expect("the figures as JSON");
    assert_eq!(report["bar"]["passed"], true);
    let cells = report["cells"].as_array().expect("cells");
    for name in [
        "not ours TCPv4",
        "established TCPv4",
        "established TCPv6",
        "established UDPv4",
        "reply TCPv4",
        "new flow TCPv4",
    ] {
        let cell = cells.iter().find(|cell| cell["name"] == name).expect(name);
        assert!(cell["hash_hits"].is_f64(), "{cell}");
    }
    let throughput = report["throughput"].as_array().expect("throughput");
    let of = |mode: &str| throughput.iter().filter(|row| row["mode"] == mode).count();
    assert_eq!((of("xdp"), of("tcx")), (2, 2));
}
