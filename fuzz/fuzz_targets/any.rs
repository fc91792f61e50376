//! libFuzzer's entry: the target that the environment variable FUZZ_TARGET names.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

static TARGET: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
    fuzz::find(&name)
        .unwrap_or_else(|| panic!("set FUZZ_TARGET to the name of a target, not {name:?}"))
        .run
});

fuzz_target!(|bytes: &[u8]| TARGET(bytes));
