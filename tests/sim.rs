//! Seeded lives of a vault against a plain map: seals, crashes, torn and lost writes, two machines at once, prunes, copies, damage, lost
//! catalogs.
//!
//! The simulation owns the store (`Faulty<Memory>`), the clock and the state directories; sled's own files are rolled back, lost,
//! swapped or hurt as a whole between steps. After every step: what was sealed reads back exactly, or fails where something was
//! hurt; verify names what was hurt and nothing else, and the files that cannot be read and no others; no catalog changes a result.
//!
//! A failure prints its seed: `COFFRE_SEED=… cargo test --test sim one_life -- --nocapture` lives it again and tells each step.
//! `scripts/soak-sim` lives as many as one likes.
#![allow(clippy::unwrap_used)] // a test may stop at the first surprise

mod common;

#[path = "sim/bytes.rs"]
mod bytes;
#[path = "sim/check.rs"]
mod check;
#[path = "sim/dice.rs"]
mod dice;
#[path = "sim/found.rs"]
mod found;
#[path = "sim/life.rs"]
mod life;
#[path = "sim/machine.rs"]
mod machine;
#[path = "sim/owner.rs"]
mod owner;
#[path = "sim/source.rs"]
mod source;
#[path = "sim/world.rs"]
mod world;

use std::{
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use life::{Counts, Life};

/// Seeds that failed once. Each stays. 500794: packs that another sealer had stored were taken over with its catalog, and named in the
/// wrong domain. 116, 119: what a store that failed once was taken for damage; swapped sidecars were not seen. 1185: a flipped bit in the header
/// of a segment looked like a wrong key, so its second copy was not asked. 1485: a pack that was hurt before its sidecar was made was taken over.
/// 1491: a segment that is gone and a damaged trailer. 1652, 1842, 10001304, 10005132, 10006442: of the simulation itself. 5665: failed
/// in a run of which nothing else is known.
const FAILED_ONCE: &[u64] = &[500_794, 116, 119, 1185, 1485, 1491, 1652, 1842, 5665, 10_001_304, 10_005_132, 10_006_442];

/// Lives in each run of the tests.
const LIVES: u64 = 300;

/// Lives one seed; on failure tells what happened, and how to see it again.
fn live(seed: u64) -> Result<Counts, u64> {
    let story = Arc::new(Mutex::new(Vec::new()));
    catch_unwind(AssertUnwindSafe(|| Life::new(seed, story.clone()).live())).map_err(|_| {
        let story = story.lock().unwrap_or_else(|e| e.into_inner()).join("\n");
        eprintln!("{story}\nthat was COFFRE_SEED={seed}; see it again: COFFRE_SEED={seed} cargo test --test sim one_life -- --nocapture");
        seed
    })
}

/// Lives all of `seeds`, on two threads, and says what happened in them.
fn live_all(seeds: Range<u64>) {
    let (next, failed, sum) = (AtomicU64::new(seeds.start), Mutex::new(Vec::new()), Mutex::new(Counts::default()));
    let worker = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                break;
            }
            match live(seed) {
                Ok(counts) => sum.lock().unwrap().add(&counts),
                Err(seed) => failed.lock().unwrap().push(seed),
            }
        }
    };
    thread::scope(|scope| (0..2).for_each(|_| drop(scope.spawn(worker))));
    let (failed, sum) = (failed.into_inner().unwrap(), sum.into_inner().unwrap());
    println!("{sum}");
    assert!(failed.is_empty(), "{} of {} lives failed; COFFRE_SEED = {failed:?}", failed.len(), seeds.end - seeds.start);
}

#[test]
fn vaults_live_through_anything_and_keep_what_was_sealed() {
    live_all(1..LIVES + 1);
}

#[test]
fn seeds_that_failed_once_do_no_longer() {
    let failed: Vec<u64> = FAILED_ONCE.iter().filter_map(|seed| live(*seed).err()).collect();
    assert!(failed.is_empty(), "COFFRE_SEED = {failed:?}");
}

/// COFFRE_SEED=7: that life, told step by step.
#[test]
fn one_life() {
    if let Ok(seed) = std::env::var("COFFRE_SEED") {
        assert!(live(seed.parse().unwrap()).is_ok());
    }
}

/// COFFRE_SEEDS=1000..11000, for `scripts/soak-sim`.
#[test]
#[ignore = "as long as one likes"]
fn soak() {
    let seeds = std::env::var("COFFRE_SEEDS").unwrap_or_else(|_| "1000..2000".to_owned());
    let (first, end) = seeds.split_once("..").unwrap();
    live_all(first.parse().unwrap()..end.parse().unwrap());
}

/// Makes the vault from which every life starts; it was run once, and what it made stays: `cargo test --test sim make -- --ignored`.
#[test]
#[ignore = "writes into the project"]
fn make_the_template() {
    use age::secrecy::ExposeSecret;
    let (at, identity) = (world::template(), common::library::identity());
    let store = Arc::new(coffre::store::Local::new(at.join("vault")));
    let made = coffre::vault::create(store, &[coffre::vault::Way::Age(identity.to_public())], "web").unwrap();
    made.vault.enrol(&Arc::new(made.owner), "db").unwrap();
    std::fs::write(at.join("identity"), identity.to_string().expose_secret()).unwrap();
}
