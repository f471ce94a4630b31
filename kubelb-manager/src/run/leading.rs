//! Which of several managers leads.

use std::time::Duration;

use kube::Client;
use kubelb_runtime::lease::{self, Election, Timing};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

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

/// Takes part in the election until `shutdown`; whether this one leads.
pub(super) fn campaign(
    tasks: &mut JoinSet<anyhow::Result<()>>,
    client: &Client,
    args: &RunArgs,
    shutdown: &CancellationToken,
) -> watch::Receiver<bool> {
    let is_alone = !args.election.enable_leader_election;
    let (sender, leads) = watch::channel(is_alone);
    let election = Election {
        namespace: args.namespace.clone(),
        name: LEASE.to_owned(),
        identity: args.election.identity(),
        timing: TIMING,
    };
    let (client, shutdown) = (client.clone(), shutdown.clone());
    tasks.spawn(async move {
        if is_alone {
            shutdown.cancelled().await;
        } else {
            take_turns(client, election, &sender, shutdown).await;
        }
        Ok(())
    });
    leads
}

/// Unlike a manager that only writes, this one goes on when it does not lead any more: it serves.
async fn take_turns(client: Client, election: Election, leads: &watch::Sender<bool>, shutdown: CancellationToken) {
    while let Some(held) = lease::acquire(client.clone(), election.clone(), shutdown.clone()).await {
        leads.send_replace(true);
        let is_over = tokio::select! {
            () = shutdown.cancelled() => true,
            () = held.lost().cancelled() => false,
        };
        leads.send_replace(false);
        if is_over {
            held.released().await;
            return;
        }
    }
}
