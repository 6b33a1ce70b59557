//! Bytes to nodes: takes bytes from outside, so it never panics and never allocates by an unchecked length. About 100 ns an entry.

use std::sync::Arc;

use minicbor::Decoder;

use super::{ChunkList, Content, Data, Entry, HardLink, Hole, INLINE_LEN_MAX, NODE_ENTRIES_MAX, Node, Part, Xattrs, is_legal_name};
use crate::{
    error::{Error, Result},
    format::{ChunkId, canon},
};

/// The type bits of a mode.
const S_IFMT: u32 = 0o170_000;

impl Node {
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

pub(super) fn broken(e: impl std::fmt::Display) -> Error {
    Error::corrupt(format!("a tree node cannot be decoded: {e}"))
}

/// The user and group names seen last, so that a directory's entries share them.
#[derive(Default)]
pub(super) struct Names([Option<Arc<[u8]>>; 2]);

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
                let len = array_len(d)?;
                // What is claimed is not believed further than a node may go.
                let mut entries = Vec::with_capacity(usize::try_from(len).unwrap_or(usize::MAX).min(NODE_ENTRIES_MAX));
                for _ in 0..len {
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

pub(super) fn decode_entry(d: &mut Decoder, names: &mut Names) -> Result<Entry> {
    let mut entry = Entry {
        name: Box::default(),
        mode: 0,
        uid: 0,
        gid: 0,
        mtime_ns: 0,
        ctime_ns: 0,
        source_inode: 0,
        hard_link: None,
        xattrs: Xattrs::new(),
        user: None,
        group: None,
        content: Content::Fifo,
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
