//! Every target over its corpus and a few thousand mutations of it, the same ones each time.

use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use fuzz::mutate::Mutator;
use fuzz::{TARGETS, Target, corpus};

/// Runs one input; where it panics, keeps it and says where.
fn replay(target: &Target, what: &str, bytes: &[u8]) {
    let outcome = catch_unwind(AssertUnwindSafe(|| (target.run)(bytes)));
    if outcome.is_err() {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-{what}", target.name));
        fs::write(&path, bytes).expect("the corpus folder can be written");
        let folder = corpus::root().join(target.name);
        panic!(
            "{} breaks at {what}: the input is in {}; mend it, then keep the input in {}",
            target.name,
            path.display(),
            folder.display()
        );
    }
}

#[test]
fn every_target_holds_over_its_corpus_and_mutations_of_it() {
    for (number, target) in TARGETS.iter().enumerate() {
        let inputs = corpus::read(target).unwrap();
        for (name, bytes) in &inputs {
            replay(target, name, bytes);
        }
        let mut all: Vec<Vec<u8>> = inputs.into_iter().map(|(_, bytes)| bytes).collect();
        for (index, bytes) in (target.seeds)().into_iter().enumerate() {
            replay(target, &format!("fresh-seed-{index}"), &bytes);
            all.push(bytes);
        }
        let mut mutator = Mutator::new(number as u64);
        for turn in 0..target.mutations {
            replay(target, &format!("mutation-{turn}"), &mutator.next(&all));
        }
    }
}

#[test]
fn every_target_has_a_corpus_and_every_corpus_a_target() {
    let names: BTreeSet<String> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    assert_eq!(names.len(), TARGETS.len(), "two targets share a name");
    let folders = fs::read_dir(corpus::root()).unwrap();
    let folders: BTreeSet<String> = folders
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(folders, names);
    for target in TARGETS {
        let count = corpus::read(target).unwrap().len();
        assert!(
            count >= (target.seeds)().len(),
            "run `cargo run -p fuzz -- seeds`: {}",
            target.name
        );
    }
}
