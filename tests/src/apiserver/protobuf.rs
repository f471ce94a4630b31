//! Protobuf, as far as clients insist on it: request bodies of typed Go clients are read, OpenAPI v2 is written.
//!
//! Everything else is answered in JSON, which those clients accept.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::fields::{Arity, Field, Fields};
use super::zeros;

const MAGIC: &[u8] = b"k8s\0";
const DEEPEST: usize = 64;

/// A body that can't be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WireError {
    #[error("not a protobuf body of this API")]
    Envelope,
    #[error("the message ends early or nests too deeply")]
    Message,
}

/// A body with its envelope: what it says it is, and the message.
#[derive(Debug)]
pub(crate) struct Envelope<'a> {
    pub(crate) api_version: String,
    pub(crate) kind: String,
    pub(crate) message: &'a [u8],
}

/// Opens the envelope (`runtime.Unknown`).
pub(crate) fn open(body: &[u8]) -> Result<Envelope<'_>, WireError> {
    let rest = body.strip_prefix(MAGIC).ok_or(WireError::Envelope)?;
    let mut envelope = Envelope {
        api_version: String::new(),
        kind: String::new(),
        message: &[],
    };
    for part in Parts(rest) {
        match part? {
            (1, Wire::Bytes(kind)) => {
                for part in Parts(kind) {
                    match part? {
                        (1, Wire::Bytes(text)) => envelope.api_version = utf8(text),
                        (2, Wire::Bytes(text)) => envelope.kind = utf8(text),
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(message)) => envelope.message = message,
            _ => {}
        }
    }
    Ok(envelope)
}

fn utf8(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A message of the built-in type `name` as JSON.
pub(crate) fn decode(fields: &Fields, name: &str, message: &[u8]) -> Result<Value, WireError> {
    decode_at(fields, name, message, 0)
}

fn decode_at(fields: &Fields, name: &str, message: &[u8], depth: usize) -> Result<Value, WireError> {
    if depth > DEEPEST {
        return Err(WireError::Message);
    }
    if let Some(value) = special(name, message)? {
        return Ok(value);
    }
    let mut object = Map::new();
    let Some(known) = fields.message(name) else {
        return Ok(Value::Object(object));
    };
    for part in Parts(message) {
        let (number, wire) = part?;
        let Some(field) = known.fields.iter().find(|field| field.number == number) else {
            continue;
        };
        take(&mut object, fields, field, wire, depth)?;
    }
    Ok(Value::Object(object))
}

fn take(
    object: &mut Map<String, Value>,
    fields: &Fields,
    field: &Field,
    wire: Wire<'_>,
    depth: usize,
) -> Result<(), WireError> {
    let depth = depth.saturating_add(1);
    match field.arity {
        Arity::Map => {
            let Wire::Bytes(entry) = wire else {
                return Err(WireError::Message);
            };
            let (mut key, mut value) = (String::new(), scalar_default(&field.kind));
            for part in Parts(entry) {
                match part? {
                    (1, Wire::Bytes(text)) => key = utf8(text),
                    (2, wire) => value = one(fields, &field.kind, wire, depth)?,
                    _ => {}
                }
            }
            let map = object.entry(field.name).or_insert_with(|| json!({}));
            if let Some(map) = map.as_object_mut() {
                map.insert(key, value);
            }
        }
        Arity::List => {
            let value = one(fields, &field.kind, wire, depth)?;
            let list = object.entry(field.name).or_insert_with(|| json!([]));
            if let Some(list) = list.as_array_mut() {
                list.push(value);
            }
        }
        Arity::One => {
            let value = one(fields, &field.kind, wire, depth)?;
            if value.is_null() || zeros::is_unset(field, &value) {
                return Ok(());
            }
            match (field.name, value) {
                // An inlined message: its fields are the fields of this one.
                ("-", Value::Object(inner)) => object.extend(inner),
                (name, value) => {
                    object.insert(name.to_owned(), value);
                }
            }
        }
    }
    Ok(())
}

fn scalar_default(kind: &str) -> Value {
    if kind.contains('.') { json!({}) } else { Value::from("") }
}

fn one(fields: &Fields, kind: &str, wire: Wire<'_>, depth: usize) -> Result<Value, WireError> {
    Ok(match (kind, wire) {
        ("string", Wire::Bytes(text)) => Value::from(utf8(text)),
        ("bytes", Wire::Bytes(bytes)) => Value::from(STANDARD.encode(bytes)),
        ("bool", Wire::Number(number)) => Value::from(number != 0),
        ("double", Wire::Fixed(bits)) => json!(f64::from_bits(bits)),
        // Negative numbers are sign-extended to 64 bits, whatever the type.
        ("int32" | "int64", Wire::Number(number)) => Value::from(number.cast_signed()),
        (_, Wire::Number(number)) => Value::from(number),
        (name, Wire::Bytes(message)) => decode_at(fields, name, message, depth)?,
        (_, Wire::Fixed(_)) => Value::Null,
    })
}

/// Types whose JSON is not an object of their fields.
fn special(name: &str, message: &[u8]) -> Result<Option<Value>, WireError> {
    let text = |number: u32| -> Result<Option<&[u8]>, WireError> {
        for part in Parts(message) {
            if let (found, Wire::Bytes(bytes)) = part?
                && found == number
            {
                return Ok(Some(bytes));
            }
        }
        Ok(None)
    };
    let number = |wanted: u32| -> Result<i64, WireError> {
        for part in Parts(message) {
            if let (found, Wire::Number(value)) = part?
                && found == wanted
            {
                return Ok(value.cast_signed());
            }
        }
        Ok(0)
    };
    let last = name.rsplit('.').next().unwrap_or(name);
    let value = match last {
        // The zero time is written as nothing, and not as the start of 1970.
        "Time" | "MicroTime" if name.contains("meta.v1") && message.is_empty() => Value::Null,
        "Time" | "MicroTime" if name.contains("meta.v1") => {
            let nanoseconds = i32::try_from(number(2)?).unwrap_or(0);
            let time = Timestamp::new(number(1)?, nanoseconds).ok();
            // Year 1 is how Go says "no time".
            time.filter(|time| time.as_second() > -60_000_000_000)
                .map_or(Value::Null, |time| Value::from(format_time(time, last)))
        }
        "Duration" if name.contains("meta.v1") => Value::from(format!("{}s", number(1)? / 1_000_000_000)),
        "Quantity" => Value::from(utf8(text(1)?.unwrap_or_default())),
        "IntOrString" => match number(1)? {
            1 => Value::from(utf8(text(3)?.unwrap_or_default())),
            _ => Value::from(number(2)?),
        },
        "FieldsV1" | "RawExtension" | "Json" | "JSON" => {
            serde_json::from_slice(text(1)?.unwrap_or(b"null")).unwrap_or(Value::Null)
        }
        _ => return Ok(None),
    };
    Ok(Some(value))
}

fn format_time(time: Timestamp, kind: &str) -> String {
    if kind == "MicroTime" {
        time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
    } else {
        time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
    }
}

#[derive(Clone, Copy, Debug)]
enum Wire<'a> {
    Number(u64),
    Fixed(u64),
    Bytes(&'a [u8]),
}

/// The parts of a message, one after the other.
struct Parts<'a>(&'a [u8]);

impl<'a> Parts<'a> {
    fn varint(&mut self) -> Result<u64, WireError> {
        let mut value: u64 = 0;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first().ok_or(WireError::Message)?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(WireError::Message)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], WireError> {
        let (bytes, rest) = self.0.split_at_checked(length).ok_or(WireError::Message)?;
        self.0 = rest;
        Ok(bytes)
    }

    fn part(&mut self) -> Result<(u32, Wire<'a>), WireError> {
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).map_err(|_too_large| WireError::Message)?;
        let wire = match tag & 7 {
            0 => Wire::Number(self.varint()?),
            1 => {
                let bytes = self.take(8)?;
                Wire::Fixed(bytes.iter().rev().fold(0, |all, byte| (all << 8) | u64::from(*byte)))
            }
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_too_large| WireError::Message)?;
                Wire::Bytes(self.take(length)?)
            }
            5 => {
                let bytes = self.take(4)?;
                Wire::Fixed(bytes.iter().rev().fold(0, |all, byte| (all << 8) | u64::from(*byte)))
            }
            _ => return Err(WireError::Message),
        };
        Ok((number, wire))
    }
}

impl<'a> Iterator for Parts<'a> {
    type Item = Result<(u32, Wire<'a>), WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let part = self.part();
        if part.is_err() {
            self.0 = &[];
        }
        Some(part)
    }
}

/// Writes messages.
#[derive(Debug, Default)]
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    fn varint(&mut self, mut value: u64) {
        loop {
            let low = u8::try_from(value & 0x7f).unwrap_or(0);
            value >>= 7;
            if value == 0 {
                self.0.push(low);
                return;
            }
            self.0.push(low | 0x80);
        }
    }

    pub(crate) fn bytes(&mut self, number: u64, bytes: &[u8]) -> &mut Self {
        self.varint(number << 3 | 2);
        self.varint(u64::try_from(bytes.len()).unwrap_or(0));
        self.0.extend_from_slice(bytes);
        self
    }

    /// Left out when empty.
    pub(crate) fn text(&mut self, number: u64, text: &str) -> &mut Self {
        if text.is_empty() {
            self
        } else {
            self.bytes(number, text.as_bytes())
        }
    }

    /// True; what is false is left out.
    pub(crate) fn flag(&mut self, number: u64) -> &mut Self {
        self.varint(number << 3);
        self.varint(1);
        self
    }

    pub(crate) fn message(&mut self, number: u64, write: impl FnOnce(&mut Self)) -> &mut Self {
        let mut inner = Self::default();
        write(&mut inner);
        self.bytes(number, &inner.0)
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typed_client_s_namespace_is_read() {
        let mut namespace = Writer::default();
        namespace.message(1, |metadata| {
            metadata.text(1, "kx");
            metadata.message(11, |label| {
                label.text(1, "a").text(2, "b");
            });
            metadata.message(8, |time| {
                // Year 1: the zero time.
                time.varint(1 << 3);
                time.varint((-62_135_596_800_i64).cast_unsigned());
            });
        });
        let mut body = Writer::default();
        body.message(1, |kind| {
            kind.text(1, "v1").text(2, "Namespace");
        });
        body.bytes(2, &namespace.finish());
        let body = [MAGIC, &body.finish()].concat();

        let envelope = open(&body).unwrap();
        assert_eq!(
            (envelope.api_version.as_str(), envelope.kind.as_str()),
            ("v1", "Namespace")
        );
        let object = decode(&Fields::parse(), "io.k8s.api.core.v1.Namespace", envelope.message).unwrap();
        assert_eq!(object, json!({"metadata": {"name": "kx", "labels": {"a": "b"}}}));
    }

    #[test]
    fn zero_values_count_only_where_a_field_can_do_without() {
        let fields = Fields::parse();
        let mut claim = Writer::default();
        // Of `accessModes` to `storageClassName`, the last is there and empty.
        claim.bytes(3, b"").bytes(5, b"");
        let spec = decode(&fields, "io.k8s.api.core.v1.PersistentVolumeClaimSpec", &claim.finish()).unwrap();
        assert_eq!(spec, json!({"storageClassName": ""}));

        let mut template = Writer::default();
        template.message(1, |metadata| {
            metadata.bytes(8, b"");
            metadata.varint(7 << 3);
            metadata.varint(0);
        });
        let template = decode(&fields, "io.k8s.api.core.v1.PodTemplateSpec", &template.finish()).unwrap();
        assert_eq!(template, json!({"metadata": {}}));
    }

    #[test]
    fn broken_messages_are_refused() {
        assert_eq!(open(b"{}").unwrap_err(), WireError::Envelope);
        assert_eq!(open(b"k8s\0\x0a\x7f").unwrap_err(), WireError::Message);
    }
}
