//! What a snapshot alone holds: what would be freed if it, and no other, were forgotten.

use std::collections::HashMap;

use serde::Serialize;

use crate::{
    error::{Error, Result},
    format::{ChunkId, Content, Data},
    ops::look::{Look, SnapshotRow},
    sys::Cancel,
    vault::Timeline,
};

/// What one snapshot alone holds.
#[derive(Clone, Debug, Serialize)]
pub struct Alone {
    /// The snapshot.
    #[serde(flatten)]
    pub snapshot: SnapshotRow,
    /// Chunks, directories among them, that no other snapshot holds.
    pub chunks: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// About how much of the packs they take: their shares of their compressed frames.
    pub stored_bytes: u64,
}

/// Held by several snapshots.
const MANY: u32 = u32::MAX;

/// Who holds each chunk: a snapshot, or several.
struct Holders<'a> {
    look: &'a Look,
    of: HashMap<ChunkId, u32>,
}

impl Holders<'_> {
    /// Notes that `holder` holds `id`; whether that was not known, so that what is below it must be told too.
    fn note(&mut self, id: ChunkId, holder: u32) -> Option<u32> {
        match self.of.get_mut(&id) {
            None => {
                self.of.insert(id, holder);
                Some(holder)
            }
            Some(known) if *known == holder || *known == MANY => None,
            Some(known) => {
                *known = MANY;
                Some(MANY)
            }
        }
    }

    /// Notes a tree. A node is read when it is first seen, and once more when a second snapshot turns out to have it.
    fn tree(&mut self, line: &Timeline, n: usize, cancel: &Cancel) -> Result<()> {
        let (keys, reader) = (line.keys(n), self.look.dirs.reader());
        let own = u32::try_from(n).ok().filter(|n| *n != MANY).ok_or_else(|| Error::unsupported("too many snapshots to compare"))?;
        let mut stack: Vec<(ChunkId, u32)> = vec![(line.snapshot(n).manifest.root, own)];
        while let Some((id, holder)) = stack.pop() {
            let Some(holder) = self.note(id, holder) else { continue };
            cancel.check()?;
            match reader.node(keys, &id)? {
                crate::format::Node::Parts(parts) => stack.extend(parts.iter().map(|(_, part)| (*part, holder))),
                crate::format::Node::Entries(entries) => {
                    for entry in entries {
                        match &entry.content {
                            Content::Dir { node, .. } => stack.push((*node, holder)),
                            Content::File { data, .. } => {
                                if let Data::Lists(parts) = data {
                                    for part in parts {
                                        self.note(part.id, holder);
                                    }
                                }
                                reader.each_chunk(keys, data, |chunk| {
                                    self.note(chunk.id, holder);
                                    Ok(())
                                })?;
                            }
                            _ => (),
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

/// What each snapshot alone holds, in order of time.
///
/// Cost: every distinct directory is read twice. Memory: about 50 bytes a chunk.
pub fn alone(look: &Look, cancel: &Cancel) -> Result<Vec<Alone>> {
    let mut holders = Holders { look, of: HashMap::new() };
    for n in 0..look.line.len() {
        holders.tree(&look.line, n, cancel)?;
    }
    let mut rows: Vec<Alone> =
        (0..look.line.len()).map(|n| Alone { snapshot: look.named(n), chunks: 0, bytes: 0, stored_bytes: 0 }).collect();
    look.dirs.reader().with_index(|index| {
        for (id, holder) in holders.of.iter().filter(|(_, holder)| **holder != MANY) {
            let Some(at) = index.locate(id).first().copied() else { continue };
            let len = u64::from(index.lens(&at)[at.chunk as usize]);
            let row = &mut rows[*holder as usize];
            row.chunks += 1;
            row.bytes += len;
            row.stored_bytes += u64::from(at.frame.compressed_len) * len / u64::from(at.frame.raw_len).max(1);
        }
    });
    Ok(rows)
}
