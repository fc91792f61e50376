//! What the kernel counts for a process.

use std::fs;

use anyhow::Context;

/// proc_pid_stat(5) counts in USER_HZ, which is 100 on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;

/// Memory of a process, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Memory {
    /// Resident, with pages of the program file that it shares with its like.
    pub(crate) resident: u64,
    /// Of that, what nothing else could share: without pages of files.
    pub(crate) own: u64,
    /// The most that was ever resident.
    pub(crate) peak: u64,
}

impl Memory {
    pub(crate) fn of(process: u32) -> anyhow::Result<Self> {
        let status = fs::read_to_string(format!("/proc/{process}/status")).context("read a process's memory")?;
        let of = |field| kib(&status, field).with_context(|| format!("process {process} shows no {field}"));
        Ok(Self {
            resident: of("VmRSS:")? << 10,
            own: of("RssAnon:")? << 10,
            peak: of("VmHWM:")? << 10,
        })
    }

    /// Of several together.
    pub(crate) fn of_all(processes: &[u32]) -> anyhow::Result<Self> {
        processes.iter().try_fold(Self::default(), |sum, process| {
            let one = Self::of(*process)?;
            Ok(Self {
                resident: sum.resident + one.resident,
                own: sum.own + one.own,
                peak: sum.peak + one.peak,
            })
        })
    }
}

/// Seconds of processor time of several processes.
pub(crate) fn cpu_of_all(processes: &[u32]) -> anyhow::Result<f64> {
    processes.iter().map(|process| cpu_seconds(*process)).sum()
}

/// Seconds of processor time, its own and the kernel's for it.
pub(crate) fn cpu_seconds(process: u32) -> anyhow::Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).context("read a process's times")?;
    ticks(&stat)
        .map(|ticks| ticks as f64 / TICKS_PER_SECOND)
        .context("a process's times are not as proc_pid_stat(5) says")
}

/// The children of a process with the first argument that each was started with.
pub(crate) fn children(process: u32) -> anyhow::Result<Vec<(u32, String)>> {
    let path = format!("/proc/{process}/task/{process}/children");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let pids = text.split_whitespace().filter_map(|pid| pid.parse().ok());
    Ok(pids.map(|pid| (pid, first_argument(pid))).collect())
}

fn first_argument(process: u32) -> String {
    let line = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
    line.split(|byte| *byte == 0)
        .nth(1)
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .unwrap_or_default()
}

fn kib(status: &str, field: &str) -> Option<u64> {
    let line = status.lines().find(|line| line.starts_with(field))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// utime and stime: fields 14 and 15, the third being the first after the name.
fn ticks(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_behind_any_name() {
        let stat = "7 (a ) b) S 1 2 3 4 5 6 7 8 9 10 30 12 13 14";
        assert_eq!(ticks(stat), Some(42));
        assert_eq!(kib("Name:\tx\nVmRSS:\t  5120 kB\n", "VmRSS:"), Some(5120));
    }

    #[test]
    fn this_process_has_memory() {
        let memory = Memory::of(std::process::id()).unwrap();
        assert!(memory.resident > 0 && memory.peak >= memory.resident);
        assert!(cpu_seconds(std::process::id()).is_ok());
    }
}
