//! Counts what there is to seal, so that whoever watches learns when it will be done. Only run for somebody who watches.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use crate::{
    ops::seal::{
        look::{Below, Looked, Looker},
        sources::Skeleton,
    },
    sys::{Cancel, Dir, FileType},
};

/// Bytes of all files, once they are known.
#[derive(Debug, Default)]
pub struct Total {
    bytes: AtomicU64,
    known: AtomicBool,
    /// Nobody needs the sum any more.
    stopped: AtomicBool,
}

impl Total {
    /// What was found the last time: near enough.
    pub fn estimated(bytes: u64) -> Self {
        Self { bytes: AtomicU64::new(bytes), known: AtomicBool::new(true), ..Self::default() }
    }

    /// The sum, if it is known.
    pub fn bytes(&self) -> Option<u64> {
        self.known.load(Ordering::Acquire).then(|| self.bytes.load(Ordering::Relaxed))
    }

    /// Ends the counting.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// Walks everything below `skeleton` and adds up the sizes. Cost: a listing of every directory; memory for one path of them.
    pub fn count(&self, looker: &Looker, skeleton: &Skeleton, cancel: &Cancel) {
        let Some((root, stat)) = Dir::open(std::path::Path::new("/")).and_then(|root| root.stat().map(|stat| (root, stat))).ok() else {
            return;
        };
        let root = Arc::new(root);
        let (parent, is_source) = (root.clone(), skeleton.is_source);
        let below = Below { parent, name: Box::default(), path: Vec::new(), skeleton: Some(skeleton), is_source, scope: None };
        let mut levels: Vec<(Looked, usize)> = vec![(looker.look(root, stat, below), 0)];
        let ended = || cancel.is_cancelled() || self.stopped.load(Ordering::Relaxed);
        while let Some((looked, next)) = levels.last_mut() {
            let Some(found) = looked.listing.get(*next) else {
                levels.pop();
                continue;
            };
            *next += 1;
            let Ok(stat) = &found.stat else { continue };
            match stat.file_type() {
                FileType::File => drop(self.bytes.fetch_add(stat.size, Ordering::Relaxed)),
                // What cannot be opened is told by who seals it.
                FileType::Dir if !ended() => {
                    let below = looked.below(&found.name);
                    levels.extend(looker.open(below).ok().map(|looked| (looked, 0)));
                }
                _ => (),
            }
        }
        self.known.store(!ended(), Ordering::Release);
    }
}
