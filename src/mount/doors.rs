//! Names that people make up, below `at/` and `changes/`: each gets a number, and keeps what it meant when it was looked up.
//!
//! The table is bounded. Names that the kernel no longer holds go first, then those not used for longest; who still stands in such a
//! directory gets ESTALE, and a path into it is looked up anew by the kernel. A number never means another thing in one mount.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use crate::{
    error::{Error, Result},
    mount::inode::{DOORS_MAX, Mounted},
    vault::Kind,
};

/// Names kept at a time: some megabytes.
const KEPT_MAX: usize = 16384;

/// What a name stands for.
pub enum Door {
    /// `at/NAME/`: this snapshot.
    At {
        /// As it was typed.
        name: Box<[u8]>,
        /// What it meant.
        mounted: Arc<Mounted>,
    },
    /// `changes/A..B/`, or one of the directories in it.
    Changes {
        /// As it was typed.
        name: Box<[u8]>,
        /// What A meant.
        old: Arc<Mounted>,
        /// What B meant.
        new: Arc<Mounted>,
        /// Which directory in it.
        kind: Option<Kind>,
    },
}

type Key = (Box<[u8]>, u32, Option<u32>, Option<Kind>);

impl Door {
    fn key(&self) -> Key {
        match self {
            Door::At { name, mounted } => (name.clone(), mounted.serial, None, None),
            Door::Changes { name, old, new, kind } => (name.clone(), old.serial, Some(new.serial), *kind),
        }
    }

    /// The snapshot whose entries it shows, unless it is a directory of directories.
    pub fn shows(&self) -> Option<&Arc<Mounted>> {
        match self {
            Door::At { mounted, .. } => Some(mounted),
            Door::Changes { old, kind: Some(Kind::Removed), .. } => Some(old),
            Door::Changes { new, kind: Some(_), .. } => Some(new),
            Door::Changes { kind: None, .. } => None,
        }
    }
}

struct Kept {
    door: Arc<Door>,
    /// How often the kernel was told and has not forgotten.
    known: u64,
    used: u64,
}

/// The doors of one mount.
#[derive(Default)]
pub struct Doors(Mutex<Table>);

#[derive(Default)]
struct Table {
    by_number: HashMap<u32, Kept>,
    by_key: HashMap<Key, u32>,
    last: u32,
    uses: u64,
}

impl Table {
    fn use_of(&mut self, number: u32) -> Option<&mut Kept> {
        self.uses += 1;
        let kept = self.by_number.get_mut(&number)?;
        kept.used = self.uses;
        Some(kept)
    }
}

impl Doors {
    fn table(&self) -> std::sync::MutexGuard<'_, Table> {
        self.0.lock().expect("nobody panics while holding the doors")
    }

    /// The number of `door`: the one it has, or a new one.
    pub fn number(&self, door: Door) -> Result<(u32, Arc<Door>)> {
        let key = door.key();
        let mut table = self.table();
        if let Some(number) = table.by_key.get(&key).copied()
            && let Some(kept) = table.use_of(number)
        {
            return Ok((number, kept.door.clone()));
        }
        if table.last == DOORS_MAX {
            return Err(Error::unavailable("this mount has resolved as many names below at/ and changes/ as it can number")
                .hint("unmount and mount again"));
        }
        if table.by_number.len() >= KEPT_MAX
            && let Some(number) = table.by_number.iter().min_by_key(|(_, kept)| (kept.known > 0, kept.used)).map(|(number, _)| *number)
            && let Some(gone) = table.by_number.remove(&number)
        {
            table.by_key.remove(&gone.door.key());
        }
        table.last += 1;
        let (number, door) = (table.last, Arc::new(door));
        table.uses += 1;
        let used = table.uses;
        table.by_number.insert(number, Kept { door: door.clone(), known: 0, used });
        table.by_key.insert(key, number);
        Ok((number, door))
    }

    /// What number `number` stands for, if it is still known.
    pub fn door(&self, number: u32) -> Option<Arc<Door>> {
        self.table().use_of(number).map(|kept| kept.door.clone())
    }

    /// The kernel holds it once more.
    pub fn told(&self, number: u32) {
        if let Some(kept) = self.table().by_number.get_mut(&number) {
            kept.known += 1;
        }
    }

    /// The kernel forgets it `times` times.
    pub fn forgotten(&self, number: u32, times: u64) {
        if let Some(kept) = self.table().by_number.get_mut(&number) {
            kept.known = kept.known.saturating_sub(times);
        }
    }
}
