//! Chunks and trees: everything decoded, and damage followed to the files that it reaches. Needs an owner's key.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, Mutex},
};

use crate::{
    error::{Error, ErrorKind, Result},
    format::{ChunkId, Content, DIR_DEPTH_MAX, Digest, DomainId, DomainKeys, Entry, Key32, PackKind, SnapshotId},
    ops::prune::{Item, Need, Trees},
    ops::verify::{Context, DAMAGED_FILES_MAX, DamagedFile, Depth, Report, in_parallel, pruned::Pruned},
    store::Key,
    vault::{Chain, Finding, Located, Reader, Snapshot, judge_snapshot},
};

/// Decodes what `depth` asks for, and follows damage into files.
///
/// Without damage so far, only `Depth::Chunks` decodes packs. With damage, the packs that are hurt are decoded at every depth, so
/// that files can be named.
pub fn run(
    context: &Context,
    reader: &Reader,
    chain: &Chain,
    listed: &BTreeMap<Key, Digest>,
    pruned: &Pruned,
    (depth, only, snapshot): (Depth, Option<&HashSet<Digest>>, Option<SnapshotId>),
    report: &mut Report,
) -> Result<()> {
    let mut snapshots = Vec::new();
    // What is forgotten and not condemned may still come back whole.
    for committed in chain.committed.iter().filter(|committed| !pruned.is_condemned(&committed.key.manifest())) {
        match judge_snapshot(context.vault, &reader.owner, committed)? {
            Ok(snapshot) => snapshots.push(snapshot),
            Err(finding) => report.damage.push(finding),
        }
    }
    if let Some(id) = snapshot {
        snapshots.retain(|snapshot| snapshot.id == id);
    }
    let hurt: HashSet<String> = report.damage.iter().map(|f| f.object.clone()).collect();
    let packs: Vec<Digest> = listed
        .keys()
        .filter(|key| key.as_str().starts_with("packs/"))
        .filter(|key| {
            let chosen = depth == Depth::Chunks && only.is_none_or(|only| key.digest().is_some_and(|pack| only.contains(&pack)));
            chosen || hurt.contains(key.as_str())
        })
        .filter_map(Key::digest)
        .collect();
    // Manifests name the domains; should some be damaged, the sealers' own key files do.
    let mut domains: HashSet<DomainId> = snapshots.iter().map(|s| s.manifest.domain).collect();
    domains.extend(context.vault.sealer_domains(&reader.owner)?);
    let keys: Vec<Arc<DomainKeys>> = domains.into_iter().map(|domain| reader.owner.domain(domain)).collect();
    let bad = decode_packs(context, reader, &packs, &hurt, &keys, report)?;
    if depth == Depth::Chunks || !bad.is_empty() {
        let checked = listed.keys().filter(|key| key.as_str().starts_with("packs/")).filter_map(Key::digest).collect();
        walk_all(context, reader, &snapshots, &bad, &checked, report)?;
    }
    Ok(())
}

/// The packs that hold something of a snapshot. What cannot be read is passed over: that is found when its pack is looked at.
///
/// Reads each node once; 32 bytes a node.
pub fn packs_of(context: &Context, reader: &Reader, snapshot: &Snapshot) -> Result<HashSet<Digest>> {
    let mut packs = HashSet::new();
    let mut take = |id: &ChunkId| reader.with_index(|index| packs.extend(index.locate(id).iter().map(|at| at.pack)));
    let (mut seen, mut waiting) =
        (HashSet::new(), vec![Item { domain: snapshot.manifest.domain, id: snapshot.manifest.root, is_list: false }]);
    while let Some(item) = waiting.pop() {
        context.cancel.check()?;
        if !seen.insert(item.id) {
            continue;
        }
        take(&item.id);
        let read = reader.needs(&item, &mut |need| match need {
            Need::Node(id) => waiting.push(Item { id, is_list: false, ..item }),
            Need::List(id) => waiting.push(Item { id, is_list: true, ..item }),
            Need::Content(id) => take(&id),
        });
        if let Err(e) = read
            && e.kind() == ErrorKind::Cancelled
        {
            return Err(e);
        }
    }
    Ok(packs)
}

/// Stored bytes, packs and chunks looked at; what is wrong; chunks that are bad.
type Tally = (u64, u64, u64, Vec<Finding>, HashSet<ChunkId>);

/// Decodes every frame of `packs`; returns the chunks that no pack holds whole.
fn decode_packs(
    context: &Context,
    reader: &Reader,
    packs: &[Digest],
    hurt: &HashSet<String>,
    domains: &[Arc<DomainKeys>],
    report: &mut Report,
) -> Result<HashSet<ChunkId>> {
    let total: u64 = reader.with_index(|index| index.packs().filter(|(d, _)| packs.contains(d)).map(|(_, len)| len).sum());
    let began = context.clock.monotonic();
    let state: Mutex<Tally> = Mutex::default();
    in_parallel(context, packs, |pack| {
        let (chunks, findings, mut bad) = decode_pack(context, reader, pack, domains)?;
        if hurt.contains(Key::pack(pack).as_str()) {
            // What stands there now may be sound, and another pack: what should be in it is missing all the same.
            bad.extend(reader.ids_of(pack)?);
        }
        let len = reader.with_index(|index| index.packs().find(|(d, _)| d == pack).map_or(0, |(_, len)| len));
        let mut state = state.lock().expect("nobody panics while holding the findings");
        state.0 += len;
        state.1 += 1;
        state.2 += chunks;
        state.3.extend(findings);
        state.4.extend(bad);
        context.told(began, state.1, state.0, total);
        Ok(())
    })?;
    let (_, _, chunks, findings, bad) = state.into_inner().expect("nobody panicked while holding the findings");
    report.chunks += chunks;
    report.damage.extend(findings);
    // A chunk that is bad in one pack may be good in another.
    let lost =
        |id: &ChunkId| !domains.iter().any(|keys| [&keys.data, &keys.tree].iter().any(|key| reader.with_chunk(id, key, |_| ()).is_ok()));
    Ok(bad.into_iter().filter(lost).collect())
}

type Decoded = (u64, Vec<Finding>, Vec<ChunkId>);

fn decode_pack(context: &Context, reader: &Reader, pack: &Digest, domains: &[Arc<DomainKeys>]) -> Result<Decoded> {
    let name = Key::pack(pack).as_str().to_owned();
    let index = match reader.pack_index(pack) {
        Ok(index) => index,
        Err(e) if e.kind() == ErrorKind::Cancelled => return Err(e),
        // Its own table is gone; what the segments say of it is tried frame by frame.
        Err(e) => {
            let ids = reader.ids_of(pack)?;
            return Ok((0, vec![Finding::new(name, e.chain())], ids));
        }
    };
    let (kind, index) = index;
    let (mut chunks, mut findings, mut bad) = (0, Vec::new(), Vec::new());
    let mut rest = index.chunks.as_slice();
    for (number, frame) in index.frames.iter().enumerate() {
        context.cancel.check()?;
        let (mine, others) = rest.split_at(frame.chunks as usize);
        rest = others;
        let at = Located { pack: *pack, pack_number: u32::MAX, frame: *frame, frame_number: number as u32, chunk: 0 };
        match reader.frame_of(&at, mine.iter().map(|(_, len)| *len)) {
            Ok(decoded) => {
                let key = |keys: &Arc<DomainKeys>| -> Key32 { if kind == PackKind::Data { keys.data.clone() } else { keys.tree.clone() } };
                for (n, (id, _)) in mine.iter().enumerate() {
                    chunks += 1;
                    // The first key that fits is remembered by the frame, so each domain's turn is a fresh look.
                    if !domains.iter().any(|keys| decoded.is_chunk(n, id, &key(keys))) {
                        findings.push(Finding::new(&name, format!("chunk {} is not what its name says", id.short())));
                        bad.push(*id);
                    }
                }
            }
            Err(e) => {
                findings.push(Finding::new(&name, format!("frame {number}: {}", e.chain())));
                bad.extend(mine.iter().map(|(id, _)| *id));
            }
        }
    }
    Ok((chunks, findings, bad))
}

/// Walks every tree once, and names the files that need a chunk which is lost.
fn walk_all(
    context: &Context,
    reader: &Reader,
    snapshots: &[Snapshot],
    bad: &HashSet<ChunkId>,
    checked: &HashSet<Digest>,
    report: &mut Report,
) -> Result<()> {
    let mut walk = Walk { context, reader, bad, checked, clean: HashSet::new(), report };
    // Newest first: the snapshot that people ask about.
    for snapshot in snapshots.iter().rev() {
        let keys = reader.keys(snapshot);
        walk.dir(snapshot, &keys, &snapshot.manifest.root, &mut Vec::new(), 0)?;
    }
    Ok(())
}

struct Walk<'a> {
    context: &'a Context<'a>,
    reader: &'a Reader,
    bad: &'a HashSet<ChunkId>,
    /// Packs that receipts name, so that damage in them is known by now.
    checked: &'a HashSet<Digest>,
    /// Nodes below which everything is well.
    clean: HashSet<ChunkId>,
    report: &'a mut Report,
}

impl Walk<'_> {
    /// Returns whether everything below is well. Recursion is bounded by `DIR_DEPTH_MAX`.
    fn dir(&mut self, snapshot: &Snapshot, keys: &DomainKeys, node: &ChunkId, path: &mut Vec<u8>, depth: usize) -> Result<bool> {
        if self.clean.contains(node) {
            return Ok(true);
        }
        self.context.cancel.check()?;
        if depth > DIR_DEPTH_MAX {
            self.damaged(snapshot, path, "is nested too deep".to_owned());
            return Ok(false);
        }
        let entries = match self.reader.dir(keys, node) {
            Ok(entries) => entries,
            Err(e) if e.kind() == ErrorKind::Cancelled => return Err(e),
            Err(e) => {
                path.push(b'/');
                self.damaged(snapshot, path, format!("the directory and all below it cannot be read: {}", e.chain()));
                path.pop();
                return Ok(false);
            }
        };
        let mut well = true;
        for entry in &entries {
            let len = path.len();
            path.push(b'/');
            path.extend_from_slice(&entry.name);
            well &= self.entry(snapshot, keys, entry, path, depth)?;
            path.truncate(len);
        }
        if well {
            self.clean.insert(*node);
        }
        Ok(well)
    }

    fn entry(&mut self, snapshot: &Snapshot, keys: &DomainKeys, entry: &Entry, path: &mut Vec<u8>, depth: usize) -> Result<bool> {
        match &entry.content {
            Content::Dir { node, .. } => self.dir(snapshot, keys, node, path, depth + 1),
            Content::File { data, .. } => {
                let (reader, bad, checked) = (self.reader, self.bad, self.checked);
                let checked = reader.each_chunk(keys, data, |chunk| match () {
                    () if bad.contains(&chunk.id) => Err(Error::corrupt(format!("needs chunk {}, which is damaged", chunk.id.short()))),
                    // In no pack, or only in those of a receipt that is damaged itself: nobody has looked at it yet.
                    () if !reader.with_index(|index| index.locate(&chunk.id).iter().any(|at| checked.contains(&at.pack))) => reader
                        .with_chunk(&chunk.id, &keys.data, |_| ())
                        .map_err(|e| Error::corrupt(format!("needs chunk {}: {}", chunk.id.short(), e.chain()))),
                    () => Ok(()),
                });
                match checked {
                    Ok(()) => Ok(true),
                    Err(e) => {
                        self.damaged(snapshot, path, e.chain());
                        Ok(false)
                    }
                }
            }
            _ => Ok(true),
        }
    }

    fn damaged(&mut self, snapshot: &Snapshot, path: &[u8], text: String) {
        if self.report.damaged_files.len() >= DAMAGED_FILES_MAX {
            self.report.damaged_files_more += 1;
            return;
        }
        self.report.damaged_files.push(DamagedFile {
            snapshot: snapshot.id.to_string(),
            path: String::from_utf8_lossy(path).into_owned(),
            text,
        });
    }
}
