//! Puts many random worlds through their trial and sums up: `worlds [COUNT] [--from SEED] [--seed SEED]`.
//!
//! Every seventh seed runs twice: both runs must leave the same trace. Ends with 1 if a seed failed.

use std::collections::BTreeMap;
use std::panic::catch_unwind;
use std::process::ExitCode;
use std::time::Instant;

use sim::Seed;
use sim::trial::{Outcome, run, show};

const USAGE: &str = "usage: worlds [COUNT] [--from SEED], or worlds --seed SEED for one seed with its trace";

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (mut count, mut first) = (1000, 0);
    while let Some(argument) = arguments.next() {
        let number = |text: Option<String>| text.and_then(|text| text.parse::<u64>().ok());
        let taken = match argument.as_str() {
            "--seed" => match number(arguments.next()) {
                Some(seed) => {
                    println!("{:?}", show(Seed(seed)));
                    return ExitCode::SUCCESS;
                }
                None => None,
            },
            "--from" => number(arguments.next()).map(|seed| first = seed),
            _ => number(Some(argument)).map(|wanted| count = wanted),
        };
        if taken.is_none() {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    }
    many(first, count)
}

fn many(first: u64, count: u64) -> ExitCode {
    let start = Instant::now();
    let mut sum = Sum::default();
    for seed in first..first + count {
        match catch_unwind(|| run(Seed(seed))) {
            Ok(outcome) => {
                if seed % 7 == 0 && run(Seed(seed)) != outcome {
                    println!("seed {seed} does not replay");
                    sum.failed.push(seed);
                }
                sum.add(&outcome);
            }
            Err(_) => sum.failed.push(seed),
        }
        let done = seed - first + 1;
        if done.is_multiple_of(1000) {
            println!(
                "{done} seeds, {} failed, {:.0} s",
                sum.failed.len(),
                start.elapsed().as_secs_f64()
            );
        }
    }
    sum.print();
    println!("{:.1} s of real time", start.elapsed().as_secs_f64());
    if sum.failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

#[derive(Default)]
struct Sum {
    passed: u64,
    failed: Vec<u64>,
    pairs: [usize; 4],
    frames: (usize, usize),
    events: u64,
    simulated: f64,
    settled: Vec<f64>,
    peaks: BTreeMap<&'static str, (usize, usize)>,
}

impl Sum {
    fn add(&mut self, outcome: &Outcome) {
        self.passed += 1;
        for (sum, more) in self.pairs.iter_mut().zip(outcome.pairs) {
            *sum += more;
        }
        self.frames.0 += outcome.frames.0;
        self.frames.1 += outcome.frames.1;
        self.events += outcome.entries;
        self.simulated += outcome.time.as_secs_f64();
        self.settled.push(outcome.settled.as_secs_f64());
        for (name, peak) in &outcome.peaks {
            let highest = self.peaks.entry(name).or_default();
            *highest = (*highest).max(*peak);
        }
    }

    fn print(&mut self) {
        let Sum {
            passed,
            failed,
            pairs: [direct, relayed, through, apart],
            frames,
            events,
            simulated,
            ..
        } = self;
        println!("seeds: {passed} passed, {} failed {failed:?}", failed.len());
        println!(
            "pairs: {direct} direct, {relayed} relayed, {through} through others, {apart} apart, each as the oracle says"
        );
        println!(
            "frames: {} sent over live links, {} of them lost on lossy wires",
            frames.0, frames.1
        );
        println!("simulated: {simulated:.0} s, {events} events");
        self.settled.sort_by(f64::total_cmp);
        let at = |part: f64| {
            self.settled
                .get((self.settled.len() as f64 * part) as usize)
                .copied()
                .unwrap_or(0.0)
        };
        println!(
            "all paths right after: p50 {:.2} s, p90 {:.2} s, p99 {:.2} s",
            at(0.5),
            at(0.9),
            at(0.99)
        );
        println!("highest levels:");
        for (name, (level, limit)) in &self.peaks {
            println!("  {name:<30} {level:>7} of {limit}");
        }
    }
}
