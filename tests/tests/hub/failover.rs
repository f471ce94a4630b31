//! An agent and several managers: it moves between them, is sent nothing again, forwards all the time, and says what it stands in.

use std::sync::Arc;
use std::time::SystemTime;

use anyhow::Context as _;
use clap::Parser as _;
use kubelb_manager::args::{Cli, Command};
use kubelb_manager::identity::token::{Review, Reviewed, TokenReviewer};
use kubelb_manager::run;
use kubelb_manager::serve::{self, XdsArgs};
use kubelb_tests::traffic::http_get;
use tokio_util::sync::CancellationToken;

use super::*;

/// Of the manager's authority, in its state directory.
const AUTHORITY: &str = "xds-ca.pem";

impl Hub<'_> {
    /// The state of a second manager, which has the authority of the first.
    fn second_state(&self) -> PathBuf {
        let state = self.directory.path().join("second");
        std::fs::create_dir_all(&state).unwrap();
        if !self.state().join(AUTHORITY).exists() {
            self.issue();
        }
        std::fs::copy(self.state().join(AUTHORITY), state.join(AUTHORITY)).unwrap();
        state
    }

    fn second(&self) -> Manager {
        Manager::start(&self.world.net.node, SECOND, &self.second_state(), &self.manifests()).unwrap()
    }

    fn serves_web(&self) {
        self.write("tenant.yaml", &self.tenant(0));
        self.write("web.yaml", &load_balancer("web", VIP_PORT, ""));
    }
}

/// A figure of a manager, over all labels.
fn figure(world: &World, [_, admin]: [&str; 2], name: &str) -> anyhow::Result<u64> {
    let (_, text) = http_get(&world.net.node, admin.parse()?, "/metrics")?;
    let lines = text.lines().filter(|line| {
        let rest = line.strip_prefix(name);
        rest.is_some_and(|rest| rest.starts_with(['{', ' ']))
    });
    let mut sum = 0;
    for line in lines {
        let value = line.rsplit(' ').next().context("a sample has a value")?;
        sum += value.parse::<u64>()?;
    }
    Ok(sum)
}

/// What a manager sent: resources and removals.
fn sent(world: &World, manager: [&str; 2]) -> anyhow::Result<u64> {
    Ok(figure(world, manager, "kubelb_xds_resources_sent_total")?
        + figure(world, manager, "kubelb_xds_removals_sent_total")?)
}

fn until_connected_to(agent: &Agent<'_>, manager: [&str; 2]) {
    let url = format!("https://{}", manager[0]);
    agent
        .until_status(SOON, |status| {
            let managers = status.get("/xds/managers").and_then(serde_json::Value::as_array);
            let connected: Vec<&str> = managers
                .context("the status has no managers")?
                .iter()
                .filter(|manager| !manager["connected_since"].is_null())
                .filter_map(|manager| manager["url"].as_str())
                .collect();
            ensure!(connected == [url.as_str()], "connected to {connected:?}");
            ensure!(status.get("/xds/is_current") == Some(&true.into()), "it is behind");
            Ok(())
        })
        .unwrap();
}

/// A question is still answered, on flows that were open before.
struct Watched(Conversations);

impl Watched {
    fn open(world: &World) -> Self {
        let web = Way::ALL[0];
        Self(Conversations::open(&world.net.client, web.transport, web.address(), 10).unwrap())
    }

    fn finish(self) {
        self.0.keep_talking(5).unwrap();
        let ledger = self.0.finish().unwrap();
        assert!(ledger.failures.is_empty(), "{:?}", ledger.failures);
    }
}

#[test]
fn an_agent_moves_between_managers_and_is_sent_nothing_again() {
    let world = World::new(Mode::Tcx).unwrap();
    let hub = Hub::new(&world);
    hub.serves_web();
    let first = hub.manager();
    let second = hub.second();
    let agent = hub.agent_with(hub.issue_for(&[MANAGER, SECOND], &hub.state()));
    until_served_by(&world, 3);
    until_connected_to(&agent, MANAGER);
    assert!(sent(&world, MANAGER).unwrap() > 0);
    let flows = Watched::open(&world);

    first.kill();
    until_connected_to(&agent, SECOND);
    assert_eq!(sent(&world, SECOND).unwrap(), 0, "the second has the same state");
    until_served_by(&world, 3);

    // The first comes back; nobody leaves a manager that serves.
    let first = hub.manager();
    hub.write("tenant.yaml", &hub.tenant(1));
    until_served_by(&world, 2);
    until_connected_to(&agent, SECOND);
    wait::until(SOON, || {
        let snapshot = |[_, admin]: [&str; 2]| http_get(&world.net.node, admin.parse()?, "/snapshot");
        ensure!(snapshot(MANAGER)? == snapshot(SECOND)?, "the first is behind");
        Ok(())
    })
    .unwrap();
    assert_eq!(figure(&world, MANAGER, "kubelb_xds_connections_total").unwrap(), 0);
    let one_change = sent(&world, SECOND).unwrap();
    assert!(one_change > 0);

    // This one ends in good order; the other has followed meanwhile.
    drop(second);
    until_connected_to(&agent, MANAGER);
    assert_eq!(sent(&world, MANAGER).unwrap(), 0, "the change came by the other");
    until_served_by(&world, 2);

    // Both away, and the agent too: what the kernel has is what is forwarded.
    first.kill();
    until_served_by(&world, 2);
    flows.finish();
    let status = agent.until_status(SOON, |status| {
        let failures = status.get("/xds/managers/1/last_failure/reason");
        ensure!(failures.is_some(), "the second has not failed");
        ensure!(status.get("/xds/is_current") == Some(&false.into()));
        ensure!(status.get("/xds/back_off_ms").is_some_and(serde_json::Value::is_u64));
        Ok(())
    });
    status.unwrap();
    let metrics = agent.admin("/metrics").unwrap().1;
    assert!(
        metrics.contains("kubelb_xds_connected{manager=\"https://127.0.0.1:18000\"} 0\n"),
        "{metrics}"
    );
}

#[test]
fn an_agent_that_starts_while_no_manager_answers_goes_on_with_what_it_kept() {
    let world = World::new(Mode::Tcx).unwrap();
    let hub = Hub::new(&world);
    hub.serves_web();
    let (first, second) = (hub.manager(), hub.second());
    let mut agent = hub.agent_with(hub.issue_for(&[MANAGER, SECOND], &hub.state()));
    until_served_by(&world, 3);
    until_connected_to(&agent, MANAGER);
    let kept = agent.state_dir().join("xds-resources.pb");
    wait::until(SOON, || {
        ensure!(kept.is_file(), "nothing is kept yet");
        Ok(())
    })
    .unwrap();
    let flows = Watched::open(&world);
    drop(first);
    drop(second);
    agent.kill().unwrap();
    until_served_by(&world, 3);
    let table = agent.status_table().unwrap();
    assert!(
        table.contains("not running") && table.contains("Managers no stream; configuration of"),
        "{table}"
    );
    agent.restart().unwrap();
    assert_eq!(
        agent.live_status().unwrap().frontend_names().len(),
        4,
        "TCP and UDP, two families"
    );
    until_served_by(&world, 3);
    // The one that comes back first has it; it is sent nothing, for it kept the versions too.
    let _second = hub.second();
    until_connected_to(&agent, SECOND);
    assert_eq!(sent(&world, SECOND).unwrap(), 0);
    flows.finish();
}

#[test]
fn a_manager_of_another_authority_is_refused_and_the_status_says_so() {
    let world = World::new(Mode::Tcx).unwrap();
    let hub = Hub::new(&world);
    hub.serves_web();
    let flags = hub.issue_for(&[MANAGER, SECOND], &hub.state());
    let stranger = hub.directory.path().join("stranger");
    let _first = Manager::start(&world.net.node, MANAGER, &stranger, &hub.manifests()).unwrap();
    let _second = hub.second();
    let agent = hub.agent_with(flags);
    until_served_by(&world, 3);
    until_connected_to(&agent, SECOND);
    let status = agent.live_status().unwrap();
    let reason = status.get("/xds/managers/0/last_failure/reason").unwrap().to_string();
    assert!(reason.contains("certificate"), "{reason}");
    assert_eq!(status.get("/xds/managers/0/streams"), Some(&0.into()));
    let left = status.get("/xds/managers/1/credential/expires_at").unwrap().as_u64();
    assert!(left > status.get("/xds/at").unwrap().as_u64(), "{status}");
    let table = wait::until(SOON, || {
        let table = agent.status_table()?;
        ensure!(table.contains("connected to https://127.0.0.1:18001"), "{table}");
        Ok(table)
    });
    let (table, _) = table.unwrap();
    assert!(table.contains("certificate, "), "{table}");
}

/// Knows one token at a time.
#[derive(Debug)]
struct Reviewer(PathBuf);

impl TokenReviewer for Reviewer {
    fn review<'a>(&'a self, token: &'a str, audience: &'a str) -> Reviewed<'a> {
        let good = std::fs::read_to_string(&self.0).unwrap_or_default();
        let review = if token == good {
            Review {
                authenticated: true,
                username: "system:serviceaccount:kubelb:agent".to_owned(),
                audiences: vec![audience.to_owned()],
                error: String::new(),
            }
        } else {
            Review {
                error: "the token has been invalidated".to_owned(),
                ..Review::default()
            }
        };
        Box::pin(std::future::ready(Ok(review)))
    }
}

/// A token that ends after this many seconds; who signed it only a reviewer would ask.
fn token(number: u8, seconds: u64) -> String {
    let header = base64("{\"alg\":\"none\"}");
    #[expect(clippy::disallowed_methods, reason = "a token ends some time after now")]
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let end = now + seconds;
    let claims = base64(&format!("{{\"exp\":{end},\"jti\":\"{number}\"}}"));
    format!("{header}.{claims}.{number}")
}

fn base64(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text)
}

/// A manager that has an API server to ask about tokens.
fn token_manager(hub: &Hub<'_>, good: &Path) -> Manager {
    let (state, good) = (hub.second_state(), good.to_owned());
    let flags = ["kubelb-manager", "run", "--source"].map(str::to_owned);
    let rest = [
        format!("file://{}", hub.manifests().display()),
        "--state-dir".to_owned(),
        hub.state().display().to_string(),
    ];
    let Command::Run(args) = Cli::try_parse_from(flags.into_iter().chain(rest)).unwrap().command else {
        unreachable!("the command is `run`")
    };
    let serving = XdsArgs {
        listen_xds: Some(SECOND[0].parse().unwrap()),
        agent_service_accounts: vec!["kubelb/agent".to_owned()],
        ..XdsArgs::default()
    };
    let started = Manager::start_with(&hub.world.net.node, async move |stop: CancellationToken| {
        let (snapshots, ended) = run::start(args, stop.clone()).await?;
        let bound = serve::bind(&serving, &state, Some(Arc::new(Reviewer(good)))).await?;
        let serving = bound.context("nothing is served")?.run(snapshots.clone(), stop);
        Ok((snapshots, async { tokio::join!(ended, serving).0 }))
    });
    started.unwrap()
}

#[test]
fn a_token_that_rotates_is_taken_up_with_the_next_stream() {
    let world = World::new(Mode::Tcx).unwrap();
    let hub = Hub::new(&world);
    hub.serves_web();
    let flags = hub.issue();
    let ca = flags
        .iter()
        .skip_while(|flag| *flag != "--xds-ca")
        .nth(1)
        .unwrap()
        .clone();
    let good = hub.directory.path().join("good");
    let file = hub.directory.path().join("token");
    let put = |path: &Path, token: &str| {
        let next = path.with_extension("next");
        std::fs::write(&next, token).unwrap();
        std::fs::rename(next, path).unwrap();
    };
    let first = token(1, 3600);
    put(&good, &first);
    put(&file, &first);
    let manager = token_manager(&hub, &good);
    let flags = [
        "--node",
        "node-1",
        "--xds",
        &format!("https://{}", SECOND[0]),
        "--xds-ca",
        &ca,
    ];
    let file_name = file.display().to_string();
    let flags = flags
        .into_iter()
        .chain(["--xds-token-file", &file_name])
        .map(str::to_owned);
    let agent = hub.agent_with(flags.collect());
    until_served_by(&world, 3);
    until_connected_to(&agent, SECOND);
    let flows = Watched::open(&world);
    let expiry = |status: &Status| {
        status
            .get("/xds/managers/0/credential/expires_at")
            .and_then(serde_json::Value::as_u64)
    };
    let first_end = expiry(&agent.live_status().unwrap()).unwrap();
    let second = token(2, 7200);
    put(&good, &second);
    put(&file, &second);
    drop(manager);
    let manager = token_manager(&hub, &good);
    agent
        .until_status(SOON, |status| {
            ensure!(expiry(status) > Some(first_end), "the old token is shown still");
            ensure!(status.get("/xds/managers/0/streams") == Some(&2.into()), "one stream");
            ensure!(status.get("/xds/is_current") == Some(&true.into()), "no stream");
            Ok(())
        })
        .unwrap();
    assert_eq!(
        agent.live_status().unwrap().get("/xds/managers/0/credential/kind"),
        Some(&"token".into())
    );
    flows.finish();

    // One that nobody knows any more: refused, said, and forwarding goes on.
    put(&good, &token(3, 3600));
    drop(manager);
    let _manager = token_manager(&hub, &good);
    agent
        .until_status(SOON, |status| {
            let reason = status.get("/xds/managers/0/last_failure/reason");
            let reason = reason.and_then(serde_json::Value::as_str).unwrap_or_default();
            ensure!(reason.contains("does not accept the token"), "{reason}");
            Ok(())
        })
        .unwrap();
    until_served_by(&world, 3);
}
