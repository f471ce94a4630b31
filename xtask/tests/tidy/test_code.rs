//! What tests may not do: be switched off, or wait a fixed time; and what no code may silence.

use crate::assert_none;
use crate::source::{Source, Token, sources};

/// Files of the testbed that may pause: each polls for a condition under a deadline, or paces traffic.
const MAY_SLEEP: &[&str] = &[
    "tests/src/bin/demo/load.rs",
    "tests/src/kubelet/clock.rs",
    "tests/src/traffic/conversation.rs",
    "tests/src/wait.rs",
];

#[test]
fn no_test_is_switched_off() {
    let violations: Vec<String> = sources().iter().flat_map(ignored_tests).collect();
    assert_none(
        "a tier that lacks its needs fails and says which; no #[ignore]",
        &violations,
    );
}

#[test]
fn tests_wait_for_signals_not_for_time() {
    let sources = sources();
    let mut violations = Vec::new();
    for source in &sources {
        let excepted = MAY_SLEEP.iter().any(|path| source.is_under(path));
        let sleeps = sleeps_in_tests(source);
        if excepted && sleeps.is_empty() {
            violations.push(format!(
                "{}: does not sleep; take it off the list",
                source.path.display()
            ));
        } else if !excepted {
            violations.extend(sleeps);
        }
    }
    let gone = MAY_SLEEP
        .iter()
        .filter(|path| !sources.iter().any(|source| source.is_under(path)));
    violations.extend(gone.map(|path| format!("{path} is gone; take it off the list")));
    assert_none(
        "no sleep where a ready signal or a `now` argument would do",
        &violations,
    );
}

#[test]
fn lints_are_expected_not_allowed() {
    let violations: Vec<String> = sources().iter().flat_map(allowed_lints).collect();
    assert_none(
        "`#[expect(lint, reason = \"…\")]` tells when it is no longer needed, `#[allow]` does not",
        &violations,
    );
}

#[test]
fn the_rules_catch_what_they_are_for() {
    let test = "#[test]\n#[ignore = \"slow\"]\nfn f() { thread::sleep(X); }\n";
    assert_eq!(
        ignored_tests(&Source::parse("a/tests/b.rs", test)),
        ["a/tests/b.rs:2: #[ignore]"]
    );
    assert_eq!(
        sleeps_in_tests(&Source::parse("a/tests/b.rs", test)),
        ["a/tests/b.rs:3: sleeps"]
    );
    let inline = "fn f() { sleep(X) }\n#[cfg(test)]\nmod tests {\n    fn g() { sleep(Y) }\n}\nfn h() { sleep(Z) }\n";
    assert_eq!(
        sleeps_in_tests(&Source::parse("a/src/b.rs", inline)),
        ["a/src/b.rs:4: sleeps"]
    );
    let silenced = "#![allow(dead_code)]\n#[cfg_attr(test, allow(x))]\nfn allow(a: u8) {}\nfn f() { allow(1); }\n";
    assert_eq!(allowed_lints(&Source::parse("a.rs", silenced)).len(), 1);
}

fn ignored_tests(source: &Source) -> Vec<String> {
    source
        .find(&["#", "[", "ignore"])
        .map(|token| source.at(token, "#[ignore]"))
        .collect()
}

/// Conditional ones are left alone: what is expected on one target may be absent on another.
fn allowed_lints(source: &Source) -> Vec<String> {
    source
        .find(&["[", "allow", "("])
        .map(|token| source.at(token, "allows a lint"))
        .collect()
}

fn sleeps_in_tests(source: &Source) -> Vec<String> {
    let is_test_file = source
        .path
        .components()
        .any(|component| component.as_os_str() == "tests")
        || source.path.ends_with("tests.rs");
    let counts = |token: &&Token| is_test_file || token.in_test;
    source
        .find(&["sleep", "("])
        .filter(counts)
        .map(|token| source.at(token, "sleeps"))
        .collect()
}
