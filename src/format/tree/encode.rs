//! Nodes to bytes: deterministic CBOR by hand over `minicbor`, so that the order of keys and the presence of each is
//! plain to see. About 90 ns an entry.

use minicbor::{Encoder, data::Int};

use super::{Content, Data, Entry, Hole, NODE_ENTRIES_MAX, NODE_LEN_SPLIT, Node};
use crate::format::{ChunkId, digest};

impl Entry {
    /// Returns the CBOR of this entry.
    pub fn encode(&self) -> Vec<u8> {
        let mut e = Encoder::new(Vec::with_capacity(160));
        self.encode_into(&mut e).expect("writing to memory does not fail");
        e.into_writer()
    }

    fn encode_into(&self, e: &mut Encoder<Vec<u8>>) -> std::result::Result<(), minicbor::encode::Error<std::convert::Infallible>> {
        let int = |n: i128| Int::try_from(n).unwrap_or(Int::from(if n < 0 { i64::MIN } else { i64::MAX }));
        let (mut size, mut chunks, mut lists, mut inline, mut holes): (_, _, _, _, &[Hole]) = (None, None, None, None, &[]);
        if let Content::File { size: s, data, holes: h } = &self.content {
            (size, holes) = (Some(*s), h);
            match data {
                Data::Inline(bytes) if bytes.is_empty() => (),
                Data::Inline(bytes) => inline = Some(bytes),
                Data::Chunks(list) if list.is_empty() => (),
                Data::Chunks(list) => chunks = Some(list),
                Data::Lists(parts) => lists = Some(parts),
            }
        }
        let optional = [
            size.is_some(),
            self.hard_link.is_some(),
            chunks.is_some(),
            !self.xattrs.is_empty(),
            !holes.is_empty(),
            inline.is_some(),
            self.user.is_some(),
            self.group.is_some(),
            lists.is_some(),
        ];
        let by_type = match &self.content {
            Content::Dir { .. } => 2,
            Content::Symlink(_) | Content::Device { .. } => 1,
            Content::File { .. } | Content::Fifo => 0,
        };
        e.map(7 + by_type + optional.iter().filter(|p| **p).count() as u64)?;
        e.u8(0)?.bytes(&self.name)?.u8(1)?.u32(self.mode)?.u8(2)?.u32(self.uid)?.u8(3)?.u32(self.gid)?;
        e.u8(4)?.int(int(self.mtime_ns))?;
        if let Some(size) = size {
            e.u8(5)?.u64(size)?;
        }
        if let Some(link) = self.hard_link {
            e.u8(6)?.array(2)?.u64(link.group)?.u32(link.nlink)?;
        }
        if let Some(chunks) = chunks {
            e.u8(7)?.bytes(chunks.as_bytes())?;
        }
        match &self.content {
            Content::Dir { node, .. } => drop(e.u8(8)?.bytes(node.as_bytes())?),
            Content::Symlink(target) => drop(e.u8(9)?.bytes(target)?),
            Content::Device { major, minor } => drop(e.u8(10)?.u64(u64::from(*major) << 32 | u64::from(*minor))?),
            _ => (),
        }
        if !self.xattrs.is_empty() {
            e.u8(11)?.array(self.xattrs.len() as u64)?;
            for (name, value) in &self.xattrs {
                e.array(2)?.bytes(name)?.bytes(value)?;
            }
        }
        e.u8(12)?.int(int(self.ctime_ns))?;
        if !holes.is_empty() {
            e.u8(13)?.array(holes.len() as u64)?;
            for hole in holes {
                e.array(2)?.u64(hole.offset)?.u64(hole.len)?;
            }
        }
        if let Some(bytes) = inline {
            e.u8(14)?.bytes(bytes)?;
        }
        for (key, name) in [(15, &self.user), (16, &self.group)] {
            if let Some(name) = name {
                e.u8(key)?.bytes(name)?;
            }
        }
        e.u8(18)?.u64(self.source_inode)?;
        if let Content::Dir { below, .. } = self.content {
            e.u8(19)?.u64(below)?;
        }
        if let Some(parts) = lists {
            e.u8(20)?.array(parts.len() as u64)?;
            for part in parts {
                e.array(2)?.u64(part.len)?.bytes(part.id.as_bytes())?;
            }
        }
        Ok(())
    }
}

/// Cuts encoded entries into the runs that become nodes: one run if they fit a node.
///
/// `items` are (name, length of the encoding). Cuts depend on names, so that a new name moves one of them at most.
pub fn split<'a>(items: impl Iterator<Item = (&'a [u8], usize)> + Clone) -> Vec<usize> {
    let (count, bytes) = items.clone().fold((0, 0), |(n, sum), (_, len)| (n + 1, sum + len));
    if count <= NODE_ENTRIES_MAX && bytes <= NODE_LEN_SPLIT {
        return vec![count];
    }
    let (mut runs, mut n, mut len) = (Vec::new(), 0, 0);
    for (name, encoded) in items {
        n += 1;
        len += encoded;
        let hash = digest(name);
        let marked = u32::from_le_bytes(hash.as_bytes()[..4].try_into().expect("four bytes")) % 1024 == 0;
        if n == NODE_ENTRIES_MAX || len >= NODE_LEN_SPLIT || (marked && n >= 256) {
            runs.push(n);
            (n, len) = (0, 0);
        }
    }
    if n > 0 {
        runs.push(n);
    }
    runs
}

impl Node {
    /// Returns the bytes of a node of these encoded entries.
    pub fn encode_entries<'a>(entries: impl ExactSizeIterator<Item = &'a [u8]>) -> Vec<u8> {
        let mut e = Encoder::new(Vec::new());
        e.map(2).and_then(|e| e.u8(0)?.u8(1)?.u8(1)?.array(entries.len() as u64)).expect("writing to memory does not fail");
        let mut bytes = e.into_writer();
        entries.for_each(|entry| bytes.extend_from_slice(entry));
        bytes
    }

    /// Returns the bytes of a node of sub-nodes.
    pub fn encode_parts(parts: &[(Box<[u8]>, ChunkId)]) -> Vec<u8> {
        let mut e = Encoder::new(Vec::new());
        e.map(2)
            .and_then(|e| {
                e.u8(0)?.u8(1)?.u8(2)?.array(parts.len() as u64)?;
                parts.iter().try_fold(e, |e, (name, id)| e.array(2)?.bytes(name)?.bytes(id.as_bytes())).map(|_| ())
            })
            .expect("writing to memory does not fail");
        e.into_writer()
    }
}
