//! Tree nodes: the entries of one directory, as deterministic CBOR (docs/FORMAT.md section 5).
//!
//! Encoding is by hand over `minicbor`, so that the order of keys and the presence of each is plain to see.
//! About 90 ns an entry each way.

use std::sync::Arc;

use minicbor::{Decoder, Encoder, data::Int};

use crate::{
    error::{Error, Result},
    format::{ChunkId, FRAME_LEN_RAW_MAX, canon},
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
/// Bytes of one chunk reference.
const CHUNK_REF_LEN: usize = 36;

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
    pub xattrs: Vec<(Box<[u8]>, Box<[u8]>)>,
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
        match bytes.len() % CHUNK_REF_LEN == 0 && list.iter().all(|c| c.len > 0 && c.len as usize <= FRAME_LEN_RAW_MAX) {
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
        (self.len() > CHUNKS_DIRECT_MAX)
            .then(|| self.0.chunks(CHUNKS_DIRECT_MAX * CHUNK_REF_LEN).map(|piece| ChunkList(piece.into())))
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

const S_IFMT: u32 = 0o170_000;

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

    /// Size as `stat` shows it.
    pub fn size(&self) -> u64 {
        match &self.content {
            Content::File { size, .. } => *size,
            Content::Symlink(target) => target.len() as u64,
            _ => 0,
        }
    }

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
            size.is_some(), self.hard_link.is_some(), chunks.is_some(), !self.xattrs.is_empty(), !holes.is_empty(), inline.is_some(),
            self.user.is_some(), self.group.is_some(), lists.is_some(),
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
        let hash = super::digest(name);
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

    /// Reads a node.
    ///
    /// # Errors
    /// `Corrupt` for anything that a writer of version 1 would not have written, `Unsupported` for a newer one.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        canon::check(bytes, "a tree node")?;
        let mut names = Names::default();
        let node = decode_node(&mut Decoder::new(bytes), &mut names)?;
        let sorted = match &node {
            Node::Entries(entries) => entries.len() <= NODE_ENTRIES_MAX && entries.is_sorted_by(|a, b| a.name < b.name),
            Node::Parts(parts) => !parts.is_empty() && parts.is_sorted_by(|a, b| a.0 < b.0),
        };
        sorted.then_some(node).ok_or_else(|| Error::corrupt("a tree node has its entries out of order"))
    }
}

fn broken(e: impl std::fmt::Display) -> Error {
    Error::corrupt(format!("a tree node cannot be decoded: {e}"))
}

/// The user and group names seen last, so that a directory's entries share them.
#[derive(Default)]
struct Names([Option<Arc<[u8]>>; 2]);

impl Names {
    fn share(&mut self, slot: usize, name: &[u8]) -> Arc<[u8]> {
        match &self.0[slot] {
            Some(last) if **last == *name => last.clone(),
            _ => self.0[slot].insert(name.into()).clone(),
        }
    }
}

fn decode_node(d: &mut Decoder, names: &mut Names) -> Result<Node> {
    let (mut version, mut node) = (None, None);
    for _ in 0..map_len(d)? {
        match d.u64().map_err(broken)? {
            0 => version = Some(d.u64().map_err(broken)?),
            1 => {
                let mut entries = Vec::new();
                for _ in 0..array_len(d)? {
                    entries.push(decode_entry(d, names)?);
                }
                node = Some(Node::Entries(entries));
            }
            2 => {
                let mut parts = Vec::new();
                for _ in 0..array_len(d)? {
                    pair(d)?;
                    parts.push((legal_name(d)?, id(d)?));
                }
                node = Some(Node::Parts(parts));
            }
            key => skip(d, key)?,
        }
    }
    match version {
        Some(1) => node.ok_or_else(|| broken("it holds nothing")),
        Some(version) => Err(Error::unsupported(format!("a tree node has version {version}; this coffre reads 1"))),
        None => Err(broken("no version")),
    }
}

fn decode_entry(d: &mut Decoder, names: &mut Names) -> Result<Entry> {
    let mut entry = Entry {
        name: Box::default(), mode: 0, uid: 0, gid: 0, mtime_ns: 0, ctime_ns: 0, source_inode: 0,
        hard_link: None, xattrs: Vec::new(), user: None, group: None, content: Content::Fifo,
    };
    let (mut size, mut data, mut node, mut below, mut target, mut device) = (None, None, None, None, None, None);
    let mut holes = Vec::new();
    let mut seen = 0u32;
    for _ in 0..map_len(d)? {
        let key = d.u64().map_err(broken)?;
        seen |= 1u32.checked_shl(u32::try_from(key).unwrap_or(32)).unwrap_or(0);
        match key {
            0 => entry.name = legal_name(d)?,
            1 => entry.mode = d.u32().map_err(broken)?,
            2 => entry.uid = d.u32().map_err(broken)?,
            3 => entry.gid = d.u32().map_err(broken)?,
            4 => entry.mtime_ns = d.int().map_err(broken)?.into(),
            5 => size = Some(d.u64().map_err(broken)?),
            6 => {
                pair(d)?;
                entry.hard_link = Some(HardLink { group: d.u64().map_err(broken)?, nlink: d.u32().map_err(broken)? });
            }
            7 => data = Some(Data::Chunks(ChunkList::from_bytes(d.bytes().map_err(broken)?)?)),
            8 => node = Some(id(d)?),
            9 => target = Some(d.bytes().map_err(broken)?),
            10 => device = Some(d.u64().map_err(broken)?),
            11 => {
                for _ in 0..array_len(d)? {
                    pair(d)?;
                    entry.xattrs.push((d.bytes().map_err(broken)?.into(), d.bytes().map_err(broken)?.into()));
                }
            }
            12 => entry.ctime_ns = d.int().map_err(broken)?.into(),
            13 => {
                for _ in 0..array_len(d)? {
                    pair(d)?;
                    holes.push(Hole { offset: d.u64().map_err(broken)?, len: d.u64().map_err(broken)? });
                }
            }
            14 => data = Some(Data::Inline(d.bytes().map_err(broken)?.into())),
            15 => entry.user = Some(names.share(0, d.bytes().map_err(broken)?)),
            16 => entry.group = Some(names.share(1, d.bytes().map_err(broken)?)),
            18 => entry.source_inode = d.u64().map_err(broken)?,
            19 => below = Some(d.u64().map_err(broken)?),
            20 => {
                let mut parts = Vec::new();
                for _ in 0..array_len(d)? {
                    pair(d)?;
                    parts.push(Part { len: d.u64().map_err(broken)?, id: id(d)? });
                }
                data = Some(Data::Lists(parts));
            }
            key => skip(d, key)?,
        }
    }
    const NEEDED: u32 = 0b1_1111 | 1 << 12 | 1 << 18;
    if seen & NEEDED != NEEDED {
        return Err(broken("an entry lacks a field"));
    }
    let wrong = |what: &str| broken(format!("entry {:?} {what}", String::from_utf8_lossy(&entry.name)));
    entry.content = match entry.mode & S_IFMT {
        0o100_000 => {
            let size = size.ok_or_else(|| wrong("has no size"))?;
            let data = data.unwrap_or(Data::Inline(Box::default()));
            check_size(size, &data, &holes).ok_or_else(|| wrong("has a size that does not add up"))?;
            Content::File { size, data, holes }
        }
        0o040_000 => Content::Dir {
            node: node.ok_or_else(|| wrong("is a directory without a node"))?,
            below: below.ok_or_else(|| wrong("is a directory without a count"))?,
        },
        0o120_000 => Content::Symlink(target.ok_or_else(|| wrong("is a link without a target"))?.into()),
        0o020_000 | 0o060_000 => {
            let device = device.ok_or_else(|| wrong("is a device without a number"))?;
            Content::Device { major: (device >> 32) as u32, minor: device as u32 }
        }
        0o010_000 => Content::Fifo,
        _ => return Err(wrong("has a type that does not exist")),
    };
    Ok(entry)
}

/// Whether data and holes add up to `size`, the holes in order and inside.
fn check_size(size: u64, data: &Data, holes: &[Hole]) -> Option<()> {
    let mut end = 0u64;
    let mut sum = match data {
        Data::Inline(bytes) if bytes.len() > INLINE_LEN_MAX => return None,
        Data::Inline(bytes) => bytes.len() as u64,
        Data::Chunks(list) => list.content_len(),
        Data::Lists(parts) => parts.iter().try_fold(0u64, |sum, part| sum.checked_add(part.len))?,
    };
    for (i, hole) in holes.iter().enumerate() {
        if hole.len == 0 || (i > 0 && hole.offset <= end) {
            return None;
        }
        end = hole.offset.checked_add(hole.len).filter(|end| *end <= size)?;
        sum = sum.checked_add(hole.len)?;
    }
    (sum == size).then_some(())
}

fn map_len(d: &mut Decoder) -> Result<u64> {
    d.map().map_err(broken)?.ok_or_else(|| broken("a map without a length"))
}

fn array_len(d: &mut Decoder) -> Result<u64> {
    d.array().map_err(broken)?.ok_or_else(|| broken("an array without a length"))
}

fn pair(d: &mut Decoder) -> Result<()> {
    match array_len(d)? {
        2 => Ok(()),
        n => Err(broken(format!("{n} where two belong"))),
    }
}

fn id(d: &mut Decoder) -> Result<ChunkId> {
    ChunkId::from_slice(d.bytes().map_err(broken)?).ok_or_else(|| broken("an id of another length"))
}

fn legal_name(d: &mut Decoder) -> Result<Box<[u8]>> {
    let name = d.bytes().map_err(broken)?;
    is_legal_name(name).then(|| name.into()).ok_or_else(|| broken("a name that no directory may hold"))
}

fn skip(d: &mut Decoder, key: u64) -> Result<()> {
    match key {
        0..128 => d.skip().map_err(broken),
        _ => Err(Error::unsupported(format!("a tree node holds field {key}, which this coffre does not know"))),
    }
}
