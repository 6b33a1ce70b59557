//! Objects: what receipts name, and whether that is there and is what it was. Needs no secret.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Mutex,
};

use crate::{
    error::{ErrorKind, Result},
    format::{Digest, Digester, SnapshotKey},
    ops::verify::{Context, Report, beside, extent::Chosen, in_parallel, pruned::Pruned},
    store::{self, Key},
    vault::{Chain, Finding, Trouble},
};

/// Bytes read at once.
const STEP: usize = 1 << 20;

/// Every object that counts, with the hash that a signed receipt gives it.
pub fn listed(chain: &Chain) -> BTreeMap<Key, Digest> {
    let mut listed = BTreeMap::new();
    // Keys and signers come and go; the newest receipt of each sealer says what should be there.
    let newest: HashSet<&SnapshotKey> =
        chain.committed.iter().map(|c| (&c.key.sealer, &c.key)).collect::<BTreeMap<_, _>>().into_values().collect();
    for committed in &chain.committed {
        for line in &committed.receipt.lines {
            let lasting = ["packs/", "index/", "snaps/", "gc/"].iter().any(|folder| line.path.starts_with(folder));
            if let Some(key) = Key::parse(&line.path).filter(|_| lasting || newest.contains(&committed.key)) {
                listed.insert(key, line.digest);
            }
        }
        listed.insert(Key::receipt(&committed.key), Digest::from_bytes(*committed.id.as_bytes()));
    }
    // An owner may take a way in out of the vault; receipts of before still name it.
    listed.retain(|key, _| !chain.removed.contains(key.as_str()));
    listed
}

/// Finds objects that are named and not there, and counts those that are there and not named.
pub fn present(context: &Context, listed: &BTreeMap<Key, Digest>, pruned: &Pruned, report: &mut Report) -> Result<()> {
    let mut there: HashSet<Key> = HashSet::new();
    for folder in ["packs", "index", "snaps", "gc", "keys", "signers"] {
        context.vault.store.list(folder, &mut |key, _| {
            there.insert(key);
            Ok(())
        })?;
    }
    for key in listed.keys() {
        let missing = match key.as_str().contains('/') {
            true => !there.contains(key),
            false => context.vault.store.stat(key)?.is_none(),
        };
        if missing {
            report.damage.push(Finding::of(Trouble::Deleted, key.as_str(), "is gone"));
        }
    }
    report.objects = listed.len() as u64;
    report.unreferenced = there
        .iter()
        .filter(|key| key.as_str().starts_with("packs/") || key.as_str().starts_with("index/"))
        .filter(|key| !listed.contains_key(key) && !pruned.is_condemned(key.as_str()))
        .count() as u64;
    Ok(())
}

/// The lengths of all objects that are there. A listing: to ask for each would be a round trip each.
pub fn sizes(context: &Context, listed: &BTreeMap<Key, Digest>) -> Result<BTreeMap<Key, u64>> {
    let mut sizes = BTreeMap::new();
    context.vault.store.list("", &mut |key, len| {
        if listed.contains_key(&key) {
            sizes.insert(key, len);
        }
        Ok(())
    })?;
    Ok(sizes)
}

/// Reads the packs that were chosen, each with its sidecar if `sidecars` has it, and every other object, and holds each against its hash.
/// Returns the packs that were whole.
pub fn reread(
    context: &Context,
    listed: &BTreeMap<Key, Digest>,
    sizes: &BTreeMap<Key, u64>,
    sidecars: &BTreeMap<Key, u64>,
    chosen: &Chosen,
    report: &mut Report,
) -> Result<Vec<Digest>> {
    let small = listed.keys().filter(|key| !key.as_str().starts_with("packs/"));
    let objects: Vec<(&Key, &Digest)> = small.chain(&chosen.packs).filter_map(|key| listed.get_key_value(key)).collect();
    let total = objects.iter().filter_map(|(key, _)| Some(sizes.get(*key)? + sidecars.get(*key).unwrap_or(&0))).sum();
    let whole: Mutex<Vec<Digest>> = Mutex::default();
    let began = context.clock.monotonic();
    let found: Mutex<(u64, u64, Vec<Finding>)> = Mutex::default();
    in_parallel(context, &objects, |(key, digest)| {
        let Some(len) = sizes.get(*key) else { return Ok(()) };
        let is_pack = key.as_str().starts_with("packs/");
        if is_pack && chosen.until.is_some_and(|until| context.clock.monotonic() >= until) {
            return Ok(());
        }
        let finding = match hash(context, key, *len) {
            Ok(now) if now == **digest => {
                if is_pack {
                    whole.lock().expect("nobody panics while holding the list").push(**digest);
                }
                None
            }
            Ok(_) => Some(Finding::of(Trouble::Altered, key.as_str(), "its content is not what it was")),
            Err(e) if e.kind() == ErrorKind::Cancelled => return Err(e),
            Err(e) => Some(Finding::new(key.as_str(), e.chain())),
        };
        let of_sidecar = match sidecars.get(*key) {
            Some(_) => beside::check(&*context.vault.store, key)?,
            None => None,
        };
        let mut found = found.lock().expect("nobody panics while holding the findings");
        found.0 += len + sidecars.get(*key).unwrap_or(&0);
        found.1 += 1;
        found.2.extend(finding.into_iter().chain(of_sidecar));
        context.told(began, found.1, found.0, total);
        Ok(())
    })?;
    let (bytes, _, findings) = found.into_inner().expect("nobody panicked while holding the findings");
    report.bytes += bytes;
    report.damage.extend(findings);
    // Those of packs that are gone are few.
    for pack in sidecars.keys().filter(|pack| !sizes.contains_key(*pack)) {
        report.damage.extend(beside::check(&*context.vault.store, pack)?);
    }
    Ok(whole.into_inner().expect("nobody panicked while holding the list"))
}

fn hash(context: &Context, key: &Key, len: u64) -> Result<Digest> {
    let store: &dyn store::Store = &*context.vault.store;
    let mut hash = Digester::default();
    let mut buf = vec![0; STEP];
    let mut at = 0;
    while at < len {
        context.cancel.check()?;
        let n = STEP.min(usize::try_from(len - at).unwrap_or(STEP));
        store.get(key, at, &mut buf[..n])?;
        hash.update(&buf[..n]);
        at += n as u64;
    }
    Ok(hash.finish())
}
