//! What a node leads to, without the entries that nobody asks for: 30 ns an entry, where decoding all of it takes 100.

use minicbor::Decoder;

use super::{
    Entry, NODE_ENTRIES_MAX,
    decode::{Names, broken, decode_entry},
    is_legal_name,
};
use crate::{
    error::{Error, Result},
    format::{
        ChunkId,
        canon::{self, Walk},
    },
};

/// The type bits of a mode, and those of a directory.
const S_IFMT: u64 = 0o170_000;
const S_IFDIR: u64 = 0o040_000;

/// A node, as far as somebody asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scan {
    /// Entries of a directory, or of a part of it.
    Leaf {
        /// Those that are directories, by name, with their nodes.
        dirs: Vec<(Box<[u8]>, ChunkId)>,
        /// Those that were asked for, by name.
        wanted: Vec<Entry>,
    },
    /// The parts of a large directory, in order.
    Split(Vec<ChunkId>),
}

impl Scan {
    /// Reads the node `bytes`; entries are decoded if `is_wanted` says so of their names.
    ///
    /// # Errors
    /// As for `Node::decode`; of an entry that is not wanted only the name, the mode, the node and the order of its bytes are looked at.
    pub fn of(bytes: &[u8], is_wanted: impl FnMut(&[u8]) -> bool) -> Result<Self> {
        let mut scanner = Scanner { walk: Walk { bytes, at: 0 }, is_wanted, names: Names::default(), failed: None };
        match scanner.node() {
            Some(scan) if scanner.walk.at == bytes.len() => Ok(scan),
            _ => {
                // What no writer would have written is damage before it is anything newer.
                canon::check(bytes, "a tree node")?;
                Err(scanner.failed.unwrap_or_else(|| broken(format!("it is not as it should be at byte {}", scanner.walk.at))))
            }
        }
    }
}

struct Scanner<'a, F> {
    walk: Walk<'a>,
    is_wanted: F,
    names: Names,
    failed: Option<Error>,
}

impl<'a, F: FnMut(&[u8]) -> bool> Scanner<'a, F> {
    fn fail<T>(&mut self, e: Error) -> Option<T> {
        self.failed = Some(e);
        None
    }

    /// Calls `take` with every key of a map; it must pass over the value.
    fn fields(&mut self, mut take: impl FnMut(&mut Self, u64) -> Option<()>) -> Option<()> {
        let mut next = 0;
        for _ in 0..self.walk.of(5)? {
            let key = self.walk.of(0).filter(|key| *key >= next)?;
            next = key.checked_add(1)?;
            if key >= 128 {
                return self.fail(Error::unsupported(format!("a tree node holds field {key}, which this coffre does not know")));
            }
            take(self, key)?;
        }
        Some(())
    }

    fn node(&mut self) -> Option<Scan> {
        let (mut version, mut scan) = (None, None);
        self.fields(|this, key| {
            match key {
                0 => version = Some(this.walk.of(0)?),
                1 => scan = Some(this.leaf()?),
                2 => scan = Some(this.split()?),
                _ => this.walk.item(1)?,
            }
            Some(())
        })?;
        match version? {
            1 => scan,
            newer => self.fail(Error::unsupported(format!("a tree node has version {newer}; this coffre reads 1"))),
        }
    }

    fn leaf(&mut self) -> Option<Scan> {
        let (mut dirs, mut wanted, mut before) = (Vec::new(), Vec::new(), None);
        let len = self.walk.of(4).filter(|len| *len <= NODE_ENTRIES_MAX as u64)?;
        for _ in 0..len {
            let start = self.walk.at;
            let (name, node) = self.entry()?;
            if before.replace(name).is_some_and(|before| before >= name) {
                return None;
            }
            dirs.extend(node.map(|node| (name.into(), node)));
            if (self.is_wanted)(name) {
                match decode_entry(&mut Decoder::new(&self.walk.bytes[start..self.walk.at]), &mut self.names) {
                    Ok(entry) => wanted.push(entry),
                    Err(e) => return self.fail(e),
                }
            }
        }
        Some(Scan::Leaf { dirs, wanted })
    }

    /// The name of an entry, and its node if it is a directory.
    fn entry(&mut self) -> Option<(&'a [u8], Option<ChunkId>)> {
        let (mut name, mut mode, mut node) = (None, 0, None);
        self.fields(|this, key| {
            match key {
                0 => name = Some(this.walk.string()?),
                1 => mode = this.walk.of(0)?,
                8 => node = Some(ChunkId::from_slice(this.walk.string()?)?),
                _ => this.walk.item(3)?,
            }
            Some(())
        })?;
        let name = name.filter(|name| is_legal_name(name))?;
        if mode & S_IFMT == S_IFDIR { node.map(|node| (name, Some(node))) } else { Some((name, None)) }
    }

    fn split(&mut self) -> Option<Scan> {
        let (mut parts, mut before) = (Vec::new(), None);
        for _ in 0..self.walk.of(4)? {
            if self.walk.of(4)? != 2 {
                return None;
            }
            let name = self.walk.string().filter(|name| is_legal_name(name))?;
            if before.replace(name).is_some_and(|before| before >= name) {
                return None;
            }
            parts.push(ChunkId::from_slice(self.walk.string()?)?);
        }
        (!parts.is_empty()).then_some(Scan::Split(parts))
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            Content, Node,
            tests::{all_kinds, encode},
        },
        *,
    };
    use crate::error::ErrorKind;

    /// What a scan for everything should give.
    fn expected(node: Node) -> Scan {
        match node {
            Node::Parts(parts) => Scan::Split(parts.into_iter().map(|(_, id)| id).collect()),
            Node::Entries(wanted) => {
                let dir = |e: &Entry| if let Content::Dir { node, .. } = e.content { Some((e.name.clone(), node)) } else { None };
                Scan::Leaf { dirs: wanted.iter().filter_map(dir).collect(), wanted }
            }
        }
    }

    #[test]
    fn a_scan_gives_what_a_decoder_gives_as_far_as_it_was_asked() {
        let bytes = encode(&all_kinds());
        assert_eq!(Scan::of(&bytes, |_| true).unwrap(), expected(Node::Entries(all_kinds())));
        let Scan::Leaf { dirs, wanted } = Scan::of(&bytes, |name| name == b"sparse").unwrap() else { panic!("it is a leaf") };
        assert_eq!((&*dirs[0].0, dirs.len()), (&b"dir"[..], 1));
        assert_eq!(wanted, all_kinds().into_iter().filter(|e| *e.name == *b"sparse").collect::<Vec<_>>());
        let id = |n| ChunkId::from_bytes([n; 32]);
        let parts = Node::encode_parts(&[(b"a"[..].into(), id(1)), (b"b"[..].into(), id(2))]);
        assert_eq!(Scan::of(&parts, |_| true).unwrap(), Scan::Split(vec![id(1), id(2)]));
    }

    #[test]
    fn a_scan_for_everything_and_the_decoder_agree_on_hurt_bytes() {
        let bytes = encode(&all_kinds());
        for n in 0..bytes.len() {
            assert!(Scan::of(&bytes[..n], |_| false).is_err(), "cut at {n}");
            for bit in 0..8 {
                let mut hurt = bytes.clone();
                hurt[n] ^= 1 << bit;
                // Which of two faults is met first may differ.
                let scanned = Scan::of(&hurt, |_| true).map_err(drop);
                assert_eq!(scanned, Node::decode(&hurt).map(expected).map_err(drop), "bit {bit} of byte {n}");
            }
        }
        let newer = |bytes: &[u8]| Scan::of(bytes, |_| true).unwrap_err().kind();
        assert_eq!(newer(&[0xa2, 0, 2, 1, 0x80]), ErrorKind::Unsupported);
        assert_eq!(newer(&[0xa3, 0, 1, 1, 0x80, 0x18, 200, 0]), ErrorKind::Unsupported);
    }
}
