use super::*;

fn full() -> Metadata {
    Metadata {
        tenant: Some("a".to_owned()),
        affinity_timeout: Some(Duration::from_secs(10_800)),
        timeouts: FlowTimeouts {
            tcp_half_open: Some(Duration::from_millis(500)),
            tcp_established: Some(Duration::from_secs(7_440)),
            tcp_closing: Some(Duration::ZERO),
            udp_unreplied: Some(Duration::new(1, 1)),
            udp_replied: Some(Duration::from_secs(180)),
        },
        half_open_budget: Some(u32::MAX),
        on_unhealthy: Some(OnUnhealthy::Reset),
        deny_all_sources: true,
    }
}

fn with(path: &[&str], kind: Kind) -> EnvoyMetadata {
    let value = path.iter().rev().fold(Value { kind: Some(kind) }, |value, key| Value {
        kind: Some(Kind::StructValue(Struct {
            fields: [((*key).to_owned(), value)].into(),
        })),
    });
    let Some(Kind::StructValue(fields)) = value.kind else {
        panic!("a path has a key")
    };
    EnvoyMetadata {
        filter_metadata: [(KEY.to_owned(), fields)].into(),
        ..EnvoyMetadata::default()
    }
}

#[test]
fn what_is_written_is_read() {
    assert_eq!(Metadata::decode(full().encode().as_ref()), Ok(full()));
    assert_eq!(Metadata::default().encode(), None);
    assert_eq!(Metadata::decode(None), Ok(Metadata::default()));
}

#[test]
fn a_mistake_is_named_with_its_path() {
    let text = |text: &str| Kind::StringValue(text.to_owned());
    for (path, kind, message) in [
        (&["tennant"][..], text("a"), "tennant: unknown key"),
        (&["timeouts", "tcp"], text("1s"), "timeouts.tcp: unknown key"),
        (&["timeouts"], text("1s"), "timeouts: must be an object"),
        (
            &["timeouts", "udpReplied"],
            Kind::NumberValue(3.0),
            "timeouts.udpReplied: must be a string",
        ),
        (
            &["affinityTimeout"],
            text("-1s"),
            "affinityTimeout: must be a duration like `30s` or `0.5s`",
        ),
        (
            &["halfOpenBudget"],
            Kind::NumberValue(1.5),
            "halfOpenBudget: must be a whole number from 0 to 4294967295",
        ),
        (
            &["halfOpenBudget"],
            Kind::NumberValue(f64::NAN),
            "halfOpenBudget: must be a whole number from 0 to 4294967295",
        ),
        (
            &["onUnhealthy"],
            text("drain"),
            "onUnhealthy: must be `Drain` or `Reset`",
        ),
        (&["denyAllSources"], text("true"), "denyAllSources: must be a boolean"),
    ] {
        let error = Metadata::decode(Some(&with(path, kind))).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("metadata.filter_metadata[\"kubelb.k8c.io\"].{message}")
        );
    }
}

#[test]
fn durations_have_protobufs_json_form() {
    for (text, expected) in [
        ("0s", Some(Duration::ZERO)),
        ("1.5s", Some(Duration::from_millis(1_500))),
        ("0.000000001s", Some(Duration::from_nanos(1))),
        ("315576000000s", Some(Duration::from_secs(315_576_000_000))),
        ("315576000001s", None),
        ("1", None),
        ("s", None),
        (".5s", None),
        ("1.s", None),
        ("+1s", None),
        ("1.0000000001s", None),
        ("99999999999999999999s", None),
    ] {
        assert_eq!(parse_duration(text), expected, "{text}");
    }
}
