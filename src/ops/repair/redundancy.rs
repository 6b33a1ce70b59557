//! Sidecars and second copies that are damaged or missing, made again from sound objects.

use std::collections::BTreeMap;

use crate::{
    error::{Error, Result},
    format::Digest,
    ops::repair::{How, Scope, Work, objects::is_sound, survey},
    store::{self, Key},
    vault::{Finding, is_damage, is_whole_sidecar, make_sidecar},
};

/// Longest object that has a second copy, in bytes.
const COPIED_LEN_MAX: usize = 2 << 30;

/// Makes what `listed` objects should have beside them. An object that is damaged keeps what it has.
pub fn renew(work: &mut Work, listed: &BTreeMap<Key, Digest>, scope: &Scope) -> Result<()> {
    let parity = work.vault.config.parity;
    let wants = |key: &Key| {
        // Copies of keys are kept in every vault.
        (scope.holds(key) || scope.holds(&beside(key))) && (parity > 0 || key.as_str().starts_with("keys/"))
    };
    let items: Vec<survey::Item> = listed.iter().filter(|(key, _)| wants(key)).collect();
    let store = &*work.context.store;
    let sizes = survey::sizes(store)?;
    let len = |key: &Key| sizes.get(&beside(key)).copied().unwrap_or(0);
    let lacking = survey::find(work, &items, len, |key, wanted| match key.sidecar() {
        Some(_) => is_whole_sidecar(store, key).map(|whole| !whole).or_else(damage_is(true)),
        None => is_sound(store, &key.second(), wanted).map(|sound| !sound),
    })?;
    for (key, wanted) in lacking {
        work.context.cancel.check()?;
        let bytes = match key.sidecar() {
            Some(_) => make_sidecar(store, &work.vault.config, key, wanted).or_else(damage_is(None))?,
            None if is_sound(store, key, wanted)? => Some(store::get_all(store, key, COPIED_LEN_MAX)?),
            None => None,
        };
        if let Some(bytes) = bytes {
            work.put(&beside(key), &bytes, How::Again)?;
        }
    }
    signatures(work, listed)
}

/// Where the sidecar or the second copy of an object lies.
fn beside(key: &Key) -> Key {
    key.sidecar().unwrap_or_else(|| key.second())
}

/// What damage comes to; any other error stays one.
fn damage_is<T>(value: T) -> impl FnOnce(Error) -> Result<T> {
    |e| if is_damage(&e) { Ok(value) } else { Err(e) }
}

/// Signatures are in no receipt; those in place are right by now.
fn signatures(work: &mut Work, listed: &BTreeMap<Key, Digest>) -> Result<()> {
    if work.vault.config.parity == 0 {
        return Ok(());
    }
    let is_signed = |key: &&Key| key.as_str().ends_with(".txt") || (key.as_str().starts_with("snaps/") && key.as_str().ends_with(".b3"));
    for key in listed.keys().filter(is_signed) {
        let signature = Key::fixed(format!("{key}.sig"));
        let store = &*work.context.store;
        let damaged = |f: &Finding| f.object == key.as_str();
        if work.report.lost.iter().any(damaged) {
            continue;
        }
        let Ok(bytes) = store::get_all(store, &signature, COPIED_LEN_MAX) else { continue };
        if store::get_all(store, &signature.second(), COPIED_LEN_MAX).ok().as_ref() != Some(&bytes) {
            work.put(&signature.second(), &bytes, How::Again)?;
        }
    }
    Ok(())
}
