//! Which cores a thread may run on.

use std::io;

use rustix::process::Pid;
use rustix::thread::{CpuSet, gettid, sched_getaffinity, sched_setaffinity};

/// A thread of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thread(Pid);

impl Thread {
    /// The calling one.
    pub fn current() -> Thread {
        Thread(gettid())
    }

    /// Lets it run on these cores only; those that the process may not use do not count.
    pub fn keep_to(self, cores: &[usize]) -> io::Result<()> {
        let mut set = CpuSet::new();
        for core in cores.iter().filter(|core| **core < CpuSet::MAX_CPU) {
            set.set(*core);
        }
        Ok(sched_setaffinity(Some(self.0), &set)?)
    }
}

/// The cores that the calling thread may run on, by their numbers.
pub fn cores() -> io::Result<Vec<usize>> {
    let set = sched_getaffinity(None)?;
    Ok((0..CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_keeps_to_its_cores_until_it_gets_others() {
        let all = cores().unwrap();
        let last = all[all.len() - 1];
        Thread::current().keep_to(&[last]).unwrap();
        assert_eq!(cores().unwrap(), [last]);
        Thread::current().keep_to(&all).unwrap();
        assert_eq!(cores().unwrap(), all);
        assert!(Thread::current().keep_to(&[]).is_err());
        assert_eq!(cores().unwrap(), all);
    }
}
