//! Many readers at once, below the adapter: what is decoded once, and who waits for whom.
#![allow(clippy::unwrap_used)] // a test may stop at the first surprise

mod common;

use std::{
    fs,
    path::Path,
    sync::{Arc, Barrier, Condvar, Mutex},
};

use coffre::{
    error::Result,
    format::{ChunkId, Digest, FrameEntry, PackIndex, Segment, SegmentPack, digest},
    pack,
    store::{Key, Memory, Store, Upload},
    sys::{Clock, SystemClock},
    vault::{FileReader, Reader, Snapshot, resolve_path},
};

use common::library::{Host, noise, temp, write_files};

/// Bytes of each file: several frames.
const LEN: usize = 1 << 20;

/// A store in which reading one object stands still until it is let go.
struct Gate {
    inner: Arc<dyn Store>,
    closed: Mutex<Option<Key>>,
    waiting: Mutex<usize>,
    moved: Condvar,
}

impl Gate {
    fn new(inner: Arc<dyn Store>) -> Self {
        Self { inner, closed: Mutex::default(), waiting: Mutex::default(), moved: Condvar::new() }
    }

    fn close(&self, key: Key) {
        *self.closed.lock().unwrap() = Some(key);
    }

    fn open(&self) {
        *self.closed.lock().unwrap() = None;
        self.moved.notify_all();
    }

    /// Waits until somebody stands before it.
    fn until_somebody_waits(&self) {
        let mut waiting = self.waiting.lock().unwrap();
        while *waiting == 0 {
            waiting = self.moved.wait(waiting).unwrap();
        }
    }
}

impl Store for Gate {
    fn put(&self, key: &Key, bytes: &[u8]) -> Result<()> {
        self.inner.put(key, bytes)
    }
    fn begin(&self) -> Result<Box<dyn Upload>> {
        self.inner.begin()
    }
    fn get(&self, key: &Key, offset: u64, buf: &mut [u8]) -> Result<()> {
        let mut closed = self.closed.lock().unwrap();
        while closed.as_ref() == Some(key) {
            *self.waiting.lock().unwrap() += 1;
            self.moved.notify_all();
            closed = self.moved.wait(closed).unwrap();
        }
        drop(closed);
        self.inner.get(key, offset, buf)
    }
    fn stat(&self, key: &Key) -> Result<Option<u64>> {
        self.inner.stat(key)
    }
    fn list(&self, prefix: &str, each: &mut dyn FnMut(Key, u64) -> Result<()>) -> Result<()> {
        self.inner.list(prefix, each)
    }
    fn delete(&self, key: &Key) -> Result<()> {
        self.inner.delete(key)
    }
    fn describe(&self) -> String {
        self.inner.describe()
    }
}

fn read(reader: &Reader, snapshot: &Snapshot, path: &Path) -> Vec<u8> {
    let entry = resolve_path(reader, snapshot, path.as_os_str().as_encoded_bytes()).unwrap().unwrap();
    let keys = reader.keys(snapshot);
    let file = FileReader::new(&keys, &entry).unwrap();
    let mut bytes = vec![0; file.size() as usize];
    assert_eq!(reader.read_file(&file, 0, &mut bytes).unwrap(), bytes.len());
    bytes
}

#[test]
fn eight_readers_of_the_same_files_decode_every_frame_once() {
    let (_dir, top) = temp();
    let files: Vec<(String, Vec<u8>)> = (0..8).map(|n| (format!("file-{n}"), noise(LEN, n))).collect();
    for (name, content) in &files {
        fs::write(top.join(name), content).unwrap();
    }
    let host = Host::memory();
    host.seal(&[&top]).unwrap();
    let snapshot = host.snapshots().pop().unwrap();
    let decoded = |readers: usize| {
        let reader = host.reader();
        let start = Barrier::new(readers);
        std::thread::scope(|scope| {
            for first in 0..readers {
                let (reader, start, files, top, snapshot) = (&reader, &start, &files, &top, &snapshot);
                scope.spawn(move || {
                    start.wait();
                    for n in 0..files.len() {
                        let (name, content) = &files[(first + n) % files.len()];
                        assert!(read(reader, snapshot, &top.join(name)) == *content, "{name}");
                    }
                });
            }
        });
        reader.frames_decoded()
    };
    let alone = decoded(1);
    assert!(alone >= 8 * 2, "{alone} frames");
    assert_eq!(decoded(8), alone);
}

#[test]
fn a_frame_that_is_slow_to_come_keeps_nobody_from_another() {
    let (_dir, top) = temp();
    let host = Host::memory();
    let gate = Arc::new(Gate::new(host.vault.store.clone()));
    let host = host.through(gate.clone());
    // Two seals, so that the files are in two packs.
    for name in ["slow", "quick"] {
        write_files(&top, &[(name, &noise(LEN, name.len() as u64))]);
        host.seal(&[&top]).unwrap();
    }
    let snapshot = host.snapshots().pop().unwrap();
    let reader = host.reader();
    let pack_of = |name: &str| {
        let entry = resolve_path(&reader, &snapshot, top.join(name).as_os_str().as_encoded_bytes()).unwrap().unwrap();
        let coffre::format::Content::File { data, .. } = &entry.content else { panic!("{name} is a file") };
        let mut ids: Vec<ChunkId> = Vec::new();
        reader
            .each_chunk(&reader.keys(&snapshot), data, |chunk| {
                ids.push(chunk.id);
                Ok(())
            })
            .unwrap();
        reader.with_index(|index| index.locate(&ids[0])[0].pack)
    };
    let (slow, quick) = (pack_of("slow"), pack_of("quick"));
    assert_ne!(slow, quick);
    gate.close(Key::pack(&slow));
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| read(&reader, &snapshot, &top.join("slow")));
        gate.until_somebody_waits();
        // One stands before the gate; all of the other file comes meanwhile, or this never ends.
        assert!(read(&reader, &snapshot, &top.join("quick")) == noise(LEN, 5));
        assert!(!waiting.is_finished());
        gate.open();
        assert!(waiting.join().unwrap() == noise(LEN, 4));
    });
}

/// Puts index segments into `host`'s vault that name packs of `per_segment` chunks each, which are not there.
fn add_segments(host: &Host, segments: u32, per_segment: u32) {
    const IN_FRAME: u32 = 64;
    const IN_PACK: u32 = 64 * IN_FRAME;
    let recipient = host.owner.meta_identities()[0].to_public();
    for segment in 0..segments {
        let id = |n: u32| ChunkId::from_bytes(*digest(&[segment.to_le_bytes(), n.to_le_bytes()].concat()).as_bytes());
        let table = |pack: u32| PackIndex {
            frames: (0..IN_PACK / IN_FRAME)
                .map(|n| FrameEntry { offset: 32 + n * 1000, compressed_len: 1000, raw_len: IN_FRAME * 2000, chunks: IN_FRAME })
                .collect(),
            chunks: (pack * IN_PACK..(pack + 1) * IN_PACK).map(|n| (id(n), 2000)).collect(),
        };
        let packs = (0..per_segment / IN_PACK).map(|pack| SegmentPack {
            digest: digest(&[b"pack".as_slice(), &segment.to_le_bytes(), &pack.to_le_bytes()].concat()),
            stored_len: 70_000,
            index: table(pack),
        });
        let plain = pack::compress(&Segment { packs: packs.collect() }.encode()).unwrap();
        let bytes = pack::seal_whole(&[&recipient], &plain).unwrap();
        let key = Key::segment(host.sealer.domain, &digest(&bytes));
        host.vault.store.put(&key, &bytes).unwrap();
    }
}

fn found(reader: &Reader, segment: u32, n: u32) -> Option<(Digest, u32, u32)> {
    let id = ChunkId::from_bytes(*digest(&[segment.to_le_bytes(), n.to_le_bytes()].concat()).as_bytes());
    let places = reader.with_index(|index| index.locate(&id));
    assert!(places.len() < 2);
    places.first().map(|at| (at.pack, at.frame_number, at.chunk))
}

#[test]
fn a_chunk_is_found_in_whichever_segment_names_it_and_packs_have_the_same_numbers_every_time() {
    let host = Host::create(Arc::new(Memory::default()));
    add_segments(&host, 7, 8192);
    let reader = host.reader();
    assert_eq!(reader.with_index(|index| index.chunks()), 7 * 8192);
    for segment in 0..7u32 {
        for n in [0u32, 1, 4095, 4096, 8191] {
            let pack = digest(&[b"pack".as_slice(), &segment.to_le_bytes(), &(n / 4096).to_le_bytes()].concat());
            assert_eq!(found(&reader, segment, n), Some((pack, n % 4096 / 64, n % 64)), "chunk {n} of segment {segment}");
        }
        assert_eq!(found(&reader, segment, 8192), None);
    }
    let order = |reader: &Reader| reader.with_index(|index| index.packs().collect::<Vec<_>>());
    assert_eq!(order(&reader), order(&host.reader()));
    // One that is damaged is said, and costs no other.
    let (key, _) = coffre::store::list_all(&*host.vault.store, "index").unwrap().remove(3);
    let bytes = coffre::store::get_all(&*host.vault.store, &key, 1 << 30).unwrap();
    host.vault.store.delete(&key).unwrap();
    host.vault.store.put(&key, &bytes[..bytes.len() - 100]).unwrap();
    let (reader, findings) = Reader::open(host.vault.clone(), host.owner.clone(), 0).unwrap();
    assert_eq!(findings.iter().map(|f| f.object.as_str()).collect::<Vec<_>>(), [key.as_str()]);
    assert_eq!(reader.with_index(|index| index.chunks()), 6 * 8192);
}

/// `cargo test --release --test readers -- --ignored --nocapture ten_million` with the time and memory that it takes.
#[test]
#[ignore = "takes 400 MB of disk and measures time"]
fn an_index_of_ten_million_chunks_is_read_in_less_than_a_second() {
    let (_dir, top) = temp();
    let host = Host::create(Arc::new(coffre::store::Local::new(&top)));
    add_segments(&host, 10, 1_000_000);
    let started = SystemClock.monotonic();
    let reader = host.reader();
    let took = SystemClock.monotonic() - started;
    let chunks = reader.with_index(|index| index.chunks());
    println!("{chunks} chunks in {took:?}; {} MiB of memory at most", coffre::sys::peak_memory_bytes() >> 20);
    assert!(chunks > 9_900_000);
    assert!(found(&reader, 3, 17).is_some());
    assert!(took.as_secs_f64() < 1.0, "{took:?}");
}
