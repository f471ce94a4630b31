//! Tells the manager at the other end of the configuration stream how this node is, on the same connection.
//!
//! Owns the stream of reports and when what is to be told is looked at. A task of its own: the configuration never waits for it, and a manager
//! that takes no reports is left alone.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream;
use kubelb_runtime::or_never::or_never;
use kubelb_xds::contract::reports::{METHOD, Report, ReportsEnd, Traffic};
use kubelb_xds::reports::{PACE, Reporter};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use super::connect::Connection;
use crate::feedback::{Feedback, State};

/// Time between two readings of the counters.
const COUNTERS: Duration = Duration::from_secs(5);
/// Shortest time between two looks at what has changed, and the longest part of the time that looking may take.
const LOOK: (Duration, u32) = (Duration::from_millis(100), 10);
/// First and longest pause before the stream is opened again on a connection that is there still.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));

/// Listeners that are not served, and why.
pub(super) type Waiting = Arc<BTreeMap<String, String>>;

/// What this tells, and to whom.
pub(super) struct Reporting {
    pub(super) feedback: Feedback,
    pub(super) waiting: watch::Receiver<Waiting>,
    /// `None` while there is no configuration stream.
    pub(super) connection: watch::Receiver<Option<Connection>>,
}

type Call = Pin<Box<dyn Future<Output = Status> + Send>>;

impl Reporting {
    /// Runs until the configuration's end of things is gone.
    pub(super) async fn run(mut self) {
        // Not secret: only another one for each process.
        let mut reporter = Reporter::new(fastrand::u64(1..), PACE);
        let mut pause = BACK_OFF.0;
        loop {
            let connection = self.connection.borrow_and_update().clone();
            let Some(connection) = connection else {
                if self.connection.changed().await.is_err() {
                    return;
                }
                pause = BACK_OFF.0;
                continue;
            };
            let opened = now();
            let ended = self.stream(&connection, &mut reporter).await;
            reporter.disconnect();
            if now().duration_since(opened) > BACK_OFF.1 {
                pause = BACK_OFF.0;
            }
            let again = match ended {
                None => continue,
                Some(status) if status.code() == Code::Unimplemented => {
                    tracing::info!("this manager takes no reports; it only configures");
                    None
                }
                Some(status) => {
                    tracing::warn!("reports are not taken, to be tried again: {}", super::said(&status));
                    Some(pause)
                }
            };
            pause = (pause * 2).min(BACK_OFF.1);
            tokio::select! {
                () = or_never(again.map(sleep)) => {}
                changed = self.connection.changed() => if changed.is_err() {
                    return;
                },
            }
        }
    }

    /// One stream, to its end; `None` when the connection is another one, or none, now.
    async fn stream(&mut self, connection: &Connection, reporter: &mut Reporter) -> Option<Status> {
        let (reports, outgoing) = mpsc::channel(1);
        let mut call = open(connection.clone(), outgoing);
        reporter.connect(now().into_std());
        let mut counters = interval(COUNTERS);
        counters.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut look = now();
        loop {
            let due = reporter.poll_timeout();
            let send = async {
                or_never(due.map(|at| sleep_until(at.into()))).await;
                reports.reserve().await
            };
            tokio::select! {
                biased;
                changed = self.connection.changed() => {
                    let _ended = changed;
                    return None;
                }
                status = &mut call => return Some(status),
                changed = changed(&mut self.feedback.state, &mut self.waiting, look) => {
                    if changed.is_err() {
                        return Some(Status::cancelled("the agent ends"));
                    }
                    let started = now();
                    self.look(reporter).await;
                    look = now() + (now().duration_since(started) * LOOK.1).max(LOOK.0);
                }
                _ = counters.tick() => reporter.set_traffic(self.traffic().await),
                permit = send => match permit {
                    Ok(permit) => if let Some(report) = reporter.on_timeout(now().into_std()) {
                        permit.send(report);
                    },
                    // The call's end says why.
                    Err(_closed) => return Some((&mut call).await),
                },
            }
        }
    }

    /// Takes the present state over, if there is one.
    async fn look(&mut self, reporter: &mut Reporter) {
        let Some(state): Option<State> = self.feedback.state.borrow_and_update().clone() else {
            return;
        };
        let waiting = Arc::clone(&self.waiting.borrow_and_update());
        let looked = tokio::task::spawn_blocking(move || state.standings(&waiting, wall_clock()));
        match looked.await {
            Ok(standings) => reporter.set_standings(standings),
            Err(error) => tracing::error!(%error, "what is to be reported could not be found out"),
        }
    }

    async fn traffic(&self) -> BTreeMap<String, Traffic> {
        let read = Arc::clone(&self.feedback.traffic);
        let read = tokio::task::spawn_blocking(move || read()).await;
        read.unwrap_or_default()
    }
}

/// When the state is another one than was last looked at, and it is time for a look.
async fn changed(
    state: &mut watch::Receiver<Option<State>>,
    waiting: &mut watch::Receiver<Waiting>,
    not_before: Instant,
) -> Result<(), watch::error::RecvError> {
    sleep_until(not_before).await;
    tokio::select! {
        changed = state.changed() => changed,
        changed = waiting.changed() => changed,
    }
}

fn open(connection: Connection, mut reports: mpsc::Receiver<Report>) -> Call {
    Box::pin(async move {
        let mut grpc = tonic::client::Grpc::new(connection.channel);
        if let Err(error) = grpc.ready().await {
            return Status::from_error(Box::new(error));
        }
        let mut request = Request::new(stream::poll_fn(move |context| reports.poll_recv(context)));
        if let Some(value) = connection.authorization {
            request.metadata_mut().insert("authorization", value);
        }
        let codec: ProstCodec<Report, ReportsEnd> = ProstCodec::default();
        let ended = grpc
            .client_streaming(request, PathAndQuery::from_static(METHOD), codec)
            .await;
        match ended {
            Ok(_end) => Status::unavailable("the manager ended the stream"),
            Err(status) => status,
        }
    })
}

fn now() -> Instant {
    Instant::now()
}

#[expect(
    clippy::disallowed_methods,
    reason = "the edge: people read since when a backend is unhealthy"
)]
fn wall_clock() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map(|since| since.as_secs()).unwrap_or_default()
}
