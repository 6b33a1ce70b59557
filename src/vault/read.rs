//! Trees, chunks and files by id: the read path. Right bytes or an error.

use std::{
    collections::HashSet,
    sync::{
        Arc, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use crate::{
    error::{Error, ErrorKind, Result},
    event::Sink,
    format::{
        ChunkId, ChunkList, ChunkRef, Content, DIR_DEPTH_MAX, Data, Digest, DomainKeys, Entry, FrameEntry, Hole, Key32, Node, PackIndex,
        PackKind,
    },
    pack::{Bounded, Frame, FrameKey, PackReader, Remembered, Unwrap},
    store::{Key, Store},
    vault::{
        Finding, Located, OwnerKeys, Snapshot, Vault,
        ahead::Ahead,
        index::{Index, all_segments, read_segment},
        mender::{Mender, Patched},
        sidecars::is_damage,
    },
};

/// Deepest nesting of a directory's parts; two levels hold 16 million entries.
const PARTS_DEPTH_MAX: usize = 8;

/// Reads the content of a vault. Shared by threads.
pub struct Reader {
    /// The vault.
    pub vault: Vault,
    /// The keys that open it.
    pub owner: Arc<OwnerKeys>,
    packs: PackReader,
    frames: Bounded<FrameKey, Frame>,
    index: RwLock<Index>,
    /// Packs that the index knows and that were found gone.
    absent: RwLock<HashSet<Digest>>,
    trailers_read: AtomicBool,
    frames_decoded: AtomicU64,
    mender: Mender,
    pub(super) ahead: Ahead,
}

impl Reader {
    /// Opens the index; at most about `cache_bytes` of decoded frames are kept. Returns findings about the index too.
    pub fn open(vault: Vault, owner: Arc<OwnerKeys>, cache_bytes: u64) -> Result<(Self, Vec<Finding>)> {
        let packs = PackReader::new(vault.config.id, owner.identities(), owner.headers.clone());
        let mut index = Index::default();
        let findings = index.add_segments(&*vault.store, &Remembered::new(owner.meta_identities(), &owner.headers))?;
        // A frame that does not fit would be decoded again for each of its chunks.
        let cache_bytes = cache_bytes.max(2 * u64::from(index.frame_len_max()) + (1 << 20));
        let reader = Self {
            vault,
            owner,
            packs,
            frames: Bounded::new(cache_bytes, 1 << 17),
            index: RwLock::new(index),
            absent: RwLock::default(),
            trailers_read: AtomicBool::new(false),
            frames_decoded: AtomicU64::new(0),
            mender: Mender::default(),
            ahead: Ahead::default(),
        };
        Ok((reader, findings))
    }

    /// Takes up index segments that came since.
    pub fn refresh(&self) -> Result<Vec<Finding>> {
        let identities = Remembered::new(self.owner.meta_identities(), &self.owner.headers);
        self.index.write().expect("nobody panics while holding the index").add_segments(&*self.vault.store, &identities)
    }

    /// Takes up index segments of which only the second copy is left, or that only other copies of the vault have.
    fn refresh_elsewhere(&self) -> Result<()> {
        let identities = Remembered::new(self.owner.meta_identities(), &self.owner.headers);
        self.index.write().expect("nobody panics while holding the index").add_copied_segments(&*self.vault.store, &identities)?;
        for other in self.vault.store.others() {
            let mut index = self.index.write().expect("nobody panics while holding the index");
            // A copy that does not answer is no help, and no failure.
            let _ = index.add_segments(&**other, &identities);
        }
        Ok(())
    }

    /// Runs `f` on the index.
    pub fn with_index<T>(&self, f: impl FnOnce(&Index) -> T) -> T {
        f(&self.index.read().expect("nobody panics while holding the index"))
    }

    /// Returns the raw bytes of a frame, past the cache, with the lengths of its chunks.
    pub fn frame(&self, at: &Located) -> Result<Frame> {
        self.frames_decoded.fetch_add(1, Ordering::Relaxed);
        let lens = self.with_index(|index| index.lens(at));
        self.frame_of(at, lens.into_iter())
    }

    /// Fills `raw` with the bytes of a frame, past the cache, and returns the lengths of its chunks. For who reads many, each once.
    pub fn frame_into(&self, at: &Located, raw: &mut Vec<u8>) -> Result<Vec<u32>> {
        self.frames_decoded.fetch_add(1, Ordering::Relaxed);
        let store = &*self.vault.store;
        match self.packs.frame_into(store, &at.pack, &at.frame, raw) {
            // Rare enough to be read into a buffer of its own.
            Err(e) if is_damage(&e) => *raw = self.with_pack(&at.pack, |store| self.packs.frame(store, &at.pack, &at.frame))?,
            other => other?,
        }
        Ok(self.with_index(|index| index.lens(at)))
    }

    /// Frames decoded so far.
    pub fn frames_decoded(&self) -> u64 {
        self.frames_decoded.load(Ordering::Relaxed)
    }

    /// Returns the raw bytes of a frame, past cache and index.
    pub fn frame_of(&self, at: &Located, lens: impl Iterator<Item = u32>) -> Result<Frame> {
        Ok(Frame::new(self.with_pack(&at.pack, |store| self.packs.frame(store, &at.pack, &at.frame))?, lens))
    }

    /// Returns the kind and the table of a pack from its own bytes.
    pub fn pack_index(&self, pack: &Digest) -> Result<(PackKind, PackIndex)> {
        self.with_pack(pack, |store| self.packs.index(store, pack))
    }

    /// Runs `read` on a pack; where that meets damage, once more on the pack as its sidecar mends it, in memory, and then on other copies of it.
    fn with_pack<T>(&self, pack: &Digest, read: impl Fn(&dyn Store) -> Result<T>) -> Result<T> {
        let store = &*self.vault.store;
        match read(store) {
            Err(e) if is_damage(&e) => match self.mender.patch(store, pack) {
                Some(patch) => {
                    self.packs.forget(pack);
                    read(&Patched { inner: store, key: &Key::pack(pack), patch: &patch })
                }
                None => self.elsewhere(pack, read).ok_or(e),
            },
            other => other,
        }
    }

    /// The same from another copy of the vault.
    fn elsewhere<T>(&self, pack: &Digest, read: impl Fn(&dyn Store) -> Result<T>) -> Option<T> {
        self.vault.store.others().iter().find_map(|other| {
            // What was kept of the pack is that of the damaged one.
            self.packs.forget(pack);
            read(&**other).ok()
        })
    }

    /// Says where to tell that something was damaged and mended while it was read: once a pack.
    pub fn tell(&self, sink: Arc<dyn Sink>) {
        self.mender.tell(sink);
    }

    /// The chunks that the index segments place in a pack.
    pub fn ids_of(&self, pack: &Digest) -> Result<Vec<ChunkId>> {
        let identities = meta(&self.owner);
        let mut ids = Vec::new();
        for key in all_segments(&*self.vault.store)? {
            // A segment that cannot be read is a finding of its own.
            if let Ok(segment) = read_segment(&*self.vault.store, &key, &identities) {
                let packs = segment.packs.iter().filter(|p| p.digest == *pack);
                ids.extend(packs.flat_map(|p| p.index.chunks.iter().map(|(id, _)| *id)));
            }
        }
        Ok(ids)
    }

    /// Calls `f` with the verified bytes of chunk `id` under `key`.
    ///
    /// # Errors
    /// `Missing` if no pack that is there holds it; `Corrupt` if what holds it fails a check.
    ///
    /// Cost: one ranged read and the decoding of a frame on a cache miss, a copy of nothing on a hit.
    pub fn with_chunk<T>(&self, id: &ChunkId, key: &Key32, f: impl FnOnce(&[u8]) -> T) -> Result<T> {
        let mut f = Some(f);
        let mut attempt = || self.try_chunk(id, key, &mut f);
        let is_lost = |e: &Error| matches!(e.kind(), ErrorKind::Missing | ErrorKind::Corrupt);
        match attempt() {
            Err(e) if is_lost(&e) => {
                // Sealed since the index was read, moved by a prune, mended since it was read, or in a second place of which the
                // segment is lost: look again, with nothing kept, then look closer.
                self.forget(id);
                self.refresh()?;
                match attempt() {
                    Err(e) if is_lost(&e) && !self.trailers_read.swap(true, Ordering::SeqCst) => {
                        self.refresh_elsewhere()?;
                        let read = |pack: &Digest| self.pack_index(pack).map(|(_, index)| index);
                        self.index.write().expect("nobody panics while holding the index").add_from_trailers(&*self.vault.store, read)?;
                        attempt()
                    }
                    other => other,
                }
            }
            other => other,
        }
    }

    /// Forgets what is kept of all places where a chunk may be.
    fn forget(&self, id: &ChunkId) {
        for at in self.with_index(|index| index.locate(id)) {
            self.packs.forget(&at.pack);
            self.frames.remove(&FrameKey { pack: at.pack_number, frame: at.frame_number });
        }
    }

    fn try_chunk<T, F: FnOnce(&[u8]) -> T>(&self, id: &ChunkId, key: &Key32, f: &mut Option<F>) -> Result<T> {
        let mut places: Vec<Located> = self.with_index(|index| index.locate(id));
        if places.len() > 1 {
            // Index segments outlive packs that were pruned: those are asked last.
            let absent = self.absent.read().expect("nobody panics while holding the set");
            places.sort_by_key(|at| absent.contains(&at.pack));
        }
        let mut failure: Option<Error> = None;
        for at in places {
            let cached = FrameKey { pack: at.pack_number, frame: at.frame_number };
            match self.frames.get(cached, || self.frame(&at)) {
                Ok(frame) => {
                    if frame.touch() && self.follows_a_wanted_one(cached) {
                        self.ahead.wish(cached);
                    }
                    if let Some(bytes) = frame.chunk(at.chunk as usize, id, key) {
                        return Ok(f.take().expect("called once, then returned")(bytes));
                    }
                    let wrong = format!("chunk {} in pack {} is not what its name says", id.short(), at.pack.short());
                    failure.get_or_insert_with(|| Error::corrupt(wrong));
                }
                Err(e) => {
                    self.packs.forget(&at.pack);
                    if e.kind() == ErrorKind::Missing {
                        self.absent.write().expect("nobody panics while holding the set").insert(at.pack);
                    }
                    // What is missing here may be somewhere else by now, whatever is wrong with other copies.
                    if failure.as_ref().is_none_or(|f| f.kind() != ErrorKind::Missing) {
                        failure = Some(e);
                    }
                }
            }
        }
        Err(failure.unwrap_or_else(|| Error::missing(format!("chunk {} is in no pack of the vault", id.short()))))
    }

    /// Whether the frame before this one was wanted lately.
    fn follows_a_wanted_one(&self, key: FrameKey) -> bool {
        let before = key.frame.checked_sub(1).and_then(|frame| self.frames.peek(&FrameKey { frame, ..key }));
        before.is_some_and(|frame| frame.is_touched())
    }

    /// Tells the store that `len` stored bytes from a frame on will be read.
    pub fn expect(&self, at: &Located, len: u64) {
        self.packs.expect(&*self.vault.store, &at.pack, &at.frame, len);
    }

    /// Opens the header of a pack.
    pub(super) fn open_pack(&self, pack: &Digest) -> Result<()> {
        self.with_pack(pack, |store| self.packs.open(store, pack))
    }

    /// Returns a frame of a pack as it was compressed, past cache and index.
    pub fn compressed_frame(&self, pack: &Digest, at: &FrameEntry) -> Result<Vec<u8>> {
        self.with_pack(pack, |store| self.packs.compressed(store, pack, at))
    }

    /// Decodes a frame into the cache, if the pack has one of that number.
    pub(super) fn decode(&self, key: FrameKey) -> Result<()> {
        if self.frames.peek(&key).is_some() {
            return Ok(());
        }
        match self.with_index(|index| index.frame(key.pack, key.frame)) {
            Some(at) => self.frames.get(key, || self.frame(&at)).map(drop),
            None => Ok(()),
        }
    }

    /// The keys of the domain that `snapshot` was sealed in.
    pub fn keys(&self, snapshot: &Snapshot) -> Arc<DomainKeys> {
        self.owner.domain(snapshot.manifest.domain)
    }

    /// Returns the tree node `id`.
    pub fn node(&self, keys: &DomainKeys, id: &ChunkId) -> Result<Node> {
        self.with_chunk(id, &keys.tree, Node::decode)?
    }

    /// Calls `each` with every part of the directory whose node is `id`, in order: the part's id and its entries.
    pub fn each_part(&self, keys: &DomainKeys, id: &ChunkId, mut each: impl FnMut(ChunkId, Vec<Entry>) -> Result<()>) -> Result<()> {
        // Nodes yet to be read, the next one last, with their depth.
        let mut stack = vec![(*id, 0)];
        while let Some((id, depth)) = stack.pop() {
            match self.node(keys, &id)? {
                Node::Entries(entries) => each(id, entries)?,
                Node::Parts(_) if depth > PARTS_DEPTH_MAX => {
                    return Err(Error::corrupt(format!("directory node {} is nested too deep", id.short())));
                }
                Node::Parts(parts) => stack.extend(parts.iter().rev().map(|(_, part)| (*part, depth + 1))),
            }
        }
        Ok(())
    }

    /// Returns all entries of the directory whose node is `id`, sorted by name.
    pub fn dir(&self, keys: &DomainKeys, id: &ChunkId) -> Result<Vec<Entry>> {
        let mut entries = Vec::new();
        self.each_part(keys, id, |_, mut part| {
            entries.append(&mut part);
            Ok(())
        })?;
        match entries.is_sorted_by(|a: &Entry, b| a.name < b.name) {
            true => Ok(entries),
            false => Err(Error::corrupt(format!("directory node {} has its parts out of order", id.short()))),
        }
    }

    /// Returns the stored list of chunks, part `id` of a long one.
    fn list_part(&self, keys: &DomainKeys, id: &ChunkId) -> Result<ChunkList> {
        self.with_chunk(id, &keys.tree, ChunkList::from_bytes)?
    }

    /// Calls `each` with every chunk of `data`, in order.
    pub fn each_chunk(&self, keys: &DomainKeys, data: &Data, mut each: impl FnMut(ChunkRef) -> Result<()>) -> Result<()> {
        match data {
            Data::Inline(_) => Ok(()),
            Data::Chunks(list) => list.iter().try_for_each(each),
            Data::Lists(parts) => parts.iter().try_for_each(|part| {
                let list = self.list_part(keys, &part.id)?;
                match list.content_len() == part.len {
                    true => list.iter().try_for_each(&mut each),
                    false => Err(Error::corrupt(format!("chunk list {} covers another length than its entry says", part.id.short()))),
                }
            }),
        }
    }

    /// Fills `out` with the file's bytes from `offset` on; returns how many there were before its end.
    pub fn read_file(&self, file: &FileReader, offset: u64, out: &mut [u8]) -> Result<usize> {
        let end = file.size.min(offset.saturating_add(out.len() as u64));
        let mut at = offset;
        let mut holes = file.holes.iter().copied().skip_while(|h| h.offset + h.len <= offset).peekable();
        // Bytes of data before `at`: all bytes less those of holes.
        let mut data_at = offset - file.holes.iter().take_while(|h| h.offset < offset).map(|h| h.len.min(offset - h.offset)).sum::<u64>();
        while at < end {
            let (stop, is_hole) = match holes.peek() {
                Some(hole) if hole.offset <= at => (hole.offset + hole.len, true),
                Some(hole) => (hole.offset, false),
                None => (end, false),
            };
            let stop = stop.min(end);
            let part = &mut out[(at - offset) as usize..(stop - offset) as usize];
            if is_hole {
                part.fill(0);
                holes.next();
            } else {
                self.read_data(file, data_at, part)?;
                data_at += part.len() as u64;
            }
            at = stop;
        }
        Ok(end.saturating_sub(offset) as usize)
    }

    /// Fills `out` from the file's data, holes left out.
    fn read_data(&self, file: &FileReader, offset: u64, out: &mut [u8]) -> Result<()> {
        match file.data {
            Data::Inline(bytes) => {
                let range = usize::try_from(offset).ok().and_then(|start| bytes.get(start..start + out.len()));
                out.copy_from_slice(range.ok_or_else(|| Error::corrupt("a file is shorter than its size"))?);
                Ok(())
            }
            Data::Chunks(list) => self.read_list(file.keys, list, offset, out),
            Data::Lists(parts) => {
                let (mut start, mut filled) = (0, 0);
                for part in parts {
                    let end = start + part.len;
                    let at = offset + filled as u64;
                    if filled < out.len() && at < end && at >= start {
                        let n = (end - at).min((out.len() - filled) as u64) as usize;
                        self.read_list(file.keys, &self.list_part(file.keys, &part.id)?, at - start, &mut out[filled..filled + n])?;
                        filled += n;
                    }
                    start = end;
                }
                if filled == out.len() { Ok(()) } else { Err(Error::corrupt("a file is shorter than its size")) }
            }
        }
    }

    fn read_list(&self, keys: &DomainKeys, list: &ChunkList, offset: u64, out: &mut [u8]) -> Result<()> {
        let (mut start, mut filled) = (0u64, 0);
        for chunk in list.iter() {
            if filled == out.len() {
                break;
            }
            let end = start + u64::from(chunk.len);
            let at = offset + filled as u64;
            if at < end {
                let skip = (at - start) as usize;
                let n = (chunk.len as usize - skip).min(out.len() - filled);
                let to = &mut out[filled..filled + n];
                let copied = self.with_chunk(&chunk.id, &keys.data, |bytes| match bytes.get(skip..skip + n) {
                    Some(from) if bytes.len() == chunk.len as usize => {
                        to.copy_from_slice(from);
                        true
                    }
                    _ => false,
                })?;
                if !copied {
                    return Err(Error::corrupt(format!("chunk {} has another length than its file says", chunk.id.short())));
                }
                filled += n;
            }
            start = end;
        }
        if filled == out.len() { Ok(()) } else { Err(Error::corrupt("a file is shorter than its size")) }
    }
}

fn meta(owner: &OwnerKeys) -> Vec<Unwrap<'_>> {
    owner.meta_identities().iter().map(|i| i as Unwrap).collect()
}

/// A regular file, ready to be read.
#[derive(Clone, Copy)]
pub struct FileReader<'a> {
    keys: &'a DomainKeys,
    size: u64,
    data: &'a Data,
    holes: &'a [Hole],
}

impl<'a> FileReader<'a> {
    /// Reads the content of `entry`, if it is a regular file.
    pub fn new(keys: &'a DomainKeys, entry: &'a Entry) -> Option<Self> {
        match &entry.content {
            Content::File { size, data, holes } => Some(Self { keys, size: *size, data, holes }),
            _ => None,
        }
    }

    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }
}

/// Finds the entry at `path` (absolute or not; empty parts are skipped) in `snapshot`. `None` is the root itself.
pub fn resolve_path(reader: &Reader, snapshot: &Snapshot, path: &[u8]) -> Result<Option<Entry>> {
    let keys = reader.keys(snapshot);
    let (mut node, mut found) = (Some(snapshot.manifest.root), None);
    let missing = || {
        Error::not_found(format!("{} is not in snapshot {}", String::from_utf8_lossy(path), snapshot.id.short()))
            .hint("paths in a snapshot are the full paths of its sources: coffre snapshots shows them")
    };
    for (depth, part) in path.split(|b| *b == b'/').filter(|part| !part.is_empty() && *part != b".").enumerate() {
        if depth > DIR_DEPTH_MAX {
            return Err(missing());
        }
        let entries = reader.dir(&keys, &node.ok_or_else(missing)?)?;
        let at = entries.binary_search_by(|e| (*e.name).cmp(part)).map_err(|_| missing())?;
        let entry = entries.into_iter().nth(at).expect("just found");
        node = match entry.content {
            Content::Dir { node, .. } => Some(node),
            _ => None,
        };
        found = Some(entry);
    }
    Ok(found)
}
