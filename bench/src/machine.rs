//! The machine: what it is, and whether it does anything else.

use std::fs;
use std::thread::sleep;
use std::time::Duration;

/// How long the machine is watched before a part.
const WATCH: Duration = Duration::from_secs(1);
/// A busier machine is not idle.
const BUSY: f64 = 0.05;

/// One line: processor, cores, memory, kernel.
pub(crate) fn describe() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info
        .lines()
        .find(|line| line.starts_with("model name"))
        .and_then(|line| line.split_once(": "));
    let model = model.map_or("an unnamed processor", |(_, name)| name.trim());
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib: u64 = memory
        .split_whitespace()
        .nth(1)
        .and_then(|number| number.parse().ok())
        .unwrap_or_default();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{cores} cores of {model}, {} GiB, Linux {}", kib >> 20, kernel.trim())
}

/// The share of all cores that was busy, 0 to 1, over a second in which this program slept; none where the kernel keeps it.
pub(crate) fn busy() -> Option<f64> {
    let before = times(&fs::read_to_string("/proc/stat").ok()?)?;
    sleep(WATCH);
    let after = times(&fs::read_to_string("/proc/stat").ok()?)?;
    let (idle, all) = (after.0.checked_sub(before.0)?, after.1.checked_sub(before.1)?);
    (all > 0).then(|| 1.0 - idle as f64 / all as f64)
}

pub(crate) fn load_in_words(busy: Option<f64>) -> String {
    match busy {
        None => "in an unknown state".into(),
        Some(share) if share < BUSY => "otherwise idle".into(),
        Some(share) => format!(
            "NOT idle: {:.0} % of its cores are busy with something else",
            share * 100.0
        ),
    }
}

/// Idle and all ticks of `/proc/stat`: idle and iowait are its fourth and fifth column; guests count in user time already.
fn times(stat: &str) -> Option<(u64, u64)> {
    let line = stat.lines().find(|line| line.starts_with("cpu "))?;
    let columns: Vec<u64> = line
        .split_whitespace()
        .skip(1)
        .take(8)
        .filter_map(|number| number.parse().ok())
        .collect();
    Some((columns.get(3)? + columns.get(4)?, columns.iter().sum()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_ticks_are_told_from_busy_ones() {
        assert_eq!(times("cpu  10 0 5 80 3 0 1 1 9 9\ncpu0 1 1\n"), Some((83, 100)));
        assert_eq!(times("cpu  1 2\n"), None);
    }

    #[test]
    fn a_busy_machine_is_called_so() {
        assert!(load_in_words(Some(0.01)).contains("idle"));
        assert!(load_in_words(Some(0.5)).contains("NOT idle: 50 %"));
    }
}
