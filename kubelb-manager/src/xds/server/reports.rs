//! One stream of an agent's reports, from its first to its last. Owns when it ends; what reports mean is not its matter.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use kubelb_xds::contract::reports::Report;
use kubelb_xds::reports::Fault;
use tonic::codec::Streaming;
use tonic::{Code, Status};

use super::connection::Connection;
use super::frame::Responses;
use super::stream::left;
use super::{Count, clock};
use crate::identity::Identity;

/// Shortest time between two reports that are read: who sends more often waits. Agents send four in a second at most.
const SPACING: Duration = Duration::from_millis(20);

/// A stream that may be read.
#[derive(Debug)]
pub(super) struct OpenReports {
    pub(super) identity: Identity,
    pub(super) connection: Arc<Connection>,
    pub(super) responses: Responses,
}

/// Reads the stream to its end.
pub(super) async fn run(open: OpenReports, requests: Streaming<Report>) {
    let OpenReports {
        identity,
        connection,
        responses,
    } = open;
    tracing::info!(address = %connection.address, peer = identity.subject, "reports begin");
    let status = serve(&identity, &connection, &responses, requests).await;
    tracing::info!(address = %connection.address, peer = identity.subject, status = status.message(), "reports end");
    responses.end(status);
    connection.is_reporting.store(false, Ordering::Relaxed);
}

async fn serve(
    identity: &Identity,
    connection: &Connection,
    responses: &Responses,
    mut requests: Streaming<Report>,
) -> Status {
    let server = &connection.server;
    let entry = server.agents.enter(identity, connection.id, clock());
    let mut expiry = std::pin::pin!(tokio::time::sleep(left(identity.expires)));
    loop {
        let report = tokio::select! {
            biased;
            () = responses.gone() => return Status::cancelled("the agent has gone"),
            () = connection.ending.cancelled() => return Status::unavailable("this server ends the connection; open another"),
            () = expiry.as_mut() => {
                server.metrics.add(Count::Refused, "expired");
                return Status::unauthenticated("the credential has expired");
            }
            report = requests.message() => match report {
                Ok(Some(report)) => report,
                Ok(None) => return Status::ok("the agent has no more to tell"),
                Err(status) => return status,
            },
        };
        if let Err(fault) = entry.take(report, clock()) {
            tracing::warn!(address = %connection.address, peer = identity.subject, %fault, "reports cannot go on");
            return status(&fault);
        }
        tokio::time::sleep(SPACING).await;
    }
}

/// What the agent is told.
fn status(fault: &Fault) -> Status {
    let code = match fault {
        Fault::OutOfPlace(_) | Fault::Instance { .. } => Code::Aborted,
        Fault::TooManyNames(_) | Fault::TooManyBytes(_) => Code::ResourceExhausted,
        Fault::Name(_) | Fault::Backend(_) => Code::InvalidArgument,
    };
    Status::new(code, fault.to_string())
}
