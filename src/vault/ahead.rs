//! Decoding ahead: while one frame of a pack is used, the next ones are decoded on another core.
//!
//! Packs hold frames in the order of the walk that sealed them, and readers mostly walk the same way. A frame that is wanted
//! right behind one that was wanted makes its successors likely; a frame wanted by itself does not.

use std::sync::{Arc, OnceLock, mpsc};

use crate::{
    error::{Error, Result},
    pack::FrameKey,
    vault::Reader,
};

/// Frames decoded ahead of the one in use: two packs take turns, so up to twice as many altogether.
const AHEAD: u32 = 3;
/// Wishes that wait; more are dropped, as they are only wishes.
const WISHES_MAX: usize = 16;

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
            for key in wishes {
                let Some(reader) = reader.upgrade() else { return };
                // Whoever wants the frame meets the same failure, and tells it.
                let _ = reader.decode(key);
            }
        };
        std::thread::Builder::new().name("ahead".to_owned()).spawn(work).map(drop).map_err(|e| Error::io("cannot start a thread", e))
    }
}
