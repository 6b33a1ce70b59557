//! The threads of a seal and the queues between them, each bounded.
//!
//! One walks, some read and hash, one assembles, some compress, one stores. A thread that fails hangs up; its
//! neighbours notice and stop; the first real reason is what the seal reports. Readers and compressors are separate, so
//! that a full queue in one place never keeps the other from emptying it.

use std::{path::PathBuf, thread, time::Duration};

use crossbeam_channel::bounded;

use crate::{
    catalog::Catalog,
    error::{Error, ErrorKind, Result},
    format::Chunker,
    ops::seal::{
        Context,
        ahead::Ahead,
        assemble::{Assembled, Assembler, State},
        bundle::Bundles,
        compare::Tally,
        count::Total,
        entry::EntryMaker,
        exclude::Excludes,
        look::Looker,
        memory::{Known, Memory},
        output::{Compression, OpenPacks},
        pool::Pool,
        read,
        sources::Skeleton,
        stream::Stream,
        throttle::Throttle,
        walk::{Pending, Walker},
    },
    sys::{Cancel, Dir, file_limit, spawn_in as spawn},
    vault::Writer,
};

/// Batches that wait for a reader: each holds up to 16 directories open.
const BATCHES_MAX: usize = 4;
/// Groups of steps that wait to be assembled.
const GROUPS_MAX: usize = 8;
/// Frames that wait for a compressor: mostly 128 KiB each.
const FRAMES_MAX: usize = 16;
/// The same where they are large.
const LARGE_FRAMES_MAX: usize = 1;
/// Threads that look at directories, the walker among them; more than four found little to do.
const LOOKERS_MAX: usize = 4;
/// Packs that wait to be synced and named; their bytes are with the store already.
const PACKS_MAX: usize = 2;

/// One run of the pipeline.
#[derive(Clone, Copy)]
pub struct Job<'a> {
    pub context: &'a Context<'a>,
    pub excludes: &'a Excludes,
    pub skeleton: &'a Skeleton,
    /// What is sealed in place of files.
    pub stream: Option<&'a Stream>,
    pub sources: &'a [PathBuf],
    pub writer: &'a Writer<'a>,
    pub catalog: &'a Catalog,
    pub known: &'a Known,
    pub seal: u64,
    pub compression: Compression,
    pub bytes_per_sec: Option<u64>,
    pub workers: usize,
    pub coin: Option<[u8; 32]>,
    pub use_records: bool,
    pub tally: &'a Tally,
    /// When the seal began, of the monotonic clock.
    pub began: Duration,
    /// How much there is to do.
    pub total: &'a Total,
    /// Counts that while the rest works, if somebody watches and nobody knows.
    pub count: Option<&'a Excludes>,
    pub explain: bool,
}

/// Packs on their way at once to a store at the end of a line: while one waits for its answer, another fills the line. Each is in memory, so that
/// with those that are open (3) and those that wait (2) there are at most 8 of them.
const STORERS_FAR: usize = 3;

/// Runs the pipeline to its end. On success every pack is stored.
pub fn run(job: &Job) -> Result<Assembled> {
    let Context { vault, sealer, sink, clock, .. } = *job.context;
    // The person's wish to stop, and our own when a part failed.
    let cancel: &Cancel = job.context.cancel;
    let memory = Memory::new(job.catalog, &sealer.keys, job.known, job.use_records);
    let chunker = Chunker::new(sealer.keys.gear.clone());
    let main_device = job
        .sources
        .first()
        .and_then(|path| Dir::open(path.parent().unwrap_or(path)).and_then(|dir| dir.stat()).ok())
        .map_or(0, |s| s.device);
    let packs = OpenPacks::new(vault, sealer, job.coin);
    let (piece_pool, frame_pool) = (Pool::new(read::PIECE_ROOM), Pool::new(job.compression.frame_room(vault.config.frame_target as usize)));
    let throttle = job.bytes_per_sec.map(|limit| Throttle::new(clock, limit));
    let reading = read::Shared { chunker: &chunker, key: &sealer.keys.data, cancel, pool: &piece_pool, throttle: throttle.as_ref() };
    let now_ns = || clock.now_ns();
    let looker = Looker { excludes: job.excludes, explain: job.explain, memory: &memory, now_ns: &now_ns };
    let ahead = if job.workers > 1 && file_limit() >= Ahead::FILES_MIN { Ahead::default() } else { Ahead::none() };
    let nothing = Memory::none(&sealer.keys);

    // A thread that the system does not give is the end of those that run: they see that their neighbour has hung up.
    let hang_up = || {
        ahead.close();
        job.total.stop();
    };
    thread::scope(|scope| {
        let (batches_in, batches) = bounded(BATCHES_MAX);
        let (groups_in, groups) = bounded(GROUPS_MAX);
        let (frames_in, frames) = bounded(if job.compression.large_frames { LARGE_FRAMES_MAX } else { FRAMES_MAX });
        let (full_in, full) = bounded(PACKS_MAX);

        let walk = match job.stream {
            Some(stream) => {
                drop(batches_in);
                let (chunker, key) = (&chunker, &sealer.keys.data);
                spawn(scope, move || stream.run(&groups_in, chunker, key, clock.now_ns(), cancel))?
            }
            None => {
                // The walker looks itself where nobody has, and who counts is nobody's need.
                for _ in 1..job.workers.min(LOOKERS_MAX) {
                    let _ = spawn(scope, || ahead.run(&looker));
                }
                if let Some(excludes) = job.count {
                    let counter = Looker { excludes, explain: false, memory: &nothing, ..looker };
                    let _ = spawn(scope, move || job.total.count(&counter, job.skeleton, cancel));
                }
                let walker = Walker {
                    looker,
                    ahead: &ahead,
                    cancel,
                    sink,
                    maker: EntryMaker::new(main_device),
                    groups: groups_in,
                    batches: batches_in,
                    tally: job.tally,
                    out: Pending::default(),
                    path: Vec::new(),
                    linked: Default::default(),
                };
                spawn(scope, move || walker.run(job.skeleton)).inspect_err(|_| hang_up())?
            }
        };
        let readers = several(job.workers, || {
            let batches = batches.clone();
            spawn(scope, move || read::run(&batches, reading))
        });
        let readers = readers.inspect_err(|_| hang_up())?;
        drop(batches);
        let assembler = Assembler {
            keys: &sealer.keys,
            memory: &memory,
            maker: EntryMaker::new(main_device),
            bundles: Bundles::new(&memory, frames_in, &frame_pool, vault.config.frame_target as usize, job.compression),
            sink,
            clock,
            began: job.began,
            wants_progress: sink.wants_progress(),
            total: job.total,
            reading,
            seal: job.seal,
            state: State::default(),
        };
        let assemble = spawn(scope, move || {
            let result = assembler.run(&groups);
            drop(groups);
            result
        });
        let assemble = assemble.inspect_err(|_| hang_up())?;
        let compressors = several(job.workers, || {
            let (frames, full, packs, pool) = (frames.clone(), full_in.clone(), &packs, &frame_pool);
            spawn(scope, move || packs.compress(job.compression, &frames, pool, &full))
        });
        let compressors = compressors.inspect_err(|_| hang_up())?;
        drop(frames);
        let storers = if vault.store.is_far() && job.workers > 1 { STORERS_FAR } else { 1 };
        let stores = several(storers, || {
            let (packs, full) = (&packs, full.clone());
            spawn(scope, move || packs.store(&full, job.writer, job.catalog, sink))
        });
        let stores = stores.inspect_err(|_| hang_up())?;
        drop(full);

        let mut first = FirstFailure::default();
        first.take(join(walk));
        job.total.stop();
        for reader in readers {
            first.take(join(reader));
        }
        let assembled = first.take(join(assemble));
        // All are waited for, whatever one of them says.
        let started = compressors.len();
        let compressed = compressors.into_iter().filter_map(|c| first.take(join(c))).count() == started;
        if compressed && assembled.is_some() && first.0.is_none() {
            first.take(packs.finish(&full_in));
        }
        drop(full_in);
        for store in stores {
            first.take(join(store));
        }
        match (first.0, assembled) {
            (Some(e), _) => Err(e),
            (None, Some(assembled)) => Ok(Assembled { content: packs.content(), ..assembled }),
            (None, None) => Err(Error::bug("the seal ended without a result")),
        }
    })
}

/// Starts `n` threads, or as many of them as the system gives, at least one.
fn several<T>(n: usize, start: impl Fn() -> Result<T>) -> Result<Vec<T>> {
    let first = start()?;
    Ok(std::iter::once(first).chain((1..n).map_while(|_| start().ok())).collect())
}

fn join<T>(handle: thread::ScopedJoinHandle<Result<T>>) -> Result<T> {
    handle.join().unwrap_or_else(|_| Err(Error::bug("a thread of the seal panicked").hint("please report this with the text above")))
}

/// The first reason that is one: `Cancelled` from a neighbour that hung up gives way to what made it hang up.
#[derive(Default)]
struct FirstFailure(Option<Error>);

impl FirstFailure {
    fn take<T>(&mut self, result: Result<T>) -> Option<T> {
        match result {
            Ok(value) => return Some(value),
            Err(e) => match &self.0 {
                Some(before) if before.kind() != ErrorKind::Cancelled => (),
                _ => self.0 = Some(e),
            },
        }
        None
    }
}
