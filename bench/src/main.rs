//! `make bench`: what IPOP costs and how fast it is, measured on this machine with the released binary.
//!
//! Promises: everything happens in fresh network namespaces, which are gone afterwards; what is compared is measured in
//! turns in the same run; no figure is asserted, aims stand beside them.
//! Refuses to know: how IPOP works inside.
#![forbid(unsafe_code)]

mod compare;
mod join;
mod load;
mod machine;
mod memory;
mod node;
mod peer;
mod plot;
mod process;
mod report;
mod settings;
mod setup;
mod stats;
mod switchboard;

use std::fs;
use std::process::ExitCode;

use anyhow::Context;

use crate::report::Report;
use crate::settings::Settings;

/// A part of the benchmark by its name in `PARTS`.
struct Part {
    name: &'static str,
    measure: fn(&Settings, &mut Report) -> anyhow::Result<()>,
    /// Whether it measures nothing but IPOP.
    of_ipop: bool,
}

const PARTS: [Part; 4] = [
    Part {
        name: "compare",
        measure: compare::measure,
        of_ipop: false,
    },
    Part {
        name: "join",
        measure: join::measure,
        of_ipop: true,
    },
    Part {
        name: "setup",
        measure: setup::measure,
        of_ipop: true,
    },
    Part {
        name: "memory",
        measure: memory::measure,
        of_ipop: true,
    },
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

/// Whether everything of IPOP could be measured.
fn run() -> anyhow::Result<bool> {
    let settings = Settings::from_environment(&PARTS.map(|part| part.name))?;
    let mut report = Report {
        machine: machine::describe(),
        versions: settings.versions(),
        ..Report::default()
    };
    for part in &PARTS {
        if !settings.wants(part.name) || (part.of_ipop && !settings.wants_ipop()) {
            continue;
        }
        let busy = machine::busy();
        eprintln!(
            "{}: measuring (the machine is {})",
            part.name,
            machine::load_in_words(busy)
        );
        report.busy.extend(busy);
        if let Err(error) = (part.measure)(&settings, &mut report) {
            report.fault(part.name, &error);
        }
    }
    store(&settings, &report)?;
    Ok(!report.failed)
}

fn store(settings: &Settings, report: &Report) -> anyhow::Result<()> {
    let text = report.text();
    println!("\n{text}");
    let folder = settings.out();
    let write = |name: &str, text: &str| {
        let path = folder.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    write("report.txt", &text)?;
    write(
        "report.json",
        &(serde_json::to_string_pretty(report).context("a report has a JSON form")? + "\n"),
    )?;
    if let Some(comparison) = &report.comparison {
        write("report.svg", &plot::svg(comparison))?;
    }
    println!(
        "the same as text, data and picture: {}/report.{{txt,json,svg}}",
        folder.display()
    );
    Ok(())
}
