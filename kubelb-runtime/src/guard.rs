//! Objects that their type cannot read, kept from those that it can: with one of them a watch would see nothing of its kind any more.

use kube::core::DeserializeGuard;
use kube::core::error_boundary::InvalidObject;
use kube::runtime::watcher::{Event, Result};

/// What a watch tells, without what cannot be read: of such an object `unreadable` is told, and the last version that could be read goes on
/// to be known until the kind is listed again.
pub fn readable<K>(
    event: Result<Event<DeserializeGuard<K>>>,
    unreadable: impl FnOnce(&InvalidObject),
) -> Option<Result<Event<K>>> {
    let (object, wrap): (_, fn(K) -> Event<K>) = match event {
        Err(error) => return Some(Err(error)),
        Ok(Event::Init) => return Some(Ok(Event::Init)),
        Ok(Event::InitDone) => return Some(Ok(Event::InitDone)),
        Ok(Event::InitApply(object)) => (object, Event::InitApply),
        Ok(Event::Apply(object)) => (object, Event::Apply),
        Ok(Event::Delete(object)) => (object, Event::Delete),
    };
    match object.0 {
        Ok(object) => Some(Ok(wrap(object))),
        Err(invalid) => {
            unreadable(&invalid);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::core::ObjectMeta;

    use super::*;

    #[test]
    fn one_that_cannot_be_read_is_told_of_and_left_out() {
        let invalid = InvalidObject {
            error: "no".to_owned(),
            metadata: ObjectMeta {
                name: Some("a".to_owned()),
                ..ObjectMeta::default()
            },
        };
        let mut told = None;
        let event: Result<Event<DeserializeGuard<ConfigMap>>> = Ok(Event::Apply(DeserializeGuard(Err(invalid))));
        assert!(readable(event, |invalid| told = invalid.metadata.name.clone()).is_none());
        assert_eq!(told.as_deref(), Some("a"));
        let event = Ok(Event::InitApply(DeserializeGuard(Ok(ConfigMap::default()))));
        let read = readable(event, |_| panic!("it can be read"));
        assert!(matches!(read, Some(Ok(Event::InitApply(_)))));
    }
}
