//! Messages for people to read: what a message says of itself for debugging, as a tree without what is at its default, and with packed
//! messages unpacked.
//!
//! Must not know: which fields there are, so that none can be forgotten.

use kubelb_xds::pb::envoy::config::cluster::v3::Cluster;
use kubelb_xds::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use kubelb_xds::pb::envoy::config::listener::v3::Listener;
use kubelb_xds::pb::envoy::config::route::v3::RouteConfiguration;
use kubelb_xds::pb::envoy::extensions::access_loggers::stream::v3::StdoutAccessLog;
use kubelb_xds::pb::envoy::extensions::filters::http::cors::v3::{Cors, CorsPolicy};
use kubelb_xds::pb::envoy::extensions::filters::http::router::v3::Router;
use kubelb_xds::pb::envoy::extensions::filters::listener::tls_inspector::v3::TlsInspector;
use kubelb_xds::pb::envoy::extensions::filters::network::connection_limit::v3::ConnectionLimit;
use kubelb_xds::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use kubelb_xds::pb::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;
use kubelb_xds::pb::envoy::extensions::filters::udp::udp_proxy::v3::{Route, UdpProxyConfig};
use kubelb_xds::pb::envoy::extensions::matching::common_inputs::network::v3::SourceIpInput;
use kubelb_xds::pb::envoy::extensions::matching::input_matchers::ip::v3::Ip;
use kubelb_xds::pb::envoy::extensions::transport_sockets::proxy_protocol::v3::ProxyProtocolUpstreamTransport;
use kubelb_xds::pb::envoy::extensions::transport_sockets::raw_buffer::v3::RawBuffer;
use kubelb_xds::pb::envoy::extensions::transport_sockets::tls::v3::DownstreamTlsContext;
use kubelb_xds::pb::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
use kubelb_xds::pb::google::protobuf::Any;
use prost::{Message, Name};
use serde_json::{Map, Value};

/// The message in an `Any`, given by its bytes.
pub(crate) fn show(any: &[u8]) -> Value {
    unpack(&Any::decode(any).unwrap())
}

fn unpack(any: &Any) -> Value {
    let readers = [
        debug::<Cluster>,
        debug::<ClusterLoadAssignment>,
        debug::<Listener>,
        debug::<TcpProxy>,
        debug::<UdpProxyConfig>,
        debug::<Route>,
        debug::<SourceIpInput>,
        debug::<Ip>,
        debug::<ProxyProtocolUpstreamTransport>,
        debug::<RawBuffer>,
        debug::<RouteConfiguration>,
        debug::<HttpConnectionManager>,
        debug::<Router>,
        debug::<Cors>,
        debug::<CorsPolicy>,
        debug::<TlsInspector>,
        debug::<ConnectionLimit>,
        debug::<StdoutAccessLog>,
        debug::<DownstreamTlsContext>,
        debug::<HttpProtocolOptions>,
        virtual_address,
    ];
    let text = readers
        .iter()
        .find_map(|read| read(any))
        .unwrap_or_else(|| panic!("no reader for {}", any.type_url));
    let mut tree = Reader { rest: &text }.value();
    if !tree.is_object() {
        tree = Value::Object(Map::new());
    }
    tree["@type"] = any.type_url.rsplit('/').next().unwrap().into();
    tree
}

fn debug<M: Message + Name + Default + std::fmt::Debug>(any: &Any) -> Option<String> {
    (any.type_url == M::type_url()).then(|| format!("{:?}", M::decode(any.value.as_slice()).unwrap()))
}

fn virtual_address(any: &Any) -> Option<String> {
    use kubelb_xds::contract::VirtualAddress;
    let is_one = any.type_url.ends_with("kubelb.v1alpha1.VirtualAddress");
    is_one.then(|| format!("{:?}", VirtualAddress::decode(any.value.as_slice()).unwrap()))
}

/// Reads what `{:?}` writes.
struct Reader<'a> {
    rest: &'a str,
}

impl Reader<'_> {
    fn value(&mut self) -> Value {
        self.space();
        match self.rest.chars().next().unwrap() {
            '"' => self.text().into(),
            '[' => self.list('[', ']').into(),
            '{' => self.map(),
            _ => self.word_and_more(),
        }
    }

    fn word_and_more(&mut self) -> Value {
        let end = self
            .rest
            .find([' ', ',', '(', ')', '{', '}', '[', ']', ':'])
            .unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        if self.rest.starts_with(" {") {
            self.space();
            let fields = self.map();
            return if word == "Any" { unpack(&any(&fields)) } else { fields };
        }
        if self.rest.starts_with('(') {
            let mut inner = self.list('(', ')');
            let inner = if inner.len() == 1 {
                inner.remove(0)
            } else {
                inner.into()
            };
            return if word == "Some" {
                inner
            } else {
                Value::from_iter([(word.to_owned(), inner)])
            };
        }
        match word {
            "None" => Value::Null,
            "true" => true.into(),
            "false" => false.into(),
            number if number.starts_with(|first: char| first.is_ascii_digit() || first == '-') => {
                serde_json::from_str(number).unwrap()
            }
            word => word.into(),
        }
    }

    /// Names, or values, each with a value; what is at its default is left out.
    fn map(&mut self) -> Value {
        let mut map = Map::new();
        self.expect('{');
        while !self.ends('}') {
            let key = if self.rest.starts_with('"') {
                self.text()
            } else {
                let (key, rest) = self.rest.split_once(':').unwrap();
                self.rest = &self.rest[self.rest.len() - rest.len() - 1..];
                key.to_owned()
            };
            self.expect(':');
            let value = self.value();
            // The bytes of a packed message stay, also when there are none.
            let is_default = match &value {
                Value::Null | Value::Bool(false) => true,
                Value::Number(number) => number.as_f64() == Some(0.0),
                Value::String(text) => text.is_empty(),
                Value::Array(list) => list.is_empty() && key != "value",
                Value::Object(_) | Value::Bool(true) => false,
            };
            if !is_default {
                map.insert(key, value);
            }
        }
        map.into()
    }

    fn list(&mut self, open: char, close: char) -> Vec<Value> {
        let mut list = Vec::new();
        self.expect(open);
        while !self.ends(close) {
            list.push(self.value());
        }
        list
    }

    fn text(&mut self) -> String {
        let mut escaped = false;
        let end = self.rest.char_indices().skip(1).find(|(_, c)| {
            let ends = *c == '"' && !escaped;
            escaped = *c == '\\' && !escaped;
            ends
        });
        let (literal, rest) = self.rest.split_at(end.unwrap().0 + 1);
        self.rest = rest;
        serde_json::from_str(literal).unwrap()
    }

    fn ends(&mut self, close: char) -> bool {
        self.space();
        if let Some(rest) = self.rest.strip_prefix(',') {
            self.rest = rest;
            self.space();
        }
        let ended = self.rest.strip_prefix(close);
        self.rest = ended.unwrap_or(self.rest);
        ended.is_some()
    }

    fn expect(&mut self, wanted: char) {
        self.space();
        self.rest = self
            .rest
            .strip_prefix(wanted)
            .unwrap_or_else(|| panic!("no {wanted} at {}", self.rest));
    }

    fn space(&mut self) {
        self.rest = self.rest.trim_start();
    }
}

fn any(fields: &Value) -> Any {
    let bytes = fields["value"].as_array().into_iter().flatten();
    Any {
        type_url: fields["type_url"].as_str().unwrap().to_owned(),
        value: bytes
            .map(|byte| u8::try_from(byte.as_u64().unwrap()).unwrap())
            .collect(),
    }
}
