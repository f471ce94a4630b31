//! What Envoy logs of each request.

use kubelb_xds::pb::envoy::config::accesslog::v3 as pb;
use kubelb_xds::pb::envoy::config::core::v3 as core;
use kubelb_xds::pb::envoy::extensions::access_loggers::stream::v3 as stream;
use kubelb_xds::pb::google::protobuf::{Any, Struct, Value, value};
use prost::{Message as _, Name as _};

use crate::ir::http::AccessLog;

/// Fields of an object, and what they are.
const FIELDS: &[(&str, &str)] = &[
    ("time", "%START_TIME%"),
    ("method", "%REQ(:METHOD)%"),
    ("host", "%REQ(:AUTHORITY)%"),
    ("path", "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%"),
    ("protocol", "%PROTOCOL%"),
    ("status", "%RESPONSE_CODE%"),
    ("flags", "%RESPONSE_FLAGS%"),
    ("details", "%RESPONSE_CODE_DETAILS%"),
    ("bytesReceived", "%BYTES_RECEIVED%"),
    ("bytesSent", "%BYTES_SENT%"),
    ("milliseconds", "%DURATION%"),
    ("client", "%DOWNSTREAM_REMOTE_ADDRESS%"),
    ("forwardedFor", "%REQ(X-FORWARDED-FOR)%"),
    ("userAgent", "%REQ(USER-AGENT)%"),
    ("requestId", "%REQ(X-REQUEST-ID)%"),
    ("serverName", "%REQUESTED_SERVER_NAME%"),
    ("route", "%ROUTE_NAME%"),
    ("cluster", "%UPSTREAM_CLUSTER%"),
    ("endpoint", "%UPSTREAM_HOST%"),
];

/// The log of a listener.
pub(super) fn of(listener: &str, log: AccessLog) -> Option<pb::AccessLog> {
    let config = match log {
        AccessLog::Off => return None,
        AccessLog::Json => object(listener),
        AccessLog::Text => packed(stream::StdoutAccessLog::default().encode_to_vec()),
    };
    Some(pb::AccessLog {
        name: "envoy.access_loggers.stdout".to_owned(),
        config_type: Some(pb::access_log::ConfigType::TypedConfig(config)),
        ..pb::AccessLog::default()
    })
}

fn packed(value: Vec<u8>) -> Any {
    Any {
        type_url: stream::StdoutAccessLog::type_url(),
        value,
    }
}

/// A map has no order, and what is encoded must have one: messages that follow each other are merged by whoever reads them.
fn object(listener: &str) -> Any {
    let mut bytes = Vec::new();
    for (field, text) in [("listener", listener)].iter().chain(FIELDS) {
        let value = Value {
            kind: Some(value::Kind::StringValue((*text).to_owned())),
        };
        let part = Struct {
            fields: [((*field).to_owned(), value)].into(),
        };
        let format = core::SubstitutionFormatString {
            format: Some(core::substitution_format_string::Format::JsonFormat(part)),
            ..core::SubstitutionFormatString::default()
        };
        let log = stream::StdoutAccessLog {
            access_log_format: Some(stream::stdout_access_log::AccessLogFormat::LogFormat(format)),
        };
        bytes.extend(log.encode_to_vec());
    }
    packed(bytes)
}
