//! Changes inputs at random and keeps those that lead somewhere new; seeded, so that a run can be had again.
//!
//! Where the crate was compiled with `-C instrument-coverage` (`scripts/fuzz` does that), the profiler's counters say what is new.
#![allow(clippy::unwrap_used, unsafe_code)] // a test may stop at the first surprise; counters of the profiler are read in place

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    time::Duration,
};

use coffre::sys::{Clock, SystemClock};

use super::targets::Target;

/// Longest input, in bytes.
const LEN_MAX: usize = 1 << 17;
/// Inputs that take longer are told.
const SLOW: Duration = Duration::from_secs(2);

/// When to stop.
#[derive(Clone, Copy)]
pub enum Until {
    Runs(u64),
    Time(Duration),
}

/// What a run of one target came to.
pub struct Outcome {
    pub runs: u64,
    pub corpus: usize,
    pub places: usize,
    pub failures: Vec<PathBuf>,
}

fn folder(kind: &str, target: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(kind).join(target)
}

/// Fuzzes one target.
pub fn fuzz(target: &Target, seed: u64, until: Until, keep: bool) -> Outcome {
    let (name, run, seeds) = target;
    let mut corpus = seeds();
    let mut files: Vec<PathBuf> = fs::read_dir(folder("corpora", name)).into_iter().flatten().map(|e| e.unwrap().path()).collect();
    files.sort();
    corpus.extend(files.iter().map(|path| fs::read(path).unwrap()));
    corpus.push(Vec::new());
    let (mut dice, mut coverage) = (Dice(seed | 1), Coverage::default());
    let mut outcome = Outcome { runs: 0, corpus: 0, places: 0, failures: Vec::new() };
    let began = SystemClock.monotonic();
    let mut next = corpus.clone().into_iter();
    loop {
        let (input, is_given) = match next.next() {
            Some(input) => (input, true),
            None => (changed(&corpus, &mut dice), false),
        };
        let before = busy();
        let ended = catch_unwind(AssertUnwindSafe(|| run(&input)));
        outcome.runs += 1;
        let took = busy().saturating_sub(before);
        if ended.is_err() || took > SLOW {
            let path = folder("crashes", name).join(coffre::format::digest(&input).short());
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, &input).unwrap();
            eprintln!(
                "{name}: {} bytes in {} {}",
                input.len(),
                path.display(),
                if ended.is_err() { "make it panic" } else { "take too long" }
            );
            outcome.failures.push(path);
            if outcome.failures.len() > 10 {
                break;
            }
        }
        if coverage.is_new() && !is_given {
            if keep {
                let path = folder("corpora", name).join(coffre::format::digest(&input).short());
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, &input).unwrap();
            }
            corpus.push(input);
        }
        let is_over = match until {
            Until::Runs(n) => outcome.runs >= n,
            Until::Time(time) => outcome.runs.is_multiple_of(64) && SystemClock.monotonic() - began > time,
        };
        if is_over && next.len() == 0 {
            break;
        }
    }
    (outcome.corpus, outcome.places) = (corpus.len(), coverage.places());
    outcome
}

/// Processor time that this thread took so far: others may keep the machine busy.
fn busy() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// One of the inputs, changed a few times.
fn changed(corpus: &[Vec<u8>], dice: &mut Dice) -> Vec<u8> {
    let mut bytes = corpus[dice.below(corpus.len())].clone();
    for _ in 0..=dice.below(4) {
        let at = dice.below(bytes.len() + 1);
        match dice.below(12) {
            0..=1 if at < bytes.len() => bytes[at] ^= 1 << dice.below(8),
            2 if at < bytes.len() => bytes[at] = [0, 1, 0x7f, 0x80, 0xff, b'/', b'\n', b' ', b'0', b'9'][dice.below(10)],
            3 if at < bytes.len() => bytes[at] = dice.next() as u8,
            4 => drop(bytes.drain(at..(at + 1 + dice.below(16)).min(bytes.len()).max(at))),
            5 => bytes.truncate(at),
            6 => {
                let more: Vec<u8> = (0..1 + dice.below(16)).map(|_| dice.next() as u8).collect();
                bytes.splice(at..at, more);
            }
            // A number, small or large, in either order of bytes.
            7..=8 => {
                let number =
                    [0, 1, 35, 255, 4096, 65_536, 1 << 24, u64::from(u32::MAX), u64::MAX, i64::MAX as u64, dice.next()][dice.below(11)];
                let len = [1, 2, 4, 8][dice.below(4)];
                let number = if dice.below(2) == 0 { number.to_le_bytes() } else { number.to_be_bytes() };
                let from = if dice.below(2) == 0 { &number[..len] } else { &number[8 - len..] };
                let end = (at + len).min(bytes.len());
                bytes[at..end].copy_from_slice(&from[..end - at]);
            }
            // A piece of another input, or of this one again.
            9..=10 => {
                let other = &corpus[dice.below(corpus.len())];
                let from = dice.below(other.len() + 1);
                let piece = other[from..(from + 1 + dice.below(64)).min(other.len())].to_vec();
                bytes.splice(at..at, piece);
            }
            _ => bytes.extend_from_slice(&corpus[dice.below(corpus.len())].clone()),
        }
        bytes.truncate(LEN_MAX);
    }
    bytes
}

/// Xorshift.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 8
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

/// Places in the code that were reached so far.
#[derive(Default)]
struct Coverage(Vec<bool>);

#[cfg(fuzz_coverage)]
unsafe extern "C" {
    fn __llvm_profile_begin_counters() -> *mut u64;
    fn __llvm_profile_end_counters() -> *mut u64;
}

impl Coverage {
    /// Whether the last input reached a place that none had reached before.
    #[cfg(fuzz_coverage)]
    fn is_new(&mut self) -> bool {
        // SAFETY: the profiler's own bounds of its counters, which nobody else writes while this only thread reads them.
        let counters = unsafe {
            let (begin, end) = (__llvm_profile_begin_counters(), __llvm_profile_end_counters());
            std::slice::from_raw_parts_mut(begin, end.offset_from(begin) as usize)
        };
        self.0.resize(counters.len(), false);
        let mut new = false;
        for (counter, seen) in counters.iter_mut().zip(&mut self.0) {
            if *counter != 0 {
                new |= !*seen;
                *seen = true;
                *counter = 0;
            }
        }
        new
    }

    #[cfg(not(fuzz_coverage))]
    fn is_new(&mut self) -> bool {
        false
    }

    fn places(&self) -> usize {
        self.0.iter().filter(|seen| **seen).count()
    }
}
