//! Fuzzing: every decoder, and the way from a pack file to bytes, with inputs changed at random.
//!
//! As a test: all that was kept, and some thousand changes of it. `scripts/fuzz` runs it for long, led by coverage.
#![allow(clippy::unwrap_used)] // a test may stop at the first surprise
#![allow(missing_docs)]

mod driver;
mod ledger;
mod targets;

use std::{path::PathBuf, time::Duration};

use driver::{Places, Until, fuzz};
use ledger::{Ledger, Sum};
use rustix::process::{Resource, Rlimit, setrlimit};
use targets::{TARGETS, Target};

/// No input may ask for more: an allocation of a length that nobody checked ends the run.
const MEMORY_MAX: u64 = 4 << 30;

fn set(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn number(name: &str) -> Option<u64> {
    set(name).map(|n| n.parse().unwrap())
}

fn tell(target: &Target, sum: &Sum) {
    let (secs, Sum { runs, places, failures, .. }) = (sum.cpu.as_secs(), sum);
    println!("{}: {runs} runs, {secs} s of processor time, {places} places reached, {failures} failures", target.0);
}

/// The targets named in COFFRE_FUZZ, in that order; all of them if none is.
fn chosen() -> Vec<&'static Target> {
    let named = |name: &str| TARGETS.iter().find(|target| target.0 == name).unwrap_or_else(|| panic!("no target is called {name}"));
    match set("COFFRE_FUZZ").filter(|names| !names.is_empty() && names != "all") {
        Some(names) => names.split_whitespace().map(named).collect(),
        None => TARGETS.iter().collect(),
    }
}

#[test]
fn no_bytes_make_a_decoder_panic_or_ask_for_what_they_do_not_hold() {
    setrlimit(Resource::As, Rlimit { current: Some(MEMORY_MAX), maximum: Some(MEMORY_MAX) }).unwrap();
    let places = Places { dir: PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz")), keep: false };
    let mut failures = Vec::new();
    for target in chosen() {
        let until = Until::Runs(3_000);
        failures.extend(fuzz(target, number("COFFRE_FUZZ_SEED").unwrap_or(1), until, &places, |sum| tell(target, sum)));
    }
    assert!(failures.is_empty(), "{failures:?}");
}

/// For `scripts/fuzz`. COFFRE_FUZZ_DIR has the ledger, the inputs kept and those that failed; COFFRE_FUZZ the targets; COFFRE_FUZZ_SECS
/// what each gets, or COFFRE_FUZZ_UNTIL what each is to have had in all runs together: seconds of processor time. COFFRE_FUZZ_SEED.
#[test]
#[ignore = "as long as one likes"]
fn long() {
    setrlimit(Resource::As, Rlimit { current: Some(MEMORY_MAX), maximum: Some(MEMORY_MAX) }).unwrap();
    let dir = PathBuf::from(set("COFFRE_FUZZ_DIR").expect("COFFRE_FUZZ_DIR names a directory"));
    let (ledger, places) = (Ledger::new(&dir), Places { dir, keep: true });
    let mut failures = Vec::new();
    for target in chosen() {
        // Several processes share the work.
        let Some(_claimed) = ledger.claim(target.0) else { continue };
        let missing = match number("COFFRE_FUZZ_UNTIL") {
            Some(until) => Duration::from_secs(until).saturating_sub(ledger.sum(target.0).cpu),
            None => Duration::from_secs(number("COFFRE_FUZZ_SECS").unwrap_or(1800)),
        };
        if !missing.is_zero() {
            let seed = number("COFFRE_FUZZ_SEED").unwrap_or(1).wrapping_add(ledger.sum(target.0).runs);
            failures.extend(fuzz(target, seed, Until::Cpu(missing), &places, |part| ledger.add(target.0, part)));
        }
        tell(target, &ledger.sum(target.0));
    }
    assert!(failures.is_empty(), "{failures:?}");
}
