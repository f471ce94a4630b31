//! Tells the manager that leads, when that is another one, of the peers of this one. Owns when a stream is opened and that it is said who leads.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use kubelb_runtime::error_chain::chain;
use kubelb_runtime::lease::Seen;
use kubelb_runtime::or_never::or_never;
use kubelb_xds::contract::relay::NodePresence;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::identity::authority::{AuthorityError, Issued};
use crate::identity::{Authority, SpiffeId};
use crate::relay::{Outgoing, PACE, Presences, Teller};
use crate::xds::relay_client;
use crate::xds::server::agents::Presence;
use crate::xds::server::{Server, clock};

/// Annotation of the Lease: where its holder listens to other managers.
pub(super) const ADDRESS: &str = "kubelb.k8c.io/relay-address";
/// First and longest pause before the next try.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// A stream that lived this long was a good one.
const LASTING: Duration = Duration::from_secs(10);
/// Time between two looks at which agents are heard.
const LISTEN: Duration = Duration::from_millis(100);
/// A certificate is made for each connection, and ends the stream when it ends.
const LIFETIME: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// What this tells, and to whom.
pub(super) struct Relaying {
    pub(super) server: Arc<Server>,
    /// Of this manager.
    pub(super) identity: String,
    /// With the copy of the authority.
    pub(super) directory: PathBuf,
    pub(super) seen: watch::Receiver<Option<Seen>>,
    pub(super) outgoing: watch::Receiver<Option<Outgoing>>,
}

impl Relaying {
    pub(super) async fn run(mut self, shutdown: CancellationToken) {
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = self.follow() => {}
        }
        self.server.relays().tells(false);
    }

    async fn follow(&mut self) {
        let mut teller = Teller::new(PACE);
        let mut pause = BACK_OFF.0;
        let mut said = String::new();
        let mut leads = String::new();
        loop {
            self.say_who_leads(&mut leads);
            let Some((leader, address)) = self.leader() else {
                if self.seen.changed().await.is_err() {
                    return;
                }
                pause = BACK_OFF.0;
                continue;
            };
            let started = Instant::now();
            let ended = self.stream(&address, &leader, &mut teller).await;
            teller.disconnect();
            self.server.relays().tells(false);
            let Some(why) = ended else { continue };
            // Once for each leader and reason.
            let text = format!("{leader} at {address}: {why}");
            if text != said {
                tracing::warn!("no relay, its statuses and owners do not count those that are connected here: {text}");
                said = text;
            }
            if started.elapsed() >= LASTING {
                pause = BACK_OFF.0;
            }
            let next = pause.mul_f64(0.5 + fastrand::f64() / 2.0);
            pause = (pause * 2).min(BACK_OFF.1);
            tokio::select! {
                () = sleep(next) => {}
                changed = self.seen.changed() => if changed.is_err() {
                    return;
                },
            }
        }
    }

    /// Once for each leader.
    fn say_who_leads(&self, said: &mut String) {
        let seen = self.seen.borrow();
        let Some(seen) = seen.as_ref().filter(|seen| !seen.is_mine && seen.holder != *said) else {
            return;
        };
        said.clone_from(&seen.holder);
        match seen.annotations.get(ADDRESS) {
            _ if seen.holder.is_empty() => {}
            Some(address) => tracing::info!(leader = seen.holder, address, "another manager leads"),
            None => tracing::warn!(
                leader = seen.holder,
                "another manager leads, and does not say where it listens (--advertise-address): its statuses and owners do not count those that \
                 are connected here"
            ),
        }
    }

    /// Who leads, and where it listens, when that is another one that says so.
    fn leader(&mut self) -> Option<(String, String)> {
        let seen = self.seen.borrow_and_update().clone()?;
        if seen.is_mine || seen.holder.is_empty() {
            return None;
        }
        let address = seen.annotations.get(ADDRESS)?;
        Some((seen.holder, address.clone()))
    }

    /// One stream, to its end; `None` when another one leads, or may.
    async fn stream(&mut self, address: &str, leader: &str, teller: &mut Teller) -> Option<String> {
        let (messages, told) = mpsc::channel(1);
        let opening = async {
            let credential = self.credential();
            let (authority, issued) = credential.map_err(|error| chain(&error).to_string())?;
            relay_client::open(address, &authority, &issued, told).await
        };
        let mut accepted = match opening.await {
            Ok(accepted) => accepted,
            Err(why) => return Some(why),
        };
        tracing::info!(leader, address, "the relay to the manager that leads stands");
        self.server.relays().tells(true);
        let now = clock();
        teller.set_nodes(self.nodes(now));
        if let Some(outgoing) = &*self.outgoing.borrow_and_update() {
            teller.set(outgoing, now);
        }
        teller.connect(now);
        // Whatever there is, it is found out anew.
        self.server.registry().concern_everything();
        let mut listen = interval(LISTEN);
        listen.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let due = teller.poll_timeout();
            let send = async {
                or_never(due.map(|at| sleep_until(at.into()))).await;
                messages.reserve().await
            };
            tokio::select! {
                biased;
                changed = self.seen.changed() => {
                    if changed.is_err() {
                        return None;
                    }
                    let same = self.leader().is_some_and(|(now, at)| now == leader && at == address);
                    if !same {
                        return None;
                    }
                }
                why = accepted.end() => return Some(why),
                changed = self.outgoing.changed() => {
                    if changed.is_err() {
                        return None;
                    }
                    if let Some(outgoing) = &*self.outgoing.borrow_and_update() {
                        teller.set(outgoing, clock());
                    }
                }
                _ = listen.tick() => teller.set_nodes(self.nodes(clock())),
                permit = send => match permit {
                    Ok(permit) => if let Some(message) = teller.on_timeout(clock()) {
                        permit.send(message);
                        self.server.relays().sent();
                    },
                    // The end says why.
                    Err(_closed) => return Some(accepted.end().await),
                },
            }
        }
    }

    /// A certificate of this manager, and what it trusts.
    fn credential(&self) -> Result<(String, Issued), AuthorityError> {
        #[expect(clippy::disallowed_methods, reason = "a certificate starts to be valid now")]
        let now = SystemTime::now();
        let authority = Authority::open(&self.directory, now)?;
        let issued = authority.issue_peer(&SpiffeId::manager(&self.identity), LIFETIME, now)?;
        Ok((authority.pem().to_owned(), issued))
    }

    /// Nodes whose agents are, or were lately, connected here.
    fn nodes(&self, now: std::time::Instant) -> Presences {
        let agents = self.server.agents().view(now).into_iter();
        agents
            .filter_map(|agent| {
                let how = match agent.presence {
                    Presence::Heard => (NodePresence::Heard, agent.since),
                    Presence::Silent => (NodePresence::Silent, agent.last_heard),
                    Presence::Closed(at) => (NodePresence::Closed, at),
                    Presence::Lost(_) => (NodePresence::Lost, agent.last_heard),
                };
                Some((agent.node?, how))
            })
            .collect()
    }
}
