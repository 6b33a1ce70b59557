//! Tree nodes: the entries of one directory (docs/FORMAT.md section 5). What they are; `encode` and `decode` are the way to bytes and back,
//! `scan` a short one to names and directories.

mod decode;
mod encode;
mod scan;

pub use encode::split;
pub use scan::Scan;

use std::sync::Arc;

use crate::{
    error::{Error, Result},
    format::ChunkId,
};

/// Most entries in one node; larger directories are split.
pub const NODE_ENTRIES_MAX: usize = 4096;
/// Encoded bytes at which a sub-node closes, so that a node always fits a frame.
const NODE_LEN_SPLIT: usize = 1 << 20;
/// Longest content kept in the tree itself, in bytes.
pub const INLINE_LEN_MAX: usize = 256;
/// Deepest nesting of directories.
pub const DIR_DEPTH_MAX: usize = 4096;
/// Most chunks listed in an entry; longer lists are stored as chunks of their own.
const CHUNKS_DIRECT_MAX: usize = 16384;
/// Longest chunk that a list may name, in bytes; eight times what is ever cut.
const CHUNK_REF_LEN_MAX: usize = 4 << 20;
/// Bytes of one chunk reference.
const CHUNK_REF_LEN: usize = 36;

/// Extended attributes by name, sorted.
pub type Xattrs = Vec<(Box<[u8]>, Box<[u8]>)>;

/// One name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Any bytes but `/` and NUL; not empty, `.` or `..`.
    pub name: Box<[u8]>,
    /// Type and permission bits, as in `st_mode`.
    pub mode: u32,
    /// Numeric owner.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
    /// Modification time, ns since 1970.
    pub mtime_ns: i128,
    /// Change time, ns since 1970.
    pub ctime_ns: i128,
    /// Inode number at the source.
    pub source_inode: u64,
    /// Set for non-directories with several names.
    pub hard_link: Option<HardLink>,
    /// Extended attributes by name.
    pub xattrs: Xattrs,
    /// Name of the owner, if the host knew it.
    pub user: Option<Arc<[u8]>>,
    /// Name of the group, if the host knew it.
    pub group: Option<Arc<[u8]>>,
    /// What the entry is.
    pub content: Content,
}

/// Names with equal `group` are one inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HardLink {
    /// Equal for the names of one inode, within a snapshot.
    pub group: u64,
    /// The source's link count.
    pub nlink: u32,
}

/// What an entry is, by type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// A regular file.
    File {
        /// Size in bytes, holes among them.
        size: u64,
        /// Its bytes without the holes.
        data: Data,
        /// Holes, in order, not touching.
        holes: Vec<Hole>,
    },
    /// A directory.
    Dir {
        /// Its node.
        node: ChunkId,
        /// Number of entries below it.
        below: u64,
    },
    /// A symbolic link and its target.
    Symlink(Box<[u8]>),
    /// A character or block device.
    Device {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A fifo.
    Fifo,
}

/// Where a file's bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    /// Here: 0 to `INLINE_LEN_MAX` bytes.
    Inline(Box<[u8]>),
    /// In these chunks, one after the other: n × { id, rlen u32 }.
    Chunks(ChunkList),
    /// In the chunks of these lists, one after the other.
    Lists(Vec<Part>),
}

/// A packed list of chunk references.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChunkList(Box<[u8]>);

/// One chunk of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkRef {
    /// Which chunk.
    pub id: ChunkId,
    /// Its raw length in bytes.
    pub len: u32,
}

/// A run of absent zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hole {
    /// First byte.
    pub offset: u64,
    /// How many bytes, never 0.
    pub len: u64,
}

/// A stored piece of a long chunk list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Bytes of content that its chunks cover.
    pub len: u64,
    /// The chunk, under the tree key, that holds the list.
    pub id: ChunkId,
}

impl ChunkList {
    /// Packs references.
    pub fn pack(refs: &[ChunkRef]) -> Self {
        let mut bytes = Vec::with_capacity(refs.len() * CHUNK_REF_LEN);
        for chunk in refs {
            bytes.extend_from_slice(chunk.id.as_bytes());
            bytes.extend_from_slice(&chunk.len.to_le_bytes());
        }
        Self(bytes.into())
    }

    /// Takes packed bytes as they were stored.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let list = Self(bytes.into());
        match bytes.len().is_multiple_of(CHUNK_REF_LEN) && list.iter().all(|c| c.len > 0 && c.len as usize <= CHUNK_REF_LEN_MAX) {
            true => Ok(list),
            false => Err(Error::corrupt("a chunk list has an impossible length in it")),
        }
    }

    /// The packed bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// How many chunks.
    pub fn len(&self) -> usize {
        self.0.len() / CHUNK_REF_LEN
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The references in order.
    pub fn iter(&self) -> impl Iterator<Item = ChunkRef> + '_ {
        self.0.chunks_exact(CHUNK_REF_LEN).map(|r| ChunkRef {
            id: ChunkId::from_slice(&r[..32]).expect("32 bytes"),
            len: u32::from_le_bytes(r[32..].try_into().expect("4 bytes")),
        })
    }

    /// Bytes of content in all chunks together.
    pub fn content_len(&self) -> u64 {
        self.iter().map(|c| u64::from(c.len)).sum()
    }

    /// The pieces in which a long list is stored, or `None` if it fits an entry.
    pub fn pieces(&self) -> Option<impl Iterator<Item = ChunkList> + '_> {
        (self.len() > CHUNKS_DIRECT_MAX).then(|| self.0.chunks(CHUNKS_DIRECT_MAX * CHUNK_REF_LEN).map(|piece| ChunkList(piece.into())))
    }
}

/// One stored node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// The entries, sorted by name.
    Entries(Vec<Entry>),
    /// Sub-nodes, each with its first name.
    Parts(Vec<(Box<[u8]>, ChunkId)>),
}

/// Whether `name` may stand in a directory.
pub fn is_legal_name(name: &[u8]) -> bool {
    !name.is_empty() && name != b"." && name != b".." && !name.iter().any(|b| matches!(b, 0 | b'/'))
}

impl Entry {
    /// Whether this is a directory.
    pub fn is_dir(&self) -> bool {
        matches!(self.content, Content::Dir { .. })
    }

    /// How many numbers the entry takes in a walk of the snapshot: itself and all below.
    pub fn span(&self) -> u64 {
        match self.content {
            Content::Dir { below, .. } => below.saturating_add(1),
            _ => 1,
        }
    }

    /// About how many bytes of memory it takes.
    pub fn memory(&self) -> usize {
        let content = match &self.content {
            Content::File { data: Data::Inline(bytes), holes, .. } => bytes.len() + holes.len() * 16,
            Content::File { data: Data::Chunks(list), holes, .. } => list.as_bytes().len() + holes.len() * 16,
            Content::File { data: Data::Lists(parts), holes, .. } => parts.len() * 40 + holes.len() * 16,
            Content::Symlink(target) => target.len(),
            _ => 0,
        };
        let xattrs: usize = self.xattrs.iter().map(|(name, value)| name.len() + value.len() + 32).sum();
        size_of::<Self>() + self.name.len() + content + xattrs
    }

    /// Size as `stat` shows it.
    pub fn size(&self) -> u64 {
        match &self.content {
            Content::File { size, .. } => *size,
            Content::Symlink(target) => target.len() as u64,
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn entry(name: &[u8], mode: u32, content: Content) -> Entry {
        Entry {
            name: name.into(),
            mode,
            uid: 1000,
            gid: 4_000_001,
            mtime_ns: -86_400_000_000_001,
            ctime_ns: 4_300_000_000_000_000_005,
            source_inode: u64::MAX,
            hard_link: None,
            xattrs: Xattrs::new(),
            user: Some(b"ada"[..].into()),
            group: None,
            content,
        }
    }

    fn file(size: u64, data: Data, holes: Vec<Hole>) -> Content {
        Content::File { size, data, holes }
    }

    /// One entry of every kind, in order of names.
    pub fn all_kinds() -> Vec<Entry> {
        let id = |n: u8| ChunkId::from_bytes([n; 32]);
        let chunks = ChunkList::pack(&[ChunkRef { id: id(1), len: 10 }, ChunkRef { id: id(2), len: 20 }]);
        let mut linked = entry(b"\xff-hard", 0o100_644, file(5, Data::Inline(b"inner"[..].into()), Vec::new()));
        linked.hard_link = Some(HardLink { group: 1 << 40, nlink: 3 });
        linked.xattrs = vec![(b"user.a"[..].into(), b""[..].into()), (b"user.b"[..].into(), b"\0\xff"[..].into())];
        vec![
            entry(b"block", 0o060_660, Content::Device { major: 259, minor: 300 }),
            entry(b"chunks", 0o104_755, file(30, Data::Chunks(chunks.clone()), Vec::new())),
            entry(b"dir", 0o040_755, Content::Dir { node: id(7), below: 12 }),
            entry(b"empty", 0o100_000, file(0, Data::Inline(Box::default()), Vec::new())),
            entry(b"fifo", 0o010_620, Content::Fifo),
            entry(b"link", 0o120_777, Content::Symlink(b"caf\xe9"[..].into())),
            entry(b"long", 0o100_600, file(1 << 40, Data::Lists(vec![Part { len: 1 << 40, id: id(9) }]), Vec::new())),
            entry(b"sparse", 0o100_644, file(130, Data::Chunks(chunks), vec![Hole { offset: 0, len: 40 }, Hole { offset: 70, len: 60 }])),
            linked,
        ]
    }

    pub fn encode(entries: &[Entry]) -> Vec<u8> {
        let encoded: Vec<Vec<u8>> = entries.iter().map(Entry::encode).collect();
        Node::encode_entries(encoded.iter().map(Vec::as_slice))
    }

    #[test]
    fn every_kind_of_entry_reads_back() {
        let entries = all_kinds();
        assert_eq!(Node::decode(&encode(&entries)).unwrap(), Node::Entries(entries));
        let parts = vec![(b"a"[..].into(), ChunkId::from_bytes([1; 32])), (b"b"[..].into(), ChunkId::from_bytes([2; 32]))];
        assert_eq!(Node::decode(&Node::encode_parts(&parts)).unwrap(), Node::Parts(parts));
    }

    #[test]
    fn what_a_writer_would_not_write_is_refused() {
        let kinds = all_kinds();
        let refused = |entries: &[Entry]| Node::decode(&encode(entries)).unwrap_err().kind();
        assert_eq!(refused(&[kinds[1].clone(), kinds[0].clone()]), ErrorKind::Corrupt, "out of order");
        assert_eq!(refused(&[kinds[0].clone(), kinds[0].clone()]), ErrorKind::Corrupt, "twice");
        for name in [&b""[..], b".", b"..", b"a/b", b"a\0"] {
            assert_eq!(refused(&[entry(name, 0o010_644, Content::Fifo)]), ErrorKind::Corrupt, "{name:?}");
        }
        let holes = |holes: &[(u64, u64)]| holes.iter().map(|(offset, len)| Hole { offset: *offset, len: *len }).collect::<Vec<_>>();
        for (size, holes) in [
            (9, holes(&[])),
            (20, holes(&[(0, 5), (5, 5)])),
            (20, holes(&[(15, 10)])),
            (10, holes(&[(3, 0)])),
            (20, holes(&[(8, 5), (0, 5)])),
        ] {
            let data = Data::Inline(b"0123456789"[..].into());
            assert_eq!(refused(&[entry(b"f", 0o100_644, file(size, data, holes.clone()))]), ErrorKind::Corrupt, "{size} {holes:?}");
        }
        assert_eq!(refused(&[entry(b"f", 0o140_644, Content::Fifo)]), ErrorKind::Corrupt, "a socket");
        // {0: 2, 1: []} is a newer node; {0: 1, 1: [], 200: 0} holds a critical field.
        assert_eq!(Node::decode(&[0xa2, 0, 2, 1, 0x80]).unwrap_err().kind(), ErrorKind::Unsupported);
        assert_eq!(Node::decode(&[0xa3, 0, 1, 1, 0x80, 0x18, 200, 0]).unwrap_err().kind(), ErrorKind::Unsupported);
        assert_eq!(Node::decode(&[0xa3, 0, 1, 1, 0x80, 0x18, 100, 0]).unwrap(), Node::Entries(Vec::new()), "other fields are ignored");
    }

    #[test]
    fn no_cut_and_no_flip_of_a_node_makes_the_decoder_panic() {
        let bytes = encode(&all_kinds());
        for n in 0..bytes.len() {
            assert!(Node::decode(&bytes[..n]).is_err(), "cut at {n}");
            for bit in 0..8 {
                let mut hurt = bytes.clone();
                hurt[n] ^= 1 << bit;
                let _ = Node::decode(&hurt);
            }
        }
    }

    #[test]
    fn a_new_name_moves_at_most_one_cut() {
        let names: Vec<String> = (0..20_000).map(|n| format!("session-{n:06}")).collect();
        let cuts = |names: &[String]| -> Vec<String> {
            let mut at = 0;
            split(names.iter().map(|n| (n.as_bytes(), 100)))
                .iter()
                .map(|n| {
                    at += n;
                    names[at - 1].clone()
                })
                .collect()
        };
        let before = cuts(&names);
        assert!(before.len() > 5);
        let mut more = names.clone();
        more.insert(9_000, "session-008999-new".to_owned());
        let after = cuts(&more);
        assert!(before.iter().filter(|cut| !after.contains(cut)).count() <= 1, "{before:?} {after:?}");
        assert_eq!(split(names[..10].iter().map(|n| (n.as_bytes(), 200_000))), [6, 4], "long entries make a node full early");
    }
}
