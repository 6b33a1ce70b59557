//! What both sides hold: listings, and the receipts of the snapshots that the copy lacks.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    error::{Error, ErrorKind, Result},
    format::{Config, Receipt, SnapshotKey},
    ops::copy::{Context, Which, plan::Bounds},
    store::{self, Key, Store},
    vault::{Chain, Condemnation, Journal, SignerList, Vault},
};

/// Longest list of objects below `gc/` accepted, in bytes.
const LIST_LEN_MAX: usize = 64 << 20;
/// Longest small public object, in bytes.
const SMALL_LEN_MAX: usize = 1 << 20;
/// Most objects that a store without `VAULT` may hold to be taken for the beginning of a copy.
const BEGUN_OBJECTS_MAX: usize = 10_000;

/// Objects with their lengths.
pub type Listing = BTreeMap<Key, u64>;

/// All that a plan is made from.
#[derive(Clone)]
pub struct Sides {
    /// What the vault holds.
    pub from: Listing,
    /// What the copy holds.
    pub to: Listing,
    /// Receipts of the vault: those that the copy lacks, or all.
    pub chain: Chain,
    /// Days for which the vault has its objects held.
    pub lock_days: u32,
    /// Which snapshots are wanted, of each sealer.
    pub bounds: Bounds,
    /// Objects that lists below `gc/` of the vault name: what is to go, or went, and what takes its place.
    pub decided: BTreeSet<Key>,
    /// Objects that the owner's own retention of the copy took out of it: they do not come back.
    pub gone: BTreeSet<Key>,
    /// Sealers whose newest snapshot that both sides have is not the same on both.
    pub forked: Vec<SnapshotKey>,
}

/// Looks at both sides.
pub fn look(context: &Context, which: &[Which]) -> Result<Sides> {
    let vault = Vault::open(context.from.clone())?;
    // Snapshots first: what they need was there before them, so the second listing has it.
    let mut snaps = listing(&**context.from, "snaps")?;
    let mut from = listing(&**context.from, "")?;
    from.retain(|key, _| !key.as_str().starts_with("snaps/"));
    from.append(&mut snaps);
    let to = listing(&**context.to, "")?;
    check_place(context, &vault, &from, &to)?;

    let signers = SignerList::load(&**context.from, None)?;
    let lacking = lacking(&from, &to);
    let by_id = which.iter().any(|w| matches!(w, Which::Id(_)));
    let mut chain = vault.chain(&signers, |sealer| if by_id { 0 } else { lacking.get(sealer).copied().unwrap_or(u64::MAX) })?;
    let decided = decided(&**context.from, &from)?;
    // A pack or segment that no such receipt names is of a seal that has not finished, or the copy has lost it.
    if !by_id && strangers(&from, &to, &chain, &decided) {
        chain = vault.chain(&signers, |_| 0)?;
    }
    let bounds = Bounds::of(which, &from, &chain)?;
    let forked = forked(context, &from, &to)?;
    let gone = gone(context, &vault, &from, &to)?;
    Ok(Sides { from, to, chain, lock_days: vault.config.lock_days, bounds, decided, gone, forked })
}

/// What records that only the copy has say is gone: snapshots, and what was deleted with them.
///
/// A snapshot that comes later may need some of what was deleted, and a relay cannot tell what: while one is lacking, packs and segments
/// travel once more, and the next prune of the copy spares or deletes them.
fn gone(context: &Context, vault: &Vault, from: &Listing, to: &Listing) -> Result<BTreeSet<Key>> {
    let mut gone = BTreeSet::new();
    let is_own = |key: &Key| key.as_str().starts_with("gc/") && key.as_str().ends_with(".txt.sig") && !from.contains_key(key);
    if !to.contains_key(&Key::fixed("VAULT")) || !to.keys().any(is_own) {
        return Ok(gone);
    }
    let copy = Vault { store: context.to.clone(), config: vault.config.clone() };
    let journal = Journal::load(&copy, None)?;
    for forgotten in journal.forgotten.values().filter(|forgotten| forgotten.gone) {
        let place = &forgotten.key;
        for key in [Key::manifest(place), Key::receipt(place), Key::signature(place)] {
            gone.extend([key.second(), key]);
        }
    }
    if signed(from).any(|(_, key)| !to.contains_key(key) && !gone.contains(key)) {
        return Ok(gone);
    }
    for condemnation in journal.condemnations.iter().filter(|condemnation| condemnation.settled && is_own(&signature_of(condemnation))) {
        let lines = match journal.condemned(&copy, condemnation) {
            Ok(lines) => lines,
            // A list that is damaged says nothing: what it names travels once more.
            Err(e) if matches!(e.kind(), ErrorKind::Missing | ErrorKind::Corrupt) => continue,
            Err(e) => return Err(e),
        };
        for key in lines.iter().filter_map(|line| Key::parse(&line.path)) {
            gone.extend([key.sidecar().unwrap_or_else(|| key.second()), key]);
        }
    }
    Ok(gone)
}

fn signature_of(condemnation: &Condemnation) -> Key {
    Key::fixed(format!("{}.sig", condemnation.key()))
}

/// Looks at both sides, with every receipt.
pub fn look_at_all(context: &Context, which: &[Which]) -> Result<Sides> {
    let mut sides = look(context, which)?;
    let vault = Vault::open(context.from.clone())?;
    sides.chain = vault.chain(&SignerList::load(&**context.from, None)?, |_| 0)?;
    Ok(sides)
}

fn listing(store: &dyn Store, folder: &str) -> Result<Listing> {
    let mut listing = Listing::new();
    store.list(folder, &mut |key, len| {
        listing.insert(key, len);
        Ok(())
    })?;
    Ok(listing)
}

/// Fails unless a copy of `vault` may be written to `context.to`: a copy of it, the beginning of one, or an empty place.
fn check_place(context: &Context, vault: &Vault, from: &Listing, to: &Listing) -> Result<()> {
    let place = context.to.describe();
    let at = Key::fixed("VAULT");
    if to.contains_key(&at) {
        let there = Config::decode(&store::get_all(&**context.to, &at, SMALL_LEN_MAX)?)?;
        return match there.id == vault.config.id {
            true => Ok(()),
            false => Err(Error::conflict(format!("{place} holds another vault: {}, not {}", there.id, vault.config.id))
                .hint("give copy an empty place, or an older copy of the same vault")),
        };
    }
    let not_empty = || {
        Error::conflict(format!("{place} is not empty, and no vault"))
            .hint("give copy an empty or a new place, or an older copy of the vault")
    };
    if to.is_empty() {
        if !context.to.is_empty()? {
            // Nothing is whole here, so what was begun is that of a copy which died at its first object.
            context.to.tidy(i128::MAX)?;
        }
        return if context.to.is_empty()? { Ok(()) } else { Err(not_empty()) };
    }
    // `VAULT` is written when keys and signers are there: a copy that was stopped before that goes on.
    let begun = to.len() <= BEGUN_OBJECTS_MAX && to.iter().all(|(key, len)| from.get(key) == Some(len));
    if begun { Ok(()) } else { Err(not_empty()) }
}

/// The lowest number of each sealer from which on a snapshot of `from` is not whole in `to`.
fn lacking(from: &Listing, to: &Listing) -> BTreeMap<String, u64> {
    let mut lowest = BTreeMap::new();
    for (place, _) in signed(from) {
        let whole = [place.manifest(), place.receipt(), place.signature()].iter().all(|path| {
            let key = Key::fixed(path);
            from.get(&key).is_none_or(|len| to.get(&key) == Some(len))
        });
        if !whole {
            let seq = lowest.entry(place.sealer).or_insert(place.seq);
            *seq = place.seq.min(*seq);
        }
    }
    lowest
}

/// The snapshots whose signature is in `listing`, in the order of their keys.
pub fn signed(listing: &Listing) -> impl Iterator<Item = (SnapshotKey, &Key)> {
    listing.keys().filter_map(|key| match SnapshotKey::parse(key.as_str())? {
        (place, "b3.sig") => Some((place, key)),
        _ => None,
    })
}

/// Whether the copy lacks a pack or segment that no receipt in `chain` names.
fn strangers(from: &Listing, to: &Listing, chain: &Chain, decided: &BTreeSet<Key>) -> bool {
    let named: BTreeSet<&str> = chain.committed.iter().flat_map(|c| c.receipt.lines.iter().map(|line| line.path.as_str())).collect();
    let bulk = |key: &Key| key.as_str().starts_with("packs/") || key.as_str().starts_with("index/");
    from.keys().any(|key| bulk(key) && !to.contains_key(key) && !named.contains(key.as_str()) && !decided.contains(key))
}

/// What the lists below `gc/` name.
fn decided(store: &dyn Store, from: &Listing) -> Result<BTreeSet<Key>> {
    let mut decided = BTreeSet::new();
    for key in from.keys().filter(|key| key.as_str().starts_with("gc/") && key.as_str().ends_with(".b3")) {
        let bytes = store::get_all(store, key, LIST_LEN_MAX)?;
        // An empty list names nothing; one that is damaged is verify's to report.
        if let Ok(list) = Receipt::decode(&bytes) {
            decided.extend(list.lines.iter().filter_map(|line| Key::parse(&line.path)));
        }
    }
    Ok(decided)
}

/// Compares, of each sealer, the receipt of the newest snapshot that both sides have: it names all before it.
fn forked(context: &Context, from: &Listing, to: &Listing) -> Result<Vec<SnapshotKey>> {
    let newest: BTreeMap<String, SnapshotKey> =
        signed(from).filter(|(_, key)| to.contains_key(key)).map(|(place, _)| (place.sealer.clone(), place)).collect();
    let mut forked = Vec::new();
    for place in newest.into_values() {
        let key = Key::receipt(&place);
        let read = |store: &dyn Store| match store::get_all(store, &key, LIST_LEN_MAX) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) if matches!(e.kind(), ErrorKind::Missing | ErrorKind::Corrupt) => Ok(None),
            Err(e) => Err(e),
        };
        if let (Some(here), Some(there)) = (read(&**context.from)?, read(&**context.to)?)
            && here != there
        {
            forked.push(place);
        }
    }
    Ok(forked)
}
