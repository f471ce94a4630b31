//! Bulk data by iperf3.
//!
//! iperf3 opens a control connection besides its data flows, to the same port: through a VIP, its frontend must have one
//! backend only (a UDP test needs a TCP frontend of the same port as well).

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Stdio};

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;

use super::Transport;
use crate::netns::Namespace;
use crate::tool;

/// A test under way. Both ends are killed on drop.
#[derive(Debug)]
pub struct Iperf {
    server: Running,
    client: Running,
}

/// What a test measured, from the receiver's view.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Report {
    /// Payload that arrived, bits per second.
    pub bits_per_second: f64,
    /// Share of datagrams lost, 0 to 100; 0 for TCP.
    pub lost_percent: f64,
    /// Seconds of the test in which nothing was sent.
    pub silent_seconds: u32,
}

impl Iperf {
    /// Starts a server for one test on `port` in `server`, and a client that sends to `to` for `seconds`. `rate` (UDP)
    /// is in bits per second.
    ///
    /// # Errors
    /// When iperf3 is missing or the port is taken.
    pub fn start(
        server: &Namespace,
        port: u16,
        client: &Namespace,
        transport: Transport,
        to: SocketAddr,
        seconds: u32,
        rate: u64,
    ) -> anyhow::Result<Self> {
        let server = serve(server, port)?;
        let mut command = client.command("iperf3");
        command
            .args(["--client", &to.ip().to_string(), "--port", &to.port().to_string()])
            .args(["--time", &seconds.to_string(), "--json", "--connect-timeout", "5000"])
            .args([if to.is_ipv4() { "-4" } else { "-6" }]);
        if transport == Transport::Udp {
            // The datagrams fit the MTU of both families, so none is fragmented.
            command.args(["--udp", "--bitrate", &rate.to_string(), "--length", "1400"]);
        }
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| tool::explain("iperf3".as_ref(), error))?;
        Ok(Self {
            server,
            client: Running(Some(child)),
        })
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// When a flow was refused, reset or stalled to death.
    pub fn finish(mut self) -> anyhow::Result<Report> {
        let client = self.client.0.take().context("the client was taken already")?;
        let output = client.wait_with_output().context("cannot wait for the iperf3 client")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let report: Value = serde_json::from_str(&text).with_context(|| {
            format!(
                "iperf3 printed no JSON: {text}{}",
                String::from_utf8_lossy(&output.stderr)
            )
        })?;
        if let Some(error) = report.get("error").and_then(Value::as_str) {
            bail!("iperf3: {error}");
        }
        ensure!(
            output.status.success(),
            "the iperf3 client ended with {}",
            output.status
        );
        // One test only, then the server ends by itself.
        let server = self.server.0.take().context("the server was taken already")?;
        let output = server.wait_with_output().context("cannot wait for the iperf3 server")?;
        ensure!(
            output.status.success(),
            "the iperf3 server ended with {}",
            output.status
        );
        read(&report)
    }
}

#[derive(Debug)]
struct Running(Option<Child>);

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            // Errors mean that it has ended already.
            drop(child.kill());
            drop(child.wait());
        }
    }
}

fn serve(namespace: &Namespace, port: u16) -> anyhow::Result<Running> {
    let child = namespace
        .command("iperf3")
        .args(["--server", "--one-off", "--forceflush", "--port", &port.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| tool::explain("iperf3".as_ref(), error))?;
    let mut running = Running(Some(child));
    let child = running.0.as_mut().context("just started")?;
    let mut said = BufReader::new(child.stdout.as_mut().context("its output is a pipe")?);
    let mut line = String::new();
    while !line.contains("listening") {
        line.clear();
        ensure!(
            said.read_line(&mut line)? > 0,
            "the iperf3 server ended before it listened on port {port}"
        );
    }
    Ok(running)
}

fn read(report: &Value) -> anyhow::Result<Report> {
    let number = |path: &str| report.pointer(path).and_then(Value::as_f64);
    let bits_per_second = number("/end/sum_received/bits_per_second")
        .or_else(|| number("/end/sum/bits_per_second"))
        .context("iperf3's report has no rate")?;
    let intervals = report.pointer("/intervals").and_then(Value::as_array);
    let silent = intervals
        .into_iter()
        .flatten()
        .filter(|interval| interval.pointer("/sum/bytes").and_then(Value::as_f64) == Some(0.0))
        .count();
    Ok(Report {
        bits_per_second,
        lost_percent: number("/end/sum/lost_percent").unwrap_or(0.0),
        silent_seconds: u32::try_from(silent).unwrap_or(u32::MAX),
    })
}
