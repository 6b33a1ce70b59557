//! Puts steps and content together, in path order: dedup, frames, directories from the bottom up.
//!
//! One thread, so that with one reader and one compressor the order of everything is always the same.

use std::{collections::HashMap, time::Duration};

use crossbeam_channel::{Receiver, bounded};

use crate::{
    error::{Error, Result},
    event::{Event, HowFar, Sink},
    format::{
        ChunkId, ChunkList, ChunkRef, Content, Data, Digester, DomainKeys, Entry, INLINE_LEN_MAX, Node, PackKind, Part, Problem,
        ProblemKind, Stats, split,
    },
    ops::seal::{
        bundle::Bundles,
        count::Total,
        entry::{EntryMaker, unsettled},
        memory::Memory,
        pool::Pool,
        read::{self, Batch, FileRead, Item, Piece, Task},
        skip::{DirRecord, is_settled},
        walk::{EnteredDir, GROUP_PIECES, Group, Step},
    },
    sys::{self, Clock, Xattrs},
};

/// What the assembly found.
pub struct Assembled {
    /// The root node.
    pub root: ChunkId,
    /// Counts.
    pub stats: Stats,
    /// What could not be taken as it was.
    pub problems: Vec<Problem>,
    /// Files that were read.
    pub files_read: u64,
    /// Bytes that were read.
    pub bytes_read: u64,
    /// Bytes of new content, raw and compressed.
    pub content: (u64, u64),
}

/// Most problems kept one by one; beyond that they are counted.
const PROBLEMS_MAX: usize = 10_000;
/// How often progress is told.
const PROGRESS_EVERY_MS: u128 = 100;

/// Assembles.
pub struct Assembler<'a> {
    pub keys: &'a DomainKeys,
    pub memory: &'a Memory<'a>,
    pub maker: EntryMaker,
    pub bundles: Bundles<'a>,
    pub sink: &'a dyn Sink,
    pub clock: &'a dyn Clock,
    /// When the seal began, of the monotonic clock.
    pub began: Duration,
    pub wants_progress: bool,
    pub total: &'a Total,
    /// For files that no batch holds.
    pub reading: read::Shared<'a>,
    /// Which seal this is, for directory records.
    pub seal: u64,
    pub state: State,
}

/// What grows while assembling.
#[derive(Default)]
pub struct State {
    dirs: Vec<OpenDir>,
    /// Content of inodes with several names, for their later names.
    linked: HashMap<(u64, u64), Entry>,
    stats: Stats,
    problems: Vec<Problem>,
    problems_more: u64,
    files_read: u64,
    bytes_read: u64,
    /// Bytes of the file that is being read.
    in_work: u64,
    told_ms: u128,
    root: Option<ChunkId>,
}

/// A directory that has begun and not ended.
struct OpenDir {
    entered: Box<EnteredDir>,
    /// Encoded entries by name.
    entries: Vec<Encoded>,
    /// Hash of the encoded entries of directories in it.
    children: Digester,
    own: Stats,
    below: u64,
}

/// A name, its encoded entry, and what it is.
type Encoded = (Box<[u8]>, Vec<u8>, Kind);

/// What an encoded entry is, as far as the catalog cares.
enum Kind {
    Dir,
    /// May be remembered.
    Settled,
    /// Changed too recently to be relied on; this is what is remembered in its place.
    Fresh(Vec<u8>),
}

/// The pieces of one group, item by item.
struct Items<'p> {
    pieces: &'p Receiver<Piece>,
    pool: &'p Pool,
    buf: Vec<u8>,
    items: std::vec::IntoIter<Item>,
}

impl<'p> Items<'p> {
    fn new(pieces: &'p Receiver<Piece>, pool: &'p Pool) -> Self {
        Self { pieces, pool, buf: Vec::new(), items: Vec::new().into_iter() }
    }

    fn next(&mut self) -> Result<Item> {
        loop {
            if let Some(item) = self.items.next() {
                return Ok(item);
            }
            // The readers hang up only when they stop; why is for them to say.
            let piece = self.pieces.recv().map_err(|_| Error::cancelled())?;
            self.pool.put(std::mem::replace(&mut self.buf, piece.buf));
            self.items = piece.items.into_iter();
        }
    }
}

impl Drop for Items<'_> {
    fn drop(&mut self) {
        self.pool.put(std::mem::take(&mut self.buf));
    }
}

impl Assembler<'_> {
    /// Takes groups until the walk ends.
    pub fn run(mut self, groups: &Receiver<Group>) -> Result<Assembled> {
        for group in groups {
            let mut items = Items::new(&group.pieces, self.reading.pool);
            for step in group.steps {
                self.step(step, &mut items)?;
            }
            self.tell(None);
        }
        let root = self.state.root.ok_or_else(Error::cancelled)?;
        self.bundles.finish()?;
        let mut state = self.state;
        state.stats.new_bytes = self.bundles.new_bytes();
        if state.problems_more > 0 {
            let text = format!("and {} more problems, not listed", state.problems_more);
            state.problems.push(Problem { kind: ProblemKind::Unreadable, path: b"/".to_vec(), text });
        }
        Ok(Assembled {
            root,
            stats: state.stats,
            problems: state.problems,
            files_read: state.files_read,
            bytes_read: state.bytes_read,
            content: (0, 0),
        })
    }

    /// Tells how far the work is, now and then; `name` is what the directory in work has come to.
    fn tell(&mut self, name: Option<&[u8]>) {
        let now = self.clock.monotonic();
        let now_ms = now.as_millis();
        if !self.wants_progress || now_ms < self.state.told_ms + PROGRESS_EVERY_MS {
            return;
        }
        self.state.told_ms = now_ms;
        let mut sum = self.state.stats;
        self.state.dirs.iter().for_each(|dir| sum.add(&dir.own));
        let current = self.state.dirs.last().map(|dir| {
            let path = [&dir.entered.path[..], name.map_or(b"", |_| b"/"), name.unwrap_or_default()].concat();
            String::from_utf8_lossy(&path).into_owned()
        });
        self.sink.send(Event::Progress(HowFar {
            elapsed_ms: u64::try_from((now - self.began).as_millis()).unwrap_or(u64::MAX),
            entries: sum.entries(),
            bytes: sum.logical_bytes + self.state.in_work,
            bytes_total: self.total.bytes(),
            bytes_read: self.state.bytes_read,
            current,
        }));
    }

    fn step(&mut self, step: Step, items: &mut Items) -> Result<()> {
        match step {
            Step::Enter(entered) => {
                self.state.dirs.push(OpenDir {
                    entered,
                    entries: Vec::new(),
                    children: Digester::default(),
                    own: Stats::default(),
                    below: 0,
                });
                Ok(())
            }
            Step::Leave => self.leave(),
            Step::Read(name, _) => self.read(name, items),
            Step::Ready(entry) => self.add(*entry, false),
            Step::Linked(linked) => {
                let (task, stat) = *linked;
                match self.state.linked.get(&(stat.device, stat.inode)) {
                    Some(first) => self.add(Entry { name: task.name, ..first.clone() }, false),
                    // Its first name vanished, or could not be read: this one is as good.
                    None => self.read_now(task),
                }
            }
            Step::Socket => {
                self.dir().own.sockets_skipped += 1;
                Ok(())
            }
            Step::Failed(problem) => {
                self.problem(problem);
                Ok(())
            }
            Step::LeftOut(out) => {
                self.sink.send(Event::LeftOut(out));
                Ok(())
            }
        }
    }

    fn dir(&mut self) -> &mut OpenDir {
        self.state.dirs.last_mut().expect("steps come between the root's beginning and end")
    }

    fn problem(&mut self, problem: Problem) {
        match self.state.problems.len() < PROBLEMS_MAX {
            true => self.state.problems.push(problem),
            false => self.state.problems_more += 1,
        }
    }

    fn problem_at(&mut self, kind: ProblemKind, name: &[u8], text: String) {
        let mut path = self.dir().entered.path.clone();
        path.push(b'/');
        path.extend_from_slice(name);
        self.sink.send(Event::Warning(format!("{}: {text}", String::from_utf8_lossy(&path))));
        self.problem(Problem { kind, path, text });
    }

    /// Takes the content of one file from the readers.
    fn read(&mut self, name: Box<[u8]>, items: &mut Items) -> Result<()> {
        let mut chunks: Vec<ChunkRef> = Vec::new();
        self.state.in_work = 0;
        loop {
            match items.next()? {
                Item::Chunk(id, range) => {
                    let bytes = &items.buf[range];
                    self.state.bytes_read += bytes.len() as u64;
                    self.state.in_work += bytes.len() as u64;
                    self.tell(Some(&name));
                    self.bundles.store(PackKind::Data, id, bytes)?;
                    chunks.push(ChunkRef { id, len: bytes.len() as u32 });
                }
                Item::Restart => chunks.clear(),
                Item::Failed(None) => return Ok(()),
                Item::Failed(Some(text)) => {
                    self.problem_at(ProblemKind::Unreadable, &name, text);
                    return Ok(());
                }
                Item::End(file) => {
                    self.state.in_work = 0;
                    self.state.files_read += 1;
                    let data = match &file.inline {
                        Some(range) => Data::Inline(items.buf[range.clone()].into()),
                        None => self.data(&chunks)?,
                    };
                    return self.file(name, *file, data);
                }
            }
        }
    }

    /// Reads a file that no batch holds.
    fn read_now(&mut self, task: Task) -> Result<()> {
        let (pieces_in, pieces) = bounded(GROUP_PIECES);
        let (batches_in, batches) = bounded(1);
        let reading = self.reading;
        std::thread::scope(|scope| {
            let name = task.name.clone();
            batches_in.send(Batch { tasks: vec![task], pieces: pieces_in }).map_err(|_| Error::cancelled())?;
            drop(batches_in);
            sys::spawn_in(scope, move || read::run(&batches, reading))?;
            let mut items = Items::new(&pieces, reading.pool);
            let result = self.read(name, &mut items);
            drop(items);
            // A reader that still has something to say must not wait for us.
            drop(pieces);
            result
        })
    }

    fn file(&mut self, name: Box<[u8]>, file: FileRead, data: Data) -> Result<()> {
        if file.changed {
            self.problem_at(ProblemKind::Changed, &name, "changed while it was read".to_owned());
        }
        if let Some(text) = file.problem {
            self.problem_at(ProblemKind::Unreadable, &name, text);
        }
        if let Data::Inline(bytes) = &data {
            self.state.bytes_read += bytes.len() as u64;
            assert!(bytes.len() <= INLINE_LEN_MAX, "readers keep to the limit of inline content");
        }
        let content = Content::File { size: file.size, data, holes: file.holes };
        let entry = self.maker.entry(name, &file.stat, file.xattrs, content);
        if entry.hard_link.is_some() {
            self.state.linked.insert((file.stat.device, file.stat.inode), entry.clone());
        }
        let listed = self.dir().entered.listed_ns;
        let is_fresh = file.changed || !is_settled(&file.stat, listed);
        self.add(entry, is_fresh)
    }

    /// The chunks of a file as its entry holds them; a long list becomes chunks itself.
    fn data(&mut self, chunks: &[ChunkRef]) -> Result<Data> {
        let list = ChunkList::pack(chunks);
        let Some(pieces) = list.pieces() else { return Ok(Data::Chunks(list)) };
        let mut parts = Vec::new();
        for piece in pieces {
            let id = self.keys.tree.chunk_id(piece.as_bytes());
            self.bundles.store(PackKind::Meta, id, piece.as_bytes())?;
            parts.push(Part { len: piece.content_len(), id });
        }
        Ok(Data::Lists(parts))
    }

    /// Adds an entry to the directory in work.
    fn add(&mut self, entry: Entry, is_fresh: bool) -> Result<()> {
        count(&mut self.dir().own, &entry);
        let encoded = entry.encode();
        let kind = match is_fresh {
            true => Kind::Fresh(unsettled(&entry).encode()),
            false => Kind::Settled,
        };
        let dir = self.dir();
        dir.below += 1;
        dir.entries.push((entry.name, encoded, kind));
        Ok(())
    }

    /// Ends a directory: its node, its record, its entry in the directory above.
    fn leave(&mut self) -> Result<()> {
        let mut dir = self.state.dirs.pop().expect("a directory ends after it began");
        let children = *dir.children.finish().as_bytes();
        let unchanged = dir.entered.unchanged.take();
        let (entry, record) = match &unchanged {
            Some(record) if record.children == children => {
                dir.own.add(&record.own);
                dir.below = record.below;
                (record.entry.clone(), None)
            }
            _ => {
                let xattrs = match &unchanged {
                    Some(record) => self.restore_entries(&mut dir, record)?,
                    None => std::mem::take(&mut dir.entered.xattrs),
                };
                let node = self.node(&dir.entries)?;
                let entered = &dir.entered;
                let content = Content::Dir { node, below: dir.below };
                let entry = self.maker.entry(entered.name.clone(), &entered.stat, xattrs, content);
                if !entry.xattrs.is_empty() {
                    self.state.stats.with_xattrs += 1;
                }
                let encoded = entry.encode();
                (encoded, Some(node))
            }
        };
        if let (Some(node), Some(name)) = (record, dir.entered.record_name) {
            self.remember(&dir, &name, children, node, entry.clone(), unchanged.is_none());
        }
        self.state.stats.add(&dir.own);
        match self.state.dirs.last_mut() {
            Some(above) => {
                self.state.stats.directories += 1;
                above.children.update(&entry);
                above.below += dir.below + 1;
                above.entries.push((dir.entered.name, entry, Kind::Dir));
            }
            None => self.state.root = Some(record.ok_or_else(|| Error::bug("the root directory was not assembled"))?),
        }
        Ok(())
    }

    /// Brings back the entries of a directory whose listing is unchanged but something below it is not.
    fn restore_entries(&mut self, dir: &mut OpenDir, record: &DirRecord) -> Result<Xattrs> {
        let name = dir.entered.record_name.expect("a directory with a record has a name");
        let lost = || Error::corrupt("the catalog lost the entries of a directory").hint("coffre catalog rebuild");
        let Some(entries) = self.memory.entries(&name) else { return Err(lost()) };
        if entries.len() as u64 != record.own.entries() || !entries.iter().all(|e| self.memory.holds(e)) {
            return Err(lost());
        }
        dir.own.add(&record.own);
        for entry in entries {
            dir.below += 1;
            let encoded = entry.encode();
            dir.entries.push((entry.name, encoded, Kind::Settled));
        }
        dir.entries.sort_by(|a, b| a.0.cmp(&b.0));
        match Node::decode(&Node::encode_entries([record.entry.as_slice()].into_iter())) {
            Ok(Node::Entries(mut own)) if own.len() == 1 => Ok(std::mem::take(&mut own[0].xattrs)),
            _ => Err(lost()),
        }
    }

    /// Notes in the catalog what the directory looks like.
    fn remember(&self, dir: &OpenDir, name: &[u8; 16], children: [u8; 32], node: ChunkId, entry: Vec<u8>, with_entries: bool) {
        let kept: Vec<&[u8]> = dir
            .entries
            .iter()
            .filter_map(|(_, encoded, kind)| match kind {
                Kind::Dir => None,
                Kind::Settled => Some(encoded.as_slice()),
                Kind::Fresh(unsettled) => Some(unsettled.as_slice()),
            })
            .collect();
        let all_kept = !dir.entries.iter().any(|(_, _, kind)| matches!(kind, Kind::Fresh(_))) && kept.len() as u64 == dir.own.entries();
        let listing = if all_kept { dir.entered.listing } else { [0; 32] };
        let record = DirRecord { seal: self.seal, listing, children, node, below: dir.below, own: dir.own, entry };
        self.memory.put(name, &record, with_entries.then_some(&kept));
    }

    /// Stores the node of these entries, and returns its id.
    fn node(&mut self, entries: &[Encoded]) -> Result<ChunkId> {
        let runs = split(entries.iter().map(|(name, encoded, _)| (&**name, encoded.len())));
        if let [_] = runs.as_slice() {
            return self.store_node(&Node::encode_entries(entries.iter().map(|(_, encoded, _)| encoded.as_slice())));
        }
        let mut rest = entries;
        let mut parts: Vec<(Box<[u8]>, ChunkId)> = Vec::new();
        for run in runs {
            let (now, later) = rest.split_at(run);
            rest = later;
            let id = self.store_node(&Node::encode_entries(now.iter().map(|(_, encoded, _)| encoded.as_slice())))?;
            parts.push((now[0].0.clone(), id));
        }
        loop {
            let runs = split(parts.iter().map(|(name, _)| (&**name, name.len() + 40)));
            if let [_] = runs.as_slice() {
                return self.store_node(&Node::encode_parts(&parts));
            }
            let mut rest = parts.as_slice();
            let mut above = Vec::new();
            for run in runs {
                let (now, later) = rest.split_at(run);
                rest = later;
                above.push((now[0].0.clone(), self.store_node(&Node::encode_parts(now))?));
            }
            parts = above;
        }
    }

    fn store_node(&mut self, bytes: &[u8]) -> Result<ChunkId> {
        let id = self.keys.tree.chunk_id(bytes);
        self.bundles.store(PackKind::Meta, id, bytes)?;
        Ok(id)
    }
}

fn count(stats: &mut Stats, entry: &Entry) {
    match &entry.content {
        Content::File { size, holes, .. } => {
            stats.files += 1;
            stats.logical_bytes += size;
            stats.sparse_files += u64::from(!holes.is_empty());
        }
        Content::Symlink(_) => stats.symlinks += 1,
        Content::Dir { .. } => stats.directories += 1,
        Content::Device { .. } | Content::Fifo => stats.others += 1,
    }
    stats.with_xattrs += u64::from(!entry.xattrs.is_empty());
}
