//! `make bench`: what IPOP costs and how fast it is, measured on this machine with the released binary.
//!
//! Promises: everything happens in fresh network namespaces, which are gone afterwards; what is compared is measured in
//! turns in the same run; no figure is asserted, aims stand beside them.
//! Refuses to know: how IPOP works inside.

mod join;
mod machine;
mod memory;
mod process;
mod report;
mod rtt;
mod setup;
mod stats;
mod switchboard;
mod throughput;
mod tunnel;
mod wireguard;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};

use crate::report::{Report, Row};

/// A part of the benchmark by its name in `ONLY`.
type Part = (&'static str, fn(&Path) -> anyhow::Result<Vec<Row>>);

const PARTS: [Part; 5] = [
    ("join", join::measure),
    ("setup", setup::measure),
    ("rtt", rtt::measure),
    ("throughput", throughput::measure),
    ("memory", memory::measure),
];

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether every part could be measured.
fn run() -> anyhow::Result<bool> {
    let binary = binary()?;
    let mut report = Report::new(machine::describe());
    println!("{}", report.machine);
    let mut whole = true;
    for (name, measure) in wanted()? {
        let busy = machine::busy();
        println!("\n{name}: measuring (the machine is {})", machine::load_in_words(busy));
        match measure(&binary) {
            Ok(rows) => {
                rows.iter().for_each(|row| println!("  {row}"));
                report.add(name, busy, rows);
            }
            Err(error) => {
                whole = false;
                eprintln!("  {name} could not be measured: {error:#}");
                report.failed(name, &error);
            }
        }
    }
    let path = PathBuf::from("bench/out/report.json");
    report.store(&path)?;
    println!("\n{report}\nraw data: {}", path.display());
    Ok(whole)
}

fn binary() -> anyhow::Result<PathBuf> {
    let path = std::env::var_os("IPOP_BIN").context("IPOP_BIN must name the binary to be measured: use `make bench`")?;
    Path::new(&path).canonicalize().with_context(|| format!("there is no binary at {}", Path::new(&path).display()))
}

fn wanted() -> anyhow::Result<Vec<Part>> {
    let only = std::env::var("ONLY").unwrap_or_default();
    let names: Vec<&str> = only.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
    if let Some(unknown) = names.iter().find(|name| PARTS.iter().all(|(part, _)| part != *name)) {
        bail!("there is no part \"{unknown}\" to measure: join, setup, rtt, throughput, memory are");
    }
    Ok(PARTS.into_iter().filter(|(part, _)| names.is_empty() || names.contains(part)).collect())
}
