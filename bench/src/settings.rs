//! What this run measures, and how long: from the environment, as `make bench NAME=VALUE` hands it on.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};

use crate::peer::{self, Peer};

/// A run's settings.
pub(crate) struct Settings {
    /// The binary that is measured.
    pub(crate) ipop: PathBuf,
    /// Where peers lie and reports go.
    pub(crate) folder: PathBuf,
    /// Whether figures only have to be there.
    pub(crate) quick: bool,
    /// Peers to be compared, IPOP among them.
    pub(crate) peers: Vec<&'static Peer>,
    /// How long endurance is tried.
    pub(crate) endurance: Endurance,
    parts: Vec<String>,
}

/// How long, and how often memory is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Endurance {
    pub(crate) span: Duration,
    pub(crate) every: Duration,
}

const MINUTES: u64 = 60;

impl Settings {
    /// From `IPOP_BIN`, `BENCH_FOLDER`, `ONLY`, `PARTS`, `QUICK` and `MINUTES`. `known` are the names of all parts, `usual` of
    /// those that are measured when none is named.
    pub(crate) fn from_environment(known: &[&str], usual: &[&str]) -> anyhow::Result<Self> {
        let path = |name: &str| {
            let value = std::env::var_os(name).with_context(|| format!("{name} is not set: use `make bench`"))?;
            anyhow::Ok(PathBuf::from(value))
        };
        let ipop = path("IPOP_BIN")?;
        let ipop = ipop
            .canonicalize()
            .with_context(|| format!("there is no binary at {}", ipop.display()))?;
        let names: Vec<&str> = peer::ALL.iter().map(|peer| peer.name).collect();
        let only = some_of("ONLY", &names, &names)?;
        let peers = peer::ALL
            .iter()
            .filter(|peer| only.iter().any(|name| name == peer.name))
            .collect();
        let quick = std::env::var("QUICK").is_ok_and(|value| !matches!(value.as_str(), "" | "0"));
        Ok(Self {
            ipop,
            folder: path("BENCH_FOLDER")?,
            quick,
            peers,
            endurance: endurance(&std::env::var("MINUTES").unwrap_or_default(), quick)?,
            parts: some_of("PARTS", known, usual)?,
        })
    }

    /// Whether a part is wanted.
    pub(crate) fn wants(&self, part: &str) -> bool {
        self.parts.iter().any(|name| name == part)
    }

    /// Whether IPOP itself is among what is measured.
    pub(crate) fn wants_ipop(&self) -> bool {
        self.peers.iter().any(|peer| peer.name == peer::IPOP)
    }

    /// A program that a peer needs: the fetched one, else the system's.
    pub(crate) fn program(&self, name: &str) -> Option<PathBuf> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::iter::once(self.folder.join("peers/bin")).chain(std::env::split_paths(&path));
        folders.map(|folder| folder.join(name)).find(|file| file.is_file())
    }

    /// How often and for how long.
    pub(crate) fn rounds(&self, all: usize, quick: usize) -> usize {
        if self.quick { quick } else { all }
    }

    /// How long one figure of one round is measured.
    pub(crate) fn span(&self) -> Duration {
        Duration::from_secs(if self.quick { 1 } else { 3 })
    }

    /// Versions of the peers: of those that were fetched, and which the machine had before.
    pub(crate) fn versions(&self) -> Vec<String> {
        let files = ["packages", "crates"].map(|kind| self.folder.join(format!("peers/versions-of-{kind}")));
        let text: String = files
            .iter()
            .filter_map(|file| std::fs::read_to_string(file).ok())
            .collect();
        let fetched: BTreeMap<&str, &str> = text.lines().filter_map(|line| line.split_once('\t')).collect();
        let version = |peer: &Peer| {
            let program = self.program(peer.programs.first()?)?;
            let is_fetched = program.starts_with(&self.folder);
            let version = fetched.get(peer.name).filter(|_| is_fetched);
            Some(format!("{} {}", peer.name, version.unwrap_or(&"(this machine's own)")))
        };
        self.peers.iter().filter_map(|peer| version(peer)).collect()
    }

    /// The folder for reports.
    pub(crate) fn out(&self) -> &Path {
        &self.folder
    }
}

/// The names in a variable, the usual ones where it is empty.
fn some_of(variable: &str, known: &[&str], usual: &[&str]) -> anyhow::Result<Vec<String>> {
    let text = std::env::var(variable).unwrap_or_default();
    chosen(variable, &text, known, usual)
}

fn chosen(variable: &str, text: &str, known: &[&str], usual: &[&str]) -> anyhow::Result<Vec<String>> {
    let names: Vec<&str> = text.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
    if let Some(unknown) = names.iter().find(|name| !known.contains(name)) {
        bail!(
            "{variable} does not know \"{unknown}\": it takes some of {}",
            known.join(",")
        );
    }
    Ok(if names.is_empty() { usual } else { &names }
        .iter()
        .map(|name| (*name).to_owned())
        .collect())
}

fn endurance(minutes: &str, quick: bool) -> anyhow::Result<Endurance> {
    let minutes = match minutes {
        "" => MINUTES,
        text => text
            .parse()
            .ok()
            .filter(|minutes| *minutes > 0)
            .with_context(|| format!("MINUTES is a number from 1 on, not \"{text}\""))?,
    };
    let (span, every) = if quick { (8, 1) } else { (minutes * 60, 10) };
    Ok(Endurance {
        span: Duration::from_secs(span),
        every: Duration::from_secs(every),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_is_of_what_there_is() {
        let known = ["ipop", "tinc"];
        assert_eq!(chosen("ONLY", " tinc,", &known, &known).unwrap(), ["tinc"]);
        assert_eq!(chosen("ONLY", "", &known, &["ipop"]).unwrap(), ["ipop"]);
        assert!(
            chosen("ONLY", "tink", &known, &known)
                .unwrap_err()
                .to_string()
                .contains("ipop,tinc")
        );
    }
    #[test]
    fn minutes_are_a_number_and_an_hour_by_default() {
        let seconds = |minutes, quick| endurance(minutes, quick).map(|endurance| endurance.span.as_secs());
        assert_eq!(seconds("", false).unwrap(), 3600);
        assert_eq!(seconds("2", false).unwrap(), 120);
        assert_eq!(seconds("2", true).unwrap(), 8);
        assert!(seconds("0", false).is_err() && seconds("long", true).is_err());
    }
}
