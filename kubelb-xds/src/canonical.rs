//! One encoding for one message. Protobuf maps are hash maps in Rust, so that two encodings of one message differ in the order of their
//! entries, and so would the versions made from them. This sorts the entries by key, where the messages that kubelb sends have maps.
//!
//! Owns the places of those maps. A map that is not listed keeps its order: never wrong, at worst sent again.

use std::collections::BTreeMap;

use prost::encoding::{encode_varint, encoded_len_varint};

/// Which fields of a message hold maps, or messages that do.
struct Schema(&'static [(u64, Child)]);

enum Child {
    Message(&'static Schema),
    /// Entries of key (field 1, a string) and value (field 2).
    Map(&'static Schema),
    /// `google.protobuf.Any`.
    Any,
}

use Child::{Any, Map, Message};

static STRUCT: Schema = Schema(&[(1, Map(&VALUE))]);
static VALUE: Schema = Schema(&[(5, Message(&STRUCT)), (6, Message(&LIST))]);
static LIST: Schema = Schema(&[(1, Message(&VALUE))]);
/// What `Any` becomes when it stands as a map's value.
static ANY: Schema = Schema(&[]);
static METADATA: Schema = Schema(&[(1, Map(&STRUCT)), (2, Map(&ANY))]);
/// `TransportSocket`, and a filter whose `typed_config` is field 3.
static TYPED_3: Schema = Schema(&[(3, Any)]);
/// Filters and access logs: `typed_config` is field 4.
static TYPED_4: Schema = Schema(&[(4, Any)]);

static ENDPOINTS: Schema = Schema(&[(2, Message(&LOCALITY)), (5, Map(&ANY))]);
static LOCALITY: Schema = Schema(&[(2, Message(&LB_ENDPOINT)), (9, Message(&METADATA))]);
static LB_ENDPOINT: Schema = Schema(&[(3, Message(&METADATA))]);

static CLUSTER: Schema = Schema(&[
    (24, Message(&TYPED_3)),
    (25, Message(&METADATA)),
    (33, Message(&ENDPOINTS)),
    (36, Map(&ANY)),
    (43, Message(&SOCKET_MATCH)),
]);
static SOCKET_MATCH: Schema = Schema(&[(2, Message(&STRUCT)), (3, Message(&TYPED_3))]);

static LISTENER: Schema = Schema(&[
    (3, Message(&FILTER_CHAIN)),
    (6, Message(&METADATA)),
    (9, Message(&TYPED_3)),
    (25, Message(&FILTER_CHAIN)),
]);
static FILTER_CHAIN: Schema = Schema(&[(3, Message(&TYPED_4)), (5, Message(&METADATA)), (6, Message(&TYPED_3))]);
static CONNECTION_MANAGER: Schema = Schema(&[(4, Message(&ROUTES)), (5, Message(&TYPED_4)), (13, Message(&TYPED_4))]);
static TCP_PROXY: Schema = Schema(&[(9, Message(&METADATA))]);
static FILE_ACCESS_LOG: Schema = Schema(&[(5, Message(&LOG_FORMAT))]);
static STREAM_ACCESS_LOG: Schema = Schema(&[(1, Message(&LOG_FORMAT))]);
static LOG_FORMAT: Schema = Schema(&[(2, Message(&STRUCT))]);

static ROUTES: Schema = Schema(&[(2, Message(&VIRTUAL_HOST)), (16, Map(&ANY)), (17, Message(&METADATA))]);
static VIRTUAL_HOST: Schema = Schema(&[(3, Message(&ROUTE)), (15, Map(&ANY)), (24, Message(&METADATA))]);
static ROUTE: Schema = Schema(&[(2, Message(&ROUTE_ACTION)), (4, Message(&METADATA)), (13, Map(&ANY))]);
static ROUTE_ACTION: Schema = Schema(&[(3, Message(&WEIGHTED)), (4, Message(&METADATA))]);
static WEIGHTED: Schema = Schema(&[(1, Message(&CLUSTER_WEIGHT))]);
static CLUSTER_WEIGHT: Schema = Schema(&[(3, Message(&METADATA)), (10, Map(&ANY))]);

fn schema(type_url: &str) -> Option<&'static Schema> {
    Some(match type_url.strip_prefix("type.googleapis.com/")? {
        "envoy.config.cluster.v3.Cluster" => &CLUSTER,
        "envoy.config.endpoint.v3.ClusterLoadAssignment" => &ENDPOINTS,
        "envoy.config.listener.v3.Listener" => &LISTENER,
        "envoy.config.route.v3.RouteConfiguration" => &ROUTES,
        "envoy.config.route.v3.VirtualHost" => &VIRTUAL_HOST,
        "envoy.extensions.access_loggers.file.v3.FileAccessLog" => &FILE_ACCESS_LOG,
        "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog"
        | "envoy.extensions.access_loggers.stream.v3.StderrAccessLog" => &STREAM_ACCESS_LOG,
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager" => &CONNECTION_MANAGER,
        "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy" => &TCP_PROXY,
        "google.protobuf.Struct" => &STRUCT,
        _ => return None,
    })
}

/// `encoded` with the entries of its maps in the order of their keys. Bytes that are no message come back as they are.
pub(crate) fn canonical(type_url: &str, encoded: Vec<u8>) -> Vec<u8> {
    let sorted = schema(type_url).and_then(|schema| sorted(schema, &encoded));
    sorted.unwrap_or(encoded)
}

fn sorted(schema: &Schema, bytes: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(bytes.len());
    // Entries of the map that is being read; prost writes a map's entries one after the other.
    let mut entries: BTreeMap<&[u8], Vec<u8>> = BTreeMap::new();
    let mut open = None;
    let mut rest = bytes;
    while !rest.is_empty() {
        let field = Field::read(&mut rest)?;
        if open.is_some_and(|number| number != field.number) {
            flush(&mut open, &mut entries, &mut out);
        }
        let child = schema.0.iter().find(|(number, _)| *number == field.number);
        match (child.map(|(_, child)| child), field.payload) {
            (Some(Map(value)), Some(payload)) => {
                open = Some(field.number);
                entries.insert(map_key(payload)?, map_entry(value, payload)?);
            }
            (Some(Message(schema)), Some(payload)) => put(field.number, &sorted(schema, payload)?, &mut out),
            (Some(Any), Some(payload)) => put(field.number, &any(payload)?, &mut out),
            _ => out.extend_from_slice(field.raw),
        }
    }
    flush(&mut open, &mut entries, &mut out);
    Some(out)
}

fn flush(open: &mut Option<u64>, entries: &mut BTreeMap<&[u8], Vec<u8>>, out: &mut Vec<u8>) {
    if let Some(number) = open.take() {
        for entry in std::mem::take(entries).into_values() {
            put(number, &entry, out);
        }
    }
}

fn map_key(entry: &[u8]) -> Option<&[u8]> {
    let mut rest = entry;
    while !rest.is_empty() {
        let field = Field::read(&mut rest)?;
        if field.number == 1 {
            return field.payload;
        }
    }
    // Protobuf leaves out an empty key.
    Some(&[])
}

fn map_entry(value: &'static Schema, entry: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(entry.len());
    let mut rest = entry;
    while !rest.is_empty() {
        let field = Field::read(&mut rest)?;
        match field.payload {
            Some(payload) if field.number == 2 && std::ptr::eq(value, &ANY) => put(2, &any(payload)?, &mut out),
            Some(payload) if field.number == 2 => put(2, &sorted(value, payload)?, &mut out),
            _ => out.extend_from_slice(field.raw),
        }
    }
    Some(out)
}

fn any(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut inner = None;
    let mut rest = bytes;
    while !rest.is_empty() {
        let field = Field::read(&mut rest)?;
        match (field.number, field.payload, inner) {
            (1, Some(url), _) => {
                inner = schema(std::str::from_utf8(url).ok()?);
                out.extend_from_slice(field.raw);
            }
            (2, Some(payload), Some(schema)) => put(2, &sorted(schema, payload)?, &mut out),
            _ => out.extend_from_slice(field.raw),
        }
    }
    Some(out)
}

/// Writes a length-delimited field.
pub(crate) fn put(number: u64, payload: &[u8], out: &mut Vec<u8>) {
    // Wire type 2: length-delimited.
    encode_varint(number << 3 | 2, out);
    encode_varint(payload.len() as u64, out);
    out.extend_from_slice(payload);
}

/// Length of [`put`]'s output for field numbers below 16.
pub(crate) fn delimited_len(payload: usize) -> usize {
    1 + encoded_len_varint(payload as u64) + payload
}

/// One field of a message on the wire.
pub(crate) struct Field<'a> {
    pub(crate) number: u64,
    /// With its key.
    pub(crate) raw: &'a [u8],
    /// Of a length-delimited field.
    payload: Option<&'a [u8]>,
}

impl<'a> Field<'a> {
    /// Takes the first field off; `None` when the bytes are no message.
    pub(crate) fn read(rest: &mut &'a [u8]) -> Option<Self> {
        let start = *rest;
        let key = varint(rest)?;
        let mut payload = None;
        match key & 7 {
            0 => {
                varint(rest)?;
            }
            1 => *rest = rest.get(8..)?,
            2 => {
                let length = usize::try_from(varint(rest)?).ok()?;
                let (taken, after) = rest.split_at_checked(length)?;
                payload = Some(taken);
                *rest = after;
            }
            5 => *rest = rest.get(4..)?,
            _ => return None,
        }
        Some(Self {
            number: key >> 3,
            raw: start.get(..start.len() - rest.len())?,
            payload,
        })
    }
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    prost::encoding::decode_varint(rest).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message as _;

    use super::canonical;
    use crate::pb::envoy::config::cluster::v3::Cluster;
    use crate::pb::envoy::config::core::v3::Metadata;
    use crate::pb::google::protobuf::value::Kind;
    use crate::pb::google::protobuf::{Any as AnyMessage, ListValue, Struct, Value};

    const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";

    fn structure(depth: u32) -> Struct {
        let value = |index: u32| {
            let kind = match (depth, index % 3) {
                (0, _) | (_, 0) => Kind::NumberValue(index.into()),
                (_, 1) => Kind::StructValue(structure(depth - 1)),
                _ => Kind::ListValue(ListValue {
                    values: vec![Value {
                        kind: Some(Kind::StructValue(structure(depth - 1))),
                    }],
                }),
            };
            Value { kind: Some(kind) }
        };
        Struct {
            fields: (0..7).map(|index| (format!("key-{index}"), value(index))).collect(),
        }
    }

    fn cluster() -> Cluster {
        let packed = |index: u32| AnyMessage {
            type_url: "type.googleapis.com/google.protobuf.Struct".to_owned(),
            value: structure(index % 2).encode_to_vec(),
        };
        Cluster {
            name: "a".to_owned(),
            metadata: Some(Metadata {
                filter_metadata: (0..5).map(|index| (format!("m{index}"), structure(2))).collect(),
                typed_filter_metadata: (0..5).map(|index| (format!("t{index}"), packed(index))).collect(),
            }),
            typed_extension_protocol_options: (0..5).map(|index| (format!("p{index}"), packed(index))).collect(),
            ..Cluster::default()
        }
    }

    #[test]
    fn one_message_has_one_encoding() {
        let first = canonical(CLUSTER, cluster().encode_to_vec());
        assert_ne!(cluster().encode_to_vec(), cluster().encode_to_vec(), "nothing to sort");
        for _ in 0..10 {
            assert_eq!(canonical(CLUSTER, cluster().encode_to_vec()), first);
        }
        assert_eq!(first.len(), cluster().encoded_len());
        assert_eq!(Cluster::decode(first.as_slice()).unwrap().name, "a");
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_strange(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            canonical(CLUSTER, bytes);
        }
    }
}
