//! `make bench`: what IPOP costs and how fast it is, measured on this machine with the released binary.
//!
//! Promises: everything happens in fresh network namespaces, which are gone afterwards; what is compared is measured in
//! turns in the same run; no figure is asserted, aims stand beside them; a part that fails says so and the others go on.
//! Refuses to know: how IPOP works inside.
#![forbid(unsafe_code)]

mod compare;
mod crowd;
mod datagrams;
mod endurance;
mod join;
mod limit;
mod load;
mod machine;
mod many;
mod memory;
mod node;
mod paths;
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
    /// Whether it is measured when no part is named.
    usual: bool,
}

impl Part {
    const fn of_ipop(name: &'static str, measure: fn(&Settings, &mut Report) -> anyhow::Result<()>) -> Self {
        Self {
            name,
            measure,
            of_ipop: true,
            usual: true,
        }
    }
}

const PARTS: [Part; 7] = [
    Part {
        of_ipop: false,
        ..Part::of_ipop("compare", compare::measure)
    },
    Part::of_ipop("paths", paths::measure),
    Part::of_ipop("join", join::measure),
    Part::of_ipop("setup", setup::measure),
    Part::of_ipop("memory", memory::measure),
    Part::of_ipop("many", many::measure),
    Part {
        usual: false,
        ..Part::of_ipop("endurance", endurance::measure)
    },
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match arguments.split_first() {
        Some((word, rest)) if word == limit::COMMAND => limit::run(rest).map(|()| true),
        _ => run(),
    };
    match outcome {
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
    let usual: Vec<&str> = PARTS.iter().filter(|part| part.usual).map(|part| part.name).collect();
    let settings = Settings::from_environment(&PARTS.map(|part| part.name), &usual)?;
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
    write("report.svg", &plot::svg(&report.comparisons))?;
    println!(
        "the same as text, data and picture: {}/report.{{txt,json,svg}}",
        folder.display()
    );
    Ok(())
}
