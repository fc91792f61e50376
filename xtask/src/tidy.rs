//! Arrows between crates, purity, unsafe, file sizes, words, dependency notes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Who may depend on whom: DESIGN section 3 and `docs/ARCHITECTURE.md`.
const ARROWS: &[(&str, &[&str])] = &[
    ("api", &[]),
    ("tincan", &["api"]),
    ("controller", &["api"]),
    ("sim", &["api", "tincan", "controller"]),
    ("rendezvous", &["api"]),
    ("os", &[]),
    ("ipop", &["api", "tincan", "controller", "rendezvous", "os", "sim"]),
];

/// Crates without clock, chance, IO or task.
const PURE: &[&str] = &["api", "tincan", "controller", "sim"];

const IMPURE: &[(&str, &str)] = &[
    ("Instant::now", "time is an argument"),
    ("SystemTime::now", "time is an argument"),
    ("thread_rng", "chance is a seed"),
    ("rand::rng()", "chance is a seed"),
    ("OsRng", "chance is a seed"),
    ("std::fs", "effects are returned values"),
    ("std::env", "settings are arguments"),
    ("UdpSocket", "effects are returned values"),
    ("TcpStream", "effects are returned values"),
    ("std::thread", "pure machines run in their caller's thread"),
    ("tokio", "pure machines run in their caller's thread"),
];

/// Lines in a file. A file that is longer today is named with its length, which may only fall.
const LINES_MAX: usize = 600;
const LONG_FILES: &[(&str, usize)] = &[
    ("crates/rendezvous/src/sasl.rs", 709),
    ("crates/rendezvous/src/server/hub.rs", 680),
    ("crates/rendezvous/src/server/turn/machine.rs", 645),
    ("crates/sim/src/net.rs", 624),
    ("crates/tincan/src/ice.rs", 676),
    ("crates/tincan/src/ice/tests.rs", 709),
];

struct Source {
    path: PathBuf,
    name: String,
    text: String,
}

pub(crate) fn run() -> ExitCode {
    // Asked when it runs: a target folder that several checkouts share may hold a program built in another.
    let own = std::env::var("CARGO_MANIFEST_DIR").expect("cargo runs this");
    let root = Path::new(&own).parent().expect("xtask lies in the workspace");
    let mut faults = Vec::new();
    arrows(root, &mut faults);
    notes(root, &mut faults);
    for source in sources(root) {
        length(&source, &mut faults);
        purity(&source, &mut faults);
        confinement(&source, &mut faults);
        words(&source, &mut faults);
    }
    for fault in &faults {
        eprintln!("tidy: {fault}");
    }
    println!("tidy: {} faults", faults.len());
    if faults.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn arrows(root: &Path, faults: &mut Vec<String>) {
    let names: Vec<&str> = ARROWS.iter().map(|(name, _)| *name).collect();
    for (name, allowed) in ARROWS {
        let manifest = read(&root.join("crates").join(name).join("Cargo.toml"));
        let Some((_, dependencies)) = manifest.split_once("[dependencies]") else {
            continue;
        };
        // Tests may look further than the shipped code: what follows under [dev-dependencies] is not an arrow.
        let dependencies = dependencies.split("\n[").next().unwrap_or_default();
        let used = dependencies
            .lines()
            .filter_map(|line| line.split(['.', ' ', '=']).next());
        for other in used.filter(|used| names.contains(used) && !allowed.contains(used)) {
            faults.push(format!("crates/{name} must not depend on {other}"));
        }
    }
    let crates = fs::read_dir(root.join("crates")).expect("crates/ is there");
    for entry in crates.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !names.contains(&name.as_str()) {
            faults.push(format!("crates/{name} has no place among the arrows"));
        }
    }
}

fn notes(root: &Path, faults: &mut Vec<String>) {
    let manifest = read(&root.join("Cargo.toml"));
    let told = read(&root.join("docs/dependencies.md"));
    let map = read(&root.join("docs/ARCHITECTURE.md"));
    let (_, rest) = manifest
        .split_once("[workspace.dependencies]")
        .expect("the workspace has dependencies");
    let section = rest.split("\n[").next().unwrap_or_default();
    for line in section.lines().filter(|line| !line.contains("path =")) {
        let name = line.split([' ', '=']).next().unwrap_or_default();
        if !name.is_empty() && !name.starts_with('#') && !told.contains(&format!("`{name}`")) {
            faults.push(format!("docs/dependencies.md does not tell what `{name}` is for"));
        }
    }
    for (name, _) in ARROWS {
        if !map.contains(&format!("`{name}`")) {
            faults.push(format!("docs/ARCHITECTURE.md does not name crate `{name}`"));
        }
    }
}

fn sources(root: &Path) -> Vec<Source> {
    let mut paths = Vec::new();
    for folder in ["crates", "xtask", "fuzz", "bench", "lab"] {
        collect(&root.join(folder), &mut paths);
    }
    paths.sort();
    let source = |path: PathBuf| {
        let name = path
            .strip_prefix(root)
            .expect("below the root")
            .to_string_lossy()
            .into_owned();
        Source {
            text: read(&path),
            path,
            name,
        }
    };
    paths.into_iter().map(source).collect()
}

fn collect(folder: &Path, paths: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
            collect(&path, paths);
        } else if path.extension().is_some_and(|kind| kind == "rs") {
            paths.push(path);
        }
    }
}

fn length(source: &Source, faults: &mut Vec<String>) {
    let lines = source.text.lines().count();
    let allowed = LONG_FILES
        .iter()
        .find(|(name, _)| *name == source.name)
        .map_or(LINES_MAX, |(_, lines)| *lines);
    if lines > allowed {
        faults.push(format!(
            "{} has {lines} lines, {allowed} are allowed: split it",
            source.name
        ));
    }
}

fn purity(source: &Source, faults: &mut Vec<String>) {
    if !PURE
        .iter()
        .any(|name| source.name.starts_with(&format!("crates/{name}/src/")))
        || is_test_file(&source.path)
    {
        return;
    }
    for (number, line) in shipped(&source.text) {
        for (word, reason) in IMPURE {
            // A virtual clock needs one real instant to count from: no other can be made.
            let is_origin = source.name == "crates/sim/src/clock.rs" && *word == "Instant::now";
            if line.contains(word) && !is_origin {
                faults.push(format!("{}:{number}: {word} in a pure crate: {reason}", source.name));
            }
        }
    }
}

fn confinement(source: &Source, faults: &mut Vec<String>) {
    if source.name.starts_with("crates/os/") || source.name.starts_with("xtask/") {
        return;
    }
    for (number, line) in shipped(&source.text) {
        let code = line.split("//").next().unwrap_or_default();
        if code.contains("unsafe ") || code.contains("target_os") {
            faults.push(format!(
                "{}:{number}: unsafe and target_os belong in crate os",
                source.name
            ));
        }
    }
}

/// Our word is frame or datagram; what other crates call things is theirs.
fn words(source: &Source, faults: &mut Vec<String>) {
    if source.name.starts_with("xtask/") {
        return;
    }
    for (number, line) in source.text.lines().enumerate() {
        let Some((_, comment)) = line.split_once("//") else {
            continue;
        };
        if comment
            .split(|c: char| !c.is_alphanumeric())
            .any(|word| matches!(word, "packet" | "packets" | "Packets"))
        {
            faults.push(format!("{}:{}: say frame or datagram", source.name, number + 1));
        }
    }
}

fn is_test_file(path: &Path) -> bool {
    path.components().any(|part| {
        matches!(
            part.as_os_str().to_str(),
            Some("tests" | "tests.rs" | "testing.rs" | "link_tests.rs")
        )
    })
}

/// Lines with their numbers up to the tests, comments left out.
fn shipped(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text
        .lines()
        .enumerate()
        .take_while(|(_, line)| !line.starts_with("#[cfg(test)]"));
    lines
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
        .map(|(number, line)| (number + 1, line))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}
