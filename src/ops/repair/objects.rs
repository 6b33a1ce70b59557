//! Objects whose hash is known: from their sidecar, their second copy, or another copy of the vault.

use std::collections::BTreeMap;

use crate::{
    error::{ErrorKind, Result},
    format::{Digest, digest},
    ops::{
        repair::{How, Scope, Work, asides, survey},
        verify::Pruned,
    },
    store::{self, Key, Store},
    vault::{Finding, Mended, hash_of, is_damage, mend, mend_from, mend_together},
};

/// Longest object fetched whole, in bytes.
const OBJECT_LEN_MAX: usize = 2 << 30;

/// Puts every object of `listed` right that is in scope and is not what its hash says.
pub fn restore(work: &mut Work, listed: &BTreeMap<Key, Digest>, scope: &Scope) -> Result<()> {
    let items: Vec<survey::Item> = listed.iter().filter(|(key, _)| scope.holds(key)).collect();
    let (store, sizes) = (&*work.context.store, survey::sizes(&*work.context.store)?);
    let len = |key: &Key| sizes.get(key).copied().unwrap_or(0);
    let damaged = survey::find(work, &items, len, |key, wanted| is_sound(store, key, wanted).map(|sound| !sound))?;
    work.report.objects += items.len() as u64;
    if damaged.is_empty() {
        return Ok(());
    }
    // What a prune has deleted meanwhile is not brought back.
    let pruned = Pruned::load(work.vault, work.context.owner.as_deref(), &mut Vec::new())?;
    for (key, wanted) in damaged {
        work.context.cancel.check()?;
        if pruned.is_going(key.as_str()) {
            continue;
        }
        match find(work, key, wanted)? {
            Ok((bytes, how)) => work.put(key, &bytes, how)?,
            Err(why) => work.report.lost.push(Finding::new(key.as_str(), why)),
        }
    }
    Ok(())
}

/// Whether an object is there and has this hash.
pub fn is_sound(store: &dyn Store, key: &Key, wanted: &Digest) -> Result<bool> {
    match hash_of(store, key) {
        Ok(now) => Ok(now == *wanted),
        Err(e) if is_damage(&e) => Ok(false),
        Err(e) => Err(e),
    }
}

/// A pack that is gone, from what a repair kept of it.
fn from_aside(store: &dyn Store, key: &Key, wanted: &Digest) -> Result<Option<Mended>> {
    if store.stat(key)?.is_some() {
        return Ok(None);
    }
    for place in asides(key).flatten() {
        if store.stat(&place)?.is_none() {
            break;
        }
        if let Ok(mended) = mend_from(store, key, &place, wanted) {
            return Ok(Some(mended));
        }
    }
    Ok(None)
}

type Found = std::result::Result<(Vec<u8>, How), String>;

/// The right bytes of an object, and where they came from; or why there are none.
fn find(work: &Work, key: &Key, wanted: &Digest) -> Result<Found> {
    let mut reasons = Vec::new();
    if key.sidecar().is_some() {
        // A repair that died where the store cannot replace at once has put it aside already.
        if let Some(mended) = from_aside(&*work.context.store, key, wanted)? {
            return Ok(Ok((mended.bytes, How::Parity)));
        }
        match mend(&*work.context.store, key, wanted) {
            Ok(mended) => return Ok(Ok((mended.bytes, How::Parity))),
            Err(e) if e.kind() == ErrorKind::Missing => reasons.push("it has no sidecar".to_owned()),
            Err(e) if is_damage(&e) => reasons.push(e.chain()),
            Err(e) => return Err(e),
        }
    }
    for (store, place, how) in work.sources(key) {
        let Some(how) = how else { continue };
        if how == How::Copy && key.sidecar().is_some() {
            continue;
        }
        match store::get_all(&*store, &place, OBJECT_LEN_MAX) {
            Ok(bytes) if digest(&bytes) == *wanted => return Ok(Ok((bytes, how))),
            Ok(_) => reasons.push(format!("{place} in {} is damaged, too", store.describe())),
            Err(e) if e.kind() == ErrorKind::Missing => (),
            Err(e) => reasons.push(e.chain()),
        }
    }
    // Copies may be hurt in different places.
    for other in work.context.from.iter().filter(|_| key.sidecar().is_some()) {
        if let Ok(mended) = mend(&**other, key, wanted) {
            return Ok(Ok((mended.bytes, How::Other)));
        }
    }
    if key.sidecar().is_some() && !work.context.from.is_empty() {
        let stores: Vec<&dyn Store> = [&work.context.store].into_iter().chain(work.context.from).map(|store| &**store).collect();
        match mend_together(&stores, key, wanted) {
            Ok(mended) => return Ok(Ok((mended.bytes, How::Other))),
            Err(e) => reasons.push(e.chain()),
        }
    }
    if reasons.is_empty() {
        reasons.push("there is no second copy of it".to_owned());
    }
    Ok(Err(reasons.join("; ")))
}
