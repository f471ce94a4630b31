//! Metrics of managers and of what came from them.

use super::{Family, Kind, Label};
use crate::status::xds::{ManagerReport, XdsReport};

/// Renders them.
pub(super) fn render(report: &XdsReport, out: &mut String) {
    streams(report, out);
    credentials(report, out);
    configuration(report, out);
}

fn label(manager: &ManagerReport) -> Label<'_> {
    ("manager", &manager.url)
}

fn streams(report: &XdsReport, out: &mut String) {
    let help = "Whether there is a stream with this manager; one at most has one.";
    let mut family = Family::new(out, "kubelb_xds_connected", Kind::Gauge, help);
    for manager in &report.managers {
        family.sample(&[label(manager)], u8::from(manager.connected_since.is_some()));
    }
    let help = "Streams that a manager answered.";
    let mut family = Family::new(out, "kubelb_xds_streams_total", Kind::Counter, help);
    for manager in &report.managers {
        family.sample(&[label(manager)], manager.streams);
    }
    let help = "Streams that ended or could not be opened.";
    let mut family = Family::new(out, "kubelb_xds_stream_failures_total", Kind::Counter, help);
    for manager in &report.managers {
        family.sample(&[label(manager)], manager.failures);
    }
    let help = "Pause before the next manager is tried; 0 while there is a stream.";
    let mut family = Family::new(out, "kubelb_xds_back_off_seconds", Kind::Gauge, help);
    let pause = report.back_off_ms.unwrap_or_default();
    family.sample(&[], format_args!("{}.{:03}", pause / 1_000, pause % 1_000));
}

fn credentials(report: &XdsReport, out: &mut String) {
    let help = "How a manager is talked to; always 1.";
    let mut family = Family::new(out, "kubelb_xds_manager_info", Kind::Gauge, help);
    for manager in &report.managers {
        let kind = manager.credential.kind.as_str();
        let insecure = manager.is_insecure;
        family.sample(&[label(manager), ("credential", &kind), ("insecure", &insecure)], 1);
    }
    let help = "When what is shown to a manager expires, in seconds since 1970; absent when it does not say.";
    let name = "kubelb_xds_credential_expiry_timestamp_seconds";
    let mut family = Family::new(out, name, Kind::Gauge, help);
    for manager in &report.managers {
        if let Some(end) = manager.credential.expires_at {
            family.sample(&[label(manager)], end);
        }
    }
}

fn configuration(report: &XdsReport, out: &mut String) {
    let help = "When the configuration was last known to be a manager's newest, in seconds since 1970; absent before the first.";
    let mut family = Family::new(out, "kubelb_xds_configuration_timestamp_seconds", Kind::Gauge, help);
    if let Some(at) = report.current_at {
        family.sample(&[], at);
    }
    let help = "Resources from managers, by type.";
    let mut family = Family::new(out, "kubelb_xds_resources", Kind::Gauge, help);
    for kind in &report.types {
        family.sample(&[("type", &kind.kind)], kind.resources);
    }
    let help = "Resources that are refused; their last good versions are in force.";
    let mut family = Family::new(out, "kubelb_xds_resources_rejected", Kind::Gauge, help);
    family.sample(&[], report.rejected);
    let help = "When a response was last taken whole (ack), or something of it refused (nack), in seconds since 1970.";
    let mut family = Family::new(out, "kubelb_xds_answer_timestamp_seconds", Kind::Gauge, help);
    for kind in &report.types {
        for (answer, at) in [("ack", kind.acked_at), ("nack", kind.nacked_at)] {
            if let Some(at) = at {
                family.sample(&[("type", &kind.kind), ("answer", &answer)], at);
            }
        }
    }
}
