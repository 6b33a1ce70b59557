//! One life of a vault: what happens to it, step by step, as the seed says.
#![allow(clippy::unwrap_used)] // a test may stop at the first surprise

use std::sync::{Arc, Mutex};

use coffre::{
    error::ErrorKind,
    store::{Fault, Key, Store},
    sys::Clock,
};

use super::{
    check,
    dice::Dice,
    machine::LATE_SECS,
    owner::{Owner, prune_options},
    world::World,
};
use crate::common::library::objects;

/// What happens.
#[derive(Clone, Copy, Debug)]
enum Step {
    Seal,
    Crash,
    FailOnce,
    Full,
    Meet,
    Injure,
    Heal,
    Catalog,
    Clock,
    Prune,
    Copy,
    Repair,
}

const STEPS: &[(u64, Step)] = &[
    (30, Step::Seal),
    (20, Step::Crash),
    (5, Step::FailOnce),
    (5, Step::Full),
    (8, Step::Meet),
    (9, Step::Injure),
    (10, Step::Heal),
    (14, Step::Catalog),
    (3, Step::Clock),
    (10, Step::Prune),
    (4, Step::Copy),
];

/// The same for a vault with parity: more is hurt, and mostly mended.
const STEPS_WITH_PARITY: &[(u64, Step)] = &[
    (30, Step::Seal),
    (18, Step::Crash),
    (5, Step::FailOnce),
    (5, Step::Full),
    (8, Step::Meet),
    (16, Step::Injure),
    (3, Step::Heal),
    (12, Step::Repair),
    (10, Step::Catalog),
    (3, Step::Clock),
    (12, Step::Prune),
    (6, Step::Copy),
];

/// Parity of every vault but each third one: what `init` does unless told otherwise.
const PARITY: u8 = 5;

/// Whether somebody wants to see each step.
fn is_told() -> bool {
    std::env::var_os("COFFRE_SEED").is_some()
}

/// Counts of what happened in some lives.
#[derive(Default)]
pub struct Counts {
    pub lives: u64,
    pub steps: u64,
    pub snapshots: u64,
    pub crashes: u64,
    pub injuries: u64,
    pub prunes: u64,
    pub copies: u64,
    pub repairs: u64,
    pub mended: u64,
}

pub struct Life {
    world: World,
    owner: Owner,
    dice: Dice,
    step: i64,
    /// Store calls of the last seal that went well.
    calls: u64,
    pub counts: Counts,
    /// What happened so far.
    pub story: Arc<Mutex<Vec<String>>>,
}

impl Life {
    pub fn new(seed: u64, story: Arc<Mutex<Vec<String>>>) -> Self {
        let mut dice = Dice::new(seed);
        let world = World::new(&mut dice, if seed % 3 == 1 { 0 } else { PARITY });
        let owner = Owner::new(&world.disk);
        Self { world, owner, dice, step: 0, calls: 25, counts: Counts::default(), story }
    }

    /// Lives it to its end, checking all the way.
    pub fn live(mut self) -> Counts {
        let steps = 6 + self.dice.below(12);
        for _ in 0..steps {
            self.step += 1;
            let step = self.dice.weighed(if self.world.config.parity > 0 { STEPS_WITH_PARITY } else { STEPS });
            self.tell(format!("-- {step:?}"));
            self.take(step);
            if matches!(step, Step::Injure | Step::Heal | Step::Repair) || self.dice.chance(20) {
                check::thoroughly(&self.world, &mut self.dice);
            } else {
                check::quickly(&self.world, &mut self.dice);
            }
        }
        self.tell("-- the end".to_owned());
        self.world.heal();
        for who in 0..self.world.machines.len() {
            self.seal(who, None);
        }
        check::thoroughly(&self.world, &mut self.dice);
        self.counts.lives = 1;
        self.counts.steps = steps as u64;
        self.counts.snapshots = self.world.sealed.len() as u64;
        self.counts
    }

    fn tell(&self, text: String) {
        if is_told() {
            eprintln!("{text}");
        }
        self.story.lock().unwrap().push(text);
    }

    fn take(&mut self, step: Step) {
        let who = self.dice.below(self.world.machines.len());
        let machine = self.world.machines[who].clone();
        match step {
            Step::Seal => self.seal(who, None),
            Step::Crash => {
                let n = self.dice.below(self.calls as usize + 4) as u64;
                let fault = [Fault::CrashAt, Fault::CrashAfter, Fault::TornAt][self.dice.below(3)](n);
                machine.keep_state("before");
                self.seal(who, Some(fault));
                self.after_crash(who);
                self.counts.crashes += 1;
            }
            Step::FailOnce => {
                let n = self.dice.below(self.calls as usize + 4) as u64;
                self.seal(who, Some(Fault::FailOnceAt(n)));
            }
            Step::Full => {
                let room = self.dice.below(300_000) as u64;
                self.seal(who, Some(Fault::FullAfter(room)));
            }
            Step::Meet => self.meet(who),
            Step::Injure => {
                self.counts.injuries += 1;
                let said = self.world.injure(&mut self.dice);
                self.tell(said);
            }
            Step::Heal => self.world.heal(),
            Step::Repair => self.repair(),
            Step::Catalog => self.meddle(who),
            Step::Prune => self.prune(who),
            Step::Copy => self.copy(),
            Step::Clock => {
                // Before anything was written, or long after all.
                let secs = if self.dice.chance(60) { 1_000_000_000 } else { LATE_SECS } + self.step * 100;
                machine.clock.set(secs);
                self.tell(format!("{}: the clock says {secs}", machine.name));
            }
        }
    }

    /// Time goes on, a little for each machine: no two seals begin at the same moment.
    fn pass_time(&mut self, who: usize) {
        let ns = 2_000_000_000 + self.step as u64 * 1000 + who as u64;
        self.world.machines[who].clock.sleep(std::time::Duration::from_nanos(ns));
    }

    /// Changes a machine's source and seals it, with a store that fails as told.
    fn seal(&mut self, who: usize, fault: Option<Fault>) {
        let machine = self.world.machines[who].clone();
        if self.dice.chance(85) {
            let said = self.world.sources[who].edit(&mut self.dice);
            self.tell(format!("{}: {said}", machine.name));
        }
        self.pass_time(who);
        machine.sight.set(fault, None);
        let result = machine.seal(self.dice.bytes());
        let calls = machine.sight.faulty.calls();
        let torn = machine.sight.faulty.torn();
        machine.sight.set(None, None);
        self.tell(format!("{}: seal, {fault:?}, {calls} calls: {}", machine.name, said(&result)));
        if let Some(key) = torn {
            self.tell(format!("{key} is torn"));
            self.world.hurt.insert(key, None);
        }
        match (&result, fault) {
            (Ok(_), None) => self.calls = calls,
            (Ok(_), Some(_)) => (),
            (Err(e), Some(Fault::FullAfter(_))) => assert_eq!(e.kind(), ErrorKind::Full, "{}", e.chain()),
            (Err(e), Some(_)) => assert_eq!(e.kind(), ErrorKind::Unavailable, "{}", e.chain()),
            (Err(e), None) => panic!("the seal failed: {}", e.chain()),
        }
        // A seal that failed may have committed, if the last answer was lost.
        if result.is_ok() { self.world.take_in(&[who], &[]) } else { self.world.take_in(&[], &[who]) }
    }

    /// What is left of the state directory when the machine comes up again.
    fn after_crash(&mut self, who: usize) {
        let machine = &self.world.machines[who];
        let left = match self.dice.below(4) {
            0 => {
                machine.bring_back_state("before");
                "nothing of its state was written"
            }
            1 => {
                machine.lose_catalog();
                "its catalog is lost"
            }
            _ => "its state was written",
        };
        self.tell(format!("{}: {left}", machine.name));
    }

    /// Another machine seals in the middle of this one's seal.
    fn meet(&mut self, who: usize) {
        let other = (who + 1) % self.world.machines.len();
        for who in [who, other] {
            let said = self.world.sources[who].edit(&mut self.dice);
            self.tell(format!("{}: {said}", self.world.machines[who].name));
            self.pass_time(who);
        }
        let n = self.dice.below(self.calls as usize) as u64;
        let (machine, visitor) = (self.world.machines[who].clone(), self.world.machines[other].clone());
        visitor.sight.set(None, None);
        let (coin, answer) = (self.dice.bytes(), Arc::new(Mutex::new(None)));
        let tell = answer.clone();
        machine.sight.set(None, Some((n, Box::new(move || *tell.lock().unwrap() = Some(visitor.seal(coin))))));
        let result = machine.seal(self.dice.bytes());
        machine.sight.set(None, None);
        let theirs = answer.lock().unwrap().take();
        let visited = theirs.as_ref().map_or("nobody came".to_owned(), said);
        self.tell(format!("{}: seal: {}; at call {n} the other: {visited}", machine.name, said(&result)));
        assert!(result.is_ok() && theirs.as_ref().is_none_or(Result::is_ok), "seals in each other's way");
        let both = [who, other];
        self.world.take_in(if theirs.is_some() { &both } else { &both[..1] }, &[]);
    }

    /// An owner forgets and prunes, perhaps with a store that fails, or while a machine seals.
    fn prune(&mut self, who: usize) {
        if !self.world.hurt.is_empty() {
            return;
        }
        self.owner.sight.set(None, None);
        self.owner.clock.sleep(std::time::Duration::from_secs([60, 90_000, 2_000_000][self.dice.below(3)]));
        let forgotten = self.owner.forget(&mut self.world, &mut self.dice).unwrap_or_else(|e| panic!("forget: {}", e.chain()));
        let options = prune_options(&mut self.dice);
        let n = self.dice.below(80) as u64;
        let answer = Arc::new(Mutex::new(None));
        let fault = match self.dice.below(6) {
            0 => Some(Fault::CrashAt(n)),
            1 => Some(Fault::CrashAfter(n)),
            2 => Some(Fault::FailOnceAt(n)),
            _ => None,
        };
        if fault.is_none() && self.dice.chance(40) {
            let said = self.world.sources[who].edit(&mut self.dice);
            self.tell(format!("{}: {said}", self.world.machines[who].name));
            self.pass_time(who);
            let (visitor, coin, tell) = (self.world.machines[who].clone(), self.dice.bytes(), answer.clone());
            visitor.sight.set(None, None);
            self.owner.sight.set(None, Some((n, Box::new(move || *tell.lock().unwrap() = Some(visitor.seal(coin))))));
        } else {
            self.owner.sight.set(fault, None);
        }
        let result = self.owner.prune(&self.world, &options);
        self.owner.sight.set(None, None);
        let theirs = answer.lock().unwrap().take();
        let visited = theirs.as_ref().map_or("nobody came".to_owned(), said);
        self.tell(format!("forgot {forgotten:?}; prune {options:?}, {fault:?}: {}; at call {n} a seal: {visited}", said(&result)));
        match (&result, fault) {
            (Err(e), Some(_)) => assert_eq!(e.kind(), ErrorKind::Unavailable, "{}", e.chain()),
            (Err(e), None) => panic!("prune: {}", e.chain()),
            _ => self.counts.prunes += 1,
        }
        assert!(theirs.as_ref().is_none_or(Result::is_ok), "a seal during a prune: {visited}");
        self.world.take_in(if theirs.is_some() { std::slice::from_ref(&who) } else { &[] }, &[]);
    }

    /// The owner brings a copy up to date, perhaps from a store that fails.
    fn copy(&mut self) {
        if !self.world.hurt.is_empty() || self.world.sealed.is_empty() {
            return;
        }
        let n = self.dice.below(60) as u64;
        let fault = self.dice.chance(30).then_some(Fault::CrashAt(n));
        self.owner.sight.set(fault, None);
        let result = self.owner.copy();
        self.owner.sight.set(None, None);
        self.tell(format!("copy, {fault:?}: {}", said(&result)));
        match (result, fault) {
            (Err(e), Some(_)) => assert_eq!(e.kind(), ErrorKind::Unavailable, "{}", e.chain()),
            (Err(e), None) => panic!("copy: {}", e.chain()),
            (Ok(_), Some(_)) => (),
            (Ok(report), None) => {
                assert_eq!(report.findings, [], "a copy of a sound vault");
                self.counts.copies += 1;
                check::copied(&self.world, &self.owner.copy);
            }
        }
    }

    /// The owner of the disk repairs, perhaps with the copy at hand, perhaps twice as the first one dies.
    fn repair(&mut self) {
        let other = self.dice.chance(40).then(|| self.owner.copy.clone()).filter(|copy| copy.stat(&Key::fixed("VAULT")).unwrap().is_some());
        if self.dice.chance(30) {
            let n = self.dice.below(400) as u64;
            self.owner.sight.set(Some(Fault::CrashAt(n)), None);
            let died = self.owner.repair(None);
            self.owner.sight.set(None, None);
            self.tell(format!("repair that dies at call {n}: {}", said(&died)));
        }
        let must = self.world.can_be_repaired(other.as_ref());
        let (hurt, before) = (self.world.hurt.len(), objects(&self.world.disk));
        let report = self.owner.repair(other.as_ref()).unwrap_or_else(|e| panic!("repair: {}", e.chain()));
        self.world.take_repaired(&must, &before, &report);
        self.counts.repairs += 1;
        self.counts.mended += must.len() as u64;
        let copy = if other.is_some() { " with a copy" } else { "" };
        self.tell(format!("repair{copy}: {hurt} hurt, {} now; {:?}", self.world.hurt.len(), report.repaired));
    }

    /// The catalog is not what it was: lost, stale, another machine's, damaged.
    fn meddle(&mut self, who: usize) {
        let machine = self.world.machines[who].clone();
        let what = match self.dice.below(8) {
            0 => {
                machine.keep_state("stale");
                "state kept for later"
            }
            1 | 2 if machine.bring_back_state("stale") => "stale state",
            3 => {
                machine.take_catalog_of(&self.world.machines[(who + 1) % self.world.machines.len()]);
                "another machine's catalog"
            }
            4 | 5 if machine.hurt_catalog(&mut self.dice) => "catalog damaged",
            6 => {
                machine.lose_state();
                "state lost"
            }
            _ => {
                machine.lose_catalog();
                "catalog lost"
            }
        };
        self.tell(format!("{}: {what}", machine.name));
        self.seal(who, None);
    }
}

fn said<T>(result: &coffre::error::Result<T>) -> String {
    result.as_ref().map_or_else(coffre::error::Error::chain, |_| "sealed".to_owned())
}

impl Counts {
    pub fn add(&mut self, other: &Self) {
        self.lives += other.lives;
        self.steps += other.steps;
        self.snapshots += other.snapshots;
        self.crashes += other.crashes;
        self.injuries += other.injuries;
        self.prunes += other.prunes;
        self.copies += other.copies;
        self.repairs += other.repairs;
        self.mended += other.mended;
    }
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { lives, steps, snapshots, crashes, injuries, prunes, copies, repairs, mended } = self;
        write!(
            f,
            "{lives} lives of {steps} steps: {snapshots} snapshots kept, {crashes} crashes, {injuries} injuries, {prunes} prunes, {copies} copies, {repairs} repairs of {mended} objects"
        )
    }
}
