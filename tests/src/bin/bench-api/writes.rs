//! Changes at a steady rate, by several writers, seen by several watchers.
//!
//! Each change writes its own number into an object, so that an event tells which change it shows. Every watcher must see
//! every change.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use http_body_util::BodyExt as _;
use hyper::body::{Bytes, Incoming};
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use crate::client::Client;
use crate::figures::{Spread, Writes, float};
use crate::server::Server;

const PATH: &str = "/api/v1/namespaces/kube-public/configmaps";
/// Says which change an object shows: `"number":"…"`.
const MARK: &[u8] = b"\"number\":\"";
/// Longer than any watcher may be behind.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is offered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// Changes in a second.
    pub(crate) rate: u32,
    pub(crate) span: Duration,
    pub(crate) watchers: usize,
    pub(crate) writers: usize,
}

/// When a change was sent and answered.
#[derive(Clone, Copy, Debug)]
struct Change {
    sent: Instant,
    answered: Instant,
}

/// Offers the load, and looks how it fares.
pub(crate) async fn take(server: &Server, load: Load) -> anyhow::Result<Writes> {
    let changes = usize::try_from(u64::from(load.rate).saturating_mul(load.span.as_secs()))?;
    let mut watchers = JoinSet::new();
    for _ in 0..load.watchers {
        let mut client = Client::connect(server).await?;
        let body = client.send("GET", &format!("{PATH}?watch=true"), Bytes::new()).await?;
        watchers.spawn(async move {
            let seen = watch(body.into_body(), changes).await;
            // Held until here: without it the connection ends.
            drop(client);
            seen
        });
    }
    let begin = Instant::now();
    let mut writers = JoinSet::new();
    for writer in 0..load.writers {
        let client = Client::connect(server).await?;
        writers.spawn(write(client, load, writer, changes, begin));
    }
    let mut done: Vec<Option<Change>> = vec![None; changes];
    while let Some(written) = writers.join_next().await {
        for (number, change) in written?? {
            *done.get_mut(number).context("a change too many")? = Some(change);
        }
    }
    let done: Vec<Change> = done.into_iter().flatten().collect();
    ensure!(done.len() == changes, "{} of {changes} changes were made", done.len());
    let (mut lag, mut from_sending) = (Vec::new(), Vec::new());
    while let Some(seen) = watchers.join_next().await {
        for (change, seen) in done.iter().zip(seen??) {
            lag.push(seen.saturating_duration_since(change.answered));
            from_sending.push(seen.saturating_duration_since(change.sent));
        }
    }
    let last = done.iter().map(|change| change.answered).max().context("no change")?;
    Ok(Writes {
        watchers: load.watchers,
        offered_per_second: f64::from(load.rate),
        done_per_second: float(changes) / last.saturating_duration_since(begin).as_secs_f64(),
        answer: Spread::of(
            done.iter()
                .map(|change| change.answered.saturating_duration_since(change.sent))
                .collect(),
        ),
        lag: Spread::of(lag),
        from_sending: Spread::of(from_sending),
    })
}

/// Makes every change whose number is this writer's, each at its time. Who is late goes on without a pause.
async fn write(
    mut client: Client,
    load: Load,
    writer: usize,
    changes: usize,
    begin: Instant,
) -> anyhow::Result<Vec<(usize, Change)>> {
    let path = format!("{PATH}/written-{writer}");
    let mut made = Vec::new();
    for number in (writer..changes).step_by(load.writers) {
        let due = Duration::from_secs_f64(float(number) / f64::from(load.rate));
        sleep_until(begin.checked_add(due).context("too far in the future")?).await;
        let first = number == writer;
        let object = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": format!("written-{writer}"), "labels": {"app": "bench"}},
            "data": {"number": number.to_string(), "address": "192.0.2.1", "text": "x".repeat(200)},
        });
        let (method, at) = if first { ("POST", PATH) } else { ("PUT", path.as_str()) };
        let body = Bytes::from(object.to_string());
        let sent = Instant::now();
        client.whole(method, at, body).await?;
        let answered = Instant::now();
        made.push((number, Change { sent, answered }));
    }
    Ok(made)
}

/// When each change was seen.
async fn watch(mut body: Incoming, changes: usize) -> anyhow::Result<Vec<Instant>> {
    let mut seen: Vec<Option<Instant>> = vec![None; changes];
    let mut left = changes;
    let mut buffer: Vec<u8> = Vec::new();
    while left > 0 {
        let frame = timeout(PATIENCE, body.frame())
            .await
            .context("a change was not shown")?;
        let frame = frame.context("the watch has ended")??;
        let now = Instant::now();
        buffer.extend_from_slice(frame.data_ref().context("no data")?);
        let end = buffer
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |at| at.saturating_add(1));
        let lines: Vec<u8> = buffer.drain(..end).collect();
        for line in lines.split(|byte| *byte == b'\n') {
            let Some(number) = number_of(line) else { continue };
            let place = seen.get_mut(number).context("a change that no one made")?;
            ensure!(place.is_none(), "change {number} was shown twice");
            *place = Some(now);
            left = left.saturating_sub(1);
        }
    }
    Ok(seen.into_iter().flatten().collect())
}

/// Which change a line shows.
fn number_of(line: &[u8]) -> Option<usize> {
    let at = line.windows(MARK.len()).position(|window| window == MARK)?;
    let digits: Vec<u8> = line
        .get(at.saturating_add(MARK.len())..)?
        .iter()
        .copied()
        .take_while(u8::is_ascii_digit)
        .collect();
    std::str::from_utf8(&digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::number_of;

    #[test]
    fn a_line_says_which_change_it_shows() {
        assert_eq!(
            number_of(br#"{"type":"MODIFIED","object":{"data":{"number":"42"}}}"#),
            Some(42)
        );
        assert_eq!(number_of(b"{}"), None);
    }
}
