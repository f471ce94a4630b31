//! Tables of routes, put together of virtual hosts that are encoded already: one of thousands that changes is the only one that is translated.
//!
//! Must not know: what is in a virtual host.

use bytes::Bytes;
use prost::Message as _;

use crate::canonical::{Field, canonical, put};
use crate::pb::envoy::config::route::v3::{RouteConfiguration, VirtualHost};
use crate::resource::{Audience, Owner, Resource, XdsResource as _};
use crate::resource_type::ResourceType;

/// `RouteConfiguration.virtual_hosts`.
const VIRTUAL_HOSTS: u64 = 2;
const TYPE_URL: &str = "type.googleapis.com/envoy.config.route.v3.VirtualHost";

/// A virtual host, encoded as a field of its table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedHost(Bytes);

impl EncodedHost {
    /// Encodes one.
    #[must_use]
    pub fn new(host: &VirtualHost) -> Self {
        let mut field = Vec::new();
        put(VIRTUAL_HOSTS, &canonical(TYPE_URL, host.encode_to_vec()), &mut field);
        Self(field.into())
    }
}

impl Resource {
    /// A table of these virtual hosts; what else there is of it is in `rest`, which has none of its own. The same as [`Self::new`] makes of all
    /// of it.
    #[must_use]
    pub fn of_hosts(rest: &RouteConfiguration, hosts: &[EncodedHost], owner: Owner, audience: Audience) -> Self {
        let encoded = canonical(ResourceType::Route.type_url(), rest.encode_to_vec());
        // Fields are in the order of their numbers.
        let mut after = encoded.as_slice();
        let mut before = 0;
        while let Some(field) = Field::read(&mut after).filter(|field| field.number < VIRTUAL_HOSTS) {
            before += field.raw.len();
        }
        let (before, after) = encoded.split_at_checked(before).unwrap_or((&encoded, &[]));
        let len = hosts.iter().map(|host| host.0.len()).sum::<usize>() + encoded.len();
        let mut value = Vec::with_capacity(len);
        value.extend_from_slice(before);
        for host in hosts {
            value.extend_from_slice(&host.0);
        }
        value.extend_from_slice(after);
        Self::of(ResourceType::Route, rest.resource_name(), &value, owner, audience)
    }

    /// The virtual hosts of a table of routes, in their order; they share its memory. None of another resource.
    #[must_use]
    pub fn hosts(&self) -> Vec<EncodedHost> {
        if self.kind() != ResourceType::Route {
            return Vec::new();
        }
        let value = self.value_bytes();
        let mut hosts = Vec::new();
        let mut rest = &*value;
        while let Some(field) = Field::read(&mut rest) {
            if field.number == VIRTUAL_HOSTS {
                hosts.push(EncodedHost(value.slice_ref(field.raw)));
            }
        }
        hosts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::envoy::config::core::v3::{HeaderValue, HeaderValueOption};
    use crate::pb::google::protobuf::Any;

    fn host(name: &str) -> VirtualHost {
        let packed = |name: &str| {
            let any = Any {
                type_url: "x".to_owned(),
                value: vec![7; 200],
            };
            (name.to_owned(), any)
        };
        VirtualHost {
            name: name.to_owned(),
            domains: vec![name.to_owned()],
            typed_per_filter_config: ["d", "b", "c", "a"].map(packed).into(),
            ..VirtualHost::default()
        }
    }

    fn table(hosts: &[VirtualHost], headers: usize) -> RouteConfiguration {
        let header = HeaderValueOption {
            header: Some(HeaderValue {
                key: "a".to_owned(),
                ..HeaderValue::default()
            }),
            ..HeaderValueOption::default()
        };
        RouteConfiguration {
            name: "http/a/192.0.2.1/80".to_owned(),
            virtual_hosts: hosts.to_vec(),
            ignore_port_in_host_matching: true,
            response_headers_to_add: vec![header; headers],
            ..RouteConfiguration::default()
        }
    }

    #[test]
    fn a_table_of_parts_is_the_table_and_has_the_parts() {
        for count in [0, 1, 3, 100] {
            for headers in [0, 2] {
                let hosts: Vec<VirtualHost> = (0..count).map(|number| host(&format!("{number}.example"))).collect();
                let whole = Resource::new(&table(&hosts, headers), Owner::Shared, Audience::Fleets);
                let parts: Vec<EncodedHost> = hosts.iter().map(EncodedHost::new).collect();
                let joined = Resource::of_hosts(&table(&[], headers), &parts, Owner::Shared, Audience::Fleets);
                assert_eq!(joined.delta_bytes(), whole.delta_bytes());
                assert_eq!(joined.hosts(), parts);
                let decoded = RouteConfiguration::decode(joined.value_bytes()).unwrap();
                assert_eq!(decoded, table(&hosts, headers));
            }
        }
        let empty = Resource::of_hosts(&RouteConfiguration::default(), &[], Owner::Shared, Audience::Fleets);
        assert!(empty.hosts().is_empty());
    }
}
