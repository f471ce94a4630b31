//! An agent over another control plane: a server made of go-control-plane (`tests/go/xds`). Its cold build takes minutes, so this is a soak test; where
//! there is no Go, `cargo xtask test --soak` says so and leaves it out.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{self, Receiver};

use anyhow::{Context as _, bail};
use kubelb_tests::netns::Namespace;
use kubelb_tests::tool;
use serde_json::{Value, json};

use super::*;

const MODULE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/go/xds");
/// Where Go's own archive is unpacked.
const USUAL: &str = "/usr/local/go/bin/go";
const LISTENER: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
const ENDPOINTS: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";

/// The server as a process in the node's namespace. Ends on drop.
struct Server {
    child: Child,
    input: ChildStdin,
    events: Receiver<Value>,
    address: String,
}

impl Server {
    fn start(node: &Namespace, program: &Path) -> Self {
        let mut command = node.command(program);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (events, received) = mpsc::channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let event = serde_json::from_str(&line).unwrap_or(Value::String(line));
                if events.send(event).is_err() {
                    return;
                }
            }
        });
        let mut server = Self {
            child,
            input,
            events: received,
            address: String::new(),
        };
        let listening = server.until(|event| event["event"] == "listening").unwrap();
        server.address = listening["address"].as_str().unwrap().to_owned();
        server
    }

    fn set(&mut self, configuration: &Value) {
        writeln!(self.input, "{configuration}").unwrap();
    }

    /// The next event like this one.
    fn until(&self, wanted: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
        let mut seen = Vec::new();
        loop {
            match self.events.recv_timeout(SOON) {
                Ok(event) if wanted(&event) => return Ok(event),
                Ok(event) => seen.push(event),
                Err(error) => bail!("{error}; seen: {seen:#?}"),
            }
        }
    }

    fn until_acked(&self, kind: &str) {
        self.until(|event| event["event"] == "ack" && event["type"] == kind)
            .unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let ended = self.child.kill().and_then(|()| self.child.wait());
        if let Err(error) = ended {
            eprintln!("warning: a control plane stays: {error}");
        }
    }
}

fn build(into: &Path) -> PathBuf {
    let program = into.join("xds");
    let go = Some(PathBuf::from(USUAL)).filter(|go| go.is_file());
    let mut command = tool::bound(go.as_deref().unwrap_or(Path::new("go")));
    command.current_dir(MODULE).args(["build", "-o"]).arg(&program).arg(".");
    let status = command.status().context("this test needs Go").unwrap();
    assert!(status.success(), "see above: {status}");
    program
}

/// TCP and UDP of one VIP, the first `backends` tenants behind them.
fn configuration(world: &World, version: &str, backends: usize, listeners: &[Value]) -> Value {
    let addresses: Vec<String> = world.net.tenants[..backends]
        .iter()
        .map(|tenant| SocketAddr::new(tenant.v4, NODE_PORT).to_string())
        .collect();
    json!({"Version": version, "Clusters": {"web": addresses}, "Listeners": listeners})
}

fn listener(name: &str, port: u16, is_udp: bool, is_odd: bool) -> Value {
    let address = SocketAddr::new(VIP4, port).to_string();
    json!({"Name": name, "Address": address, "Cluster": "web", "UDP": is_udp, "Odd": is_odd})
}

#[test]
fn an_agent_is_driven_by_go_control_plane() {
    let world = World::new(Mode::Tcx).unwrap();
    let directory = Scratch::new().unwrap();
    let program = build(directory.path());
    let mut server = Server::start(&world.net.node, &program);
    let (tcp, udp) = (
        listener("web-tcp", VIP_PORT, false, false),
        listener("web-udp", VIP_PORT, true, false),
    );
    let second = listener("second", VIP_PORT + 1, false, false);
    let both = [tcp.clone(), udp.clone(), second.clone()];
    server.set(&configuration(&world, "1", 3, &both));

    let mut setup = Setup::new(&world.net.node_interfaces(), Mode::Tcx.flag());
    let url = format!("http://{}", server.address);
    setup.managers = ["--node", "node-1", "--xds", &url, "--xds-insecure"]
        .map(str::to_owned)
        .into();
    let mut agent = Agent::start(&world.net.node, setup, "").unwrap();
    let ways: Vec<Way> = Way::ALL.into_iter().filter(|way| way.vip == VIP4).collect();
    until_ways_served_by(&world, &ways, 3);
    let second_address = SocketAddr::new(VIP4, VIP_PORT + 1);
    ask(&world.net.client, Transport::Tcp, second_address).unwrap();
    server.until_acked(LISTENER);
    let flows = Conversations::open(&world.net.client, Transport::Tcp, ways[0].address(), 10).unwrap();
    let table = agent.status_table().unwrap();
    assert!(table.contains("(INSECURE)"), "{table}");

    // Endpoints change: one resource, no flow of the others is lost.
    server.set(&configuration(&world, "2", 2, &both));
    until_ways_served_by(&world, &ways, 2);
    server.set(&configuration(&world, "3", 3, &both));
    until_ways_served_by(&world, &ways, 3);
    server.until_acked(ENDPOINTS);

    // A listener goes.
    server.set(&configuration(&world, "4", 3, &[tcp.clone(), udp.clone()]));
    wait::until(SOON, || {
        ensure!(ask(&world.net.client, Transport::Tcp, second_address).is_err());
        Ok(())
    })
    .unwrap();

    // One that is not for a kernel: refused by name, in words and in details; the others are served.
    let odd = listener("odd", VIP_PORT + 2, false, true);
    let with_odd = [tcp, udp, odd, second];
    server.set(&configuration(&world, "5", 3, &with_odd));
    let nack = server.until(|event| event["event"] == "nack").unwrap();
    let text = nack["text"].as_str().unwrap();
    assert!(text.contains("odd: ") && text.contains("tunneling_config"), "{text}");
    assert!(
        nack["details"].to_string().contains("kubelb.v1alpha1.Rejection"),
        "{nack}"
    );
    wait::until(SOON, || ask(&world.net.client, Transport::Tcp, second_address)).unwrap();
    agent
        .until_status(SOON, |status| {
            ensure!(status.get("/xds/rejections/0/name") == Some(&"odd".into()));
            ensure!(status.get("/xds/managers/0/is_insecure") == Some(&true.into()));
            Ok(())
        })
        .unwrap();

    // The agent comes back with what it has, and is sent what it refused and nothing else.
    let kept = agent.state_dir().join("xds-resources.pb");
    let (_, _) = wait::until(SOON, || {
        let text = std::fs::read(&kept).context("nothing is kept yet")?;
        ensure!(
            text.windows(6).any(|part| part == b"second"),
            "the last change is not kept yet"
        );
        Ok(())
    })
    .unwrap();
    agent.kill().unwrap();
    agent.restart().unwrap();
    server
        .until(|event| event["event"] == "asked" && event["brought"].as_u64() > Some(0))
        .unwrap();
    until_ways_served_by(&world, &ways, 3);
    flows.keep_talking(5).unwrap();
    let ledger = flows.finish().unwrap();
    assert!(ledger.failures.is_empty(), "{:?}", ledger.failures);
}
