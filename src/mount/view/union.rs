//! The names that ever stood in a directory, sorted, each with its number and who may look into it.

use std::collections::BTreeMap;

use crate::mount::{guard::Guard, listing::Listing, names::escaped};

/// Names put in between at most, before they are merged.
const FRESH_MAX: usize = 4096;

/// Collects names. Those that come in order, as most do, cost their bytes and 40 more.
#[derive(Default)]
pub struct Union {
    sorted: Listing,
    fresh: BTreeMap<Box<[u8]>, (u64, Option<Guard>)>,
}

impl Union {
    /// Whether `name` was added.
    pub fn has(&self, name: &[u8]) -> bool {
        self.fresh.contains_key(name) || self.sorted.position(name).is_ok()
    }

    /// Adds a name that is not here.
    pub fn add(&mut self, name: &[u8], ino: u64) {
        if self.sorted.last().is_none_or(|last| last < name) {
            self.sorted.push(name, ino, None);
            return;
        }
        self.fresh.insert(name.into(), (ino, None));
        if self.fresh.len() > FRESH_MAX {
            self.merge();
        }
    }

    /// Notes that the directory `name`, which is here, lets in no more than these.
    pub fn guard(&mut self, name: &[u8], guard: Guard) {
        if let Some((_, g)) = self.fresh.get_mut(name) {
            *g = Guard::more(*g, guard);
        } else if let Ok(at) = self.sorted.position(name) {
            self.sorted.guard(at, guard);
        }
    }

    fn merge(&mut self) {
        let mut merged = Listing::default();
        let mut fresh = std::mem::take(&mut self.fresh).into_iter().peekable();
        for n in 0.. {
            let Some(listed) = self.sorted.get(n) else { break };
            while let Some((name, (ino, guard))) = fresh.next_if(|(name, _)| **name < *listed.name) {
                merged.push(&name, ino, guard);
            }
            merged.push(listed.name, listed.ino, listed.guard);
        }
        fresh.for_each(|(name, (ino, guard))| merged.push(&name, ino, guard));
        self.sorted = merged;
    }

    /// Puts all names, as they are shown, behind those of `listing`.
    pub fn finish(mut self, mut listing: Listing) -> Listing {
        self.merge();
        for n in 0.. {
            let Some(listed) = self.sorted.get(n) else { break };
            if let Some(shown) = escaped(listed.name) {
                listing.push(&shown, listed.ino, listed.guard);
            }
        }
        listing
    }
}
