//! Plans as values, and what planning costs for ten million chunks.

use coffre::{
    error::Result,
    format::{ChunkId, Digest, DomainId, FrameEntry, PackIndex, digest},
    ops::prune::{Fate, Holds, Item, Limits, Marked, Need, Rank, Table, TableBuilder, Trees, mark, plan},
    sys::{Cancel, Clock, SystemClock},
};

const LIMITS: Limits =
    Limits { max_unused_permille: 50, max_rewrite: None, repack_small: false, pack_len: 32 << 20, meta_pack_len: 4 << 20 };

fn id(n: u64) -> ChunkId {
    ChunkId::from_bytes(*digest(&n.to_le_bytes()).as_bytes())
}

fn pack_name(n: u64) -> Digest {
    digest(format!("pack {n}").as_bytes())
}

/// A pack of so many frames of four chunks of 1,000 raw and 500 stored bytes each.
fn index(first: u64, frames: u64) -> PackIndex {
    let frame = |n: u64| FrameEntry { offset: 32 + 2_000 * n as u32, compressed_len: 2_000, raw_len: 4_000, chunks: 4 };
    PackIndex { frames: (0..frames).map(frame).collect(), chunks: (first..first + 4 * frames).map(|n| (id(n), 1_000)).collect() }
}

/// Ten packs of 100 chunks, of which these are live.
fn table(live: impl Fn(u64) -> bool) -> Table {
    let mut builder = TableBuilder::default();
    for pack in 0..10 {
        builder.push(pack_name(pack), 51_000, "00112233", Rank::Firm, index(pack * 100, 25));
    }
    let table = builder.finish();
    for n in (0..1_000).filter(|n| live(*n)) {
        assert_eq!(table.mark(&id(n), Holds::Content), Marked::New);
        assert_eq!(table.mark(&id(n), Holds::Content), Marked::Already);
    }
    assert_eq!(table.mark(&id(1_000_000), Holds::Content), Marked::Unknown);
    table
}

fn count(fates: &[Fate], fate: Fate) -> usize {
    fates.iter().filter(|f| **f == fate).count()
}

#[test]
fn a_plan_keeps_deletes_and_rewrites_as_little_as_it_may() {
    use Fate::{Delete, Keep, Rewrite};
    // Packs 0 to 3 are live, 4 and 5 dead; 6 is half live, 7 lacks a chunk, 8 ten, 9 is live in one chunk.
    let table = table(|n| match n / 100 {
        0..=3 => true,
        4 | 5 => false,
        6 => n % 2 == 0,
        7 => n != 700,
        8 => n % 100 >= 10,
        _ => n == 900,
    });
    let p = plan(&table, &LIMITS);
    assert_eq!(p.fates, [Keep, Keep, Keep, Keep, Delete, Delete, Rewrite, Keep, Keep, Rewrite]);
    let t = &p.totals;
    assert_eq!((t.packs_kept, t.packs_deleted, t.packs_rewritten, t.objects_read), (6, 2, 2, 2));
    assert_eq!((t.bytes_before, t.bytes_read), (510_000, 102_000));
    // A chunk is worth 510 bytes of its pack.
    assert_eq!((t.unused_before, t.unused_after), ((200 + 50 + 1 + 10 + 99) * 510, 11 * 510));
    // What is written is one pack of the shortest length that there is: 64 KiB, a block's tag, a header.
    let written = (64 << 10) + 16 + 320;
    assert_eq!((t.objects_written, t.bytes_written), (1, written));
    assert_eq!((t.bytes_after, t.bytes_won), (6 * 51_000 + written, 510_000 - 6 * 51_000 - written));
    assert!(t.unused_after * 20 <= t.bytes_after);

    let pressed = plan(&table, &Limits { max_unused_permille: 0, ..LIMITS });
    assert_eq!((count(&pressed.fates, Rewrite), pressed.totals.unused_after), (4, 0));
    let loose = plan(&table, &Limits { max_unused_permille: 1_000, ..LIMITS });
    assert_eq!(count(&loose.fates, Rewrite), 0);
    let short = plan(&table, &Limits { max_rewrite: Some(60_000), ..LIMITS });
    assert_eq!((count(&short.fates, Rewrite), short.totals.bytes_read), (1, 51_000));
    assert_eq!(short.fates[9], Rewrite, "the emptiest first");
    let small = plan(&table, &Limits { repack_small: true, ..LIMITS });
    assert_eq!((count(&small.fates, Rewrite), count(&small.fates, Delete)), (8, 2));
}

#[test]
fn packs_of_nodes_lose_everything_dead() {
    let mut builder = TableBuilder::default();
    builder.push(pack_name(0), 51_000, "00112233", Rank::Firm, index(0, 25));
    builder.push(pack_name(1), 51_000, "00112233", Rank::Firm, index(100, 25));
    let table = builder.finish();
    for n in 1..200 {
        table.mark(&id(n), Holds::Nodes);
    }
    assert_eq!(plan(&table, &LIMITS).fates, [Fate::Rewrite, Fate::Keep]);
}

#[test]
fn a_condemned_copy_counts_only_where_there_is_no_other() {
    let mut builder = TableBuilder::default();
    builder.push(pack_name(0), 51_000, "00112233", Rank::Weak, index(0, 25));
    builder.push(pack_name(1), 51_000, "00112233", Rank::Firm, index(200, 25));
    builder.push(pack_name(2), 21_000, "00112233", Rank::Firm, index(0, 10));
    let table = builder.finish();
    assert_eq!(table.mark(&id(3), Holds::Content), Marked::New);
    assert_eq!((table.holds(0), table.holds(2)), (Holds::Nothing, Holds::Content));
    assert_eq!(table.mark(&id(90), Holds::Content), Marked::New);
    assert_eq!(table.holds(0), Holds::Content, "nobody else has it");
    assert_eq!(plan(&table, &LIMITS).fates, [Fate::Keep, Fate::Delete, Fate::Rewrite], "and it is not for this plan to judge");
}

#[test]
fn what_is_in_two_packs_is_live_in_the_longer_one_and_a_doomed_copy_comes_last() {
    let mut builder = TableBuilder::default();
    builder.push(pack_name(0), 21_000, "00112233", Rank::Firm, index(0, 10));
    builder.push(pack_name(1), 51_000, "00112233", Rank::Firm, index(0, 25));
    builder.push(pack_name(2), 51_000, "00112233", Rank::Going, index(200, 25));
    builder.push(pack_name(3), 51_000, "00112233", Rank::Weak, index(200, 25));
    let mut table = builder.finish();
    for n in (0..100).chain(200..300) {
        table.mark(&id(n), Holds::Content);
    }
    assert_eq!([0, 1, 2, 3].map(|n| table.holds(n)), [Holds::Content, Holds::Content, Holds::Nothing, Holds::Content]);
    assert_eq!(table.join().into_iter().collect::<Vec<_>>(), [(1, 0)]);
    assert_eq!(plan(&table, &LIMITS).fates, [Fate::Delete, Fate::Keep, Fate::Keep, Fate::Keep]);
    assert_eq!(table.holds(0), Holds::Content, "should it be condemned already, it is spared");
}

/// A thousand snapshots of a thousand directories, of which each changes one in a hundred.
struct Simulated;

const SNAPSHOTS: u64 = 1_000;
const DIRS: u64 = 1_000;
/// Roots have numbers from here on; below are the versions of directories.
const ROOTS: u64 = 1 << 40;
const CHUNKS: u64 = 10_000_000;
const PER_DIR: u64 = 1_000;

/// Which version of directory `dir` snapshot `n` holds: it changes every hundred snapshots, at a moment of its own.
fn version(n: u64, dir: u64) -> u64 {
    (n + dir % 100) / 100
}

/// An id of a node that says its number.
fn numbered(n: u64) -> ChunkId {
    let mut bytes = *digest(&n.to_be_bytes()).as_bytes();
    bytes[24..].copy_from_slice(&n.to_le_bytes());
    ChunkId::from_bytes(bytes)
}

impl Trees for Simulated {
    fn needs(&self, item: &Item, each: &mut dyn FnMut(Need)) -> Result<()> {
        let n = u64::from_le_bytes(item.id.as_bytes()[24..].try_into().unwrap());
        match n.checked_sub(ROOTS) {
            Some(snapshot) => (0..DIRS).for_each(|dir| each(Need::Node(numbered(version(snapshot, dir) * DIRS + dir)))),
            None => {
                let first = n * PER_DIR % CHUNKS;
                (first..first + PER_DIR).for_each(|chunk| each(Need::Content(id(chunk))));
            }
        }
        Ok(())
    }
}

/// `cargo test --release --test prune -- --ignored --nocapture ten_million`: at most 30 s and 1 GiB.
#[test]
#[ignore = "takes half a gigabyte of memory and half a minute unoptimised"]
fn ten_million_chunks_and_a_thousand_snapshots_are_planned_in_time() {
    let clock = SystemClock;
    let build = clock.monotonic();
    let mut builder = TableBuilder::default();
    for pack in 0..CHUNKS / 500 {
        builder.push(pack_name(pack), 500 * 510, "00112233", Rank::Firm, index(pack * 500, 125));
    }
    // Nodes: 11 versions of every directory, and the roots.
    let nodes: Vec<u64> = (0..11 * DIRS).chain(ROOTS..ROOTS + SNAPSHOTS).collect();
    for (n, some) in nodes.chunks(400).enumerate() {
        let chunks = u32::try_from(some.len()).unwrap();
        let frames = vec![FrameEntry { offset: 32, compressed_len: 100_000, raw_len: 400 * chunks, chunks }];
        let index = PackIndex { frames, chunks: some.iter().map(|n| (numbered(*n), 400)).collect() };
        builder.push(pack_name(1 << 30 | n as u64), 101_000, "00112233", Rank::Firm, index);
    }
    let began = clock.monotonic();
    let table = builder.finish();
    let roots = (0..SNAPSHOTS).map(|n| Item { domain: DomainId([0; 16]), id: numbered(ROOTS + n), is_list: false }).collect();
    let tally = mark(&table, &Simulated, roots, 2, &Cancel::default()).unwrap();
    let p = plan(&table, &LIMITS);
    let took = clock.monotonic() - began;
    let peak = coffre::sys::peak_memory_bytes();
    println!(
        "{} chunks, {} nodes read, {} packs: {:.1} s to build, {:.1} s to sort, mark and plan, {} MiB at most",
        table.chunks(),
        tally.nodes,
        table.packs.len(),
        (began - build).as_secs_f64(),
        took.as_secs_f64(),
        peak >> 20
    );
    let versions: std::collections::HashSet<u64> =
        (0..SNAPSHOTS).flat_map(|n| (0..DIRS).map(move |dir| version(n, dir) * DIRS + dir)).collect();
    assert_eq!((tally.nodes, tally.missing.len()), (SNAPSHOTS + versions.len() as u64, 0));
    assert!(p.totals.unused_after * 20 <= p.totals.bytes_after.max(1));
    if !cfg!(debug_assertions) {
        assert!(took.as_secs() < 30, "{took:?}");
    }
    assert!(peak < 1 << 30, "{peak} bytes");
}
