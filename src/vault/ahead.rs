//! Decoding ahead: while one frame of a pack is used, the next ones are decoded on another core.
//!
//! Packs hold frames in the order of the walk that sealed them, and readers mostly walk the same way. A frame that is wanted
//! right behind one that was wanted makes its successors likely; a frame wanted by itself does not.

use std::{
    collections::VecDeque,
    sync::{Arc, OnceLock, mpsc},
};

use crate::{
    error::{Error, Result},
    pack::FrameKey,
    vault::Reader,
};

/// Frames decoded ahead of the one in use: two packs take turns, so up to twice as many altogether.
const AHEAD: u32 = 3;
/// Wishes that wait; more are dropped, as they are only wishes.
const WISHES_MAX: usize = 16;
/// Stored bytes that the store is told to have ready, from the frame that is decoded ahead on.
const EXPECTED_LEN: u64 = 2 << 20;
/// Packs in which it is remembered how far that goes.
const EXPECTED_PACKS: usize = 4;
/// Packs whose headers are opened before anybody asks: a file in a pack that nobody opened waits for five reads of the disk.
const OPENED_MAX: usize = 512;

/// Where a reader leaves its wishes, once somebody listens.
#[derive(Default)]
pub struct Ahead(OnceLock<mpsc::SyncSender<FrameKey>>);

impl Ahead {
    /// Wishes for the frames behind `key`, which was just wanted for the first time.
    pub fn wish(&self, key: FrameKey) {
        if let Some(wishes) = self.0.get() {
            for n in 1..=AHEAD {
                // A full queue means that the other core has enough to do.
                let _ = wishes.try_send(FrameKey { pack: key.pack, frame: key.frame + n });
            }
        }
    }
}

impl Reader {
    /// Starts a thread that decodes ahead for as long as the reader lives. For mounts; commands that read in parallel need none.
    pub fn read_ahead(self: &Arc<Self>) -> Result<()> {
        let (tell, wishes) = mpsc::sync_channel(WISHES_MAX);
        if self.ahead.0.set(tell).is_err() {
            return Ok(());
        }
        let reader = Arc::downgrade(self);
        let work = move || {
            let mut expected = Expected::default();
            for key in wishes {
                let Some(reader) = reader.upgrade() else { return };
                if let Some(at) = reader.with_index(|index| index.frame(key.pack, key.frame))
                    && expected.is_news(key.pack, u64::from(at.frame.offset))
                {
                    reader.expect(&at, EXPECTED_LEN);
                }
                // Whoever wants the frame meets the same failure, and tells it.
                let _ = reader.decode(key);
            }
        };
        std::thread::Builder::new().name("ahead".to_owned()).spawn(work).map(drop).map_err(|e| Error::io("cannot start a thread", e))
    }

    /// Opens the headers of the packs that came last, on a thread of its own; not of a vault on a server. What is returned hangs up when that is done.
    pub fn open_packs(self: &Arc<Self>) -> Result<mpsc::Receiver<()>> {
        let reader = Arc::downgrade(self);
        let (done, wait) = mpsc::sync_channel(0);
        let work = move || {
            let _done: mpsc::SyncSender<()> = done;
            // At the end of a line each is a request, and most packs are never looked into.
            if reader.upgrade().is_none_or(|reader| reader.vault.store.is_far()) {
                return;
            }
            let packs = reader.upgrade().map(|r| r.with_index(|index| index.packs().map(|(pack, _)| pack).collect::<Vec<_>>()));
            for pack in packs.unwrap_or_default().iter().rev().take(OPENED_MAX) {
                match reader.upgrade() {
                    // Whoever wants it meets the same failure, and tells it.
                    Some(reader) => drop(reader.open_pack(pack)),
                    None => return,
                }
            }
        };
        std::thread::Builder::new().name("open".to_owned()).spawn(work).map_err(|e| Error::io("cannot start a thread", e))?;
        Ok(wait)
    }
}

/// How far the store was told to have packs ready, those told last at the end.
#[derive(Default)]
struct Expected(VecDeque<(u32, u64)>);

impl Expected {
    /// Whether it is time to tell the store about the bytes of `pack` from `offset` on.
    fn is_news(&mut self, pack: u32, offset: u64) -> bool {
        let known = self.0.iter().position(|(p, _)| *p == pack);
        // Half of it is still ahead when the next is asked for.
        let news = !known.is_some_and(|at| offset < self.0[at].1 && offset + 2 * EXPECTED_LEN > self.0[at].1);
        if news {
            known.map(|at| self.0.remove(at));
            if self.0.len() == EXPECTED_PACKS {
                self.0.pop_front();
            }
            self.0.push_back((pack, offset + EXPECTED_LEN / 2));
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_store_is_told_once_a_megabyte_and_after_a_jump() {
        let mut expected = Expected::default();
        let told: Vec<u64> = (0..64).map(|n| n * (128 << 10)).filter(|offset| expected.is_news(7, *offset)).collect();
        assert_eq!(told, (0..8).map(|n| n << 20).collect::<Vec<_>>());
        assert!(expected.is_news(7, 100 << 20) && !expected.is_news(7, 100 << 20) && expected.is_news(7, 0));
        assert!(expected.is_news(8, 0) && !expected.is_news(7, 1));
    }
}
