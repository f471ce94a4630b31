//! Hostnames of listeners and routes: which are for which, and which one is the most specific.
//!
//! `*.example.com` is for names of any number of labels below, as Gateway API and Envoy have it. `None` is all names.

use std::sync::Arc;

/// Every name.
pub(super) const ANY: &str = "*";

/// Reads one; small letters, without a dot at the end. `None` when it is none.
pub(super) fn read(text: &str) -> Option<Arc<str>> {
    let text = text.to_ascii_lowercase();
    let name = text.strip_prefix("*.").unwrap_or(&text);
    let is_address = name.parse::<std::net::IpAddr>().is_ok();
    (kubelb_api::names::is_subdomain(name) && !is_address).then(|| text.into())
}

/// Whether all names of `narrow` are names of `wide`.
pub(super) fn covers(wide: &str, narrow: &str) -> bool {
    if wide == ANY || wide == narrow {
        return true;
    }
    let Some(suffix) = wide.strip_prefix('*') else {
        return false;
    };
    let narrow = narrow.strip_prefix('*').unwrap_or(narrow);
    narrow.len() > suffix.len() && narrow.ends_with(suffix)
}

/// The names that are in both.
pub(super) fn intersect<'a>(a: &'a str, b: &'a str) -> Option<&'a str> {
    if covers(a, b) {
        Some(b)
    } else if covers(b, a) {
        Some(a)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_is_for_any_number_of_labels_and_not_for_its_suffix() {
        for (wide, narrow, holds) in [
            ("*", "a.example", true),
            ("*", "*.a.example", true),
            ("*.example.com", "a.example.com", true),
            ("*.example.com", "a.b.example.com", true),
            ("*.example.com", "example.com", false),
            ("*.example.com", "*.a.example.com", true),
            ("*.a.example.com", "*.example.com", false),
            ("*.example.com", "aexample.com", false),
            ("a.example.com", "*.example.com", false),
            ("a.example.com", "a.example.com", true),
        ] {
            assert_eq!(covers(wide, narrow), holds, "{wide} {narrow}");
        }
        assert_eq!(intersect("*.example.com", "a.example.com"), Some("a.example.com"));
        assert_eq!(intersect("a.example.com", "*.example.com"), Some("a.example.com"));
        assert_eq!(intersect("*.a.com", "*.b.com"), None);
    }

    #[test]
    fn what_is_no_hostname_is_refused() {
        assert_eq!(read("WWW.Example.com").as_deref(), Some("www.example.com"));
        assert_eq!(read("*.example.com").as_deref(), Some("*.example.com"));
        for text in [
            "",
            "*",
            "*.",
            "a.*.example.com",
            "*a.example.com",
            "192.0.2.1",
            "a b",
            "a%b",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
