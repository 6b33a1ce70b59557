//! What runs of the fuzzer added up to: a text file to which every run adds lines, so that a run goes on where others stopped.
#![allow(clippy::unwrap_used)] // a test may stop at the first surprise

use std::{
    fs::{self, File, OpenOptions},
    io::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};

/// What a target has had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    pub runs: u64,
    pub cpu: Duration,
    /// Places in the code that the best run reached.
    pub places: usize,
    pub failures: usize,
}

/// The ledger in a folder. Lines are `TARGET RUNS CPU_MS PLACES FAILURES`, appended whole, so several processes share it.
pub struct Ledger(PathBuf);

impl Ledger {
    pub fn new(dir: &Path) -> Self {
        fs::create_dir_all(dir).unwrap();
        Self(dir.to_owned())
    }

    /// All that `target` has had.
    pub fn sum(&self, target: &str) -> Sum {
        let text = fs::read_to_string(self.0.join("ledger")).unwrap_or_default();
        let mut sum = Sum::default();
        for line in text.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let [name, numbers @ ..] = &words[..] else { continue };
            let numbers: Vec<u64> = numbers.iter().filter_map(|n| n.parse().ok()).collect();
            if let ([runs, cpu_ms, places, failures], true) = (&numbers[..], *name == target) {
                sum.runs += runs;
                sum.cpu += Duration::from_millis(*cpu_ms);
                sum.places = sum.places.max(*places as usize);
                sum.failures += *failures as usize;
            }
        }
        sum
    }

    /// Adds what a run, or a part of one, came to.
    pub fn add(&self, target: &str, part: &Sum) {
        let mut file = OpenOptions::new().create(true).append(true).open(self.0.join("ledger")).unwrap();
        let line = format!("{target} {} {} {} {}\n", part.runs, part.cpu.as_millis(), part.places, part.failures);
        file.write_all(line.as_bytes()).unwrap();
    }

    /// Takes a target for this process until the value goes; `None` if another one has it.
    pub fn claim(&self, target: &str) -> Option<File> {
        let file = File::create(self.0.join(format!("{target}.lock"))).unwrap();
        file.try_lock().ok().map(|()| file)
    }
}

#[test]
fn a_ledger_adds_up_what_runs_came_to_and_a_target_is_had_by_one_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::new(dir.path());
    assert_eq!(ledger.sum("node"), Sum::default());
    let part = |runs, secs, places| Sum { runs, cpu: Duration::from_secs(secs), places, failures: 1 };
    ledger.add("node", &part(5, 2, 90));
    ledger.add("nodes", &part(100, 100, 100));
    ledger.add("node", &part(6, 3, 80));
    // A line of which a power cut left a part.
    fs::write(dir.path().join("ledger"), fs::read_to_string(dir.path().join("ledger")).unwrap() + "node 7").unwrap();
    assert_eq!(ledger.sum("node"), Sum { runs: 11, cpu: Duration::from_secs(5), places: 90, failures: 2 });
    let held = ledger.claim("node").unwrap();
    assert!(ledger.claim("node").is_none() && ledger.claim("nodes").is_some());
    drop(held);
    assert!(ledger.claim("node").is_some());
}
