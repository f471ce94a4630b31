//! Managers, for people.

use super::{Table, clean, count, line};
use crate::status::xds::{CredentialReport, ManagerReport, XdsReport};

/// Writes what there is to say of managers.
pub(super) fn write(report: &XdsReport, out: &mut String) {
    line(out, &format!("Managers {}", summary(report)));
    managers(report, out);
    types(report, out);
    rejections(report, out);
}

fn summary(report: &XdsReport) -> String {
    let age = match report.age() {
        None => "no configuration yet".to_owned(),
        Some(_) if report.is_current => "configuration is the newest".to_owned(),
        Some(age) => format!("configuration of {} ago", duration(age)),
    };
    match (report.connected(), report.back_off_ms) {
        (Some(manager), _) => format!("connected to {}; {age}", clean(&manager.url)),
        (None, Some(pause)) => format!("no stream; {age}; the next is tried within {pause} ms"),
        (None, None) => format!("no stream; {age}"),
    }
}

fn managers(report: &XdsReport, out: &mut String) {
    let columns = [
        "MANAGER",
        "STATE",
        "SINCE",
        "CREDENTIAL",
        "STREAMS",
        "FAILURES",
        "LAST FAILURE",
    ];
    let mut table = Table::new(&columns, &[2, 4, 5, 6], 0);
    for manager in &report.managers {
        let ago = |at: u64| duration(report.at.saturating_sub(at));
        let failure = manager.last_failure.as_ref();
        table.row([
            url(manager),
            if manager.connected_since.is_some() {
                "connected"
            } else {
                "-"
            }
            .to_owned(),
            manager.connected_since.map_or("-".to_owned(), ago),
            credential(&manager.credential, report.at),
            count(manager.streams),
            count(manager.failures),
            failure.map_or("-".to_owned(), |failure| ago(failure.at) + " ago"),
        ]);
    }
    table.write("", out);
    for manager in &report.managers {
        if let Some(failure) = &manager.last_failure {
            line(out, &format!("{}: {}", clean(&manager.url), clean(&failure.reason)));
        }
    }
}

fn url(manager: &ManagerReport) -> String {
    let warning = if manager.is_insecure { " (INSECURE)" } else { "" };
    format!("{}{warning}", clean(&manager.url))
}

fn credential(credential: &CredentialReport, now: u64) -> String {
    let kind = credential.kind.as_str();
    match credential.expires_at {
        None => kind.to_owned(),
        Some(end) if end <= now => format!("{kind}, EXPIRED {} ago", duration(now - end)),
        Some(end) => format!("{kind}, {} left", duration(end - now)),
    }
}

fn types(report: &XdsReport, out: &mut String) {
    let mut table = Table::new(&["XDS TYPE", "RESOURCES", "LAST ACK", "LAST NACK"], &[1, 2, 3], 0);
    let ago = |at: Option<u64>| at.map_or("-".to_owned(), |at| duration(report.at.saturating_sub(at)) + " ago");
    for kind in &report.types {
        table.row([
            clean(&kind.kind),
            count(kind.resources),
            ago(kind.acked_at),
            ago(kind.nacked_at),
        ]);
    }
    table.write("", out);
}

fn rejections(report: &XdsReport, out: &mut String) {
    let mut table = Table::new(&["REFUSED", "NAME", "REASON"], &[], 2);
    for rejection in &report.rejections {
        table.row([clean(&rejection.kind), clean(&rejection.name), clean(&rejection.reason)]);
    }
    table.write("", out);
    let shown = u64::try_from(report.rejections.len()).unwrap_or(u64::MAX);
    if report.rejected > shown {
        line(out, &format!("and {} more", report.rejected - shown));
    }
}

/// Two units at most: 45s, 3m20s, 5h12m, 29d3h.
fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m{}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h{}m", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{}d{}h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_two_units() {
        let cases = [
            (0, "0s"),
            (59, "59s"),
            (200, "3m20s"),
            (18_720, "5h12m"),
            (2_516_400, "29d3h"),
        ];
        for (seconds, text) in cases {
            assert_eq!(duration(seconds), text);
        }
    }

    #[test]
    fn what_expired_and_what_is_insecure_is_said() {
        let expired = CredentialReport {
            expires_at: Some(40),
            ..CredentialReport::default()
        };
        assert_eq!(credential(&expired, 100), "none, EXPIRED 1m0s ago");
        let manager = ManagerReport {
            url: "http://a:1".to_owned(),
            is_insecure: true,
            ..ManagerReport::default()
        };
        assert_eq!(url(&manager), "http://a:1 (INSECURE)");
    }

    #[test]
    fn an_outage_says_how_old_the_configuration_is() {
        let mut report = XdsReport {
            at: 1_000,
            current_at: Some(400),
            back_off_ms: Some(1_600),
            ..XdsReport::default()
        };
        assert_eq!(
            summary(&report),
            "no stream; configuration of 10m0s ago; the next is tried within 1600 ms"
        );
        report.current_at = None;
        report.back_off_ms = None;
        assert_eq!(summary(&report), "no stream; no configuration yet");
    }
}
