//! Snapshots of trees that were never on a disk: a thousand in a second or two.
#![allow(clippy::unwrap_used)] // a test may stop at the first surprise

use std::collections::{BTreeMap, HashSet};

use coffre::{
    format::{ChunkId, Content, Data, Entry, Node, PackKind, Stats, split},
    pack::{PackBuilder, compress},
    vault::{CommitFacts, Writer},
};

use super::Host;

/// A directory to be sealed.
#[derive(Clone, Default)]
pub struct Sketch(BTreeMap<String, Thing>);

#[derive(Clone)]
enum Thing {
    /// Content of at most 256 bytes, and the hour in which it was written.
    File(String, i128),
    Dir(Sketch),
}

const HOUR_NS: i128 = 3_600_000_000_000;
/// 2025-01-01, 00:00 UTC.
const START_NS: i128 = 1_735_689_600_000_000_000;

impl Sketch {
    /// Writes a file, and the directories above it.
    pub fn write(&mut self, path: &str, text: &str, hour: usize) {
        match path.split_once('/') {
            None => drop(self.0.insert(path.to_owned(), Thing::File(text.to_owned(), hour as i128))),
            Some((dir, rest)) => match self.0.entry(dir.to_owned()).or_insert_with(|| Thing::Dir(Sketch::default())) {
                Thing::Dir(below) => below.write(rest, text, hour),
                Thing::File(..) => panic!("{dir} is a file"),
            },
        }
    }

    /// Takes a name out of this directory.
    pub fn remove(&mut self, name: &str) {
        self.0.remove(name);
    }
}

/// Seals sketches.
pub struct Forge<'a> {
    host: &'a Host,
    known: HashSet<ChunkId>,
    fresh: Vec<(ChunkId, Vec<u8>)>,
    /// Snapshots made so far: each an hour after the one before.
    pub hours: usize,
}

impl<'a> Forge<'a> {
    pub fn new(host: &'a Host) -> Self {
        Self { host, known: HashSet::new(), fresh: Vec::new(), hours: 0 }
    }

    /// Adds a snapshot.
    pub fn seal(&mut self, sketch: &Sketch, name: &str) {
        let (root, below) = self.dir(sketch);
        let writer = Writer::new(&self.host.vault, &self.host.sealer);
        if !self.fresh.is_empty() {
            let upload = self.host.vault.store.begin().unwrap();
            let mut pack = PackBuilder::new(PackKind::Meta, self.host.vault.config.id, &self.host.sealer.meta, upload).unwrap();
            for (id, bytes) in self.fresh.drain(..) {
                pack.push(&compress(&bytes).unwrap(), &[(id, u32::try_from(bytes.len()).unwrap())]).unwrap();
            }
            writer.put_pack(pack.finish().unwrap()).unwrap();
        }
        let facts = CommitFacts {
            time_ns: START_NS + self.hours as i128 * HOUR_NS,
            sources: vec![b"/".to_vec()],
            root,
            stats: Stats { files: below, ..Stats::default() },
            labels: BTreeMap::new(),
            problems: Vec::new(),
            host: name.to_owned(),
            tags: Vec::new(),
            suspicions: Vec::new(),
            pins: Vec::new(),
        };
        writer.commit(facts).unwrap();
        self.hours += 1;
    }

    /// The node of a directory, and how many entries are below it.
    fn dir(&mut self, sketch: &Sketch) -> (ChunkId, u64) {
        let (mut names, mut encoded, mut below) = (Vec::new(), Vec::new(), 0);
        for (name, thing) in &sketch.0 {
            let (mode, hour, content) = match thing {
                Thing::File(text, hour) => {
                    let data = Data::Inline(text.as_bytes().into());
                    (0o100_644, *hour, Content::File { size: text.len() as u64, data, holes: Vec::new() })
                }
                Thing::Dir(dir) => {
                    let (node, below) = self.dir(dir);
                    (0o040_755, 0, Content::Dir { node, below })
                }
            };
            let at = START_NS + hour * HOUR_NS;
            let entry = Entry {
                name: name.as_bytes().into(),
                mode,
                uid: 0,
                gid: 0,
                mtime_ns: at,
                ctime_ns: at,
                source_inode: 0,
                hard_link: None,
                xattrs: Vec::new(),
                user: None,
                group: None,
                content,
            };
            below += entry.span();
            names.push(name.as_bytes());
            encoded.push(entry.encode());
        }
        let runs = split(names.iter().copied().zip(encoded.iter().map(Vec::len)));
        let (mut parts, mut at) = (Vec::new(), 0);
        for run in runs {
            let node = Node::encode_entries(encoded[at..at + run].iter().map(Vec::as_slice));
            parts.push((names.get(at).copied().unwrap_or_default().into(), self.node(node)));
            at += run;
        }
        match &parts[..] {
            [(_, one)] => (*one, below),
            parts => (self.node(Node::encode_parts(parts)), below),
        }
    }

    fn node(&mut self, bytes: Vec<u8>) -> ChunkId {
        let id = self.host.sealer.keys.tree.chunk_id(&bytes);
        if self.known.insert(id) {
            self.fresh.push((id, bytes));
        }
        id
    }
}
