//! Listings that had to be computed, kept while somebody reads them on.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use crate::{error::Result, mount::guard::Guard};

/// Bytes of listings kept; the last one is, however long.
const LISTINGS_BYTES_MAX: usize = 32 << 20;

/// The names of a directory that the mount made up, in the order in which they are shown.
#[derive(Default)]
pub struct Listing {
    names: Vec<u8>,
    items: Vec<Item>,
}

struct Item {
    /// Where its name ends.
    end: usize,
    ino: u64,
    guard: Option<Guard>,
}

/// One name of a listing.
#[derive(Clone, Copy)]
pub struct Listed<'a> {
    /// The name.
    pub name: &'a [u8],
    /// Its number.
    pub ino: u64,
    /// Who may look into it, for a directory of `history/`.
    pub guard: Option<Guard>,
}

impl Listing {
    /// Adds a name at the end.
    pub fn push(&mut self, name: &[u8], ino: u64, guard: Option<Guard>) {
        self.names.extend_from_slice(name);
        self.items.push(Item { end: self.names.len(), ino, guard });
    }

    /// Name number `n`.
    pub fn get(&self, n: usize) -> Option<Listed<'_>> {
        let item = self.items.get(n)?;
        let start = n.checked_sub(1).map_or(0, |n| self.items[n].end);
        Some(Listed { name: &self.names[start..item.end], ino: item.ino, guard: item.guard })
    }

    /// Where `name` is in a sorted listing, or belongs.
    pub fn position(&self, name: &[u8]) -> std::result::Result<usize, usize> {
        let (mut low, mut high) = (0, self.items.len());
        while low < high {
            let middle = low.midpoint(high);
            match self.get(middle).map(|listed| listed.name.cmp(name)) {
                Some(std::cmp::Ordering::Equal) => return Ok(middle),
                Some(std::cmp::Ordering::Less) => low = middle + 1,
                _ => high = middle,
            }
        }
        Err(low)
    }

    /// The name that was added last.
    pub fn last(&self) -> Option<&[u8]> {
        self.get(self.items.len().checked_sub(1)?).map(|listed| listed.name)
    }

    /// Notes that name number `at` lets in no more than these.
    pub fn guard(&mut self, at: usize, guard: Guard) {
        if let Some(item) = self.items.get_mut(at) {
            item.guard = Guard::more(item.guard, guard);
        }
    }

    /// The number of `name`.
    pub fn find(&self, name: &[u8]) -> Option<u64> {
        (0..self.items.len()).filter_map(|n| self.get(n)).find(|listed| listed.name == name).map(|listed| listed.ino)
    }

    fn bytes(&self) -> usize {
        self.names.len() + self.items.len() * size_of::<Item>()
    }
}

/// Listings by what they are of.
pub struct Listings<K>(Mutex<VecDeque<(K, Arc<Listing>)>>);

impl<K> Default for Listings<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: PartialEq> Listings<K> {
    /// The listing of `key`, which `make` makes if it is not here.
    pub fn get(&self, key: K, make: impl FnOnce() -> Result<Listing>) -> Result<Arc<Listing>> {
        let lock = || self.0.lock().expect("nobody panics while holding the listings");
        {
            let mut kept = lock();
            if let Some(at) = kept.iter().position(|(k, _)| *k == key)
                && let Some(found) = kept.remove(at)
            {
                let listing = found.1.clone();
                kept.push_back(found);
                return Ok(listing);
            }
        }
        let listing = Arc::new(make()?);
        let mut kept = lock();
        kept.push_back((key, listing.clone()));
        let mut bytes: usize = kept.iter().map(|(_, listing)| 256 + listing.bytes()).sum();
        while bytes > LISTINGS_BYTES_MAX && kept.len() > 1 {
            bytes -= kept.pop_front().map_or(0, |(_, listing)| 256 + listing.bytes());
        }
        Ok(listing)
    }
}
