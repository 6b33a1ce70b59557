//! Condemning: what goes and what takes its place is written down and signed; index segments follow. Nothing is deleted here.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use crate::{
    error::Result,
    format::{Decision, Digest, Line, Segment, SegmentPack, digest},
    ops::prune::{
        Context,
        facts::Facts,
        mark::Tally,
        plan::{Fate, Plan},
    },
    pack::{self, Unwrap, identity_from_bytes},
    store::Key,
    vault::read_segment,
};

/// Raw bytes at which a new segment is closed: a sealer reads whole ones.
const SEGMENT_LEN: usize = 64 << 20;

/// What was condemned.
#[derive(Default)]
pub struct Verdict {
    /// Everything that goes.
    pub goes: Vec<Line>,
    /// Everything that takes its place.
    pub fresh: Vec<Line>,
}

/// The objects that go by this plan: packs, the segments that name them, and the manifests of forgotten snapshots. What was spared and is gone
/// all the same is condemned once more, if nothing is missed: there is no damage then.
pub fn goes(facts: &Facts, plan: &Plan, loose: &BTreeSet<String>, tally: &Tally) -> Vec<Line> {
    let table = &facts.table;
    let packs: HashSet<Digest> =
        table.packs.iter().zip(&plan.fates).filter(|(_, fate)| **fate != Fate::Keep).map(|(pack, _)| pack.digest).collect();
    let is_new = |path: &str| !facts.condemned.contains_key(path);
    let mut goes: Vec<Line> = Vec::new();
    goes.extend(packs.iter().map(|pack| Line { digest: *pack, path: Key::pack(pack).as_str().to_owned() }));
    for (key, held) in &facts.segments {
        let touched = held.iter().any(|pack| packs.contains(pack));
        if let Some(digest) = key.digest().filter(|_| touched && is_new(key.as_str())) {
            goes.push(Line { digest, path: key.as_str().to_owned() });
        }
    }
    let manifests = facts.chain.committed.iter().filter(|c| facts.journal.is_forgotten(&c.id) && !facts.journal.is_gone(&c.id));
    for committed in manifests {
        let path = committed.key.manifest();
        let listed = committed.receipt.lines.iter().find(|line| line.path == path);
        goes.extend(listed.filter(|_| is_new(&path)).cloned());
    }
    if tally.missing.is_empty() {
        goes.extend(facts.vanished.iter().cloned());
    }
    for path in loose.iter().filter(|path| is_new(path)) {
        let digest = Key::parse(path).and_then(|key| key.digest());
        goes.extend(digest.map(|digest| Line { digest, path: path.clone() }));
    }
    goes.sort_by(|a, b| a.path.cmp(&b.path));
    goes.dedup();
    goes
}

/// Packs that stay and hold what others need not hold any more: they are looked at once more before those go, like what is written.
pub fn keepers(facts: &Facts, plan: &Plan) -> Vec<Line> {
    let last = facts.keepers.iter().filter(|(keeper, other)| plan.fates[*keeper] == Fate::Keep && plan.fates[*other] != Fate::Keep);
    let packs: BTreeSet<Digest> = last.map(|(keeper, _)| facts.table.packs[*keeper].digest).collect();
    packs.into_iter().map(|digest| Line { digest, path: Key::pack(&digest).as_str().to_owned() }).collect()
}

/// Stores segments of the `fresh` packs, and of the packs that stay and whose segments go. Returns the lines of all that is new.
pub fn segments(context: &Context, facts: &Facts, goes: &[Line], fresh: Vec<(String, SegmentPack)>) -> Result<Vec<Line>> {
    let going: HashSet<&str> = goes.iter().map(|line| line.path.as_str()).collect();
    let pack_line = |pack: &SegmentPack| Line { digest: pack.digest, path: Key::pack(&pack.digest).as_str().to_owned() };
    let mut lines: Vec<Line> = fresh.iter().map(|(_, pack)| pack_line(pack)).collect();
    let mut by_domain: BTreeMap<String, Vec<SegmentPack>> = BTreeMap::new();
    for (domain, pack) in fresh {
        by_domain.entry(domain).or_default().push(pack);
    }
    let identities: Vec<Unwrap> = context.reader.owner.meta_identities().iter().map(|i| i as Unwrap).collect();
    let mut seen: HashSet<Digest> = HashSet::new();
    let touched = facts.segments.iter().filter(|(key, _)| going.contains(key.as_str()) && !facts.loose.contains(key.as_str()));
    for (key, _) in touched {
        context.cancel.check()?;
        let domain = key.as_str().split('/').nth(1).unwrap_or_default();
        let waiting = by_domain.entry(domain.to_owned()).or_default();
        for pack in read_segment(&*context.vault.store, key, &identities)?.packs {
            let place = Key::pack(&pack.digest);
            let stays =
                facts.there.contains_key(&place) && !going.contains(place.as_str()) && !facts.condemned.contains_key(place.as_str());
            if stays && seen.insert(pack.digest) {
                waiting.push(pack);
            }
        }
        if waiting.iter().map(|pack| pack.index.body_len()).sum::<usize>() > SEGMENT_LEN {
            lines.extend(put(context, facts, domain, std::mem::take(waiting))?);
        }
    }
    for (domain, packs) in by_domain {
        lines.extend(put(context, facts, &domain, packs)?);
    }
    lines.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(lines)
}

fn put(context: &Context, facts: &Facts, folder: &str, mut packs: Vec<SegmentPack>) -> Result<Option<Line>> {
    let (false, Some(domain)) = (packs.is_empty(), facts.domains.get(folder)) else { return Ok(None) };
    packs.sort_unstable_by_key(|pack| pack.digest);
    let owner = &context.reader.owner;
    let index = identity_from_bytes(owner.domain(*domain).index.expose());
    let plain = pack::compress(&Segment { packs }.encode())?;
    let bytes = pack::seal_whole(&[&owner.meta_recipient(), &index.to_public()], &plain)?;
    let key = Key::segment(*domain, &digest(&bytes));
    context.vault.put_twice(&key, &bytes)?;
    Ok(Some(Line { digest: digest(&bytes), path: key.as_str().to_owned() }))
}

/// The decisions that write a verdict down; the lists are stored.
pub fn decisions(context: &Context, verdict: &Verdict, grace_secs: u64) -> Result<Vec<Decision>> {
    use crate::vault::Journal;
    if verdict.goes.is_empty() {
        return Ok(Vec::new());
    }
    let list = Journal::put_list(context.vault, verdict.goes.clone())?;
    let fresh = match verdict.fresh.is_empty() {
        true => None,
        false => Some(Journal::put_list(context.vault, verdict.fresh.clone())?),
    };
    Ok(vec![Decision::Condemn { list, fresh, grace_secs }])
}
