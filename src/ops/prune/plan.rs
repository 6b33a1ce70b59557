//! Plans: which packs stay, go, or are written anew without what is dead.
//!
//! Pure: takes facts, returns a plan, touches nothing. A plan never drops a chunk that is marked live; `tests/prune` holds it to that.
//! Packs of nodes with anything dead in them are always written anew: sealers rely on it (docs/FORMAT.md section 7.1).

use serde::Serialize;

use crate::ops::prune::{
    estimate,
    table::{Holds, Pack, Rank, Table},
};

/// Bytes in a second that a rewrite gets through, reading and writing together: measured with `scripts/bench/prune` on 2 cores.
const REWRITE_BYTES_PER_SEC: u64 = 150 << 20;
/// What storing or deleting an object takes, in seconds.
const OBJECT_SECS: f64 = 0.003;
/// A pack that is shorter than a fourth of what packs may be is small.
const SMALL_PART: u64 = 4;

/// How hard to press.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most of what is left that may be dead, in parts of 1,000.
    pub max_unused_permille: u64,
    /// Most bytes of content packs that are read to be written anew.
    pub max_rewrite: Option<u64>,
    /// Whether small packs become larger ones.
    pub repack_small: bool,
    /// Longest content pack, in bytes.
    pub pack_len: u64,
    /// Longest pack of nodes.
    pub meta_pack_len: u64,
}

/// What becomes of a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// It stays as it is.
    Keep,
    /// Nothing in it is live.
    Delete,
    /// What is live in it goes to a new pack.
    Rewrite,
}

/// The facts about one pack.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Use {
    /// Bytes of the stored file.
    pub stored: u64,
    /// Its share that is live; of a frame that is live in part, by raw bytes.
    pub live: u64,
    /// Whether anything is dead.
    pub has_dead: bool,
    /// Whether anything is live.
    pub has_live: bool,
    /// Whether it holds nodes.
    pub is_meta: bool,
}

/// How much goes, and what that takes.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Totals {
    /// Packs that stay.
    pub packs_kept: u64,
    /// Packs that go.
    pub packs_deleted: u64,
    /// Packs that are written anew.
    pub packs_rewritten: u64,
    /// Bytes of all packs before.
    pub bytes_before: u64,
    /// Bytes of all packs after: right but for some hundred bytes a pack where frames are copied as they are, an estimate where they are
    /// compressed anew.
    pub bytes_after: u64,
    /// Dead bytes in packs before.
    pub unused_before: u64,
    /// Dead bytes in packs after.
    pub unused_after: u64,
    /// Bytes won.
    pub bytes_won: u64,
    /// Objects and bytes to be read, marking left out.
    pub objects_read: u64,
    /// See `objects_read`.
    pub bytes_read: u64,
    /// Objects and bytes to be written.
    pub objects_written: u64,
    /// See `objects_written`.
    pub bytes_written: u64,
    /// How long that may take, in seconds.
    pub seconds: f64,
}

/// The plan.
#[derive(Clone, Debug)]
pub struct Plan {
    /// For each pack of the table what becomes of it. Weak packs are not judged: they stay.
    pub fates: Vec<Fate>,
    /// The sums.
    pub totals: Totals,
}

/// The same plan, but content stays where it is as long as any of it is live: for a store without room. What is wholly dead goes, and nodes
/// are written anew all the same.
pub fn in_place(table: &Table, limits: &Limits) -> Plan {
    plan(table, &Limits { max_unused_permille: 1_000, max_rewrite: Some(0), repack_small: false, ..*limits })
}

/// The facts about a pack.
pub fn used(table: &Table, n: usize) -> Use {
    let pack = &table.packs[n];
    let (mut live, mut all) = (0u64, 0u64);
    let (mut has_dead, mut has_live) = (pack.frames.is_empty(), false);
    for (frame, _, count, raw) in table.frames(pack) {
        let len = u64::from(frame.compressed_len);
        all += len;
        live += if count == frame.chunks { len } else { len * raw / u64::from(frame.raw_len.max(1)) };
        has_dead |= count < frame.chunks;
        has_live |= count > 0;
    }
    // Header, table and padding are shared by what is in it.
    let share = u128::from(pack.stored_len) * u128::from(live) / u128::from(all.max(1));
    Use { stored: pack.stored_len, live: share as u64, has_dead, has_live, is_meta: table.holds(n) == Holds::Nodes }
}

/// Makes a plan.
pub fn plan(table: &Table, limits: &Limits) -> Plan {
    let uses: Vec<Use> = (0..table.packs.len()).map(|n| used(table, n)).collect();
    let fates = decide(&table.packs, &uses, limits);
    let totals = totals(&table.packs, &uses, &fates, estimate::written(table, &fates, limits));
    Plan { fates, totals }
}

fn decide(packs: &[Pack], uses: &[Use], limits: &Limits) -> Vec<Fate> {
    let counted = || (0..packs.len()).filter(|n| packs[*n].rank == Rank::Firm);
    let mut fates = vec![Fate::Keep; packs.len()];
    for n in counted() {
        fates[n] = match uses[n] {
            Use { has_live: false, .. } => Fate::Delete,
            Use { is_meta: true, has_dead: true, .. } => Fate::Rewrite,
            _ => Fate::Keep,
        };
    }
    // The emptiest first: most is won for what has to be copied.
    // Without a domain, whose segments are lost, content stays where it is as long as any of it is live.
    let can_move = |n: &usize| fates[*n] == Fate::Keep && uses[*n].has_dead && !packs[*n].domain.is_empty();
    let mut sparse: Vec<usize> = counted().filter(can_move).collect();
    sparse.sort_by(|a, b| {
        let dead = |n: &usize| u128::from(uses[*n].stored - uses[*n].live);
        (dead(b) * u128::from(uses[*a].stored)).cmp(&(dead(a) * u128::from(uses[*b].stored))).then(a.cmp(b))
    });
    let live: u64 = counted().map(|n| uses[n].live).sum();
    let allowed = live / 1000 * limits.max_unused_permille;
    let mut unused: u64 = sparse.iter().map(|n| uses[*n].stored - uses[*n].live).sum();
    let mut rewritten = 0;
    let has_room = |rewritten: u64, n: usize| limits.max_rewrite.is_none_or(|max| rewritten + uses[n].stored <= max);
    for n in sparse {
        if unused <= allowed {
            break;
        }
        if has_room(rewritten, n) {
            fates[n] = Fate::Rewrite;
            rewritten += uses[n].stored;
            unused -= uses[n].stored - uses[n].live;
        }
    }
    if limits.repack_small {
        for meta in [false, true] {
            let len = if meta { limits.meta_pack_len } else { limits.pack_len } / SMALL_PART;
            let is_small =
                |n: &usize| fates[*n] == Fate::Keep && uses[*n].is_meta == meta && uses[*n].stored < len && !packs[*n].domain.is_empty();
            let small: Vec<usize> = counted().filter(is_small).collect();
            for n in &small {
                // Alone it would only be copied.
                let others = small.iter().filter(|other| packs[**other].domain == packs[*n].domain).count();
                if others > 1 && has_room(rewritten, *n) {
                    fates[*n] = Fate::Rewrite;
                    rewritten += uses[*n].stored;
                }
            }
        }
    }
    fates
}

/// Adds it up; `written` are the packs that are written and their bytes.
fn totals(packs: &[Pack], uses: &[Use], fates: &[Fate], written: (u64, u64)) -> Totals {
    let mut t = Totals { objects_written: written.0, bytes_written: written.1, bytes_after: written.1, ..Totals::default() };
    for n in (0..packs.len()).filter(|n| packs[*n].rank == Rank::Firm) {
        let Use { stored, live, .. } = uses[n];
        t.bytes_before += stored;
        t.unused_before += stored - live;
        match fates[n] {
            Fate::Keep => {
                t.packs_kept += 1;
                t.bytes_after += stored;
                t.unused_after += stored - live;
            }
            Fate::Delete => t.packs_deleted += 1,
            Fate::Rewrite => {
                t.packs_rewritten += 1;
                t.objects_read += 1;
                t.bytes_read += stored;
            }
        }
    }
    t.bytes_won = t.bytes_before.saturating_sub(t.bytes_after);
    let objects = t.objects_read + t.objects_written + t.packs_deleted + t.packs_rewritten;
    t.seconds = (t.bytes_read + t.bytes_written) as f64 / REWRITE_BYTES_PER_SEC as f64 + objects as f64 * OBJECT_SECS;
    t
}
