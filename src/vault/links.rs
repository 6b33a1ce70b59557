//! Links: how the snapshots of each sealer follow one another, and whether those that somebody remembers are among them.
//!
//! Pure: takes what was read, returns findings. A receipt names the one before it by hash, so nothing can be taken out of a chain,
//! put into it, or moved in it without a trace; only at its end something can be missing, and that takes a memory to notice.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use crate::{
    format::{HeadText, SnapshotId, SnapshotKey, words_of},
    vault::{Chain, Committed, Finding, SignerList, Trouble},
};

/// What is wrong with the order of snapshots.
#[derive(Clone, Debug, Default)]
pub struct Links {
    /// Breaks.
    pub damage: Vec<Finding>,
    /// Snapshots of one sealer that do not follow from one another, and that no later one has joined. All of them count.
    pub forks: Vec<Finding>,
    /// What is worth a word, and no fault of the store.
    pub notices: Vec<Finding>,
}

/// Follows every chain. `signers` says which sealers were revoked, and which of their snapshots count.
pub fn links(chain: &Chain, signers: &SignerList) -> Links {
    let mut links = Links::default();
    let mut all: BTreeMap<&str, Vec<&Committed>> = BTreeMap::new();
    for committed in chain.committed.iter().chain(&chain.revoked) {
        all.entry(&committed.key.sealer).or_default().push(committed);
    }
    for (sealer, mine) in &mut all {
        mine.sort_by_key(|c| c.key.seq);
        follow(chain, sealer, mine, &mut links);
    }
    links.damage.extend(set_aside(chain, signers));
    for signer in &signers.signers.0 {
        for (seq, id) in signer.revoked.iter().flat_map(|r| &r.last) {
            let key = SnapshotKey { sealer: signer.name.clone(), seq: *seq };
            if !chain.counts(&key, id) && !is_named(chain, &key) {
                let text = "the owner vouches for it, and it is gone or was changed: without it no snapshot of its revoked sealer counts";
                links.damage.push(Finding::of(Trouble::SnapshotDeleted, key.receipt(), text));
            }
        }
    }
    let damaged: BTreeSet<String> = links.damage.iter().chain(&chain.findings).map(|f| f.object.clone()).collect();
    for (key, _) in chain.there.iter().filter(|(_, there)| there.receipt && !there.signature) {
        if !damaged.contains(&key.receipt()) {
            links.notices.push(Finding::of(Trouble::Unsigned, key.receipt(), "has no signature"));
        }
    }
    links
}

/// Names the snapshots of revoked sealers that do not count.
pub fn set_aside(chain: &Chain, signers: &SignerList) -> Vec<Finding> {
    let finding = |committed: &Committed| {
        let sealer = &committed.key.sealer;
        let revoked = signers.signers.revoked(sealer);
        let since = revoked.map(|r| r.since_text()).unwrap_or_default();
        let text = match revoked.and_then(|r| r.last.iter().map(|(seq, _)| *seq).max()) {
            Some(last) if committed.key.seq <= last => {
                format!("is not among those for which the owner vouched when {sealer} was revoked (since {since})")
            }
            _ => format!("{sealer} signed it, who is revoked since {since}"),
        };
        Finding::of(Trouble::Revoked, committed.key.receipt(), text)
    };
    chain.revoked.iter().map(finding).collect()
}

/// The same in short, for who offers snapshots: one finding a sealer.
pub fn not_offered(chain: &Chain, signers: &SignerList) -> Vec<Finding> {
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    chain.revoked.iter().for_each(|c| *counts.entry(&c.key.sealer).or_default() += 1);
    let finding = |(sealer, n): (&str, u64)| {
        let what = if n == 1 { "1 snapshot is".to_owned() } else { format!("{n} snapshots are") };
        let since = signers.signers.revoked(sealer).map(|r| r.since_text()).unwrap_or_default();
        let text = format!("{what} not offered, as {sealer} is revoked since {since}");
        Finding::of(Trouble::Revoked, format!("snaps/{sealer}"), text)
    };
    counts.into_iter().map(finding).collect()
}

/// Whether a finding names this snapshot's receipt already.
fn is_named(chain: &Chain, key: &SnapshotKey) -> bool {
    let receipt = key.receipt();
    chain.findings.iter().any(|f| f.object == receipt)
}

/// Whether a finding says already that this snapshot was hurt.
fn is_damaged(chain: &Chain, key: &SnapshotKey) -> bool {
    let receipt = key.receipt();
    chain
        .findings
        .iter()
        .any(|f| f.object == receipt && matches!(f.kind, Trouble::Altered | Trouble::Unreadable | Trouble::SnapshotDeleted))
}

/// Follows one sealer's snapshots, which are in order.
fn follow(chain: &Chain, sealer: &str, mine: &[&Committed], links: &mut Links) {
    let at: BTreeMap<u64, SnapshotId> = mine.iter().map(|c| (c.key.seq, c.id)).collect();
    let mut named: HashSet<u64> = HashSet::new();
    // The highest number at which something is missing: what it named cannot be told any more.
    let mut missing = None;
    let mut joined: Vec<(String, String)> = Vec::new();
    for committed in mine {
        let before: Vec<(SnapshotKey, SnapshotId)> = committed.receipt.previous_all().collect();
        for (key, id) in &before {
            if key.sealer != sealer || key.seq >= committed.key.seq {
                let text = format!("goes on from {key}, which does not come before it");
                links.damage.push(Finding::of(Trouble::SnapshotReordered, committed.key.receipt(), text));
                continue;
            }
            match at.get(&key.seq) {
                Some(there) if there == id => drop(named.insert(key.seq)),
                Some(_) => {
                    named.insert(key.seq);
                    let text = format!(
                        "{} goes on from another snapshot of this number: two machines seal as {sealer}, or one was put in its place",
                        committed.key
                    );
                    links.damage.push(Finding::of(Trouble::Fork, key.receipt(), text));
                }
                None => {
                    missing = missing.max(Some(key.seq));
                    if !is_named(chain, key) {
                        let there = chain.there.get(key).copied().unwrap_or_default();
                        let what = if there.receipt { "its signature is gone" } else { "is gone" };
                        let text = format!("{what}: snapshot {} comes after it", committed.key);
                        links.damage.push(Finding::of(Trouble::SnapshotDeleted, key.receipt(), text));
                    }
                }
            }
        }
        if before.len() > 1 {
            let names: Vec<String> = before.iter().map(|(key, _)| key.to_string()).collect();
            joined.push((committed.key.receipt(), names.join(" and ")));
        }
    }
    if let Some((receipt, names)) = joined.last() {
        let others = match joined.len() - 1 {
            0 => String::new(),
            n => format!(" (and {n} before it did the like)"),
        };
        let text = format!("joins {names}, which do not follow from one another{others}: two machines seal as {sealer}");
        links.notices.push(Finding::of(Trouble::Fork, receipt, text));
    }
    let Some((head, rest)) = mine.split_last() else { return };
    for tip in rest.iter().filter(|c| !named.contains(&c.key.seq) && Some(c.key.seq) > missing) {
        let text = format!("{} does not go on from it: two machines seal as {sealer}, or one was put back from a copy", head.key);
        links.forks.push(Finding::of(Trouble::Fork, tip.key.receipt(), text));
    }
}

/// Holds the snapshots that this host has seen against those that are there. The second list is of forks whose branches all count.
///
/// `own` is the name under which this host seals: what is newer than its own newest, and not `made_here`, was made by another
/// machine with the same keys.
pub fn remembered(
    chain: &Chain,
    heads: &BTreeMap<String, (u64, SnapshotId)>,
    own: Option<&str>,
    made_here: impl Fn(&Committed) -> bool,
) -> (Vec<Finding>, Vec<Finding>) {
    let (mut damage, mut forks) = (Vec::new(), Vec::new());
    for (sealer, (seq, id)) in heads {
        let key = SnapshotKey { sealer: sealer.clone(), seq: *seq };
        match chain.committed.iter().chain(&chain.revoked).find(|c| c.key == key) {
            Some(there) if there.id == *id => (),
            Some(there) => damage.push(Finding::of(
                Trouble::Fork,
                key.receipt(),
                format!("this host remembers another snapshot of this number, {}: two machines seal as {sealer}, or the vault was put back from a copy and went on", words_of(id).replace('-', " ") + &format!(" ({}), not {}", id.short(), there.id.short())),
            )),
            // Its own finding says more.
            None if is_damaged(chain, &key) => (),
            None => damage.push(Finding::of(
                Trouble::RolledBack,
                key.receipt(),
                "this host remembers this snapshot, and it is gone or was changed: the vault was rolled back, or is an older copy",
            )),
        }
    }
    let newest = own.and_then(|own| Some((own, heads.get(own)?.0)));
    if let Some((own, seq)) = newest {
        for committed in chain.committed.iter().filter(|c| c.key.sealer == own && c.key.seq > seq && !made_here(c)) {
            let text = "is signed with this host's key, and was not made here: another machine has the key, or this host's state is older than its vault";
            forks.push(Finding::of(Trouble::Fork, committed.key.receipt(), text));
        }
    }
    (damage, forks)
}

/// A head that somebody wrote down elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// Whose, if that was said.
    pub sealer: Option<String>,
    /// Its words or digits.
    pub head: HeadText,
    /// As it was typed.
    pub typed: String,
}

impl Expected {
    /// Reads `[SEALER:]WORDS` or `[SEALER:]DIGITS`.
    pub fn parse(text: &str) -> Option<Self> {
        let (sealer, head) = match text.split_once(':') {
            Some((sealer, head)) => (Some(sealer.trim().to_owned()), head),
            None => (None, text),
        };
        Some(Self { sealer, head: HeadText::parse(head)?, typed: text.to_owned() })
    }
}

/// Finds the heads that are expected and not among the snapshots that count. That the vault went on since is no finding.
pub fn expected(chain: &Chain, heads: &[Expected]) -> Vec<Finding> {
    let is_there = |expected: &Expected| {
        let mine = |c: &&Committed| expected.sealer.as_ref().is_none_or(|sealer| *sealer == c.key.sealer);
        chain.committed.iter().filter(mine).any(|c| expected.head.names(&c.id))
    };
    let lost = heads.iter().filter(|expected| !is_there(expected));
    lost.map(|expected| {
        let object = expected.sealer.as_ref().map_or_else(|| "snaps".to_owned(), |sealer| format!("snaps/{sealer}"));
        let text = format!("no snapshot here is {}, which is expected: the vault was rolled back, or is an older copy", expected.typed);
        Finding::of(Trouble::RolledBack, object, text)
    })
    .collect()
}
