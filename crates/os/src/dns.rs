//! Wiring the names of a network into the system's resolver, and taking them out again.
//!
//! Where systemd-resolved answers this host's questions it is told by `resolvectl`; elsewhere
//! `/etc/resolv.conf` is edited in place (it may be a mount). When that fails nothing has changed.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::net::IpAddr;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Error;
use crate::resolv_conf::{self, Entry};

const RESOLV_CONF: &str = "/etc/resolv.conf";
const RESOLVED: &str = "/run/systemd/resolve";
const RESOLVED_STUB: [u8; 4] = [127, 0, 0, 53];
const RESOLVECTL: &str = "resolvectl";
/// No resolver file is nearly as large.
const MAX_FILE: u64 = 64 * 1024;
/// Alone in a file that was not there before.
const MADE_BY_US: &[u8] = b"# ipop: file made by ipop\n";

/// Names of one NIC's network in the system's resolver. Dropping takes them out.
pub struct DnsWiring {
    nic: String,
    way: Way,
    upstream: Vec<IpAddr>,
    installed: bool,
}

enum Way {
    Resolved { program: PathBuf },
    File { path: PathBuf },
}

impl DnsWiring {
    /// Has `server` (port 53) asked for names in `domains`, which are searched for short names, too.
    /// Where the host's resolver cannot tell names apart, `server` is asked for all names and must
    /// pass what is not its own on to [`DnsWiring::upstream`].
    pub fn install(nic: &str, server: IpAddr, domains: &[String]) -> Result<DnsWiring, Error> {
        if resolved_answers() {
            return DnsWiring::install_resolved(Path::new(RESOLVECTL), nic, server, domains);
        }
        DnsWiring::install_file(Path::new(RESOLV_CONF), nic, server, domains)
    }

    /// The same by editing a given resolver file.
    pub fn install_file(path: &Path, nic: &str, server: IpAddr, domains: &[String]) -> Result<DnsWiring, Error> {
        check_domains(domains)?;
        let entry = Entry {
            nic: nic.to_owned(),
            server,
            domains: domains.to_vec(),
        };
        let before = edit(path, true, |text, fresh| {
            Some(resolv_conf::add(if fresh { MADE_BY_US } else { text }, entry))
        })?;
        let upstream = resolv_conf::foreign_nameservers(&before);
        let way = Way::File { path: path.to_owned() };
        Ok(DnsWiring {
            nic: nic.to_owned(),
            way,
            upstream,
            installed: true,
        })
    }

    fn install_resolved(program: &Path, nic: &str, server: IpAddr, domains: &[String]) -> Result<DnsWiring, Error> {
        check_domains(domains)?;
        let server = server.to_string();
        let domains: Vec<&str> = domains.iter().map(String::as_str).collect();
        let wiring = DnsWiring {
            nic: nic.to_owned(),
            way: Way::Resolved {
                program: program.to_owned(),
            },
            upstream: Vec::new(),
            // From the first command on: dropping after a failure takes out what was put in.
            installed: true,
        };
        resolvectl(program, &["dns", nic, &server])?;
        resolvectl(program, &[&["domain", nic], &domains[..]].concat())?;
        resolvectl(program, &["default-route", nic, "false"])?;
        Ok(wiring)
    }

    /// Where names of others are to be asked; empty when only our own names come to our server.
    pub fn upstream(&self) -> &[IpAddr] {
        &self.upstream
    }

    /// Takes the names out again and leaves everything else as it was.
    pub fn remove(mut self) -> Result<(), Error> {
        self.take_out()
    }

    /// Takes out of `/etc/resolv.conf` what a run for this NIC that was killed has left there.
    /// (systemd-resolved forgets by itself when the NIC vanishes.)
    pub fn remove_stale(nic: &str) -> Result<bool, Error> {
        DnsWiring::remove_stale_file(Path::new(RESOLV_CONF), nic)
    }

    /// Takes out of `/etc/resolv.conf` what runs that were killed have left there for NICs that are gone.
    pub fn sweep() -> Result<bool, Error> {
        let mut found = false;
        edit(Path::new(RESOLV_CONF), false, |text, _| {
            let gone = |nic: &str| !Path::new("/sys/class/net").join(nic).exists();
            let swept = resolv_conf::sweep(text, gone);
            found = swept.is_some();
            swept
        })?;
        Ok(found)
    }

    /// The same for a given resolver file.
    pub fn remove_stale_file(path: &Path, nic: &str) -> Result<bool, Error> {
        let mut found = false;
        edit(path, false, |text, _| {
            let without = resolv_conf::remove(text, nic);
            found = without.is_some();
            without
        })?;
        Ok(found)
    }

    fn take_out(&mut self) -> Result<(), Error> {
        if !std::mem::take(&mut self.installed) {
            return Ok(());
        }
        match &self.way {
            Way::Resolved { program } => resolvectl(program, &["revert", &self.nic]),
            Way::File { path } => DnsWiring::remove_stale_file(path, &self.nic).map(|_| ()),
        }
    }
}

impl Drop for DnsWiring {
    fn drop(&mut self) {
        if let Err(error) = self.take_out() {
            tracing::warn!("names of {} stay in the resolver: {error}", self.nic);
        }
    }
}

fn check_domains(domains: &[String]) -> Result<(), Error> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    let label = |l: &str| (1..=63).contains(&l.len()) && l.bytes().all(allowed);
    let valid = |d: &&String| d.len() <= 253 && !d.starts_with('-') && d.split('.').all(label);
    match domains.iter().find(|d| !valid(d)) {
        Some(domain) => Err(Error::DomainInvalid { domain: domain.clone() }),
        None => Ok(()),
    }
}

/// Whether systemd-resolved is what answers programs in this network namespace.
fn resolved_answers() -> bool {
    let points_there = || {
        let target = std::fs::canonicalize(RESOLV_CONF).ok();
        let text = std::fs::read(RESOLV_CONF).unwrap_or_default();
        target.is_some_and(|t| t.starts_with(RESOLVED))
            || resolv_conf::foreign_nameservers(&text).contains(&RESOLVED_STUB.into())
    };
    // It lives in the first process's namespace and knows interfaces by the numbers they have there.
    let namespace = |path: &str| std::fs::read_link(path).ok();
    let at_home = match (namespace("/proc/thread-self/ns/net"), namespace("/proc/1/ns/net")) {
        (Some(ours), Some(first)) => ours == first,
        _ => true,
    };
    Path::new(RESOLVED).is_dir() && at_home && points_there()
}

fn resolvectl(program: &Path, arguments: &[&str]) -> Result<(), Error> {
    let failed = |output: String| Error::Resolvectl {
        arguments: arguments.join(" "),
        output,
    };
    let done = Command::new(program)
        .args(arguments)
        .output()
        .map_err(|e| failed(e.to_string()))?;
    if done.status.success() {
        return Ok(());
    }
    Err(failed(String::from_utf8_lossy(&done.stderr).trim().to_owned()))
}

/// Changes the file by `change` (`None`: leave it) under a lock, and gives what was in it before.
/// `change` also learns whether the file was made just now.
fn edit(path: &Path, make: bool, change: impl FnOnce(&[u8], bool) -> Option<Vec<u8>>) -> Result<Vec<u8>, Error> {
    let unwritable = |source: io::Error| Error::ResolverUnwritable {
        path: path.to_owned(),
        source,
    };
    let options = || OpenOptions::new().read(true).write(true).clone();
    let (file, fresh) = match options().open(path) {
        Ok(file) => (file, false),
        Err(e) if e.kind() == io::ErrorKind::NotFound && !make => return Ok(Vec::new()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => (
            options().create(true).truncate(false).open(path).map_err(unwritable)?,
            true,
        ),
        Err(e) => return Err(unwritable(e)),
    };
    file.lock().map_err(unwritable)?;
    let before = read_bounded(&file).map_err(unwritable)?;
    if let Some(after) = change(&before, fresh) {
        if after == MADE_BY_US {
            std::fs::canonicalize(path)
                .and_then(std::fs::remove_file)
                .map_err(unwritable)?;
        } else if after != before {
            overwrite(&file, &before, &after).map_err(unwritable)?;
        }
    }
    Ok(before)
}

fn read_bounded(mut file: &File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.by_ref().take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is larger than 64 KiB"));
    }
    Ok(bytes)
}

/// Keeps the inode. When it fails half-way (a full disk) the old content goes back, for which there was room.
fn overwrite(file: &File, before: &[u8], after: &[u8]) -> io::Result<()> {
    let put = |bytes: &[u8]| {
        file.write_all_at(bytes, 0)?;
        file.set_len(bytes.len() as u64)
    };
    put(after).inspect_err(|_| {
        let _ = put(before);
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;
    use crate::test_dir::TestDir;

    const SERVER: [u8; 4] = [10, 1, 2, 3];

    fn domains() -> Vec<String> {
        vec!["lab.ipop".into()]
    }

    #[test]
    fn a_resolver_file_is_wired_in_place_and_comes_back() {
        let dir = TestDir::new();
        let (path, link) = (dir.path("target"), dir.path("resolv.conf"));
        let original = b"search lan\nnameserver 192.168.1.1\nnameserver ::1";
        std::fs::write(&path, original).unwrap();
        symlink(&path, &link).unwrap();
        let inode = std::fs::metadata(&path).unwrap().ino();
        let wiring = DnsWiring::install_file(&link, "ipop0", SERVER.into(), &domains()).unwrap();
        let upstream: Vec<IpAddr> = vec!["192.168.1.1".parse().unwrap(), "::1".parse().unwrap()];
        assert_eq!(wiring.upstream(), upstream);
        let text = std::fs::read_to_string(&path).unwrap();
        let first = text.lines().find(|l| l.starts_with("nameserver")).unwrap();
        let last = text.lines().rfind(|l| l.starts_with("search")).unwrap();
        assert_eq!((first, last), ("nameserver 10.1.2.3", "search lan lab.ipop"));
        wiring.remove().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), original);
        assert_eq!(std::fs::metadata(&path).unwrap().ino(), inode);
        assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
    }

    #[test]
    fn what_a_killed_run_left_is_found_and_taken_out() {
        let dir = TestDir::new();
        let path = dir.path("resolv.conf");
        std::fs::write(&path, "nameserver 1.1.1.1\n").unwrap();
        std::mem::forget(DnsWiring::install_file(&path, "ipop0", SERVER.into(), &domains()).unwrap());
        let again = DnsWiring::install_file(&path, "ipop0", SERVER.into(), &domains()).unwrap();
        assert_eq!(again.upstream().len(), 1);
        std::mem::forget(again);
        assert!(!DnsWiring::remove_stale_file(&path, "ipop1").unwrap());
        assert!(DnsWiring::remove_stale_file(&path, "ipop0").unwrap());
        assert!(!DnsWiring::remove_stale_file(&path, "ipop0").unwrap());
        assert_eq!(std::fs::read(&path).unwrap(), b"nameserver 1.1.1.1\n");
    }

    #[test]
    fn a_file_that_was_not_there_is_gone_afterwards() {
        let dir = TestDir::new();
        let path = dir.path("resolv.conf");
        assert!(!DnsWiring::remove_stale_file(&path, "ipop0").unwrap());
        assert!(!path.exists());
        drop(DnsWiring::install_file(&path, "ipop0", SERVER.into(), &domains()).unwrap());
        assert!(!path.exists());
        std::fs::write(&path, "").unwrap();
        drop(DnsWiring::install_file(&path, "ipop0", SERVER.into(), &domains()).unwrap());
        assert_eq!(std::fs::read(&path).unwrap(), b"", "it was there, and empty");
    }

    #[test]
    fn what_cannot_be_written_is_an_error_and_unchanged() {
        let dir = TestDir::new();
        let folder = dir.path("");
        let refusal = DnsWiring::install_file(&folder, "ipop0", SERVER.into(), &domains())
            .err()
            .unwrap();
        assert!(matches!(refusal, Error::ResolverUnwritable { .. }), "{refusal}");
        let path = dir.path("huge");
        std::fs::write(&path, vec![b'#'; 70_000]).unwrap();
        let refusal = DnsWiring::install_file(&path, "ipop0", SERVER.into(), &domains())
            .err()
            .unwrap();
        assert!(matches!(refusal, Error::ResolverUnwritable { .. }), "{refusal}");
        assert_eq!(std::fs::read(&path).unwrap(), vec![b'#'; 70_000]);
        for bad in ["", "a b", "x\nnameserver 6.6.6.6", "a..b", "-x"] {
            let refusal = DnsWiring::install_file(&path, "ipop0", SERVER.into(), &[bad.into()])
                .err()
                .unwrap();
            assert!(matches!(refusal, Error::DomainInvalid { .. }), "{bad:?}: {refusal}");
        }
    }

    /// Mounts a file system of one page on `folder`, for this thread alone.
    fn mount_one_page(folder: &Path) {
        let text = |s: &[u8]| std::ffi::CString::new(s).unwrap();
        let (kind, root) = (text(b"tmpfs"), text(b"/"));
        let target = text(std::os::unix::ffi::OsStrExt::as_bytes(folder.as_os_str()));
        let options = text(b"size=4096");
        let null = std::ptr::null();
        // SAFETY: all strings outlive the calls; the namespace is this thread's own.
        unsafe {
            assert_eq!(libc::unshare(libc::CLONE_NEWNS), 0, "tests run as root");
            let private = libc::MS_REC | libc::MS_PRIVATE;
            assert_eq!(libc::mount(null, root.as_ptr(), null, private, null.cast()), 0);
            let (kind, options) = (kind.as_ptr(), options.as_ptr());
            let outcome = libc::mount(kind, target.as_ptr(), kind, 0, options.cast());
            assert_eq!(outcome, 0, "{}", io::Error::last_os_error());
        }
    }

    #[test]
    fn a_full_disk_leaves_the_file_as_it_was() {
        let dir = TestDir::new();
        let path = dir.path("resolv.conf");
        std::thread::spawn(move || {
            mount_one_page(path.parent().unwrap());
            let original = [b"nameserver 1.1.1.1\n".repeat(210), b"# end".to_vec()].concat();
            std::fs::write(&path, &original).unwrap();
            let refusal = DnsWiring::install_file(&path, "ipop0", SERVER.into(), &domains());
            match refusal.err().unwrap() {
                Error::ResolverUnwritable { source, .. } => {
                    assert_eq!(source.kind(), io::ErrorKind::StorageFull);
                }
                other => panic!("{other}"),
            }
            assert_eq!(std::fs::read(&path).unwrap(), original);
        })
        .join()
        .unwrap();
    }

    /// A stand-in for `resolvectl` that notes its arguments and fails on the word `bad.ipop`.
    fn fake_resolvectl(dir: &TestDir) -> (PathBuf, PathBuf) {
        let (program, log) = (dir.path("resolvectl"), dir.path("log"));
        let script = format!(
            "#!/bin/sh\necho \"$@\" >> {}\ncase \"$*\" in *bad.ipop*) echo refused >&2; exit 1;; esac\n",
            log.display()
        );
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        (program, log)
    }

    #[test]
    fn systemd_resolved_is_told_and_told_to_forget() {
        let dir = TestDir::new();
        let (program, log) = fake_resolvectl(&dir);
        let wiring = DnsWiring::install_resolved(&program, "ipop0", SERVER.into(), &domains()).unwrap();
        assert_eq!(wiring.upstream(), [] as [IpAddr; 0]);
        wiring.remove().unwrap();
        let told = std::fs::read_to_string(&log).unwrap();
        assert_eq!(
            told,
            "dns ipop0 10.1.2.3\ndomain ipop0 lab.ipop\ndefault-route ipop0 false\nrevert ipop0\n"
        );
    }

    #[test]
    fn a_refusal_of_systemd_resolved_leaves_nothing_behind() {
        let dir = TestDir::new();
        let (program, log) = fake_resolvectl(&dir);
        let bad = ["bad.ipop".to_owned()];
        let refusal = DnsWiring::install_resolved(&program, "ipop0", SERVER.into(), &bad)
            .err()
            .unwrap();
        assert_eq!(
            refusal.to_string(),
            "`resolvectl domain ipop0 bad.ipop` failed: refused"
        );
        assert!(std::fs::read_to_string(&log).unwrap().ends_with("revert ipop0\n"));
    }
}
