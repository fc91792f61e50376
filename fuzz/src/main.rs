//! `fuzz TARGET SECONDS` mutates a corpus for so long; `fuzz seeds` writes the seeds anew; `fuzz` names the targets.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::fs;
use std::panic;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use fuzz::mutate::Mutator;
use fuzz::{TARGETS, Target, corpus};

thread_local! {
    /// What is being tried, for the panic hook.
    static TRIED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match *words.as_slice() {
        ["seeds"] => seeds(),
        [name, seconds] => match (fuzz::find(name), seconds.parse()) {
            (Some(target), Ok(seconds)) => try_for(target, Duration::from_secs(seconds)),
            _ => usage(),
        },
        _ => usage(),
    }
}

fn usage() -> ExitCode {
    eprintln!("usage: fuzz TARGET SECONDS | fuzz seeds\ntargets:");
    for target in TARGETS {
        eprintln!("  {}", target.name);
    }
    ExitCode::FAILURE
}

fn seeds() -> ExitCode {
    for target in TARGETS {
        match corpus::write_seeds(target) {
            Ok(count) => println!("{}: {count} seeds", target.name),
            Err(error) => {
                eprintln!("{}: {error}", target.name);
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}

/// Other mutations each time; what breaks a promise is written down, so nothing is lost by that.
fn try_for(target: &Target, time: Duration) -> ExitCode {
    let inputs = match corpus::read(target) {
        Ok(inputs) if !inputs.is_empty() => inputs,
        _ => {
            eprintln!("the corpus of {} is empty: run `fuzz seeds`", target.name);
            return ExitCode::FAILURE;
        }
    };
    let inputs: Vec<Vec<u8>> = inputs.into_iter().map(|(_, bytes)| bytes).collect();
    keep_what_panics(target.name);
    let seed = std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs());
    let (mut mutator, start) = (Mutator::new(seed), Instant::now());
    let (mut count, mut slowest) = (0_u64, Duration::ZERO);
    while start.elapsed() < time {
        let bytes = mutator.next(&inputs);
        TRIED.with_borrow_mut(|tried| bytes.clone_into(tried));
        let before = Instant::now();
        (target.run)(&bytes);
        slowest = slowest.max(before.elapsed());
        count += 1;
    }
    let memory = os::memory_in_use().map_or_else(|error| error.to_string(), |bytes| format!("{} MiB", bytes >> 20));
    println!(
        "{}: {count} inputs, the slowest took {slowest:?}, memory {memory}",
        target.name
    );
    ExitCode::SUCCESS
}

/// Before a panic ends the program, its input goes into the corpus, where the test finds it from then on.
fn keep_what_panics(name: &'static str) {
    let usual = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        usual(info);
        let path = corpus::root().join(name).join(format!("found-{}", std::process::id()));
        let written = TRIED.with_borrow(|tried| fs::write(&path, tried));
        match written {
            Ok(()) => eprintln!("the input is in {}", path.display()),
            Err(error) => eprintln!("the input could not be written to {}: {error}", path.display()),
        }
    }));
}
