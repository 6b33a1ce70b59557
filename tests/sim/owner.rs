//! What an owner does: forgets snapshots, prunes, and brings a copy up to date, on a machine of their own.
#![allow(clippy::unwrap_used)] // a test may stop at the first surprise

use std::sync::Arc;

use coffre::{
    error::Result,
    event::Silent,
    format::{SnapshotId, SnapshotKey},
    ops::{copy, forget, prune, repair},
    store::{Memory, Store},
    sys::{Calendar, Cancel, Clock},
    vault::{Reader, Selector, Vault},
};

use super::{
    dice::Dice,
    machine::{Sight, SimClock},
    world::World,
};

/// The owner's machine.
pub struct Owner {
    pub sight: Arc<Sight>,
    pub clock: SimClock,
    /// The other copy of the vault.
    pub copy: Memory,
}

impl Owner {
    pub fn new(disk: &Memory) -> Self {
        Self { sight: Arc::new(Sight::new(disk)), clock: SimClock::late(), copy: Memory::default() }
    }

    fn vault(&self, world: &World) -> Vault {
        Vault { store: self.sight.clone(), config: world.config.clone() }
    }

    /// Forgets a snapshot or two, but not all; they count no longer.
    pub fn forget(&self, world: &mut World, dice: &mut Dice) -> Result<Vec<SnapshotKey>> {
        let all: Vec<(SnapshotKey, SnapshotId)> = world.sealed.iter().map(|(key, sealed)| (key.clone(), sealed.id)).collect();
        let n = (1 + dice.below(2)).min(all.len().saturating_sub(1));
        let chosen: Vec<_> = (0..n).map(|_| all[dice.below(all.len())].clone()).collect();
        if chosen.is_empty() {
            return Ok(Vec::new());
        }
        let options = forget::Options {
            policy: forget::Policy::default(),
            by: forget::GroupBy { host: true, paths: true, tags: false },
            named: chosen.iter().map(|(_, id)| Selector::parse(&id.to_string(), 0)).collect::<Result<_>>()?,
            hosts: Vec::new(),
            calendar: Calendar::named("UTC").unwrap(),
            dry_run: false,
            force: true,
        };
        forget::run(&self.vault(world), &world.owner, self.clock.now_ns(), &options)?;
        chosen.iter().for_each(|(key, _)| drop(world.sealed.remove(key)));
        Ok(chosen.into_iter().map(|(key, _)| key).collect())
    }

    pub fn prune(&self, world: &World, options: &prune::Options) -> Result<prune::Report> {
        let vault = self.vault(world);
        let reader = Reader::open(vault.clone(), world.owner.clone(), 1 << 20)?.0;
        let cancel = Cancel::default();
        let context = prune::Context { vault: &vault, reader: &reader, clock: &self.clock, sink: &Silent, cancel: &cancel, workers: 1 };
        prune::run(&context, options)
    }

    /// Repairs, as `verify --repair` does, without any key.
    pub fn repair(&self, other: Option<&Memory>) -> Result<repair::Report> {
        let from: Vec<Arc<dyn Store>> = other.map(|other| Arc::new(other.clone()) as Arc<dyn Store>).into_iter().collect();
        let cancel = Cancel::default();
        let context = repair::Context {
            store: self.sight.clone(),
            from: &from,
            owner: None,
            clock: &self.clock,
            sink: &Silent,
            cancel: &cancel,
            workers: 1,
        };
        repair::run(&context, &repair::Scope::Everything)
    }

    pub fn copy(&self) -> Result<copy::Report> {
        let (from, to): (Arc<dyn Store>, Arc<dyn Store>) = (self.sight.clone(), Arc::new(self.copy.clone()));
        let cancel = Cancel::default();
        let context = copy::Context { from: &from, to: &to, clock: &self.clock, sink: &Silent, cancel: &cancel, workers: 1 };
        copy::run(&context, &copy::Options::default())
    }
}

/// How a prune goes, by chance.
pub fn prune_options(dice: &mut Dice) -> prune::Options {
    prune::Options {
        shorten: false,
        max_unused_permille: [0, 50, 500][dice.below(3)],
        max_rewrite: None,
        repack_small: dice.chance(30),
        grace_secs: [0, 0, 86_400][dice.below(3)],
        dry_run: false,
        force: false,
    }
}
