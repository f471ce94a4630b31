//! Announced addresses, for people.

use super::{Table, clean, count, line};
use crate::status::Report;
use crate::status::address::{AddressLinkReport, AddressReport};

/// Writes who announces what.
pub(super) fn write(report: &Report, out: &mut String) {
    let columns = [
        "ADDRESS",
        "OWNER",
        "EPOCH",
        "INTERFACE",
        "ANSWERS",
        "SINCE",
        "CONFLICTS",
    ];
    let mut table = Table::new(&columns, &[2, 6], 1);
    for address in &report.addresses {
        if address.links.is_empty() {
            table.row(row(address, None));
        }
        for link in &address.links {
            table.row(row(address, Some(link)));
        }
    }
    table.write("", out);
    for address in &report.addresses {
        for link in address.links.iter().filter(|link| !link.is_answering) {
            if let Some(rival) = &link.last_rival {
                let interface = clean(&link.interface);
                line(
                    out,
                    &format!("{} on {interface}: announced by {rival}", address.address),
                );
            }
        }
    }
    if report.malformed_questions > 0 {
        let questions = count(report.malformed_questions);
        line(out, &format!("{questions} malformed questions about these addresses"));
    }
}

fn row(address: &AddressReport, link: Option<&AddressLinkReport>) -> [String; 7] {
    let owner = match &address.owner {
        Some(owner) if address.is_ours => format!("{} (this node)", clean(owner)),
        Some(owner) => clean(owner),
        None if address.is_ours => "this node".to_owned(),
        None => "nobody".to_owned(),
    };
    let dash = || "-".to_owned();
    [
        address.address.to_string(),
        owner,
        address.epoch.to_string(),
        link.map_or_else(dash, |link| clean(&link.interface)),
        link.map_or_else(dash, |link| if link.is_answering { "yes" } else { "NO" }.to_owned()),
        link.map_or_else(dash, |link| time(link.since)),
        link.map_or_else(dash, |link| count(link.conflicts)),
    ]
}

/// RFC 3339, to the second: whoever looks at two nodes compares.
fn time(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = date(days);
    let (hour, minute, second) = (rest / 3_600, rest % 3_600 / 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// Of days since 1970-01-01, in the Gregorian calendar; years are counted from March, so that leap days come last.
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, year) = if month < 10 {
        (month + 3, year)
    } else {
        (month - 9, year + 1)
    };
    (year + era * 400, month, day)
}

#[cfg(test)]
mod tests {
    use super::time;

    #[test]
    fn times_are_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_795_255_629, "2026-11-21T10:07:09Z"),
            (4_107_542_399, "2100-02-28T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(time(seconds), text);
        }
    }
}
