//! Status: what somebody wants to know of a vault each morning. When each host sealed last, how much was read back and how long ago, what waits
//! to be deleted. Needs no key; with an owner's key times are those of the manifests.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;

use crate::{
    catalog::{ProofDepth, Proofs},
    error::Result,
    format::{Digest, words_of},
    ops::{
        chain::judge,
        verify::{Pruned, listed},
    },
    store::{self, Key},
    sys::{self, Clock},
    vault::{Committed, Journal, OwnerKeys, StateDir, Vault, from_manifest, load_snapshot},
};

/// Nanoseconds in a second.
const SECOND_NS: i128 = 1_000_000_000;

/// What a status works with.
pub struct Context<'a> {
    /// The vault.
    pub vault: &'a Vault,
    /// An owner's keys, if they were given.
    pub owner: Option<&'a OwnerKeys>,
    /// This host's memory of the vault.
    pub state: &'a StateDir,
    /// Where other copies are that this host knows of, as their stores describe themselves.
    pub copies: &'a [String],
    /// Time.
    pub clock: &'a dyn Clock,
}

/// What is asked for: what is not reached is missed.
#[derive(Clone, Copy, Debug)]
pub struct Objectives {
    /// The newest snapshot of each host is no older than this.
    pub max_age: Option<Duration>,
    /// Every pack was read within this time.
    pub within: Duration,
    /// Whether that is an objective, or only a way to count.
    pub must_be_read: bool,
}

/// A host that seals.
#[derive(Clone, Debug, Serialize)]
pub struct HostRow {
    /// Its sealer's name.
    pub sealer: String,
    /// Number of its newest snapshot; `None` if it has none.
    pub seq: Option<u64>,
    /// The id of that one.
    pub id: Option<String>,
    /// The same in words.
    pub words: Option<String>,
    /// When it was sealed; where nobody here can tell, when it came to the store.
    pub sealed: Option<String>,
    /// How long ago that is, in seconds.
    pub age_secs: Option<u64>,
    /// Since when the sealer is revoked, if it is.
    pub revoked: Option<String>,
}

/// How much of a copy of the vault this host has read and found whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CoverageRow {
    /// Which copy.
    pub copy: String,
    /// How deep: `packs` (each is what its name says) or `chunks` (all in it is decoded).
    pub depth: &'static str,
    /// Packs that count, and their bytes.
    pub packs: u64,
    /// See `packs`.
    pub bytes: u64,
    /// Those of them that were read, ever.
    pub read_packs: u64,
    /// Their bytes.
    pub read_bytes: u64,
    /// Packs that were not read within the time asked for, or never.
    pub due_packs: u64,
    /// Their bytes.
    pub due_bytes: u64,
    /// When the pack was read that was read longest ago; `None` if there is one that never was.
    pub oldest_read: Option<String>,
    /// When the next pack is due; `None` if there is none, or one is due now.
    pub next_due: Option<String>,
    /// The pack that has waited longest among those that were never read.
    pub oldest_unread: Option<String>,
    /// Since when.
    pub oldest_unread_since: Option<String>,
}

/// A condemnation that is not carried out yet.
#[derive(Clone, Debug, Serialize)]
pub struct WaitingRow {
    /// The record that condemns.
    pub record: String,
    /// When it did.
    pub since: String,
    /// The earliest moment at which a prune may carry it out.
    pub due: String,
    /// Whether that is over.
    pub is_due: bool,
    /// Objects that go.
    pub objects: u64,
}

/// The state of a vault.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Where the vault is.
    pub vault: String,
    /// How much of each pack may be damaged and is mended, in percent; 0 without parity.
    pub parity_percent: u8,
    /// Snapshots that count and are not forgotten.
    pub snapshots: u64,
    /// Forgotten snapshots that can still come back.
    pub forgotten: u64,
    /// The hosts, by name.
    pub hosts: Vec<HostRow>,
    /// How much was read, by copy and depth.
    pub proofs: Vec<CoverageRow>,
    /// The time within which every pack is to be read, in seconds.
    pub within_secs: u64,
    /// Condemnations that wait.
    pub waiting: Vec<WaitingRow>,
    /// Things that verify would report of receipts and records: nothing was read for this but those.
    pub findings: u64,
    /// Objectives that were missed, in words.
    pub missed: Vec<String>,
}

/// Looks. Costs listings, and what is small: two reads a snapshot.
pub fn run(context: &Context, objectives: &Objectives) -> Result<Report> {
    let Context { vault, state, clock, .. } = context;
    let now_ns = clock.now_ns();
    let owner = context.owner.map(|owner| owner.sign.public()).or(state.pinned_owner()?);
    let judged = judge(vault, owner.as_deref(), state, &[])?;
    let mut damage = judged.damage.clone();
    let pruned = Pruned::load(vault, owner.as_deref(), &mut damage)?;
    let journal = Journal::load(vault, owner.as_deref()).unwrap_or_default();
    let mut wanted = listed(&judged.chain);
    pruned.apply(&mut wanted);
    let sizes: BTreeMap<Key, u64> = store::list_all(&*vault.store, "packs")?.into_iter().collect();
    let mut packs: Vec<Pack> = Vec::new();
    for key in wanted.keys().filter(|key| key.as_str().starts_with("packs/")) {
        packs.extend(key.digest().zip(sizes.get(key)).map(|(digest, len)| Pack { digest, len: *len }));
    }
    let first_named = first_named(&judged.chain.committed);

    let heads = judged.chain.heads();
    let lines = judged.signers.iter().flat_map(|s| &s.signers.0).filter(|s| !s.owner);
    let mut hosts = Vec::new();
    for line in lines {
        let head = heads.get(&line.name);
        let committed = head.and_then(|(_, id)| judged.chain.committed.iter().find(|c| c.id == *id));
        let sealed_ns = committed.map(|c| sealed_ns(context, c)).transpose()?.flatten();
        hosts.push(HostRow {
            sealer: line.name.clone(),
            seq: head.map(|(seq, _)| *seq),
            id: head.map(|(_, id)| id.to_string()),
            words: head.map(|(_, id)| words_of(id)),
            sealed: sealed_ns.map(sys::utc_text),
            age_secs: sealed_ns.map(|ns| u64::try_from((now_ns - ns) / SECOND_NS).unwrap_or(0)),
            revoked: line.revoked.as_ref().map(|r| r.since_text()),
        });
    }
    hosts.sort_by(|a, b| a.sealer.cmp(&b.sealer));

    let ledger = Proofs::load(&state.catalog())?;
    let place = vault.store.describe();
    let mut proofs = Vec::new();
    for copy in std::iter::once(&place).chain(context.copies.iter().filter(|copy| **copy != place)) {
        for depth in [ProofDepth::Pack, ProofDepth::Chunks] {
            let mut row = coverage(&packs, &ledger, (copy, depth), objectives.within, now_ns / SECOND_NS);
            if let Some(oldest) = row.1.iter().min_by_key(|pack| (first_named.get(&pack.digest).map(|c| &c.key), pack.digest)) {
                row.0.oldest_unread = Some(Key::pack(&oldest.digest).to_string());
                let since = first_named.get(&oldest.digest).map(|c| sealed_ns(context, c)).transpose()?.flatten();
                row.0.oldest_unread_since = since.map(sys::utc_text);
            }
            proofs.push(row.0);
        }
    }
    let mut waiting = Vec::new();
    for condemnation in journal.condemnations.iter().filter(|c| !c.settled) {
        waiting.push(WaitingRow {
            record: condemnation.record.clone(),
            since: sys::utc_text(condemnation.time_ns),
            due: sys::utc_text(condemnation.due_ns()),
            is_due: now_ns >= condemnation.due_ns(),
            objects: journal.condemned(vault, condemnation).map_or(0, |lines| lines.len() as u64),
        });
    }
    let missed = missed(&hosts, &proofs[0], objectives);
    Ok(Report {
        vault: place,
        parity_percent: vault.config.parity,
        snapshots: judged.chain.committed.iter().filter(|c| !pruned.is_forgotten(&c.id)).count() as u64,
        forgotten: journal.forgotten.values().filter(|forgotten| !forgotten.gone).count() as u64,
        hosts,
        proofs,
        within_secs: objectives.within.as_secs(),
        waiting,
        findings: (damage.len() + judged.forks.len() + judged.lost.len()) as u64,
        missed,
    })
}

#[derive(Clone, Copy)]
struct Pack {
    digest: Digest,
    len: u64,
}

/// The oldest receipt that names each pack.
fn first_named(committed: &[Committed]) -> BTreeMap<Digest, &Committed> {
    let mut first = BTreeMap::new();
    for c in committed {
        for line in c.receipt.lines.iter().filter(|line| line.path.starts_with("packs/")) {
            first.entry(line.digest).or_insert(c);
        }
    }
    first
}

/// When a snapshot was sealed: by its manifest if that can be read here, else by when its signature came to the store.
fn sealed_ns(context: &Context, committed: &Committed) -> Result<Option<i128>> {
    let own = context.state.manifest(&committed.key, &committed.id).and_then(|cbor| from_manifest(context.vault, committed, &cbor).ok());
    let read = || context.owner.and_then(|owner| load_snapshot(context.vault, owner, committed).ok());
    match own.or_else(read) {
        Some(snapshot) => Ok(Some(snapshot.manifest.time_ns)),
        None => context.vault.store.stored_ns(&Key::signature(&committed.key)),
    }
}

/// What the ledger says of the packs in one copy, and the packs that were never read so deep there. Pure.
fn coverage(
    packs: &[Pack],
    ledger: &Proofs,
    (copy, depth): (&str, ProofDepth),
    within: Duration,
    now_secs: i128,
) -> (CoverageRow, Vec<Pack>) {
    let within = i128::from(within.as_secs());
    let last = |pack: &Pack| ledger.last(copy, &pack.digest, depth, u64::try_from(now_secs).unwrap_or(0)).map(i128::from);
    let sum = |packs: &[Pack]| (packs.len() as u64, packs.iter().map(|pack| pack.len).sum::<u64>());
    let of = |wanted: &dyn Fn(&Pack) -> bool| packs.iter().filter(|pack| wanted(pack)).copied().collect::<Vec<_>>();
    let read = of(&|pack| last(pack).is_some());
    let unread = of(&|pack| last(pack).is_none());
    let due = of(&|pack| last(pack).is_none_or(|secs| secs + within < now_secs));
    let oldest = read.iter().filter_map(last).min();
    let text = |secs: i128| sys::utc_text(secs * SECOND_NS);
    let ((all, bytes), (read_packs, read_bytes), (due_packs, due_bytes)) = (sum(packs), sum(&read), sum(&due));
    let row = CoverageRow {
        copy: copy.to_owned(),
        depth: if depth == ProofDepth::Pack { "packs" } else { "chunks" },
        packs: all,
        bytes,
        read_packs,
        read_bytes,
        due_packs,
        due_bytes,
        oldest_read: oldest.filter(|_| unread.is_empty()).map(text),
        next_due: oldest.filter(|_| due.is_empty()).map(|secs| text(secs + within)),
        oldest_unread: None,
        oldest_unread_since: None,
    };
    (row, unread)
}

fn missed(hosts: &[HostRow], here: &CoverageRow, objectives: &Objectives) -> Vec<String> {
    let mut missed = Vec::new();
    for host in hosts.iter().filter(|host| host.revoked.is_none()) {
        let Some(max) = objectives.max_age else { continue };
        match host.age_secs {
            Some(age) if age <= max.as_secs() => (),
            Some(age) => missed.push(format!("{}: its newest snapshot is {} old", host.sealer, span(age))),
            None => missed.push(format!("{}: no snapshot, or nobody can tell how old", host.sealer)),
        }
    }
    if objectives.must_be_read && here.due_packs > 0 {
        missed.push(format!("{} of {} packs were not read within {}", here.due_packs, here.packs, span(objectives.within.as_secs())));
    }
    missed
}

/// A length of time for people: `26 h`, `3 d`.
pub fn span(secs: u64) -> String {
    match secs {
        0..=119 => format!("{secs} s"),
        120..=7199 => format!("{} min", secs / 60),
        7200..=172_799 => format!("{} h", secs / 3600),
        _ => format!("{} d", secs / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::digest;

    #[test]
    fn coverage_counts_what_was_read_where_and_when() {
        let packs = [b"a", b"b"].map(|name| Pack { digest: digest(name), len: 100 });
        let mut ledger = Proofs::default();
        ledger.note("/here", &packs[0].digest, ProofDepth::Chunks, 1000);
        ledger.note("/here", &packs[1].digest, ProofDepth::Pack, 5000);
        let at = |copy, depth, within, now| {
            let (row, unread) = coverage(&packs, &ledger, (copy, depth), Duration::from_secs(within), now);
            (row.read_packs, row.due_packs, row.due_bytes, row.oldest_read.is_some(), row.next_due, unread.len())
        };
        assert_eq!(at("/here", ProofDepth::Pack, 10_000, 6000), (2, 0, 0, true, Some(sys::utc_text(11_000 * SECOND_NS)), 0));
        assert_eq!(at("/here", ProofDepth::Pack, 4000, 6000), (2, 1, 100, true, None, 0));
        assert_eq!(at("/here", ProofDepth::Chunks, 10_000, 6000), (1, 1, 100, false, None, 1));
        assert_eq!(at("/there", ProofDepth::Pack, 10_000, 6000), (0, 2, 200, false, None, 2));
    }
}
