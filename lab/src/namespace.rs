//! Network namespaces by name, and commands inside them.

use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::Failure;

/// All namespaces of the lab start so; then come process id, its start time, a counter and the host.
const PREFIX: &str = "ipoplab-";
const FOLDER: &str = "/run/netns";

/// A namespace that exists. Not removed on drop: the rig removes all of its own in one go.
#[derive(Clone, Debug)]
pub(crate) struct Namespace(String);

impl Namespace {
    /// Makes it, with loopback up.
    pub(crate) fn add(rig: &str, name: &str) -> Result<Self, Failure> {
        let full = format!("{rig}-{name}");
        run(Command::new("ip").args(["netns", "add", &full]), "")?;
        let namespace = Self(full);
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// One that a rig has, by the name within it.
    pub(crate) fn named(rig: &str, name: &str) -> Self {
        Self(format!("{rig}-{name}"))
    }

    pub(crate) fn name(&self) -> &str {
        &self.0
    }

    pub(crate) fn path(&self) -> PathBuf {
        PathBuf::from(FOLDER).join(&self.0)
    }

    /// Runs lines of `ip` inside.
    pub(crate) fn ip(&self, lines: &str) -> Result<(), Failure> {
        run(Command::new("ip").args(["-n", &self.0, "-batch", "-"]), lines)
    }

    /// Loads nftables rules inside.
    pub(crate) fn nft(&self, rules: &str) -> Result<(), Failure> {
        let rules = rules.to_owned();
        self.inside(move || run(Command::new("nft").args(["-f", "-"]), &rules))?
    }

    /// Sets kernel parameters below `/proc/sys/net`, which shows those of the thread's own namespace.
    pub(crate) fn sysctl(&self, values: &[(&str, &str)]) -> Result<(), Failure> {
        self.inside(|| {
            for (name, value) in values {
                let path = format!("/proc/sys/net/{name}");
                std::fs::write(&path, value).map_err(|e| Failure::system(format!("write {path}"), e))?;
            }
            Ok(())
        })?
    }

    /// Runs `body` on a thread inside. Sockets, NICs and child processes made there stay there.
    pub(crate) fn inside<T: Send>(&self, body: impl FnOnce() -> T + Send) -> Result<T, Failure> {
        let path = self.path();
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                os::netns::enter(&path).map_err(|e| Failure::system("enter a namespace", e))?;
                Ok(body())
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

/// The name of a rig of this process.
pub(crate) fn rig_name(counter: u32) -> String {
    let pid = std::process::id();
    format!("{PREFIX}{pid}-{}-{counter}", started(pid).unwrap_or_default())
}

/// The namespaces of a rig by name.
pub fn namespaces_of(rig: &str) -> Vec<String> {
    let own = format!("{rig}-");
    names().into_iter().filter(|name| name.starts_with(&own)).collect()
}

/// Removes everything of a rig, by its name and folder.
pub fn remove(rig: &str, folder: &Path) {
    remove_all(rig);
    let _ = std::fs::remove_dir_all(folder);
}

/// Ends what runs in the namespaces of a rig and removes them.
fn remove_all(rig: &str) {
    let names = namespaces_of(rig);
    if names.is_empty() {
        return;
    }
    kill_inside(&names);
    let lines: String = names.iter().map(|name| format!("netns del {name}\n")).collect();
    if let Err(failure) = run(Command::new("ip").args(["-force", "-batch", "-"]), &lines) {
        eprintln!("lab: {failure}");
    }
}

/// Removes what runs that are dead have left, namespaces and folders.
pub(crate) fn sweep() {
    // One run at a time: two would remove the same things.
    let lock = std::fs::File::create(std::env::temp_dir().join("ipoplab.lock"));
    let Ok(lock) = lock.and_then(|file| file.lock().map(|()| file)) else {
        return;
    };
    let mut rigs: Vec<String> = names()
        .iter()
        .filter_map(|name| name.rsplit_once('-'))
        .map(|(rig, _)| rig.into())
        .collect();
    rigs.extend(folder_names(&std::env::temp_dir()));
    rigs.sort();
    rigs.dedup();
    for rig in rigs.iter().filter(|rig| rig.starts_with(PREFIX) && is_dead(rig)) {
        remove(rig, &std::env::temp_dir().join(rig));
    }
    drop(lock);
}

fn is_dead(rig: &str) -> bool {
    let mut parts = rig[PREFIX.len()..].split('-');
    let (Some(Ok(pid)), Some(start)) = (parts.next().map(str::parse), parts.next()) else {
        return false;
    };
    started(pid).is_none_or(|now| now != start)
}

/// When a process started, in ticks since boot: proc_pid_stat(5), field 22.
fn started(pid: u32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_whitespace().nth(19).map(str::to_owned)
}

fn names() -> Vec<String> {
    folder_names(FOLDER.as_ref())
}

fn folder_names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with(PREFIX))
        .collect()
}

/// Kills until nothing runs there any more; bounded, as a process in the kernel's hands dies when the kernel lets go.
fn kill_inside(names: &[String]) {
    let inode = |name: &String| {
        std::fs::metadata(format!("{FOLDER}/{name}"))
            .ok()
            .map(|data| data.ino())
    };
    let inodes: Vec<u64> = names.iter().filter_map(inode).collect();
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let inside = processes_in(&inodes);
        if inside.is_empty() || Instant::now() > deadline {
            return;
        }
        os::kill_all(&inside, deadline.saturating_duration_since(Instant::now()));
    }
}

/// The living processes in namespaces of these inodes, but not this one.
fn processes_in(inodes: &[u64]) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let lives_there =
        |pid: &u32| std::fs::metadata(format!("/proc/{pid}/ns/net")).is_ok_and(|data| inodes.contains(&data.ino()));
    pids.filter(|pid| *pid != std::process::id())
        .filter(lives_there)
        .collect()
}

impl Namespace {
    /// The living processes inside.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let inode = std::fs::metadata(self.path()).map(|data| data.ino());
        inode.map(|inode| processes_in(&[inode])).unwrap_or_default()
    }
}

/// Runs a command to its end with this standard input.
pub(crate) fn run(command: &mut Command, input: &str) -> Result<(), Failure> {
    let shown = format!("{command:?}");
    let program = command.get_program().to_string_lossy().into_owned();
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => Failure::Missing(program.clone()),
        _ => Failure::system(format!("start {program}"), e),
    })?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that refuses its first line may end before it reads the rest; its exit code tells.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child
        .wait_with_output()
        .map_err(|e| Failure::system(format!("wait for {program}"), e))?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    Err(Failure::Command {
        command: format!("{shown} <<< {input}"),
        status: output.status.to_string(),
        output: String::from_utf8_lossy(&said).trim().to_owned(),
    })
}
