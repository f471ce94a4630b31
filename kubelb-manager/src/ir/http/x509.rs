//! Whether BoringSSL reads a certificate: an Envoy that is given one which it cannot read refuses the whole listener.
//!
//! Neither reader of X.509 here is as strict as BoringSSL's in all that it looks at; both together, with what is looked at below, are. Whether a
//! certificate is valid, or of use for anything, is not looked at.

use x509_cert::Version;
use x509_cert::der::asn1::{Any, ObjectIdentifier};
use x509_cert::der::{Decode as _, Tag, Tagged as _};
use x509_cert::spki::AlgorithmIdentifierOwned;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// A public key on an elliptic curve (RFC 5480).
const EC_PUBLIC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
/// P-256, P-224, P-384, P-521: others are not known to BoringSSL.
const CURVES: [ObjectIdentifier; 4] = [
    ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7"),
    ObjectIdentifier::new_unwrap("1.3.132.0.33"),
    ObjectIdentifier::new_unwrap("1.3.132.0.34"),
    ObjectIdentifier::new_unwrap("1.3.132.0.35"),
];

/// Texts of names of which any byte is right.
const TEXTS: [Tag; 5] = [
    Tag::PrintableString,
    Tag::Ia5String,
    Tag::TeletexString,
    Tag::NumericString,
    Tag::VisibleString,
];

/// The certificate in DER, with nothing behind it; `None` when BoringSSL would not read it.
pub(super) fn read(der: &[u8]) -> Option<X509Certificate<'_>> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) if is_strict(der) => Some(certificate),
        Ok(_) | Err(_) => None,
    }
}

fn is_strict(der: &[u8]) -> bool {
    let Ok(certificate) = x509_cert::Certificate::from_der(der) else {
        return false;
    };
    let signed = certificate.tbs_certificate();
    let key = &signed.subject_public_key_info().algorithm;
    let algorithms = [key, signed.signature(), certificate.signature_algorithm()];
    let names = [signed.issuer(), signed.subject()];
    let mut parts = names
        .into_iter()
        .flat_map(|name| name.iter_rdn().flat_map(|part| part.iter()));
    let mut extensions = signed.extensions().into_iter().flatten();
    algorithms.into_iter().all(is_algorithm)
        && is_known_key(key)
        && parts.all(|part| is_identifier(&part.oid) && is_text(&part.value))
        && (signed.extensions().is_none() || signed.version() == Version::V3)
        && extensions.all(|extension| is_identifier(&extension.extn_id))
}

/// Numbers in it have no zeros in front (X.690, 8.19.2).
fn is_identifier(identifier: &ObjectIdentifier) -> bool {
    let mut begins = true;
    identifier.as_bytes().iter().all(|byte| {
        let is_padded = begins && *byte == 0x80;
        begins = byte & 0x80 == 0;
        !is_padded
    })
}

fn is_algorithm(algorithm: &AlgorithmIdentifierOwned) -> bool {
    let is_parameter = |parameter: &Any| {
        let is_null = parameter.tag() == Tag::Null && parameter.value().is_empty();
        is_null || parameter.tag() == Tag::Sequence || identifier(parameter).is_some_and(|named| is_identifier(&named))
    };
    is_identifier(&algorithm.oid) && algorithm.parameters.as_ref().is_none_or(is_parameter)
}

fn identifier(value: &Any) -> Option<ObjectIdentifier> {
    value.decode_as().ok()
}

fn is_known_key(algorithm: &AlgorithmIdentifierOwned) -> bool {
    let curve = || identifier(algorithm.parameters.as_ref()?);
    algorithm.oid != EC_PUBLIC_KEY || curve().is_some_and(|curve| CURVES.contains(&curve))
}

/// One of the kinds of text that names can have (RFC 5280, 4.1.2.4), and of those whose bytes may be wrong, with right ones.
fn is_text(value: &Any) -> bool {
    let bytes = value.value();
    if value.tag() == Tag::Utf8String {
        std::str::from_utf8(bytes).is_ok()
    } else if value.tag() == Tag::BmpString {
        let (pairs, rest) = bytes.as_chunks::<2>();
        let is_character = |pair: &[u8; 2]| char::from_u32(u16::from_be_bytes(*pair).into()).is_some();
        rest.is_empty() && pairs.iter().all(is_character)
    } else {
        TEXTS.contains(&value.tag())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes of one certificate, changed one at a time, by what BoringSSL makes of each.
    #[test]
    fn what_boringssl_refuses_is_refused() {
        let made = rcgen::generate_simple_self_signed(vec!["a.example".to_owned()]).unwrap();
        let der = made.cert.der().to_vec();
        assert!(read(&der).is_some());
        let find = |wanted: &[u8]| der.windows(wanted.len()).position(|found| found == wanted).unwrap();
        let changed = |place: usize, byte: u8| {
            let mut changed = der.clone();
            changed[place] = byte;
            read(&changed).is_some()
        };
        // The name is in a UTF8String.
        let name = find(b"rcgen");
        assert!(changed(name, b'R'));
        assert!(!changed(name, 0xff), "no UTF-8");
        assert!(!changed(name - 2, 0x03), "a bit string is no text");
        // id-ecPublicKey, and then its curve.
        let key = find(&[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01]);
        assert!(!changed(key + 9 + 7, 0x06), "no known curve");
        // The version; it has extensions.
        let version = find(&[0xa0, 0x03, 0x02, 0x01, 0x02]) + 4;
        assert!(!changed(version, 1), "extensions are of version 3");
        // ecdsa-with-SHA256.
        let algorithm = find(&[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02]);
        assert!(!changed(algorithm + 3, 0x80), "a number with zeros in front");
        let mut longer = der.clone();
        longer.push(0);
        assert!(read(&longer).is_none(), "something behind it");
    }
}
