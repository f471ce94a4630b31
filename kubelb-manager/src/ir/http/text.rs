//! Texts of tenants on their way into Envoy's configuration: what Envoy would refuse, and what it would evaluate.

/// Longest value of a header.
const MAX_VALUE: usize = 4_096;

/// Operators that tell nothing of other tenants, or of the proxy itself, and take no argument.
const PLAIN_OPERATORS: &[&str] = &[
    "DOWNSTREAM_DIRECT_REMOTE_ADDRESS",
    "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT",
    "DOWNSTREAM_REMOTE_ADDRESS",
    "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT",
    "DOWNSTREAM_REMOTE_PORT",
    "PROTOCOL",
    "REQUEST_DURATION",
    "REQUEST_ID",
    "RESPONSE_CODE",
    "RESPONSE_DURATION",
    "START_TIME",
    "UPSTREAM_HOST",
];

/// Whether it is a token (RFC 9110, 5.6.2).
pub(super) fn is_token(text: &str) -> bool {
    let is_tchar = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    (1..=256).contains(&text.len()) && text.bytes().all(is_tchar)
}

/// Whether a header may have it: visible characters, blanks and tabs.
pub(super) fn is_header_value(text: &str) -> bool {
    text.len() <= MAX_VALUE && text.bytes().all(|byte| byte == b'\t' || (byte >= b' ' && byte != 0x7f))
}

/// Whether it can be a path: visible ASCII characters, and nothing that starts a query or a fragment.
pub(super) fn is_path(text: &str) -> bool {
    let is_visible = |byte: u8| byte.is_ascii_graphic() && byte != b'?' && byte != b'#';
    (1..=1_024).contains(&text.len()) && text.starts_with('/') && text.bytes().all(is_visible)
}

/// A header's value for Envoy, which evaluates `%OPERATOR%`: those that may be stay, and what else there is of `%` means itself.
pub(super) fn format(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    let mut rest = value;
    while let Some((before, after)) = rest.split_once('%') {
        text.push_str(before);
        match after.split_once('%') {
            Some((operator, behind)) if is_operator(operator) => {
                text.push('%');
                text.push_str(operator);
                text.push('%');
                rest = behind;
            }
            _ => {
                text.push_str("%%");
                rest = after;
            }
        }
    }
    text.push_str(rest);
    text
}

fn is_operator(text: &str) -> bool {
    if PLAIN_OPERATORS.contains(&text) {
        return true;
    }
    let argument = |name: &str| text.strip_prefix(name)?.strip_prefix('(');
    let Some(rest) = argument("REQ").or_else(|| argument("RESP")) else {
        return false;
    };
    let Some((names, length)) = rest.split_once(')') else {
        return false;
    };
    let is_length = match length.strip_prefix(':') {
        Some(digits) => (1..=4).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit()),
        None => length.is_empty(),
    };
    let (name, alternative) = match names.split_once('?') {
        Some((name, alternative)) => (name, Some(alternative)),
        None => (names, None),
    };
    let is_name = |name: &str| {
        let name = name.strip_prefix(':').unwrap_or(name);
        !name.is_empty()
            && name.len() <= 128
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    is_length && is_name(name) && alternative.is_none_or(is_name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_harmless_operators_are_evaluated() {
        for (value, wanted) in [
            ("plain", "plain"),
            ("%REQ(X-REQUEST-ID)%", "%REQ(X-REQUEST-ID)%"),
            ("%RESPONSE_DURATION%", "%RESPONSE_DURATION%"),
            ("a %REQ(:path?x-b):20% b", "a %REQ(:path?x-b):20% b"),
            ("100%", "100%%"),
            ("%FOO%", "%%FOO%%"),
            ("%ENVIRONMENT(HOME)%", "%%ENVIRONMENT(HOME)%%"),
            ("%FILE_CONTENT(/etc/passwd)%", "%%FILE_CONTENT(/etc/passwd)%%"),
            ("%REQ(a b)%", "%%REQ(a b)%%"),
            ("%REQ(a):x%", "%%REQ(a):x%%"),
            ("50%%REQ(a)%", "50%%%REQ(a)%"),
            ("%", "%%"),
            ("%%", "%%%%"),
            ("%START_TIME(%s)%", "%%START_TIME(%%s)%%"),
        ] {
            assert_eq!(format(value), wanted, "{value}");
        }
    }

    #[test]
    fn names_values_and_paths() {
        assert!(is_token("X-Custom_Header.1"));
        assert!(!is_token("") && !is_token(":path") && !is_token("a b") && !is_token("ä"));
        assert!(is_header_value("a\tb ü") && !is_header_value("a\nb") && !is_header_value("a\u{0}"));
        assert!(is_path("/a/b%20c") && !is_path("a") && !is_path("/a?b") && !is_path("/a b") && !is_path("/ä"));
    }
}
