//! Conditions in the status of every kind: their types, and how one changes.
//!
//! Reasons belong to those who write them: a reason names what one writer found. Must not know: the clock; the time is an argument.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// The type of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConditionType {
    /// The object is valid and allowed, and is part of the configuration.
    Accepted,
    /// Everything that the object refers to was found and may be used.
    ResolvedRefs,
    /// The object has the address it needs.
    AddressAssigned,
    /// Data planes serve what the object asks for.
    Programmed,
    /// At least one backend is healthy; false also says that all of them get traffic.
    BackendsHealthy,
    /// The tenant is registered: its namespace and its credentials exist.
    Ready,
    /// The Secret that a SyncSecret carries exists.
    Synced,
    /// Gateway API, of a listener: another one cannot be told from it.
    Conflicted,
    /// Gateway API, of a route: some of its rules are not served.
    PartiallyInvalid,
    /// Gateway API, of a Gateway: clients are let in without a certificate that can be verified.
    InsecureFrontendValidationMode,
    /// KubeLB's only condition of a Route's resources: the copy in the management cluster was written.
    ResourceAppliedSuccessfully,
}

impl ConditionType {
    /// The type as it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "Accepted",
            Self::ResolvedRefs => "ResolvedRefs",
            Self::AddressAssigned => "AddressAssigned",
            Self::Programmed => "Programmed",
            Self::BackendsHealthy => "BackendsHealthy",
            Self::Ready => "Ready",
            Self::Synced => "Synced",
            Self::Conflicted => "Conflicted",
            Self::PartiallyInvalid => "PartiallyInvalid",
            Self::InsecureFrontendValidationMode => "InsecureFrontendValidationMode",
            Self::ResourceAppliedSuccessfully => "ResourceAppliedSuccessfully",
        }
    }
}

/// Reason of `Ready` in a TenantState, and of `kubelb.k8c.io/Submitted` of the tenant's Services: the tenant is deleted. The manager says it before it
/// takes the tenant's rights away, so that the tenant's CCM hears of it.
pub const TENANT_DELETED: &str = "TenantDeleted";

/// The status of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConditionStatus {
    /// It holds.
    True,
    /// It does not hold.
    False,
    /// Nobody knows yet.
    Unknown,
}

impl ConditionStatus {
    /// The status as it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

impl From<bool> for ConditionStatus {
    fn from(holds: bool) -> Self {
        if holds { Self::True } else { Self::False }
    }
}

/// What a writer says about one condition of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation<'a> {
    /// Which condition.
    pub condition: ConditionType,
    /// Whether it holds.
    pub status: ConditionStatus,
    /// One word in CamelCase for programs.
    pub reason: &'a str,
    /// A sentence for people; names the field where a field is at fault.
    pub message: &'a str,
    /// `metadata.generation` of the object that was looked at.
    pub generation: Option<i64>,
}

/// Notes an observation; whether that changed anything. The time of transition moves with the status only, as the API conventions
/// of Kubernetes say, so that writing the same again is no change.
pub fn set(conditions: &mut Vec<Condition>, observation: &Observation<'_>, now: &Time) -> bool {
    let type_ = observation.condition.as_str();
    let mut wanted = Condition {
        last_transition_time: now.clone(),
        message: observation.message.to_owned(),
        observed_generation: observation.generation,
        reason: observation.reason.to_owned(),
        status: observation.status.as_str().to_owned(),
        type_: type_.to_owned(),
    };
    let Some(present) = conditions.iter_mut().find(|condition| condition.type_ == type_) else {
        conditions.push(wanted);
        return true;
    };
    if present.status == wanted.status {
        wanted.last_transition_time = present.last_transition_time.clone();
    }
    let changed = *present != wanted;
    *present = wanted;
    changed
}

/// The condition of this type.
#[must_use]
pub fn get(conditions: &[Condition], condition: ConditionType) -> Option<&Condition> {
    conditions.iter().find(|present| present.type_ == condition.as_str())
}

/// Whether the condition is there, is true, and is about this generation of the object.
#[must_use]
pub fn holds(conditions: &[Condition], condition: ConditionType, generation: Option<i64>) -> bool {
    get(conditions, condition).is_some_and(|present| {
        present.status == ConditionStatus::True.as_str() && present.observed_generation == generation
    })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::Timestamp;

    use super::*;

    fn at(seconds: i64) -> Time {
        Time(Timestamp::from_second(seconds).unwrap())
    }

    fn programmed(status: ConditionStatus, message: &str, generation: i64) -> Observation<'_> {
        Observation {
            condition: ConditionType::Programmed,
            status,
            reason: "Test",
            message,
            generation: Some(generation),
        }
    }

    #[test]
    fn the_time_moves_with_the_status_only() {
        let mut conditions = Vec::new();
        assert!(set(
            &mut conditions,
            &programmed(ConditionStatus::False, "waits", 1),
            &at(10)
        ));
        assert!(!set(
            &mut conditions,
            &programmed(ConditionStatus::False, "waits", 1),
            &at(20)
        ));
        assert!(set(
            &mut conditions,
            &programmed(ConditionStatus::False, "waits longer", 2),
            &at(30)
        ));
        assert_eq!(conditions[0].last_transition_time, at(10));
        assert!(set(&mut conditions, &programmed(ConditionStatus::True, "", 2), &at(40)));
        assert_eq!(conditions[0].last_transition_time, at(40));
        assert_eq!(conditions.len(), 1);
    }

    #[test]
    fn a_condition_about_an_older_generation_does_not_hold() {
        let mut conditions = Vec::new();
        set(&mut conditions, &programmed(true.into(), "", 1), &at(10));
        assert!(holds(&conditions, ConditionType::Programmed, Some(1)));
        assert!(!holds(&conditions, ConditionType::Programmed, Some(2)));
        assert!(!holds(&conditions, ConditionType::Accepted, Some(1)));
    }
}
