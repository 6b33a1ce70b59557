//! Directories decoded before they are asked for: those in one that was just listed.
//!
//! Who walks a tree lists a directory, then those in it, in the same order. While one core answers and the program looks at what it was
//! told, another decodes what comes next. What was listed last is what the walk enters next, so that comes first.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, OnceLock,
        mpsc::{Receiver, SyncSender, TryRecvError, sync_channel},
    },
};

use crate::{
    error::{Error, Result},
    format::ChunkId,
    mount::{inode::Mounted, view::Views},
};

/// Listings that wait to be looked at; more are left to whoever asks.
const LISTINGS_MAX: usize = 64;
/// Directories that wait to be decoded. Those that were listed longest ago are dropped first.
const DIRS_MAX: usize = 2048;

/// Directories in one listing, of one snapshot.
type Listed = (Arc<Mounted>, Vec<ChunkId>);

/// Where listings are told, once somebody decodes ahead.
#[derive(Default)]
pub struct Onward(OnceLock<SyncSender<Listed>>);

impl Onward {
    /// These directories were listed, in this order.
    pub fn listed(&self, mounted: &Arc<Mounted>, dirs: Vec<ChunkId>) {
        if let Some(queue) = self.0.get()
            && !dirs.is_empty()
        {
            // A full queue means that the other core has enough to do.
            let _ = queue.try_send((mounted.clone(), dirs));
        }
    }
}

impl Views {
    /// Starts the thread, which ends with the views.
    pub fn decode_onward(self: &Arc<Self>) -> Result<()> {
        let (tell, hear) = sync_channel(LISTINGS_MAX);
        if self.onward.0.set(tell).is_err() {
            return Ok(());
        }
        let views = Arc::downgrade(self);
        let work = move || {
            let decode = |mounted: &Mounted, id: &ChunkId| {
                if let Some(views) = views.upgrade() {
                    // Whoever asks for it meets the same failure, and tells it.
                    drop(catch_unwind(AssertUnwindSafe(|| views.decode_dir(mounted, id))));
                }
            };
            follow(&hear, decode);
        };
        std::thread::Builder::new().name("onward".to_owned()).spawn(work).map(drop).map_err(|e| Error::io("cannot start a thread", e))
    }
}

/// Decodes what is listed, the newest listing first, until nobody can list any more.
fn follow(hear: &Receiver<Listed>, decode: impl Fn(&Mounted, &ChunkId)) {
    // What waits, the next one last.
    let mut waiting: Vec<(Arc<Mounted>, ChunkId)> = Vec::new();
    loop {
        let listed = match waiting.is_empty() {
            true => hear.recv().map_err(|_| TryRecvError::Disconnected),
            false => hear.try_recv(),
        };
        match listed {
            Ok((mounted, dirs)) => {
                waiting.extend(dirs.into_iter().rev().map(|id| (mounted.clone(), id)));
                waiting.drain(..waiting.len().saturating_sub(DIRS_MAX));
            }
            Err(TryRecvError::Disconnected) => return,
            Err(TryRecvError::Empty) => {
                if let Some((mounted, id)) = waiting.pop() {
                    decode(&mounted, &id);
                }
            }
        }
    }
}
