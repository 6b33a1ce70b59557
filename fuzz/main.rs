//! Fuzzing: every decoder, and the way from a pack file to bytes, with inputs changed at random.
//!
//! As a test: all that was kept, and some thousand changes of it. `scripts/fuzz` runs it for long, led by coverage.
#![allow(clippy::unwrap_used)] // a test may stop at the first surprise
#![allow(missing_docs)]

mod driver;
mod targets;

use std::time::Duration;

use driver::{Until, fuzz};
use rustix::process::{Resource, Rlimit, setrlimit};

/// No input may ask for more: an allocation of a length that nobody checked ends the run.
const MEMORY_MAX: u64 = 4 << 30;

/// COFFRE_FUZZ=TARGET|all, COFFRE_FUZZ_SECS for each, COFFRE_FUZZ_SEED, COFFRE_FUZZ_KEEP=1 to keep inputs that reach new places.
#[test]
fn no_bytes_make_a_decoder_panic_or_ask_for_what_they_do_not_hold() {
    setrlimit(Resource::As, Rlimit { current: Some(MEMORY_MAX), maximum: Some(MEMORY_MAX) }).unwrap();
    let set = |name: &str| std::env::var(name).ok();
    let number = |name: &str| set(name).map(|n| n.parse::<u64>().unwrap());
    let until = number("COFFRE_FUZZ_SECS").map_or(Until::Runs(3_000), |secs| Until::Time(Duration::from_secs(secs)));
    let (seed, keep) = (number("COFFRE_FUZZ_SEED").unwrap_or(1), set("COFFRE_FUZZ_KEEP").is_some());
    let chosen = set("COFFRE_FUZZ").filter(|name| name != "all");
    let mut failures = Vec::new();
    for target in targets::TARGETS.iter().filter(|(name, ..)| chosen.as_ref().is_none_or(|chosen| chosen == name)) {
        let outcome = fuzz(target, seed, until, keep);
        println!(
            "{}: {} runs, {} inputs kept, {} places reached, {} failures",
            target.0,
            outcome.runs,
            outcome.corpus,
            outcome.places,
            outcome.failures.len()
        );
        failures.extend(outcome.failures);
    }
    assert!(failures.is_empty(), "{failures:?}");
}
