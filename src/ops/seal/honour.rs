//! What the owner condemned, as a sealer honours it: nothing new builds on it (docs/FORMAT.md section 7.1).

use std::collections::{BTreeMap, BTreeSet, HashSet};

use crate::{
    catalog::{Catalog, PackStart, ShortId, short_id},
    error::Result,
    event::Event,
    format::{Digest, SegmentPack},
    ops::seal::{Context, memory::Known, start_of},
    pack::Unwrap,
    store::Key,
    vault::{Honoured, Journal, read_segment, signed_records},
};

/// The condemnations that a seal knows of.
pub struct Gone {
    journal: Journal,
    /// Paths of what is condemned, as far as it matters here: by condemnations that are not settled, or new to this host's catalog.
    paths: HashSet<String>,
    /// The packs among it.
    packs: BTreeSet<PackStart>,
    /// Segments that were written in its place.
    fresh: Vec<Key>,
}

impl Gone {
    /// Reads `gc/`. `honoured` names the condemnations that the catalog took in before.
    pub fn load(context: &Context, owner: Option<&str>, honoured: &BTreeSet<String>) -> Result<Self> {
        let vault = context.vault;
        let journal = Journal::load(vault, owner)?;
        for finding in &journal.findings {
            context.sink.send(Event::Warning(format!("{}: {}", finding.object, finding.text)));
        }
        let (mut paths, mut fresh) = (HashSet::new(), Vec::new());
        for condemnation in &journal.condemnations {
            let is_new = !honoured.contains(&condemnation.record);
            if is_new || !condemnation.settled {
                paths.extend(journal.condemned(vault, condemnation)?.into_iter().map(|line| line.path));
            }
            if is_new {
                fresh.extend(journal.fresh(vault, condemnation)?.into_iter().filter_map(|line| Key::parse(&line.path)));
            }
        }
        // What was fresh once may be condemned by now.
        fresh.retain(|key| key.as_str().starts_with("index/") && !paths.contains(key.as_str()));
        let packs = paths.iter().filter(|path| path.starts_with("packs/")).filter_map(|path| Key::parse(path)?.digest());
        let packs = packs.map(|digest| start_of(&digest)).collect();
        Ok(Self { journal, paths, packs, fresh })
    }

    /// Whether the object at `path` is condemned.
    pub fn has(&self, path: &str) -> bool {
        self.paths.contains(path)
    }

    /// The packs that are condemned.
    pub fn packs(&self) -> &BTreeSet<PackStart> {
        &self.packs
    }

    /// Segments of packs that took the place of condemned ones.
    pub fn fresh(&self) -> impl Iterator<Item = &Key> {
        self.fresh.iter()
    }

    /// The names of all condemnations that were read.
    pub fn records(&self) -> BTreeSet<String> {
        self.journal.condemnations.iter().map(|c| c.record.clone()).collect()
    }

    /// The highest number of a record.
    pub fn seq(&self) -> u64 {
        self.journal.last_seq()
    }

    /// Looks once more, just before the receipt. Returns the lines by which the receipt says what the seal honours, or `None` if it built on
    /// something that was condemned since it began and is nowhere else. A listing, if nothing came.
    pub fn honour(&self, context: &Context, catalog: &Catalog, known: &Known, packs: &[SegmentPack]) -> Result<Option<Honoured>> {
        // The newest record beside them: whoever takes it away later is noticed.
        let condemned = |journal: &Journal| journal.condemnations.iter().filter(|c| !c.settled).map(|c| (c.key(), c.digest)).collect();
        let lines = |journal: &Journal| {
            let mut lines: BTreeMap<Key, Digest> = condemned(journal);
            lines.extend(journal.newest().map(|(digest, key)| (key, digest)));
            Some(lines.into_iter().map(|(key, digest)| (digest, key)).collect())
        };
        let seen = |name: &String| self.journal.records.contains(name);
        if signed_records(context.vault)?.iter().all(seen) {
            return Ok(lines(&self.journal));
        }
        let now = Gone::load(context, context.state.pinned_owner()?.as_deref(), &self.records())?;
        let own_packs_stay = packs.iter().all(|pack| !now.has(Key::pack(&pack.digest).as_str()));
        let new = now.packs.difference(&self.packs).copied().collect();
        let safe = own_packs_stay && !known.builds_on(&now.lost(context, catalog, &new)?);
        Ok(if safe { lines(&now.journal) } else { None })
    }

    /// The chunks that the packs `new` hold, and nothing that stays.
    fn lost(&self, context: &Context, catalog: &Catalog, new: &BTreeSet<PackStart>) -> Result<HashSet<ShortId>> {
        let mut lost: HashSet<ShortId> = HashSet::new();
        catalog.known(|pack, ids| {
            if new.contains(&pack) {
                lost.extend(ids);
            }
        })?;
        catalog.known(|pack, ids| {
            if !self.packs.contains(&pack) {
                ids.for_each(|id| {
                    lost.remove(&id);
                });
            }
        })?;
        let folder = format!("index/{}/", context.sealer.domain.short());
        let identity = context.sealer.index_identity();
        for key in self.fresh.iter().filter(|key| key.as_str().starts_with(&folder)) {
            let segment = read_segment(&*context.vault.store, key, &[&identity as Unwrap])?;
            let stays = segment.packs.iter().filter(|pack| !self.has(Key::pack(&pack.digest).as_str()));
            for (id, _) in stays.flat_map(|pack| &pack.index.chunks) {
                lost.remove(&short_id(id));
            }
        }
        Ok(lost)
    }
}
