//! Leader election by a Lease (coordination.k8s.io/v1), as client-go does it, so that both can take turns at one Lease.
//!
//! [`Candidate`] decides from what was read and when; [`acquire`] reads and writes. Another's clock is never believed: a holder is gone when
//! its Lease has not changed for as long as it was given for, by one's own clock.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Times of an election. A holder gives up after `renew`, which others notice after `duration` at the latest: `retry` < `renew` < `duration`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// For how long the Lease is given.
    pub duration: Duration,
    /// How long the holder may fail to renew before it stops.
    pub renew: Duration,
    /// From one attempt to the next.
    pub retry: Duration,
}

impl Timing {
    /// As Kubernetes' own components have it.
    pub const DEFAULT: Self = Self {
        duration: Duration::from_secs(15),
        renew: Duration::from_secs(10),
        retry: Duration::from_secs(2),
    };
}

/// Who takes part, and where.
#[derive(Clone, Debug)]
pub struct Election {
    /// Namespace of the Lease.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Name of this replica, unlike any other's.
    pub identity: String,
    /// Times.
    pub timing: Timing,
    /// What is written beside it while this replica holds it: an empty value takes the annotation away.
    pub annotations: BTreeMap<String, String>,
}

/// The Lease, as it was last read or written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Who holds it; empty: nobody.
    pub holder: String,
    /// Whether that is this replica.
    pub is_mine: bool,
    /// What is written beside it.
    pub annotations: BTreeMap<String, String>,
}

/// What a candidate does next.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Write this; whether that succeeds decides who leads.
    Write(LeaseSpec),
    /// Another holds it.
    Wait,
}

/// One who would like to lead. Pure: what was read and the time come in, what to write comes out.
#[derive(Clone, Debug)]
pub struct Candidate {
    identity: String,
    timing: Timing,
    /// The Lease as last read, and when it was first read so.
    observed: Option<(LeaseSpec, Instant)>,
    /// It has been read otherwise before that.
    has_changed: bool,
}

/// What is known of whoever held a Lease before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vacated {
    /// When it was last seen to change: nobody has held it since.
    pub at: Instant,
    /// Whether it changed while this process looked; if not, nobody may have held it for long.
    pub was_held: bool,
}

impl Candidate {
    /// Nothing was read yet.
    #[must_use]
    pub fn new(identity: &str, timing: Timing) -> Self {
        Self {
            identity: identity.to_owned(),
            timing,
            observed: None,
            has_changed: false,
        }
    }

    /// The Lease was read at `now`, by one's own clock; `wall` is what is written into it for people.
    pub fn read(&mut self, spec: Option<&LeaseSpec>, now: Instant, wall: Timestamp) -> Step {
        let Some(spec) = spec else {
            return Step::Write(self.spec(None, wall));
        };
        let is_mine = spec.holder_identity.as_deref() == Some(&self.identity);
        let is_free = spec.holder_identity.as_deref().unwrap_or_default().is_empty();
        let since = match &self.observed {
            Some((seen, since)) if seen == spec => *since,
            Some(_) => {
                self.has_changed = true;
                now
            }
            None => now,
        };
        self.observed = Some((spec.clone(), since));
        let given = spec
            .lease_duration_seconds
            .and_then(|seconds| u64::try_from(seconds).ok())
            .map_or(self.timing.duration, Duration::from_secs);
        if is_mine || is_free || now.duration_since(since) >= given {
            Step::Write(self.spec(Some(spec), wall))
        } else {
            Step::Wait
        }
    }

    /// What is known of whoever held the Lease before it is taken; `None`: there was none.
    #[must_use]
    pub fn vacated(&self) -> Option<Vacated> {
        self.observed.as_ref().map(|(_, since)| Vacated {
            at: *since,
            was_held: self.has_changed,
        })
    }

    fn spec(&self, before: Option<&LeaseSpec>, wall: Timestamp) -> LeaseSpec {
        let is_mine = before.is_some_and(|before| before.holder_identity.as_deref() == Some(&self.identity));
        let transitions = before.and_then(|before| before.lease_transitions).unwrap_or(0);
        let seconds = i32::try_from(self.timing.duration.as_secs().max(1)).unwrap_or(i32::MAX);
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: Some(seconds),
            acquire_time: if is_mine {
                before.and_then(|before| before.acquire_time.clone())
            } else {
                Some(MicroTime(wall))
            },
            renew_time: Some(MicroTime(wall)),
            lease_transitions: Some(match before {
                Some(_) if !is_mine => transitions.saturating_add(1),
                Some(_) | None => transitions,
            }),
            ..LeaseSpec::default()
        }
    }
}

/// A Lease that is held.
#[derive(Debug)]
pub struct Held {
    lost: CancellationToken,
    released: tokio::task::JoinHandle<()>,
    vacated: Option<Vacated>,
}

impl Held {
    /// Cancelled when it could not be renewed in time: whoever led must stop at once.
    #[must_use]
    pub fn lost(&self) -> &CancellationToken {
        &self.lost
    }

    /// What is known of the one who held it before, which may have been an earlier process of this replica; `None`: nobody ever did.
    #[must_use]
    pub fn vacated(&self) -> Option<Vacated> {
        self.vacated
    }

    /// Waits until it was given back, after the token given to [`acquire`] was cancelled: the next one need not wait for its end.
    pub async fn released(self) {
        // Whether it panicked or not, there is nothing more to do.
        if let Err(error) = self.released.await {
            tracing::warn!(%error, "renewing the lease ended early");
        }
    }
}

/// Waits until this replica leads; `None` when `shutdown` came first. It goes on renewing until `shutdown`, and gives the Lease back then. What
/// the Lease says is told to `seen`, before and after.
pub async fn acquire(
    client: Client,
    election: Election,
    seen: &watch::Sender<Option<Seen>>,
    shutdown: CancellationToken,
) -> Option<Held> {
    let api: Api<Lease> = Api::namespaced(client, &election.namespace);
    let mut candidate = Candidate::new(&election.identity, election.timing);
    loop {
        match attempt(&api, &election, &mut candidate, seen).await {
            Ok(true) => break,
            Ok(false) => {}
            Err(error) => {
                let error = crate::error_chain::chain(&error);
                tracing::warn!(lease = election.name, %error, "the lease could not be read or written; tried again");
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => return None,
            () = tokio::time::sleep(election.timing.retry) => {}
        }
    }
    tracing::info!(lease = election.name, identity = election.identity, "leads");
    let lost = CancellationToken::new();
    let vacated = candidate.vacated();
    let released = tokio::spawn(hold(api, election, candidate, seen.clone(), lost.clone(), shutdown));
    Some(Held {
        lost,
        released,
        vacated,
    })
}

async fn hold(
    api: Api<Lease>,
    election: Election,
    mut candidate: Candidate,
    seen: watch::Sender<Option<Seen>>,
    lost: CancellationToken,
    shutdown: CancellationToken,
) {
    let mut renewed = Instant::now();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            () = tokio::time::sleep(election.timing.retry) => {}
        }
        let deadline = renewed + election.timing.renew;
        let began = Instant::now();
        match tokio::time::timeout_at(deadline, attempt(&api, &election, &mut candidate, &seen)).await {
            Ok(Ok(true)) => renewed = began,
            Ok(Ok(false)) => {
                tracing::error!(lease = election.name, "another replica has taken the lease");
                lost.cancel();
                return;
            }
            Ok(Err(error)) => {
                let error = crate::error_chain::chain(&error);
                tracing::warn!(lease = election.name, %error, "the lease was not renewed");
            }
            Err(_) => {}
        }
        if Instant::now() >= deadline {
            tracing::error!(lease = election.name, "the lease could not be renewed in time");
            lost.cancel();
            return;
        }
    }
    if let Err(error) = release(&api, &election).await {
        let error = crate::error_chain::chain(&error);
        tracing::warn!(lease = election.name, %error, "the lease could not be given back");
    }
}

/// Whether it is held now.
async fn attempt(
    api: &Api<Lease>,
    election: &Election,
    candidate: &mut Candidate,
    seen: &watch::Sender<Option<Seen>>,
) -> kube::Result<bool> {
    let present = api.get_opt(&election.name).await?;
    let spec = present.as_ref().and_then(|lease| lease.spec.as_ref());
    let step = candidate.read(spec, Instant::now(), Timestamp::now());
    let wanted = match step {
        Step::Write(spec) => spec,
        Step::Wait => {
            tell(seen, present.as_ref(), election);
            return Ok(false);
        }
    };
    let parameters = PostParams::default();
    let mut lease = present.clone().unwrap_or_else(|| Lease {
        metadata: ObjectMeta {
            name: Some(election.name.clone()),
            namespace: Some(election.namespace.clone()),
            ..ObjectMeta::default()
        },
        spec: None,
    });
    lease.spec = Some(wanted);
    annotate(&mut lease, election);
    let written = if present.is_some() {
        // With its resourceVersion, so that of two only one succeeds.
        api.replace(&election.name, &parameters, &lease).await
    } else {
        api.create(&parameters, &lease).await
    };
    match written {
        Ok(lease) => {
            tell(seen, Some(&lease), election);
            Ok(true)
        }
        // Another was faster; the next look will tell.
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(error),
    }
}

fn annotate(lease: &mut Lease, election: &Election) {
    let annotations = lease.metadata.annotations.get_or_insert_default();
    for (key, value) in &election.annotations {
        if value.is_empty() {
            annotations.remove(key);
        } else {
            annotations.insert(key.clone(), value.clone());
        }
    }
}

fn tell(seen: &watch::Sender<Option<Seen>>, lease: Option<&Lease>, election: &Election) {
    let now = lease.map(|lease| {
        let spec = lease.spec.as_ref();
        let holder = spec.and_then(|spec| spec.holder_identity.clone()).unwrap_or_default();
        Seen {
            is_mine: holder == election.identity,
            holder,
            annotations: lease.metadata.annotations.clone().unwrap_or_default(),
        }
    });
    seen.send_if_modified(|before| {
        let differs = *before != now;
        *before = now;
        differs
    });
}

async fn release(api: &Api<Lease>, election: &Election) -> kube::Result<()> {
    let Some(mut lease) = api.get_opt(&election.name).await? else {
        return Ok(());
    };
    let Some(spec) = lease
        .spec
        .as_mut()
        .filter(|spec| spec.holder_identity.as_deref() == Some(&election.identity))
    else {
        return Ok(());
    };
    spec.holder_identity = Some(String::new());
    spec.lease_duration_seconds = Some(1);
    api.replace(&election.name, &PostParams::default(), &lease)
        .await
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wall(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn written(step: Step) -> LeaseSpec {
        match step {
            Step::Write(spec) => spec,
            Step::Wait => panic!("should write"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_nobody_holds_is_taken() {
        let mut a = Candidate::new("a", Timing::DEFAULT);
        let first = written(a.read(None, Instant::now(), wall(1)));
        assert_eq!(first.holder_identity.as_deref(), Some("a"));
        assert_eq!(first.lease_transitions, Some(0));
        let given_back = LeaseSpec {
            holder_identity: Some(String::new()),
            ..first
        };
        let mut b = Candidate::new("b", Timing::DEFAULT);
        let second = written(b.read(Some(&given_back), Instant::now(), wall(2)));
        assert_eq!(second.lease_transitions, Some(1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_holder_that_renews_is_never_replaced_whatever_its_clock_says() {
        let mut a = Candidate::new("a", Timing::DEFAULT);
        let mut b = Candidate::new("b", Timing::DEFAULT);
        let start = Instant::now();
        let mut lease = written(a.read(None, start, wall(-1_000_000)));
        for round in 1..20 {
            let now = start + Duration::from_secs(10 * round);
            assert_eq!(b.read(Some(&lease), now, wall(5)), Step::Wait);
            lease = written(a.read(Some(&lease), now, wall(-1_000_000 + i64::try_from(round).unwrap())));
        }
        assert_eq!(lease.lease_transitions, Some(0));
        assert_eq!(lease.acquire_time, Some(MicroTime(wall(-1_000_000))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_holder_that_is_silent_is_replaced_after_its_time() {
        let mut a = Candidate::new("a", Timing::DEFAULT);
        let mut b = Candidate::new("b", Timing::DEFAULT);
        let start = Instant::now();
        let lease = written(a.read(None, start, wall(1)));
        assert_eq!(b.read(Some(&lease), start, wall(1)), Step::Wait);
        let known = |b: &Candidate| b.vacated().map(|vacated| (vacated.at, vacated.was_held));
        assert_eq!(known(&b), Some((start, false)));
        let almost = start + Duration::from_millis(14_999);
        assert_eq!(b.read(Some(&lease), almost, wall(1)), Step::Wait);
        let after = written(b.read(Some(&lease), start + Duration::from_secs(15), wall(16)));
        assert_eq!(after.holder_identity.as_deref(), Some("b"));
        assert_eq!(known(&b), Some((start, false)), "since then nobody has held it");
        b.read(Some(&after), start + Duration::from_secs(16), wall(17));
        assert_eq!(known(&b), Some((start + Duration::from_secs(16), true)));
        assert_eq!(
            a.read(Some(&after), start + Duration::from_secs(16), wall(17)),
            Step::Wait
        );
    }
}
