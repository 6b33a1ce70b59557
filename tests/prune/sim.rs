//! Random lives of a vault against a plain map. `COFFRE_SEED=n` plays one again, `COFFRE_LIVES=n` plays more.

use std::{
    collections::BTreeMap,
    fs,
    sync::{Arc, atomic::Ordering},
};

use coffre::{
    error::ErrorKind,
    format::SnapshotId,
    ops::{prune::Options, undelete, verify},
    store::{Fault, Faulty, Memory},
};

use crate::{
    DAY, all,
    common::library::{Host, Tree, below, noise, read_disk, read_snapshot, temp, write_files},
    forget, options, prune,
};

struct Dice(u64);

impl Dice {
    fn roll(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

/// One host, its sources, and the store through which it may die.
struct Player {
    host: Host,
    store: Arc<Faulty<Memory>>,
    root: std::path::PathBuf,
    _guard: tempfile::TempDir,
}

struct Life {
    dice: Dice,
    players: Vec<Player>,
    /// What every wanted snapshot holds.
    wanted: BTreeMap<SnapshotId, Tree>,
    /// What every forgotten one held.
    forgotten: BTreeMap<SnapshotId, Tree>,
    log: Vec<String>,
}

fn player(first: &Host, memory: &Memory, name: &str) -> Player {
    let (guard, root) = temp();
    let store = Arc::new(Faulty::new(memory.clone()));
    let sealer = first.vault.enrol(&first.owner, name).unwrap();
    let mut vault = first.vault.clone();
    vault.store = store.clone();
    Player { host: Host::with(vault, first.owner.clone(), sealer), store, root, _guard: guard }
}

impl Life {
    fn new(seed: u64) -> Self {
        let memory = Memory::default();
        let first = Host::create(Arc::new(memory.clone()));
        let players = ["host1", "host2"].map(|name| player(&first, &memory, name)).into_iter().collect();
        Self { dice: Dice(seed), players, wanted: BTreeMap::new(), forgotten: BTreeMap::new(), log: Vec::new() }
    }

    fn edit(&mut self, who: usize) {
        let root = self.players[who].root.clone();
        for _ in 0..=self.dice.roll(4) {
            // Few names and few contents: much comes back that was dead.
            let (name, content) = (self.dice.roll(6), self.dice.roll(5));
            let path = format!("d{}/f{name}", name % 3);
            match self.dice.roll(5) {
                0 => drop(fs::remove_file(root.join(&path))),
                1 => drop(fs::remove_dir_all(root.join(format!("d{}", name % 3)))),
                _ => write_files(&root, &[(&path, &noise(2_000 + 40_000 * content as usize, content))]),
            }
        }
    }

    fn pass(&self, ns: i64) {
        for player in &self.players {
            player.host.clock.ahead_ns.fetch_add(ns, Ordering::SeqCst);
        }
    }

    /// Plays a step; some of them die.
    fn step(&mut self) -> Result<(), String> {
        let who = self.dice.roll(2) as usize;
        let dies = self.dice.roll(3) == 0;
        let at = self.dice.roll(90);
        let fault = [Fault::CrashAt(at), Fault::CrashAfter(at), Fault::FailOnceAt(at)][self.dice.roll(3) as usize];
        let verb = self.dice.roll(10);
        if dies {
            self.players[who].store.set(Some(fault));
        }
        let told = match verb {
            0..=3 => self.seal(who),
            4 | 5 => self.forget(who),
            6 => self.undelete(who),
            7 => {
                let hours = self.dice.roll(72) as i64;
                self.pass(hours * DAY / 24);
                Ok(format!("{hours} hours pass"))
            }
            _ => self.prune(who),
        };
        self.players[who].store.set(None);
        let fault = if dies { format!(" ({fault:?})") } else { String::new() };
        self.log.push(format!("{}{fault}: {told:?}", self.players[who].host.sealer.name));
        told?;
        if self.dice.roll(8) == 0 {
            let _ = fs::remove_dir_all(self.players[who].host.state.catalog());
            self.log.push("its catalog is lost".to_owned());
        }
        self.check()
    }

    fn seal(&mut self, who: usize) -> Result<String, String> {
        self.edit(who);
        let player = &self.players[who];
        let result = player.host.seal(&[&player.root]);
        player.store.set(None);
        // Whether it was told or not: what is committed is wanted.
        let reader = player.host.reader();
        let new: Vec<_> = player.host.snapshots().into_iter().filter(|s| !self.wanted.contains_key(&s.id)).collect();
        for s in &new {
            let tree = read_snapshot(&reader, s).map_err(|e| format!("a new snapshot {} cannot be read: {}", s.key, e.chain()))?;
            if below(&tree, &player.root) != read_disk(&player.root) {
                return Err(format!("{} is not what was sealed", s.key));
            }
            self.wanted.insert(s.id, tree);
        }
        match (result, new.len()) {
            (Ok(_), 1) | (Err(_), 0 | 1) => Ok(format!("sealed {}", new.len())),
            (result, n) => Err(format!("{n} new snapshots after {:?}", result.map(|r| r.id).map_err(|e| e.chain()))),
        }
    }

    /// Moves snapshots between the maps as the vault says; where the command said that it is done, it must be.
    fn moved(&mut self, who: usize, named: &[SnapshotId], wanted: bool, ok: bool) -> Result<String, String> {
        self.players[who].store.set(None);
        let seen: Vec<SnapshotId> = self.players[who].host.snapshots().iter().map(|s| s.id).collect();
        for id in named {
            if seen.contains(id) != wanted {
                if ok {
                    return Err(format!("{} did not change", id.short()));
                }
                continue;
            }
            let (from, to) = if wanted { (&mut self.forgotten, &mut self.wanted) } else { (&mut self.wanted, &mut self.forgotten) };
            if let Some(tree) = from.remove(id) {
                to.insert(*id, tree);
            }
        }
        Ok(format!("{} snapshots, wanted: {wanted}, done: {ok}", named.len()))
    }

    fn forget(&mut self, who: usize) -> Result<String, String> {
        let mut named: Vec<SnapshotId> = self.wanted.keys().copied().collect();
        named.retain(|_| self.dice.roll(3) == 0);
        if named.is_empty() {
            return Ok("nothing to forget".to_owned());
        }
        let names: Vec<String> = named.iter().map(ToString::to_string).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let ok = forget(&self.players[who].host, &names).is_ok();
        self.moved(who, &named, false, ok)
    }

    fn undelete(&mut self, who: usize) -> Result<String, String> {
        let n = self.dice.roll(self.forgotten.len().max(1) as u64) as usize;
        let Some(id) = self.forgotten.keys().nth(n).copied() else { return Ok("nothing to bring back".to_owned()) };
        let host = &self.players[who].host;
        let ok = undelete::run(&host.vault, &host.owner, 0, &[id.to_string()]).is_ok();
        self.moved(who, &[id], true, ok)
    }

    fn prune(&mut self, who: usize) -> Result<String, String> {
        let grace = [0, 0, 3_600, 2 * 86_400][self.dice.roll(4) as usize];
        let options = Options {
            max_unused_permille: [0, 50, 300][self.dice.roll(3) as usize],
            repack_small: self.dice.roll(2) == 0,
            max_rewrite: (self.dice.roll(4) == 0).then_some(200_000),
            ..options(grace)
        };
        match prune(&self.players[who].host, &options) {
            Ok(r) => Ok(format!(
                "pruned, grace {grace}: {} condemned, {} deleted, {} spared",
                r.condemned_objects, r.deleted_objects, r.spared_objects
            )),
            Err(e) if e.kind() == ErrorKind::Unavailable => Ok(format!("a prune with grace {grace} died")),
            Err(e) => Err(format!("prune: {}", e.chain())),
        }
    }

    /// Every wanted snapshot reads back, byte for byte, and verify agrees.
    fn check(&self) -> Result<(), String> {
        let host = &self.players[0].host;
        let got = all(host);
        if got != self.wanted {
            let differs = |id: &&SnapshotId| got.get(id) != self.wanted.get(id);
            return Err(format!("snapshots differ: {:?}", got.keys().chain(self.wanted.keys()).filter(differs).collect::<Vec<_>>()));
        }
        let report = host.verify(verify::Depth::Chunks).map_err(|e| e.chain())?;
        match report.is_clean() {
            true => Ok(()),
            false => Err(format!("verify: {:?} {:?}", report.damage, report.damaged_files)),
        }
    }
}

fn play(seed: u64, steps: u64) -> usize {
    let mut life = Life::new(seed);
    for step in 0..steps {
        if let Err(e) = life.step() {
            panic!("COFFRE_SEED={seed}, step {step}: {e}\n{}", life.log.join("\n"));
        }
    }
    // In the end everything that is not wanted goes.
    life.pass(20 * DAY);
    for _ in 0..3 {
        let pressed = Options { force: true, ..options(0) };
        prune(&life.players[0].host, &pressed).unwrap_or_else(|e| panic!("COFFRE_SEED={seed}: {}", e.chain()));
        life.pass(2 * DAY);
        life.check().unwrap_or_else(|e| panic!("COFFRE_SEED={seed}, at the end: {e}\n{}", life.log.join("\n")));
    }
    let last = prune(&life.players[0].host, &Options { dry_run: true, ..options(0) }).unwrap();
    assert!(last.plan.unused_after * 20 <= last.plan.bytes_after.max(1), "COFFRE_SEED={seed}: {last:?}");
    life.log.len()
}

#[test]
fn random_lives_lose_nothing_that_is_wanted() {
    let number = |name: &str| std::env::var(name).ok().and_then(|n| n.parse().ok());
    if let Some(seed) = number("COFFRE_SEED") {
        play(seed, 60);
        return;
    }
    let lives = number("COFFRE_LIVES").unwrap_or(10);
    let steps: usize = (1..=lives).map(|seed| play(seed, 40)).sum();
    println!("{lives} lives, {steps} steps");
}
