//! Which chunk is in which pack, for readers: all index segments, in memory.
//!
//! A hint: whatever it says is checked against the chunk's id. About 22 bytes a chunk and 20 a frame. A mount answers once all of it is
//! here, so segments are read by all cores, and nothing is sorted before it is asked for.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Mutex,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
};

use zeroize::Zeroizing;

use crate::{
    error::{Error, ErrorKind, Result},
    format::{ChunkId, Digest, FrameEntry, PackIndex, Segment, SegmentPack},
    pack::{self, Remembered, Unwrap},
    store::{self, Key, Store},
    sys,
    vault::{Finding, second::read_either},
};

/// Longest segment accepted, in bytes.
pub const SEGMENT_LEN_MAX: usize = 1 << 30;

/// Threads that read segments at once; each holds one whole segment in memory.
const THREADS_MAX: usize = 4;
/// Segments that a thread reads before the next thread's turn.
const SEGMENTS_EACH: usize = 16;
/// Chunks that a thread tells of at once, about: 36 bytes each.
const CHUNKS_EACH: usize = 4096;
/// Times that many a thread may be ahead of the table.
const BATCHES_WAITING: usize = 4;
/// Bits of an id that say which bucket it is in: a bucket of ten million chunks is sorted in a tenth of a millisecond.
const BUCKET_BITS: u32 = 12;

/// One chunk: the start of its id, its pack, and its number in it.
type Row = (u64, u32, u32);

/// Chunks whose ids start alike, sorted when somebody first looks for one.
#[derive(Default)]
struct Bucket {
    rows: Vec<Row>,
    sorted: bool,
}

impl Bucket {
    fn push(&mut self, row: Row) {
        if self.rows.len() == self.rows.capacity() {
            // A quarter at a time: doubling would leave a third of the memory unused.
            self.rows.reserve_exact((self.rows.len() / 4).max(16));
        }
        self.rows.push(row);
        self.sorted = false;
    }

    fn sort(&mut self) {
        if !self.sorted {
            self.rows.sort_unstable();
            self.sorted = true;
        }
    }

    fn matching(&mut self, start: u64) -> &[Row] {
        self.sort();
        let from = self.rows.partition_point(|row| row.0 < start);
        let len = self.rows[from..].iter().take_while(|row| row.0 == start).count();
        &self.rows[from..from + len]
    }
}

/// The table.
pub struct Index {
    packs: Vec<Table>,
    numbers: HashMap<Digest, u32>,
    buckets: Vec<Mutex<Bucket>>,
    segments: HashSet<Key>,
}

impl Default for Index {
    fn default() -> Self {
        let buckets = std::iter::repeat_with(Mutex::default).take(1 << BUCKET_BITS).collect();
        Self { packs: Vec::new(), numbers: HashMap::new(), buckets, segments: HashSet::new() }
    }
}

struct Table {
    digest: Digest,
    stored_len: u64,
    frames: Vec<(FrameEntry, u32)>,
    lens: Box<[u32]>,
}

/// A place where a chunk may be.
#[derive(Clone, Copy, Debug)]
pub struct Located {
    /// The pack.
    pub pack: Digest,
    /// Its number in the index.
    pub pack_number: u32,
    /// The frame in it.
    pub frame: FrameEntry,
    /// The frame's number.
    pub frame_number: u32,
    /// The chunk's number in the frame.
    pub chunk: u32,
}

fn start_of(id: &ChunkId) -> u64 {
    u64::from_be_bytes(id.as_bytes()[..8].try_into().expect("8 of 32 bytes"))
}

impl Index {
    /// Raw bytes of the longest frame.
    pub fn frame_len_max(&self) -> u32 {
        self.packs.iter().flat_map(|table| &table.frames).map(|(frame, _)| frame.raw_len).max().unwrap_or(0)
    }

    /// Adds the segments of `store` that are not in yet. Segments that cannot be read are findings, not errors.
    pub fn add_segments(&mut self, store: &dyn Store, identities: &Remembered) -> Result<Vec<Finding>> {
        let new = store::all_names(store, "index")?;
        self.add(store, identities, new)
    }

    /// Adds those of which only the second copy is left.
    pub fn add_copied_segments(&mut self, store: &dyn Store, identities: &Remembered) -> Result<Vec<Finding>> {
        let all = all_segments(store)?;
        self.add(store, identities, all)
    }

    fn add(&mut self, store: &dyn Store, identities: &Remembered, mut new: Vec<Key>) -> Result<Vec<Finding>> {
        new.retain(|key| !self.segments.contains(key));
        let blocks: Vec<&[Key]> = new.chunks(SEGMENTS_EACH).collect();
        let threads = sys::available_cores().min(THREADS_MAX).min(blocks.len());
        let mut findings = Vec::new();
        std::thread::scope(|scope| -> Result<()> {
            // Thread n reads every n-th block, and they are taken in turn: the order of packs is always the same.
            let mut queues = (0..threads)
                .map(|first| {
                    let (tell, told) = sync_channel(BATCHES_WAITING);
                    let mine = blocks.iter().skip(first).step_by(threads);
                    sys::spawn_in(scope, move || mine.for_each(|block| read_block(store, block, identities, &tell)))
                        .map(|_| Queue { told, here: Vec::new().into_iter() })
                })
                .collect::<Result<Vec<Queue>>>()?;
            for (n, block) in blocks.iter().enumerate() {
                let queue = &mut queues[n % threads];
                block.iter().for_each(|key| self.add_segment(key, queue, &mut findings));
            }
            Ok(())
        })?;
        Ok(findings)
    }

    /// Adds what is told of one segment.
    fn add_segment(&mut self, key: &Key, queue: &mut Queue, findings: &mut Vec<Finding>) {
        loop {
            match queue.next() {
                Some(Told::Pack(pack)) => self.push(pack.digest, pack.stored_len, &pack.index),
                Some(Told::End(Ok(()))) => {
                    self.segments.insert(key.clone());
                    return;
                }
                // Pruned since it was listed: what counts of it is in another one.
                Some(Told::End(Err(e))) if e.kind() == ErrorKind::Missing => return,
                Some(Told::End(Err(e))) => return findings.push(Finding::new(key.as_str(), e.chain())),
                None => return findings.push(Finding::new(key.as_str(), "reading it failed inside coffre".to_owned())),
            }
        }
    }

    /// Adds packs that no segment names, from their own trailers. One small read a pack.
    pub fn add_from_trailers(&mut self, store: &dyn Store, read: impl Fn(&Digest) -> Result<PackIndex>) -> Result<Vec<Finding>> {
        let mut findings = Vec::new();
        for (key, len) in store::list_all(store, "packs")? {
            let Some(digest) = key.digest().filter(|d| !self.numbers.contains_key(d)) else { continue };
            match read(&digest) {
                Ok(index) => self.push(digest, len, &index),
                Err(e) => findings.push(Finding::new(key.as_str(), e.chain())),
            }
        }
        Ok(findings)
    }

    fn push(&mut self, digest: Digest, stored_len: u64, index: &PackIndex) {
        if self.numbers.contains_key(&digest) {
            return;
        }
        let number = u32::try_from(self.packs.len()).expect("fewer than 2^32 packs");
        for ((id, _), n) in index.chunks.iter().zip(0..) {
            let start = start_of(id);
            self.buckets[bucket_of(start)].get_mut().expect("nobody panics while sorting").push((start, number, n));
        }
        let mut first = 0;
        let frames = index
            .frames
            .iter()
            .map(|frame| {
                let this = (*frame, first);
                first += frame.chunks;
                this
            })
            .collect();
        self.packs.push(Table { digest, stored_len, frames, lens: index.chunks.iter().map(|(_, len)| *len).collect() });
        self.numbers.insert(digest, number);
    }

    /// The places where `id` may be, rarely more than one.
    pub fn locate(&self, id: &ChunkId) -> Vec<Located> {
        let start = start_of(id);
        let mut bucket = self.buckets[bucket_of(start)].lock().expect("nobody panics while sorting");
        let places = bucket.matching(start).iter().filter_map(|(_, pack_number, n)| {
            let table = &self.packs[*pack_number as usize];
            let frame_number = table.frames.partition_point(|(_, first)| first <= n).checked_sub(1)?;
            let (frame, first) = table.frames[frame_number];
            Some(Located { pack: table.digest, pack_number: *pack_number, frame, frame_number: frame_number as u32, chunk: n - first })
        });
        places.collect()
    }

    /// Raw lengths of the chunks in a frame.
    pub fn lens(&self, at: &Located) -> Vec<u32> {
        let table = &self.packs[at.pack_number as usize];
        let (frame, first) = table.frames[at.frame_number as usize];
        table.lens[first as usize..(first + frame.chunks) as usize].to_vec()
    }

    /// Every pack with its stored length.
    pub fn packs(&self) -> impl Iterator<Item = (Digest, u64)> + '_ {
        self.packs.iter().map(|t| (t.digest, t.stored_len))
    }

    /// Frame number `frame_number` of pack number `pack_number`.
    pub fn frame(&self, pack_number: u32, frame_number: u32) -> Option<Located> {
        let table = self.packs.get(pack_number as usize)?;
        let (frame, _) = *table.frames.get(frame_number as usize)?;
        Some(Located { pack: table.digest, pack_number, frame, frame_number, chunk: 0 })
    }

    /// Bytes of all distinct chunks: raw, and compressed, by their shares of their frames.
    ///
    /// Cost: what is not sorted yet is sorted.
    pub fn bytes(&self) -> (u64, u64) {
        let frames = self.packs.iter().flat_map(|table| &table.frames);
        let all = frames.fold((0, 0), |(raw, compressed), (f, _)| (raw + u64::from(f.raw_len), compressed + u64::from(f.compressed_len)));
        let mut again = (0u64, 0u64);
        for bucket in &self.buckets {
            let mut bucket = bucket.lock().expect("nobody panics while sorting");
            bucket.sort();
            for pair in bucket.rows.windows(2).filter(|pair| pair[0].0 == pair[1].0) {
                let (_, pack, n) = pair[1];
                let table = &self.packs[pack as usize];
                let Some((frame, _)) = table.frames[..table.frames.partition_point(|(_, first)| *first <= n)].last() else { continue };
                let len = u64::from(table.lens[n as usize]);
                again.0 += len;
                again.1 += u64::from(frame.compressed_len) * len / u64::from(frame.raw_len).max(1);
            }
        }
        (all.0 - again.0, all.1.saturating_sub(again.1))
    }

    /// How many chunks it knows.
    pub fn chunks(&self) -> usize {
        self.buckets.iter().map(|bucket| bucket.lock().expect("nobody panics while sorting").rows.len()).sum()
    }
}

fn bucket_of(start: u64) -> usize {
    (start >> (u64::BITS - BUCKET_BITS)) as usize
}

/// What a thread that reads segments says.
enum Told {
    Pack(SegmentPack),
    /// The segment is over.
    End(Result<()>),
}

/// What one thread says, in order.
struct Queue {
    told: Receiver<Vec<Told>>,
    here: std::vec::IntoIter<Told>,
}

impl Queue {
    fn next(&mut self) -> Option<Told> {
        loop {
            if let Some(told) = self.here.next() {
                return Some(told);
            }
            self.here = self.told.recv().ok()?.into_iter();
        }
    }
}

/// Reads some segments, and tells of them in batches: a thread is not woken for a handful of chunks.
fn read_block(store: &dyn Store, block: &[Key], identities: &Remembered, tell: &SyncSender<Vec<Told>>) {
    let (mut batch, mut chunks) = (Vec::new(), 0);
    for key in block {
        let read = open_segment(store, key, |file| identities.whole(file, key.as_str())).and_then(|plain| {
            Segment::each_pack(&plain, |pack| {
                chunks += pack.index.chunks.len();
                batch.push(Told::Pack(pack));
                if chunks >= CHUNKS_EACH {
                    chunks = 0;
                    tell.send(std::mem::take(&mut batch)).map_err(|_| Error::cancelled())?;
                }
                Ok(())
            })
        });
        batch.push(Told::End(read));
    }
    // Who no longer listens has given up.
    let _ = tell.send(batch);
}

fn open_segment(store: &dyn Store, key: &Key, open: impl Fn(&[u8]) -> Result<Zeroizing<Vec<u8>>>) -> Result<Vec<u8>> {
    read_either(store, key, SEGMENT_LEN_MAX, |bytes| {
        let compressed = open(&bytes)?;
        drop(bytes);
        let mut plain = Vec::new();
        pack::decompress(&compressed, SEGMENT_LEN_MAX, &mut plain, key.as_str())?;
        Ok(plain)
    })
}

/// The segments of a vault, those of which only the second copy is left among them. Two listings.
pub fn all_segments(store: &dyn Store) -> Result<Vec<Key>> {
    let mut all: Vec<Key> = store::list_all(store, "index")?.into_iter().map(|(key, _)| key).collect();
    let copies = store::list_all(store, "parity/index")?;
    all.extend(copies.iter().filter_map(|(key, _)| Key::parse(key.as_str().strip_prefix("parity/")?)));
    all.sort_unstable();
    all.dedup();
    Ok(all)
}

/// Reads one segment.
pub fn read_segment(store: &dyn Store, key: &Key, identities: &[Unwrap]) -> Result<Segment> {
    Segment::decode(&open_segment(store, key, |file| pack::open_whole(identities, file, key.as_str()))?)
}
