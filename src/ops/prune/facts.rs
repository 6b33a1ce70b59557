//! What prune goes by: journal, chain, what is named, what is there, and which chunk is where.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use crate::{
    error::{Error, ErrorKind, Result},
    event::Event,
    format::{Digest, DomainId, Line, PackIndex, PackKind},
    ops::prune::{
        Context,
        mark::Item,
        table::{Rank, Table, TableBuilder},
    },
    pack::{Unwrap, decompress},
    store::{self, Key},
    vault::{Chain, Journal, SignerList, Snapshot, load_snapshot, read_segment},
};

/// A segment, and the packs that it has tables of.
type Held = (Key, Vec<Digest>);

/// The state of a vault, as far as it decides what may go.
pub struct Facts {
    /// The journal.
    pub journal: Journal,
    /// All receipts.
    pub chain: Chain,
    /// Snapshots that are wanted.
    pub live: Vec<Snapshot>,
    /// Domains by the names of their folders.
    pub domains: HashMap<String, DomainId>,
    /// Packs and segments that are there, with their lengths.
    pub there: BTreeMap<Key, u64>,
    /// Paths of what is condemned and not settled, each with the hash that its list gives it.
    pub condemned: BTreeMap<String, Digest>,
    /// What was spared once and is gone all the same: two owners were at work, and one was told too late.
    pub vanished: Vec<Line>,
    /// Packs and segments that nothing names.
    pub loose: BTreeSet<String>,
    /// Segments, each with the packs that it has tables of.
    pub segments: Vec<Held>,
    /// Every chunk.
    pub table: Table,
    /// Packs that hold what is in others as well, each with one of those.
    pub keepers: BTreeSet<(usize, usize)>,
}

/// Reads receipts, manifests and index segments; no pack, unless a segment is lost. What is `spared` counts as if a record said so.
///
/// # Errors
/// `Corrupt` or `Missing` if a record of the owner's, a receipt or a manifest cannot be read: nothing is deleted on ground that is not firm.
pub fn gather(context: &Context, spared: &BTreeSet<String>) -> Result<Facts> {
    let vault = context.vault;
    let owner = &context.reader.owner;
    let key = owner.sign.public();
    let mut journal = Journal::load(vault, Some(&key))?;
    let seq = journal.last_seq();
    journal.spared.extend(spared.iter().map(|path| (path.clone(), seq)));
    let signers = SignerList::load(&*vault.store, Some(&key))?;
    let chain = vault.chain(&signers, |_| 0)?;
    // What strangers put beside it is verify's to tell, or they could stop every prune.
    if let Some(finding) = journal.findings.iter().chain(&chain.findings).find(|finding| finding.kind.is_damage()) {
        return Err(Error::corrupt(format!("{}: {}", finding.object, finding.text))
            .hint("nothing is deleted while this cannot be read: coffre verify, and bring the object back from a copy of the vault"));
    }
    let live: Vec<Snapshot> = chain
        .committed
        .iter()
        .filter(|c| !journal.is_forgotten(&c.id))
        .map(|c| {
            load_snapshot(vault, owner, c).map_err(|e| {
                e.hint("nothing is deleted while a wanted snapshot cannot be read: forget it, or bring its manifest back from a copy")
            })
        })
        .collect::<Result<_>>()?;
    let mut domains: HashMap<String, DomainId> = live.iter().map(|s| (s.manifest.domain.short(), s.manifest.domain)).collect();
    domains.extend(vault.sealer_domains(owner)?.into_iter().map(|domain| (domain.short(), domain)));

    let mut there: BTreeMap<Key, u64> = BTreeMap::new();
    for folder in ["packs", "index"] {
        there.extend(store::list_all(&*vault.store, folder)?);
    }
    let mut named: HashSet<String> = chain
        .committed
        .iter()
        .chain(&chain.revoked)
        .flat_map(|c| &c.receipt.lines)
        .map(|line| line.path.clone())
        .filter(|path| is_data(path))
        .collect();
    let is_there = |path: &str| Key::parse(path).is_some_and(|key| there.contains_key(&key));
    let (mut condemned, mut vanished) = (BTreeMap::new(), BTreeMap::new());
    for condemnation in &journal.condemnations {
        let (lines, spared) = journal.judged(vault, condemnation)?;
        named.extend(journal.fresh(vault, condemnation)?.into_iter().map(|line| line.path));
        vanished
            .extend(spared.into_iter().filter(|line| is_data(&line.path) && !is_there(&line.path)).map(|line| (line.path, line.digest)));
        // Who condemned it again has taken note.
        for line in &lines {
            vanished.remove(&line.path);
        }
        // What is settled is gone; should it be there again, from a copy, it goes once more.
        condemned
            .extend(lines.into_iter().filter(|line| !condemnation.settled || is_there(&line.path)).map(|line| (line.path, line.digest)));
    }
    let mut going = HashSet::new();
    for deletion in &journal.deletions {
        going.extend(journal.going(vault, deletion)?.into_iter().map(|line| line.path).filter(|path| condemned.contains_key(path)));
    }
    let vanished = vanished.into_iter().map(|(path, digest)| Line { digest, path }).collect();
    let loose: BTreeSet<String> =
        there.keys().map(|key| key.as_str().to_owned()).filter(|path| !named.contains(path) && !condemned.contains_key(path)).collect();
    let rank = |path: &str| match () {
        () if going.contains(path) => Rank::Going,
        () if condemned.contains_key(path) || loose.contains(path) => Rank::Weak,
        () => Rank::Firm,
    };
    let (table, segments) = table(context, &there, rank, &domains)?;
    Ok(Facts { journal, chain, live, domains, there, condemned, vanished, loose, segments, table, keepers: BTreeSet::new() })
}

fn is_data(path: &str) -> bool {
    path.starts_with("packs/") || path.starts_with("index/")
}

/// Fills the table from the segments, and from the packs themselves where those are lost.
fn table(
    context: &Context,
    there: &BTreeMap<Key, u64>,
    rank: impl Fn(&str) -> Rank,
    domains: &HashMap<String, DomainId>,
) -> Result<(Table, Vec<Held>)> {
    let vault = context.vault;
    let identities: Vec<Unwrap> = context.reader.owner.meta_identities().iter().map(|i| i as Unwrap).collect();
    let (mut builder, mut segments, mut seen) = (TableBuilder::default(), Vec::new(), HashSet::new());
    for key in there.keys().filter(|key| key.as_str().starts_with("index/")) {
        context.cancel.check()?;
        let folder = key.as_str().split('/').nth(1).unwrap_or_default().to_owned();
        match read_segment(&*vault.store, key, &identities) {
            Ok(segment) => {
                segments.push((key.clone(), segment.packs.iter().map(|pack| pack.digest).collect()));
                for pack in segment.packs {
                    let place = Key::pack(&pack.digest);
                    if let Some(len) = there.get(&place).filter(|_| seen.insert(pack.digest)) {
                        builder.push(pack.digest, *len, &folder, rank(place.as_str()), pack.index);
                    }
                }
            }
            Err(e) if passes(&e) => return Err(e),
            Err(_) if rank(key.as_str()) != Rank::Firm => (),
            Err(e) => context.sink.send(Event::Warning(format!("{}; the packs themselves are asked", e.chain()))),
        }
    }
    for (key, len) in there.iter().filter(|(key, _)| key.as_str().starts_with("packs/")) {
        let Some(digest) = key.digest().filter(|digest| !seen.contains(digest)) else { continue };
        context.cancel.check()?;
        let rank = rank(key.as_str());
        let asked = context.reader.pack_index(&digest).and_then(|(kind, index)| {
            let domain = if rank == Rank::Firm { domain_of(context, &digest, kind, &index, domains)? } else { String::new() };
            Ok((index, domain))
        });
        match asked {
            Ok((index, domain)) => builder.push(digest, *len, &domain, rank, index),
            Err(e) if passes(&e) => return Err(e),
            Err(_) if rank != Rank::Firm => (),
            Err(e) => context.sink.send(Event::Warning(format!("{key} stays, as nobody knows what is in it: {}", e.chain()))),
        }
    }
    Ok((builder.finish(), segments))
}

/// The folder of the domain that names what is in a pack: the one whose key gives its first chunk its id. Empty if that of none does. A frame is
/// read for it.
fn domain_of(context: &Context, pack: &Digest, kind: PackKind, index: &PackIndex, domains: &HashMap<String, DomainId>) -> Result<String> {
    let (Some(frame), Some((id, len))) = (index.frames.first(), index.chunks.first()) else { return Ok(String::new()) };
    let mut raw = Vec::new();
    decompress(&context.reader.compressed_frame(pack, frame)?, frame.raw_len as usize, &mut raw, Key::pack(pack).as_str())?;
    let chunk = raw.get(..*len as usize).unwrap_or_default();
    let is_its = |domain: &DomainId| {
        let keys = context.reader.owner.domain(*domain);
        if kind == PackKind::Data { keys.data.chunk_id(chunk) == *id } else { keys.tree.chunk_id(chunk) == *id }
    };
    Ok(domains.iter().find(|(_, domain)| is_its(domain)).map(|(folder, _)| folder.clone()).unwrap_or_default())
}

/// Whether the failure says nothing of the object: trying again may help.
fn passes(e: &Error) -> bool {
    matches!(e.kind(), ErrorKind::Unavailable | ErrorKind::Cancelled)
}

impl Facts {
    /// The roots of all wanted snapshots.
    pub fn roots(&self) -> Vec<Item> {
        self.live.iter().map(root).collect()
    }
}

impl Facts {
    /// The length of an object, if it is there.
    pub fn len(&self, context: &Context, path: &str) -> Result<Option<u64>> {
        match Key::parse(path) {
            None => Ok(None),
            Some(key) if is_data(path) => Ok(self.there.get(&key).copied()),
            Some(key) => context.vault.store.stat(&key),
        }
    }
}

/// Where marking of a snapshot begins.
pub fn root(snapshot: &Snapshot) -> Item {
    Item { domain: snapshot.manifest.domain, id: snapshot.manifest.root, is_list: false }
}
