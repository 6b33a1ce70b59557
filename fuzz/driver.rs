//! Changes inputs at random and keeps those that lead somewhere new; seeded, so that a run can be had again.
//!
//! Where the crate was compiled with `-C instrument-coverage` (`scripts/fuzz` does that), the profiler's counters say what is new.
#![allow(clippy::unwrap_used, unsafe_code)] // a test may stop at the first surprise; counters of the profiler are read in place

use std::{
    collections::BTreeSet,
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    time::Duration,
};

use super::{ledger::Sum, targets::Target};

/// Longest input, in bytes.
const LEN_MAX: usize = 1 << 17;
/// Inputs that take longer are told.
const SLOW: Duration = Duration::from_secs(2);

/// Inputs that are tried between two looks at the counters: a look costs as much as a few inputs.
const BATCH: usize = 32;

/// When to stop.
#[derive(Clone, Copy)]
pub enum Until {
    Runs(u64),
    /// Processor time of this thread: others may keep the machine busy, or stop it for a while.
    Cpu(Duration),
}

/// Where inputs are, and what is done with those that lead somewhere new.
pub struct Places {
    /// Below it `corpora/TARGET` and `crashes/TARGET`.
    pub dir: PathBuf,
    pub keep: bool,
}

impl Places {
    fn write(&self, kind: &str, target: &str, input: &[u8]) -> PathBuf {
        let path = self.dir.join(kind).join(target).join(coffre::format::digest(input).short());
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, input).unwrap();
        path
    }

    fn kept(&self, target: &str) -> Vec<Vec<u8>> {
        let files = fs::read_dir(self.dir.join("corpora").join(target)).into_iter().flatten().map(|e| e.unwrap().path());
        files.collect::<BTreeSet<_>>().iter().map(|path| fs::read(path).unwrap()).collect()
    }
}

/// The inputs that stay in the project.
fn project() -> Places {
    Places { dir: PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz")), keep: false }
}

/// What one target has to do, and has done.
struct Run<'a> {
    target: &'a Target,
    places: &'a Places,
    outcome: Sum,
    crashes: Vec<PathBuf>,
}

impl Run<'_> {
    fn try_one(&mut self, input: &[u8]) {
        let (name, run, _) = self.target;
        let before = busy();
        let ended = catch_unwind(AssertUnwindSafe(|| run(input)));
        self.outcome.runs += 1;
        let took = busy().saturating_sub(before);
        if ended.is_err() || took > SLOW {
            let path = self.places.write("crashes", name, input);
            let what = if ended.is_err() { "make it panic" } else { "take too long" };
            eprintln!("{name}: {} bytes in {} {what}", input.len(), path.display());
            self.outcome.failures += 1;
            self.crashes.push(path);
        }
    }
}

/// Fuzzes one target. Tells `told` every 20 s of processor time, and at the end, what came since it was told last. Returns inputs that failed.
pub fn fuzz(target: &Target, seed: u64, until: Until, places: &Places, mut told: impl FnMut(&Sum)) -> Vec<PathBuf> {
    let mut corpus = (target.2)();
    corpus.extend(project().kept(target.0));
    corpus.extend(places.kept(target.0));
    corpus.push(Vec::new());
    let (mut dice, mut coverage) = (Dice(seed | 1), Coverage::default());
    let mut run = Run { target, places, outcome: Sum::default(), crashes: Vec::new() };
    let (began, mut told_at, mut runs) = (busy(), busy(), 0);
    for input in corpus.clone() {
        run.try_one(&input);
    }
    coverage.all_reached();
    loop {
        let inputs: Vec<Vec<u8>> = (0..BATCH).map(|_| changed(&corpus, &mut dice)).collect();
        inputs.iter().for_each(|input| run.try_one(input));
        if coverage.reached_new() {
            // Somewhere in the batch: those that get there again, one by one, are kept.
            for input in inputs {
                let _ = catch_unwind(AssertUnwindSafe(|| (target.1)(&input)));
                if coverage.again() {
                    if places.keep {
                        places.write("corpora", target.0, &input);
                    }
                    corpus.push(input);
                }
            }
        }
        let is_over = run.crashes.len() > 10
            || match until {
                Until::Runs(n) => runs + run.outcome.runs >= n,
                Until::Cpu(time) => busy() - began >= time,
            };
        if is_over || busy() - told_at > Duration::from_secs(20) {
            (run.outcome.cpu, run.outcome.places) = (busy() - told_at, coverage.places());
            told(&run.outcome);
            (runs, told_at) = (runs + run.outcome.runs, busy());
            run.outcome = Sum::default();
        }
        if is_over {
            return run.crashes;
        }
    }
}

/// Processor time that this thread took so far.
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

/// Places in the code that were reached so far. Counters are never set back but those just found, so a look only reads.
#[derive(Default)]
struct Coverage {
    seen: Vec<bool>,
    /// Places that the last batch reached first, until an input that does is found again.
    new: Vec<usize>,
}

#[cfg(fuzz_coverage)]
unsafe extern "C" {
    fn __llvm_profile_begin_counters() -> *mut u64;
    fn __llvm_profile_end_counters() -> *mut u64;
}

#[cfg(fuzz_coverage)]
fn counters() -> &'static mut [u64] {
    // SAFETY: the profiler's own bounds of its counters, which nobody else writes while this only thread looks at them.
    unsafe {
        let (begin, end) = (__llvm_profile_begin_counters(), __llvm_profile_end_counters());
        std::slice::from_raw_parts_mut(begin, end.offset_from(begin) as usize)
    }
}

#[cfg(not(fuzz_coverage))]
fn counters() -> &'static mut [u64] {
    &mut []
}

impl Coverage {
    /// Takes everything that was reached so far as known.
    fn all_reached(&mut self) {
        self.seen = counters().iter().map(|counter| *counter != 0).collect();
    }

    /// Whether something was reached that never was; sets its counters back.
    fn reached_new(&mut self) -> bool {
        let counters = counters();
        self.new = (0..counters.len()).filter(|n| counters[*n] != 0 && !self.seen[*n]).collect();
        self.new.iter().for_each(|n| counters[*n] = 0);
        !self.new.is_empty()
    }

    /// Whether one of those was reached again; those are known from now on.
    fn again(&mut self) -> bool {
        let (counters, before) = (counters(), self.new.len());
        let seen = &mut self.seen;
        self.new.retain(|n| {
            seen[*n] = counters[*n] != 0;
            !seen[*n]
        });
        self.new.len() < before
    }

    fn places(&self) -> usize {
        self.seen.iter().filter(|seen| **seen).count()
    }
}
