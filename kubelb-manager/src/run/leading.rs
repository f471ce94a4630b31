//! Which of several managers leads.

use std::time::Duration;

use kube::Client;
use kubelb_runtime::lease::{self, Election, Seen, Timing, Vacated};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::relaying;
use crate::args::RunArgs;
use crate::controllers;

/// Name of the Lease, as KubeLB's manager has it, so that one of the two writes at a time.
const LEASE: &str = "19f32e7b.kubelb.k8c.io";
/// Short, for the leader chooses who announces an address: another takes over within 3 s.
const TIMING: Timing = Timing {
    duration: Duration::from_secs(3),
    renew: Duration::from_secs(2),
    retry: Duration::from_millis(500),
};

/// Runs the controllers while this manager leads, until `shutdown`.
pub(super) async fn control(
    client: Client,
    settings: controllers::Settings,
    mut leads: watch::Receiver<bool>,
    shutdown: CancellationToken,
) {
    loop {
        let begun = async { leads.wait_for(|leads| *leads).await.is_ok() };
        let is_leader = tokio::select! {
            () = shutdown.cancelled() => false,
            begun = begun => begun,
        };
        if !is_leader {
            return;
        }
        let stop = shutdown.child_token();
        let ended = async {
            // An election that is over is as good as lost.
            drop(leads.wait_for(|leads| !*leads).await);
            stop.cancel();
        };
        tokio::join!(
            controllers::run(client.clone(), settings.clone(), stop.clone()),
            async {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = ended => {}
                }
            }
        );
    }
}

/// How the election stands.
#[derive(Clone, Debug)]
pub(super) struct Standing {
    /// Whether this manager leads.
    pub(super) leads: watch::Receiver<bool>,
    /// What is known of the one that led before; told before this one begins to.
    pub(super) vacated: watch::Receiver<Option<Vacated>>,
    /// Who does; `None`: it is not known, or there is no election.
    pub(super) seen: watch::Receiver<Option<Seen>>,
}

/// Takes part in the election until `shutdown`. `address`: where this manager listens to others, as long as it leads.
pub(super) fn campaign(
    tasks: &mut JoinSet<anyhow::Result<()>>,
    client: &Client,
    args: &RunArgs,
    address: Option<String>,
    shutdown: &CancellationToken,
) -> Standing {
    let is_alone = !args.election.enable_leader_election;
    let (sender, leads) = watch::channel(is_alone);
    let (vacated_out, vacated) = watch::channel(None);
    let (seen_out, seen) = watch::channel(None);
    let election = Election {
        namespace: args.namespace.clone(),
        name: LEASE.to_owned(),
        identity: args.election.identity(),
        timing: TIMING,
        annotations: [(relaying::ADDRESS.to_owned(), address.unwrap_or_default())].into(),
    };
    let (client, shutdown) = (client.clone(), shutdown.clone());
    tasks.spawn(async move {
        if is_alone {
            shutdown.cancelled().await;
        } else {
            let turns = Turns {
                leads: sender,
                vacated: vacated_out,
                seen: seen_out,
            };
            turns.take(client, election, shutdown).await;
        }
        Ok(())
    });
    Standing { leads, vacated, seen }
}

struct Turns {
    leads: watch::Sender<bool>,
    vacated: watch::Sender<Option<Vacated>>,
    seen: watch::Sender<Option<Seen>>,
}

impl Turns {
    /// Unlike a manager that only writes, this one goes on when it does not lead any more: it serves.
    async fn take(self, client: Client, election: Election, shutdown: CancellationToken) {
        while let Some(held) = lease::acquire(client.clone(), election.clone(), &self.seen, shutdown.clone()).await {
            self.vacated.send_replace(held.vacated());
            self.leads.send_replace(true);
            let is_over = tokio::select! {
                () = shutdown.cancelled() => true,
                () = held.lost().cancelled() => false,
            };
            self.leads.send_replace(false);
            if is_over {
                held.released().await;
                return;
            }
        }
    }
}
