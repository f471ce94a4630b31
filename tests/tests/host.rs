//! The cases of the data path, on the host.
#![expect(clippy::expect_used, reason = "tests say what they expect")]

use kubelb_ebpf::model::{Cpu, Frame};
use kubelb_ebpf::outcome::Outcome;
use kubelb_ebpf::process::process;
use kubelb_tests::cases::{self, Case, Expected, Step};
use kubelb_tests::packet;

fn run<const TC: bool>(cpu: &Cpu<'_>, frame: &[u8], segment: u32) -> Expected {
    let mut frame = Frame::<TC>::new(frame.to_vec(), 1);
    frame.segment = usize::try_from(segment).expect("small");
    let outcome = process(&mut frame, cpu);
    (outcome, frame.bytes)
}

fn run_case<const TC: bool>(case: &Case) -> Vec<String> {
    let program = if TC { "tc" } else { "XDP" };
    let model = case.scene.model();
    let cpu = model.cpu(0, 0);
    let mut failures = Vec::new();
    for step in &case.steps {
        let send = match step {
            Step::Change(change) => {
                change(&model.rows());
                continue;
            }
            Step::Send(send) => send,
        };
        if send.segment != 0 && !TC {
            continue;
        }
        let expected = if TC { &send.tc } else { &send.xdp };
        let found = run::<TC>(&cpu, &send.frame, send.segment);
        if found != *expected {
            failures.push(format!(
                "{} ({program}), {}:\n    in   {}\n    want {:?} {}\n    got  {:?} {}",
                case.name,
                send.what,
                cases::hex(&send.frame),
                expected.0,
                cases::hex(&expected.1),
                found.0,
                cases::hex(&found.1)
            ));
        }
        let sent = matches!(
            found.0,
            Outcome::Send(_) | Outcome::SendToNeighbour(_) | Outcome::Answer
        );
        if sent && let Err(error) = packet::verify(&found.1) {
            failures.push(format!("{} ({program}), {}: {error}", case.name, send.what));
        }
    }
    failures
}

#[test]
fn every_case_comes_out_as_expected() {
    let cases = cases::all();
    let failures: Vec<String> = cases
        .iter()
        .flat_map(|case| [run_case::<false>(case), run_case::<true>(case)].concat())
        .collect();
    assert!(
        failures.is_empty(),
        "{} failures in {} cases:\n{}",
        failures.len(),
        cases.len(),
        failures.join("\n")
    );
}

#[test]
fn cases_have_names_of_their_own() {
    let names: std::collections::BTreeSet<String> = cases::all().into_iter().map(|case| case.name).collect();
    assert_eq!(names.len(), cases::all().len());
}
