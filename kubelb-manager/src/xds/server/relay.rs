//! One stream of another manager, from its first message to its last. Owns when it ends; what is told is not its matter.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use kubelb_xds::contract::relay::Relayed;
use tonic::codec::Streaming;
use tonic::{Code, Status};

use super::clock;
use super::connection::Connection;
use super::frame::Responses;
use super::relays::Entry;
use super::stream::left;
use crate::relay::Fault;

/// Shortest time between two messages that are read: who sends more often waits.
const SPACING: Duration = Duration::from_millis(10);

/// A stream that may be read.
#[derive(Debug)]
pub(super) struct OpenRelay {
    pub(super) manager: String,
    pub(super) expires: SystemTime,
    pub(super) entry: Entry,
    pub(super) connection: Arc<Connection>,
    pub(super) responses: Responses,
}

/// Reads the stream to its end.
pub(super) async fn run(open: OpenRelay, messages: Streaming<Relayed>) {
    let (manager, address) = (open.manager.clone(), open.connection.address);
    tracing::info!(%address, manager, "another manager tells of its peers");
    let status = serve(&open, messages).await;
    tracing::info!(%address, manager, status = status.message(), "another manager tells no more");
    let OpenRelay { entry, responses, .. } = open;
    drop(entry);
    responses.end(status);
}

async fn serve(open: &OpenRelay, mut messages: Streaming<Relayed>) -> Status {
    let mut leads = open.connection.server.relays.leads();
    let mut expiry = std::pin::pin!(tokio::time::sleep(left(open.expires)));
    loop {
        let message = tokio::select! {
            biased;
            () = open.responses.gone() => return Status::cancelled("the other manager has gone"),
            () = open.connection.ending.cancelled() => return Status::unavailable("this server ends the connection; open another"),
            _ = leads.wait_for(|leads| !leads) => return Status::failed_precondition("this manager does not lead any more"),
            () = expiry.as_mut() => return Status::unauthenticated("the credential has expired"),
            message = messages.message() => match message {
                Ok(Some(message)) => message,
                Ok(None) => return Status::ok("the other manager has no more to tell"),
                Err(status) => return status,
            },
        };
        match open.entry.take(message, clock()) {
            Ok(false) => {}
            Ok(true) => {
                tracing::info!(address = %open.connection.address, manager = open.manager, "the relay stands");
            }
            Err(fault) => {
                tracing::warn!(address = %open.connection.address, manager = open.manager, %fault, "the relay cannot go on");
                return status(&fault);
            }
        }
        tokio::time::sleep(SPACING).await;
    }
}

fn status(fault: &Fault) -> Status {
    let code = match fault {
        Fault::OutOfPlace(_) | Fault::Report(_) => Code::Aborted,
        Fault::TooMany(..) => Code::ResourceExhausted,
        Fault::Name(_) | Fault::Peer(_) => Code::InvalidArgument,
    };
    Status::new(code, fault.to_string())
}
