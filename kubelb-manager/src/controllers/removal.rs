//! In which order a tenant's objects go. No I/O, no clock.
//!
//! The tenant's rights go first, so that nothing comes back; then what it made; then what was made for it; then the namespace, when a manager
//! made that. Killed between any two steps, the next look goes on where the last one stopped.

use kube::core::ObjectMeta;
use kubelb_api::finalizers::Finalizer;

use super::registration::Standing;

/// Objects that are named in one message; the rest is counted.
const MAX_NAMED: usize = 5;

/// An object that the tenant made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Remaining {
    /// Its kind.
    pub(crate) kind: &'static str,
    /// Its name.
    pub(crate) name: String,
    /// What it has to be unchanged by, to be changed.
    pub(crate) resource_version: Option<String>,
    /// Whether it is being deleted.
    pub(crate) is_going: bool,
    /// What holds it.
    pub(crate) finalizers: Vec<String>,
}

impl Remaining {
    /// What is left of an object.
    pub(crate) fn new(kind: &'static str, metadata: ObjectMeta) -> Self {
        Self {
            kind,
            name: metadata.name.unwrap_or_default(),
            resource_version: metadata.resource_version,
            is_going: metadata.deletion_timestamp.is_some(),
            finalizers: metadata.finalizers.unwrap_or_default(),
        }
    }

    /// The finalizers that are others' to take off.
    pub(crate) fn foreign(&self) -> Vec<String> {
        let is_ours = |finalizer: &&String| Finalizer::ALL.iter().any(|ours| ours.as_str() == *finalizer);
        self.finalizers
            .iter()
            .filter(|finalizer| !is_ours(finalizer))
            .cloned()
            .collect()
    }
}

/// The tenant's namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Whose it is.
    pub(crate) standing: Standing,
    /// Whether it is being deleted.
    pub(crate) is_going: bool,
    /// What its own conditions say keeps it.
    pub(crate) kept_by: Vec<String>,
}

/// What is left of a tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Remains {
    /// `None`: gone.
    pub(crate) place: Option<Place>,
    /// Whether its CCM still may do something.
    pub(crate) is_bound: bool,
    /// What it made.
    pub(crate) objects: Vec<Remaining>,
    /// Whether anything of what was made for it is left in a namespace that stays.
    pub(crate) has_belongings: bool,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Take the tenant's rights away.
    Unbind,
    /// Delete what it made.
    Delete,
    /// Take our finalizers off these.
    TakeOff(Vec<Remaining>),
    /// Delete what was made for it.
    DeleteBelongings,
    /// Delete the namespace.
    DeleteNamespace,
    /// Wait until others have done their part: a reason, and what is waited for.
    Wait(&'static str, String),
    /// Nothing is left.
    Finish,
}

/// What to do next about what is left.
pub(crate) fn step(remains: &Remains) -> Step {
    let Some(place) = &remains.place else {
        return Step::Finish;
    };
    if place.standing == Standing::Foreign {
        // Nothing was ever made there.
        return Step::Finish;
    }
    if remains.is_bound {
        return Step::Unbind;
    }
    if remains.objects.iter().any(|object| !object.is_going) {
        return Step::Delete;
    }
    let ours: Vec<Remaining> = remains
        .objects
        .iter()
        .filter(|object| object.foreign().len() != object.finalizers.len())
        .cloned()
        .collect();
    if !ours.is_empty() {
        return Step::TakeOff(ours);
    }
    if !remains.objects.is_empty() {
        return Step::Wait("WaitingForFinalizers", waited_for(&remains.objects));
    }
    match (place.standing, place.is_going) {
        (Standing::Made, false) => Step::DeleteNamespace,
        (Standing::Made, true) => Step::Wait("WaitingForNamespace", waited_for_namespace(place)),
        (Standing::Given | Standing::Foreign, _) if remains.has_belongings => Step::DeleteBelongings,
        (Standing::Given | Standing::Foreign, _) => Step::Finish,
    }
}

fn waited_for(objects: &[Remaining]) -> String {
    let named = objects.iter().take(MAX_NAMED).map(|object| {
        let finalizers = object.foreign().join(", ");
        if finalizers.is_empty() {
            format!("{} {}", object.kind, object.name)
        } else {
            format!("{} {} (metadata.finalizers: {finalizers})", object.kind, object.name)
        }
    });
    let named: Vec<String> = named.collect();
    let more = objects.len().saturating_sub(MAX_NAMED);
    let more = if more > 0 {
        format!(" and {more} more")
    } else {
        String::new()
    };
    format!(
        "waits for {}{more} to go; whoever set a finalizer takes it off when its work is done",
        named.join("; ")
    )
}

fn waited_for_namespace(place: &Place) -> String {
    if place.kept_by.is_empty() {
        "waits for the namespace to go".to_owned()
    } else {
        format!("waits for the namespace to go: {}", place.kept_by.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(name: &str, is_going: bool, finalizers: &[&str]) -> Remaining {
        Remaining {
            kind: "LoadBalancer",
            name: name.to_owned(),
            resource_version: None,
            is_going,
            finalizers: finalizers.iter().map(ToString::to_string).collect(),
        }
    }

    fn remains(standing: Standing) -> Remains {
        Remains {
            place: Some(Place {
                standing,
                is_going: false,
                kept_by: Vec::new(),
            }),
            is_bound: true,
            objects: vec![
                object("a", false, &["kubelb.k8c.io/cleanup", "example.com/theirs"]),
                object("b", false, &["kubelb.k8c.io/cleanup-envoy-proxy"]),
            ],
            has_belongings: true,
        }
    }

    #[test]
    fn rights_go_first_and_the_namespace_last() {
        let mut left = remains(Standing::Made);
        assert_eq!(step(&left), Step::Unbind);
        left.is_bound = false;
        assert_eq!(step(&left), Step::Delete);
        for object in &mut left.objects {
            object.is_going = true;
        }
        assert!(matches!(step(&left), Step::TakeOff(ours) if ours.len() == 2));
        left.objects = vec![object("a", true, &["example.com/theirs"])];
        let Step::Wait(reason, message) = step(&left) else {
            panic!("waits for others");
        };
        assert_eq!(reason, "WaitingForFinalizers");
        assert!(
            message.contains("LoadBalancer a (metadata.finalizers: example.com/theirs)"),
            "{message}"
        );
        left.objects.clear();
        assert_eq!(step(&left), Step::DeleteNamespace);
        if let Some(place) = &mut left.place {
            place.is_going = true;
            place.kept_by = vec!["Some resources are remaining: pods. has 1 resource instances".to_owned()];
        }
        assert!(matches!(step(&left), Step::Wait("WaitingForNamespace", why) if why.contains("pods")));
        left.place = None;
        assert_eq!(step(&left), Step::Finish);
    }

    #[test]
    fn a_namespace_that_was_given_stays_and_what_was_made_in_it_goes() {
        let mut left = Remains {
            objects: Vec::new(),
            is_bound: false,
            ..remains(Standing::Given)
        };
        assert_eq!(step(&left), Step::DeleteBelongings);
        left.has_belongings = false;
        assert_eq!(step(&left), Step::Finish);
    }

    #[test]
    fn what_was_never_the_tenants_is_not_touched() {
        assert_eq!(step(&remains(Standing::Foreign)), Step::Finish);
    }

    #[test]
    fn what_is_waited_for_is_named_and_the_rest_counted() {
        let objects: Vec<Remaining> = (0..7).map(|n| object(&n.to_string(), true, &["a/b"])).collect();
        let message = waited_for(&objects);
        assert!(
            message.contains("LoadBalancer 4 ") && message.contains("and 2 more"),
            "{message}"
        );
    }
}
