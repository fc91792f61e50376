//! Numbers and small tables as people read them.

use api::control::GroupInfo;
use api::link::{PathKind, PathState};

/// This machine's addresses in a group, in one line.
pub(crate) fn own_addresses(group: &GroupInfo) -> String {
    let addresses: Vec<String> = group.addresses.iter().map(|cidr| cidr.address.to_string()).collect();
    addresses.join(" ")
}

/// `840 B`, `1.2 kB`, `3.4 GB`: powers of ten, as network tools count.
pub(crate) fn bytes(count: u64) -> String {
    let units = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if count < 1000 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1000.0;
    let mut unit = 0;
    while value >= 999.95 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{value:.1} {}", units[unit])
}

/// A round trip: `0.14 ms`, `38 ms`.
pub(crate) fn rtt(microseconds: u64) -> String {
    let ms = microseconds as f64 / 1000.0;
    if ms < 10.0 {
        format!("{ms:.2} ms")
    } else {
        format!("{ms:.0} ms")
    }
}

/// A stretch of time: `12s`, `5m`, `3h`, `2d`.
pub(crate) fn ago(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86_400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// A path in words.
pub(crate) fn path(path: &PathState) -> String {
    match (path.kind, &path.via) {
        (PathKind::Direct, _) => format!("direct {}", path.remote),
        (PathKind::Turn, Some(via)) => format!("relay {via}"),
        (PathKind::Turn, None) => format!("relay {} (the peer's)", path.remote),
        (PathKind::Member, via) => format!("relay member {}", via.as_deref().unwrap_or("?")),
    }
}

/// Rows padded to columns; the last column runs free.
pub(crate) fn columns(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |i: usize| {
        rows.iter()
            .filter_map(|row| row.get(i))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..count).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}", width = *width));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        for (count, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (999_999, "1.0 MB"),
            (3_400_000_000, "3.4 GB"),
        ] {
            assert_eq!(bytes(count), text);
        }
        assert_eq!(rtt(140), "0.14 ms");
        assert_eq!(rtt(38_400), "38 ms");
        for (seconds, text) in [(5, "5s"), (65, "1m"), (7300, "2h"), (200_000, "2d")] {
            assert_eq!(ago(seconds), text);
        }
    }

    #[test]
    fn columns_align() {
        let rows = [vec!["a".into(), "b".into()], vec!["long".into(), "c".into()]];
        assert_eq!(columns(&rows), "a     b\nlong  c\n");
    }
}
