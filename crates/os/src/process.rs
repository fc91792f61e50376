//! What a process is allowed, what it uses, and with whom it ends.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, getppid, parent_process_death_signal, set_parent_process_death_signal};
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

use crate::wake::wait_readable;
use crate::{Error, Owner};

/// Has the kernel end this process (SIGTERM) when its parent ends, and fails if the parent is gone
/// already. `parent` is the number of the parent's process, which the parent passes on.
///
/// The kernel watches the parent's *thread* that made the child: make it in a thread that lasts.
pub fn die_with_parent(parent: u32) -> Result<(), Error> {
    set_parent_process_death_signal(Some(Signal::TERM))
        .map_err(|e| Error::system("tie this process to its parent", e))?;
    let now = getppid().map(|pid| pid.as_raw_nonzero().get().unsigned_abs());
    if now == Some(parent) {
        return Ok(());
    }
    Err(Error::system(
        "tie this process to its parent",
        io::Error::other("the parent has ended"),
    ))
}

/// How much sooner than an ordinary thread one `put_first` runs: ten times an ordinary thread's share (sched(7)).
const NICE_FIRST: i32 = -10;

/// Has the calling thread run before ordinary ones where both want a core; `false`: this user may not (CAP_SYS_NICE).
pub fn put_first() -> bool {
    // On Linux the calling "process" is the calling thread.
    rustix::process::setpriority_process(None, NICE_FIRST).is_ok()
}

/// Gives up every privilege for good: becomes `owner` with no other group, no capability, and no way
/// to gain any by running other programs. Call it before threads are started.
pub fn run_as_unprivileged(owner: Owner) -> Result<(), Error> {
    let kept = |why: String| Error::PrivilegesKept { why };
    if owner.uid == 0 || owner.gid == 0 {
        return Err(kept("user or group 0 is the superuser's".to_owned()));
    }
    // The kernel forgets this when the user changes.
    let tied = parent_process_death_signal().ok().flatten();
    if rustix::process::geteuid().is_root() {
        become_user(owner).map_err(|e| kept(e.to_string()))?;
    }
    if crate::own_identity() != owner {
        return Err(kept(format!("only root can become user {}", owner.uid)));
    }
    give_up_capabilities()?;
    set_parent_process_death_signal(tied).map_err(|e| kept(io::Error::from(e).to_string()))?;
    // SAFETY: no pointers.
    if unsafe { libc::setresuid(0, 0, 0) } == 0 {
        return Err(kept("the superuser could be had back".to_owned()));
    }
    Ok(())
}

/// Stays the user it is, but for good without a capability and without a way to gain one. Call it before threads are
/// started. For a superuser whom no other user can stand in for (`is_user_known`): its own files stay its own.
pub fn give_up_capabilities() -> Result<(), Error> {
    let none = CapabilitySet::empty();
    let sets = CapabilitySets {
        effective: none,
        permitted: none,
        inheritable: none,
    };
    let given = set_capabilities(None, sets).and_then(|()| rustix::thread::set_no_new_privs(true));
    given.map_err(|e| Error::PrivilegesKept {
        why: io::Error::from(e).to_string(),
    })
}

/// Whether a user of that number exists in this user namespace, so that a process could become it (user_namespaces(7)).
pub fn is_user_known(user: u32) -> bool {
    let Ok(map) = std::fs::read_to_string("/proc/self/uid_map") else {
        return true;
    };
    map.lines().any(|line| {
        let mut fields = line
            .split_ascii_whitespace()
            .map(|field| field.parse::<u64>().unwrap_or(0));
        let (first, _, count) = (fields.next().unwrap_or(0), fields.next(), fields.next().unwrap_or(0));
        (first..first + count).contains(&u64::from(user))
    })
}

/// Asks a process to end (SIGTERM); one that is gone already is fine.
pub fn terminate(process: u32) {
    signal(process, rustix::process::Signal::TERM);
}

/// Ends processes by force (SIGKILL) and waits until they have ended, but no longer than this; one that is gone already is
/// fine.
pub fn kill_all(processes: &[u32], within: Duration) {
    let open = |process: &u32| {
        let pid = i32::try_from(*process).ok().and_then(Pid::from_raw)?;
        rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok()
    };
    let handles: Vec<OwnedFd> = processes.iter().filter_map(open).collect();
    for handle in &handles {
        let _ = rustix::process::pidfd_send_signal(handle, Signal::KILL);
    }
    let deadline = Instant::now() + within;
    for handle in &handles {
        // It can be read once the process has ended (pidfd_open(2)).
        let _ = wait_readable(
            &[handle.as_fd()],
            Some(deadline.saturating_duration_since(Instant::now())),
        );
    }
}

/// Asks a process to look at its settings again (SIGHUP).
pub fn hang_up(process: u32) {
    signal(process, rustix::process::Signal::HUP);
}

fn signal(process: u32, signal: rustix::process::Signal) {
    if let Some(pid) = i32::try_from(process).ok().and_then(Pid::from_raw) {
        // The only failures are that it is gone and that it is not ours; the caller sees both by waiting.
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// The machine's host name, up to its first dot; `node` where it has none.
pub fn host_name() -> String {
    let system = rustix::system::uname();
    let name = system.nodename().to_string_lossy();
    let first = name.split('.').next().unwrap_or_default();
    if first.is_empty() {
        "node".into()
    } else {
        first.to_owned()
    }
}

/// Whether this thread may make and change network interfaces.
pub fn has_net_admin() -> bool {
    capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::NET_ADMIN))
}

/// The parent's process number.
pub fn parent_process() -> Option<u32> {
    getppid().map(Pid::as_raw_nonzero).map(|pid| pid.get().unsigned_abs())
}

/// The memory that this process occupies (resident set), in bytes.
pub fn memory_in_use() -> Result<u64, Error> {
    let failed = |e: io::Error| Error::system("read /proc/self/status", e);
    let status = std::fs::read_to_string("/proc/self/status").map_err(failed)?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
    let kibibytes = line.and_then(|l| l.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    Ok(kibibytes.ok_or_else(|| failed(io::ErrorKind::InvalidData.into()))? * 1024)
}

/// Lets go of the program's code: what is needed of it comes back from the page cache, what served the start or a rare
/// occasion does not. The kernel maps code in blocks of 64 KiB and more and never lets go of it by itself.
pub fn release_code() {
    let Ok(maps) = std::fs::read_to_string("/proc/self/maps") else {
        return;
    };
    for (start, length) in maps.lines().filter_map(code_of_file) {
        // SAFETY: code of a file is mapped private and was never written, as it is not writable: its pages are the file's.
        // (Read-only data is left alone, as relocations were written there.) The range was mapped a moment ago and is unmapped
        // by nobody: no library is loaded or unloaded at run time; if one were, the call fails or does nothing.
        unsafe { libc::madvise(start as *mut libc::c_void, length, libc::MADV_DONTNEED) };
    }
}

/// Start and length of a line of `/proc/self/maps`, if it is code that came from a file.
fn code_of_file(line: &str) -> Option<(usize, usize)> {
    let mut fields = line.split_ascii_whitespace();
    let (range, rights) = (fields.next()?, fields.next()?);
    let path = fields.nth(3)?;
    if rights != "r-xp" || !path.starts_with('/') {
        return None;
    }
    let (start, end) = range.split_once('-')?;
    let start = usize::from_str_radix(start, 16).ok()?;
    let end = usize::from_str_radix(end, 16).ok()?;
    Some((start, end.checked_sub(start)?))
}

/// The C library's calls and not the kernel's: they change all threads of the process.
fn become_user(owner: Owner) -> io::Result<()> {
    let check = |outcome: libc::c_int| {
        if outcome < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    };
    // SAFETY: an empty list may be null; no other pointers.
    unsafe {
        check(libc::setgroups(0, std::ptr::null()))?;
        check(libc::setresgid(owner.gid, owner.gid, owner.gid))?;
        check(libc::setresuid(owner.uid, owner.uid, owner.uid))
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::process::{Child, Command, Stdio};

    use super::*;

    #[test]
    fn who_is_killed_has_ended_afterwards() {
        let start = || Command::new("sleep").arg("1000").spawn().unwrap();
        let mut children = [start(), start()];
        let numbers: Vec<u32> = children.iter().map(Child::id).collect();
        kill_all(&numbers, Duration::from_secs(60));
        for child in &mut children {
            assert!(child.try_wait().unwrap().is_some_and(|status| !status.success()));
        }
    }

    const ROLE: &str = "IPOP_OS_TEST_ROLE";

    /// Runs one test of this binary again as another process, which does what its role says.
    fn run_again(test: &str, role: &str) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", &format!("process::tests::{test}"), "--nocapture"])
            .env(ROLE, role);
        command
    }

    fn role() -> Option<String> {
        std::env::var(ROLE).ok()
    }

    fn read_until(child: &mut Child, word: &str) {
        let output = child.stdout.as_mut().unwrap();
        let mut seen = Vec::new();
        while !String::from_utf8_lossy(&seen).contains(word) {
            let mut byte = [0];
            assert_eq!(output.read(&mut byte).unwrap(), 1, "{}", String::from_utf8_lossy(&seen));
            seen.push(byte[0]);
        }
    }

    #[test]
    fn the_unprivileged_have_nothing_left() {
        let nobody = Owner {
            uid: 65_534,
            gid: 65_534,
        };
        if role().is_some() {
            assert!(has_net_admin(), "these tests run as root");
            set_parent_process_death_signal(Some(Signal::TERM)).unwrap();
            let bystander = std::thread::spawn(|| {
                std::thread::park();
                std::fs::read_to_string("/proc/thread-self/status").unwrap()
            });
            run_as_unprivileged(nobody).unwrap();
            assert!(!has_net_admin());
            let refusal = crate::Nic::create(&crate::NicConfig::new(crate::NicKind::Tun));
            assert!(matches!(refusal.err(), Some(Error::NoNetAdmin { .. })));
            assert_eq!(crate::own_identity(), nobody);
            assert_eq!(parent_process_death_signal().unwrap(), Some(Signal::TERM));
            bystander.thread().unpark();
            let status = bystander.join().unwrap();
            assert!(status.contains("Uid:\t65534\t65534\t65534\t65534"), "{status}");
            assert!(status.contains("CapEff:\t0000000000000000"), "{status}");
            assert!(std::fs::read("/proc/1/environ").is_err());
            run_as_unprivileged(nobody).unwrap();
            assert!(run_as_unprivileged(Owner { uid: 1234, gid: 1234 }).is_err());
            return;
        }
        assert!(run_as_unprivileged(Owner { uid: 0, gid: 0 }).is_err());
        let done = run_again("the_unprivileged_have_nothing_left", "drop")
            .output()
            .unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stdout));
        assert!(String::from_utf8_lossy(&done.stdout).contains("1 passed"));
    }

    #[test]
    fn a_superuser_without_capabilities_may_nothing_either() {
        if role().is_some() {
            let before = crate::own_identity();
            give_up_capabilities().unwrap();
            assert!(!has_net_admin());
            assert_eq!(crate::own_identity(), before);
            return;
        }
        let done = run_again("a_superuser_without_capabilities_may_nothing_either", "drop")
            .output()
            .unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stdout));
    }

    #[test]
    fn the_users_of_this_namespace_are_known() {
        assert!(is_user_known(0));
        assert!(is_user_known(crate::own_identity().uid));
        assert!(!is_user_known(u32::MAX));
    }

    #[test]
    fn a_child_ends_with_its_parent() {
        const TEST: &str = "a_child_ends_with_its_parent";
        match role().as_deref() {
            Some("parent") => {
                let me = std::process::id();
                let mut child = run_again(TEST, "child")
                    .env("IPOP_OS_TEST_PARENT", me.to_string())
                    .spawn()
                    .unwrap();
                child.wait().unwrap();
            }
            Some(_) => {
                let parent: u32 = std::env::var("IPOP_OS_TEST_PARENT").unwrap().parse().unwrap();
                assert!(die_with_parent(parent + 1).is_err());
                die_with_parent(parent).unwrap();
                std::io::stdout().write_all(b"tied\n").unwrap();
                // Ends with the test if the tie does not hold.
                let _ = std::io::stdin().read(&mut [0]);
                std::io::stdout().write_all(b"still here\n").unwrap();
            }
            None => {
                let mut parent = run_again(TEST, "parent")
                    .stdin(Stdio::piped())
                    .stdout(Stdio::piped())
                    .spawn()
                    .unwrap();
                read_until(&mut parent, "tied");
                parent.kill().unwrap();
                let mut rest = String::new();
                // The end of output: nobody holds it open any more.
                parent.stdout.as_mut().unwrap().read_to_string(&mut rest).unwrap();
                assert!(!rest.contains("still here"));
                parent.wait().unwrap();
            }
        }
    }

    #[test]
    fn code_is_let_go_and_comes_back() {
        let before = memory_in_use().unwrap();
        release_code();
        let after = memory_in_use().unwrap();
        assert!(after < before, "{before} {after}");
        // Everything still runs.
        assert!(std::thread::spawn(host_name).join().unwrap() == host_name());
    }

    #[test]
    fn only_code_of_files_is_let_go() {
        for (line, range) in [
            ("1000-3000 r-xp 00001000 fd:00 12 /usr/bin/x", Some((0x1000, 0x2000))),
            ("1000-3000 r--p 00001000 fd:00 12 /usr/bin/x", None),
            ("1000-3000 rw-p 00001000 fd:00 12 /usr/bin/x", None),
            ("1000-3000 r-xp 00000000 00:00 0 [vdso]", None),
            ("1000-3000 r-xp 00000000 00:00 0", None),
            ("", None),
        ] {
            assert_eq!(code_of_file(line), range, "{line}");
        }
    }

    #[test]
    fn memory_in_use_is_told() {
        let before = memory_in_use().unwrap();
        let block = vec![1u8; 32 << 20];
        let after = memory_in_use().unwrap();
        assert!(after > before + (16 << 20), "{before} {after} {}", block.len());
    }
}
