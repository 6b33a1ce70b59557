//! Brings the catalog up to the vault: absorbs what receipts name, takes over what a dead seal left, rebuilds what is broken.

use std::collections::{BTreeSet, HashSet};

use crate::{
    catalog::{Catalog, Fresh, PackStart, ShortId, short_id},
    error::{Error, Result},
    event::Event,
    format::{Digest, SnapshotId},
    ops::{
        chain::doubts,
        seal::{Context, honour::Gone, start_of},
    },
    pack::Unwrap,
    store::Key,
    vault::{NewSnapshot, SignerList, Writer, may_seal, read_segment},
};

/// A catalog that knows all that the vault knows of this host's domain.
pub struct Refreshed {
    /// The catalog.
    pub catalog: Catalog,
    /// Packs that were taken in.
    pub packs: usize,
    /// Whether it is the catalog of the seal before, and not a new one.
    pub remembers: bool,
    /// What the owner condemned, as it was read before anything else.
    pub gone: Gone,
    /// The number of the list of signers that counts.
    signers: u32,
    heads: std::collections::BTreeMap<String, (u64, SnapshotId)>,
}

/// Opens the catalog and brings it up to date, saying so in one line if there was more to do than usual.
pub fn refresh(context: &Context) -> Result<Refreshed> {
    let (catalog, fresh) = Catalog::open(&context.state.catalog(), context.vault.config.id, context.sealer.domain)?;
    let why = match &fresh {
        None => None,
        Some(Fresh::Missing) => Some("there was none".to_owned()),
        Some(Fresh::Unusable(why)) => Some(why.clone()),
    };
    let had = catalog.state().heads.clone();
    // A seal that did not end has written over listings of the one before it.
    let ended = !catalog.state().dirty;
    match absorb(context, catalog) {
        Ok(mut refreshed) => {
            refreshed.remembers = fresh.is_none() && ended;
            if let Some(why) = why.filter(|_| refreshed.packs > 0) {
                context.sink.send(Event::Note(format!("catalog rebuilt from {} packs of the vault: {why}", refreshed.packs)));
            } else if refreshed.packs > 0 {
                context.sink.send(Event::Note(format!("catalog was behind the vault: took in {} packs", refreshed.packs)));
            }
            Ok(refreshed)
        }
        // What it says does not fit this vault, or it broke while it was read: make a new one.
        Err(e)
            if fresh.is_none()
                && matches!(e.kind(), crate::error::ErrorKind::Corrupt | crate::error::ErrorKind::Conflict)
                && !had.is_empty() =>
        {
            let refreshed = rebuild(context)?;
            context.sink.send(Event::Note(format!("catalog rebuilt from {} packs of the vault: {}", refreshed.packs, e.chain())));
            Ok(refreshed)
        }
        Err(e) => Err(e),
    }
}

/// Makes a new catalog from the vault; the old one goes once this one is complete.
pub fn rebuild(context: &Context) -> Result<Refreshed> {
    let catalog = Catalog::create(&context.state.catalog(), context.vault.config.id, context.sealer.domain)?;
    let mut refreshed = absorb(context, catalog)?;
    let (heads, honoured) = (refreshed.heads.clone(), refreshed.gone.records());
    refreshed.catalog.commit(|state| (state.heads, state.honoured) = (heads, honoured))?;
    Ok(refreshed)
}

/// Strikes packs from the catalog that are damaged beyond repair: what was in them is read and stored again when it is met.
///
/// Waits for another seal of this host. Costs the next seal what an empty catalog costs, reading everything, as no directory counts any more.
pub fn distrust<'a>(context: &Context, packs: impl Iterator<Item = &'a Digest>) -> Result<()> {
    context.state.create()?;
    let wait = |holder: &str| context.sink.send(Event::Note(format!("waiting for another seal of this host (process {holder})")));
    let _lock = context.state.lock(wait)?;
    let mut refreshed = refresh(context)?;
    refreshed.catalog.forget_packs(&packs.map(start_of).collect())?;
    let (heads, honoured) = (refreshed.heads.clone(), refreshed.gone.records());
    refreshed.catalog.commit(|state| (state.heads, state.honoured) = (heads, honoured))
}

/// Takes in every segment of this domain that signed receipts name and the catalog does not know.
fn absorb(context: &Context, catalog: Catalog) -> Result<Refreshed> {
    let Context { vault, sealer, .. } = context;
    let signers = SignerList::load(&*vault.store, context.state.pinned_owner()?.as_deref())?;
    may_seal(&signers, &sealer.name, &sealer.sign.public())?;
    // Before the chain: a segment that is named by a receipt and condemned meanwhile is then there, or known to be replaced.
    let gone = Gone::load(context, signers.signers.owner(), &catalog.state().honoured)?;
    let known = catalog.state().heads.clone();
    let chain = vault.chain(&signers, |sealer| known.get(sealer).map_or(0, |(seq, _)| *seq))?;
    for (name, (seq, id)) in &known {
        let there = chain.committed.iter().find(|c| c.key.sealer == *name && c.key.seq == *seq);
        if there.is_none_or(|c| c.id != *id) {
            return Err(Error::conflict(format!("it remembers snapshot {} of {name}, which this vault does not have", id.short())));
        }
    }
    for finding in chain.findings.iter().cloned().chain(doubts(&signers, context.state)?) {
        context.sink.send(Event::Warning(format!("{}: {}", finding.object, finding.text)));
    }
    let identity = sealer.index_identity();
    let folder = format!("index/{}/", sealer.domain.short());
    let mut packs = 0;
    for committed in chain.committed.iter().filter(|c| known.get(&c.key.sealer).is_none_or(|(seq, _)| c.key.seq > *seq)) {
        let segments = committed.receipt.lines.iter().filter(|l| l.path.starts_with(&folder) && !gone.has(&l.path));
        for key in segments.filter_map(|line| Key::parse(&line.path)) {
            match read_segment(&*vault.store, &key, &[&identity as Unwrap]) {
                Ok(segment) => {
                    for pack in segment.packs.iter().filter(|pack| !gone.has(Key::pack(&pack.digest).as_str())) {
                        catalog.add_pack(&pack.digest, pack.index.chunks.iter().map(|(id, _)| *id))?;
                        packs += 1;
                    }
                }
                // Its chunks are stored once more if they are met again.
                Err(e) => context.sink.send(Event::Warning(format!("deduplication does not see all of the vault: {}", e.chain()))),
            }
        }
    }
    // What an owner's prune moved: taken in at its new place, then forgotten at its old one.
    for key in gone.fresh().filter(|key| key.as_str().starts_with(&folder)) {
        match read_segment(&*vault.store, key, &[&identity as Unwrap]) {
            Ok(segment) => {
                for pack in segment.packs.iter().filter(|pack| !gone.has(Key::pack(&pack.digest).as_str())) {
                    catalog.add_pack(&pack.digest, pack.index.chunks.iter().map(|(id, _)| *id))?;
                }
            }
            Err(e) => context.sink.send(Event::Warning(format!("deduplication does not see all of the vault: {}", e.chain()))),
        }
    }
    catalog.drop_packs(gone.packs())?;
    let heads = chain.committed.iter().map(|c| (c.key.sealer.clone(), (c.key.seq, c.id))).collect();
    Ok(Refreshed { catalog, packs, remembers: false, gone, signers: signers.number, heads })
}

/// The chunks that can be relied on: those of packs that are still in the vault. Costs a listing of the packs.
pub fn known(context: &Context, catalog: &mut Catalog) -> Result<Vec<ShortId>> {
    let mut there: HashSet<PackStart> = HashSet::new();
    context.vault.store.list("packs", &mut |key, _| {
        there.extend(key.digest().as_ref().map(start_of));
        Ok(())
    })?;
    let (mut known, mut gone) = (Vec::new(), BTreeSet::new());
    catalog.known(|pack, ids| match there.contains(&pack) {
        true => known.extend(ids),
        false => drop(gone.insert(pack)),
    })?;
    if !gone.is_empty() {
        let packs = if gone.len() == 1 { "a pack is".to_owned() } else { format!("{} packs are", gone.len()) };
        let text = format!(
            "{packs} gone from the vault: what was in there is read and stored again; coffre verify shows what older snapshots lost"
        );
        context.sink.send(Event::Warning(text));
        catalog.forget_packs(&gone)?;
    }
    Ok(known)
}

/// Takes over packs that a seal of this host stored and did not commit, so that they are used and named.
pub fn adopt(writer: &Writer, refreshed: &Refreshed, known: &mut Vec<ShortId>) -> Result<()> {
    let pending = refreshed.catalog.pending()?;
    for pending in pending.into_iter().filter(|pending| !refreshed.gone.has(Key::pack(&pending.digest).as_str())) {
        let Ok(index) = crate::format::PackIndex::from_body(&pending.table) else { continue };
        let ids: Vec<ShortId> = index.chunks.iter().map(|(id, _)| short_id(id)).collect();
        if writer.adopt_pack(pending.digest, pending.stored_len, index)? {
            known.extend(ids);
        }
    }
    Ok(())
}

impl Refreshed {
    /// The newest snapshot of `sealer`.
    pub fn head(&self, sealer: &str) -> Option<(u64, SnapshotId)> {
        self.heads.get(sealer).copied()
    }

    /// The newest snapshot of each sealer.
    pub fn heads(&self) -> &std::collections::BTreeMap<String, (u64, SnapshotId)> {
        &self.heads
    }

    /// The number of the list of signers that counts.
    pub fn signers(&self) -> u32 {
        self.signers
    }

    /// Takes in the snapshot that was just committed, and makes the catalog durable.
    pub fn note(&mut self, new: &NewSnapshot, seal: u64) -> Result<()> {
        for pack in &new.packs {
            self.catalog.add_pack(&pack.digest, pack.index.chunks.iter().map(|(id, _)| *id))?;
        }
        self.catalog.clear_pending()?;
        self.heads.insert(new.key.sealer.clone(), (new.key.seq, new.id));
        let (heads, honoured) = (self.heads.clone(), self.gone.records());
        self.catalog.commit(|state| {
            (state.heads, state.honoured) = (heads, honoured);
            state.note_committed(seal);
        })
    }
}
