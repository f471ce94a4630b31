//! What the command prints and leaves behind.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use clap::Parser;
use serde_json::Value;

use super::*;

#[derive(Debug, Parser)]
struct Command {
    #[command(flatten)]
    args: BootstrapArgs,
}

const NOW: Duration = Duration::from_secs(1_800_000_000);

fn bootstrap(state: &Path, flags: &[&str]) -> Result<String, String> {
    let state = state.display().to_string();
    let line = ["bootstrap", "--state-dir", &state]
        .into_iter()
        .chain(flags.iter().copied());
    let command = Command::try_parse_from(line).map_err(|error| error.to_string())?;
    let mut out = Vec::new();
    run(&command.args, SystemTime::UNIX_EPOCH + NOW, &mut out).map_err(|error| error.to_string())?;
    Ok(String::from_utf8(out).unwrap())
}

#[test]
fn a_fleets_bootstrap_is_complete_by_itself() {
    let state = tempfile::tempdir().unwrap();
    let printed = bootstrap(
        state.path(),
        &[
            "--fleet",
            "b,a",
            "--xds",
            "https://192.0.2.1:18000,https://[2001:db8::1]:18000",
        ],
    );
    let value: Value = serde_saphyr::from_str(&printed.unwrap()).unwrap();
    assert_eq!(value["node"]["id"], "fleet/a_b");
    assert_eq!(value["dynamic_resources"]["ads_config"]["api_type"], "DELTA_GRPC");
    let cluster = &value["static_resources"]["clusters"][0];
    assert_eq!(cluster["type"], "STATIC");
    let addresses: Vec<&Value> = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
        .as_array()
        .unwrap()
        .iter()
        .map(|endpoint| &endpoint["endpoint"]["address"]["socket_address"]["address"])
        .collect();
    assert_eq!(addresses, ["192.0.2.1", "2001:db8::1"]);
    let tls = &cluster["transport_socket"]["typed_config"]["common_tls_context"];
    let pem = |value: &Value| value["inline_string"].as_str().unwrap().to_owned();
    assert!(pem(&tls["tls_certificates"][0]["private_key"]).starts_with("-----BEGIN PRIVATE KEY-----\n"));
    let ca = pem(&tls["validation_context"]["trusted_ca"]);
    let authority = Authority::open(state.path(), SystemTime::UNIX_EPOCH + NOW).unwrap();
    assert_eq!(ca.trim(), authority.pem().trim());
}

#[test]
fn a_fleets_directory_holds_all_that_envoy_watches() {
    let state = tempfile::tempdir().unwrap();
    let output = state.path().join("envoy");
    let flags = ["--fleet", "*", "--xds", "https://manager.example.com:18000"];
    let flags = [&flags[..], &["--output", output.to_str().unwrap()]].concat();
    let printed = bootstrap(state.path(), &flags).unwrap();
    let file = output.join("bootstrap.yaml");
    assert_eq!(printed, format!("envoy --config-path {}\n", file.display()));
    let value: Value = serde_saphyr::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    let cluster = &value["static_resources"]["clusters"][0];
    assert_eq!(cluster["type"], "STRICT_DNS");
    assert!(!value.to_string().contains("PRIVATE KEY"));
    let secrets = output.join("client-secret.json");
    let first = std::fs::read_to_string(&secrets).unwrap();
    assert_eq!(secrets.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    bootstrap(state.path(), &flags).unwrap();
    assert_ne!(first, std::fs::read_to_string(&secrets).unwrap(), "a new certificate");
}

#[test]
fn an_agent_gets_files_and_flags() {
    let state = tempfile::tempdir().unwrap();
    let printed = bootstrap(state.path(), &["--agent", "node-1"]).unwrap();
    assert!(
        printed.starts_with("--node node-1 --xds https://127.0.0.1:18000 --xds-ca "),
        "{printed}"
    );
    for flag in ["--xds-ca", "--xds-cert", "--xds-key"] {
        let mut words = printed.split_whitespace().skip_while(|word| *word != flag);
        let file = Path::new(words.nth(1).unwrap());
        assert!(
            std::fs::read_to_string(file).unwrap().starts_with("-----BEGIN "),
            "{flag}"
        );
    }
}

#[test]
fn a_peer_with_a_token_gets_no_certificate() {
    let state = tempfile::tempdir().unwrap();
    let token = ["--token-file", "/run/token/token"];
    let printed = bootstrap(state.path(), &[&["--agent", "node-1"][..], &token].concat()).unwrap();
    assert!(printed.ends_with(" --xds-token-file /run/token/token\n"), "{printed}");
    assert!(!printed.contains("--xds-cert"), "{printed}");

    let output = state.path().join("envoy");
    let fleet = ["--fleet", "a", "--output", output.to_str().unwrap()];
    bootstrap(state.path(), &[&fleet[..], &token].concat()).unwrap();
    let text = std::fs::read_to_string(output.join("bootstrap.yaml")).unwrap();
    let value: Value = serde_saphyr::from_str(&text).unwrap();
    assert!(value.to_string().contains("credential_injector"));
    assert!(!value.to_string().contains("tls_certificate"));
    assert!(!output.join("client-secret.json").exists());
    let error = bootstrap(state.path(), &[&["--fleet", "a"][..], &token].concat()).unwrap_err();
    assert!(error.contains("--output"), "{error}");
}

#[test]
fn an_envoy_in_a_pod_needs_no_authority() {
    let directory = tempfile::tempdir().unwrap();
    let output = directory.path().join("envoy");
    let line = [
        "bootstrap",
        "--fleet=*",
        "--xds=https://kubelb-manager.kubelb.svc:18000",
        "--xds-ca=/etc/kubelb/xds/ca.crt",
        "--token-file=/etc/kubelb/xds/token",
        "--admin-socket=/run/envoy/admin.sock",
        "--ready-address=127.0.0.1:9447",
    ];
    let mut line: Vec<String> = line.into_iter().map(str::to_owned).collect();
    assert!(
        Command::try_parse_from(&line[..4]).is_err(),
        "a certificate needs the authority"
    );
    line.push(format!("--output={}", output.display()));
    let command = Command::try_parse_from(line).unwrap();
    run(&command.args, SystemTime::UNIX_EPOCH, &mut Vec::new()).unwrap();
    let text = std::fs::read_to_string(output.join("bootstrap.yaml")).unwrap();
    let value: Value = serde_saphyr::from_str(&text).unwrap();
    assert_eq!(value["admin"]["address"]["pipe"]["path"], "/run/envoy/admin.sock");
    let ready = &value["static_resources"]["listeners"][0]["address"]["socket_address"];
    assert_eq!(
        (&ready["address"], &ready["port_value"]),
        (&"127.0.0.1".into(), &9447.into())
    );
    let trust = std::fs::read_to_string(output.join("trust-secret.json")).unwrap();
    let trust: Value = serde_json::from_str(&trust).unwrap();
    let context = &trust["resources"][0]["validation_context"];
    assert_eq!(context["trusted_ca"]["filename"], "/etc/kubelb/xds/ca.crt");
    assert_eq!(context["watched_directory"]["path"], "/etc/kubelb/xds");
    assert_eq!(
        context["match_typed_subject_alt_names"][0]["matcher"]["exact"],
        "kubelb-manager.kubelb.svc"
    );
}

#[test]
fn mistakes_are_named() {
    let state = tempfile::tempdir().unwrap();
    for (flags, said) in [
        (&[][..], "--agent"),
        (&["--agent", "a", "--fleet", "b"], "cannot be used with"),
        (&["--agent", "A"], "not the name of a node"),
        (&["--fleet", "a,"], "not the name of a node or tenant"),
        (&["--fleet", "a", "--xds", "http://a:1"], "no https://HOST:PORT"),
        (&["--fleet", "a", "--xds", "https://a"], "no https://HOST:PORT"),
        (&["--fleet", "a", "--xds", "https://::1:80"], "no https://HOST:PORT"),
        (&["--fleet", "a", "--xds", "https://a:0"], "no https://HOST:PORT"),
    ] {
        let error = bootstrap(state.path(), flags).unwrap_err();
        assert!(error.contains(said), "{flags:?}: {error}");
    }
}
