//! Sidecars and second copies that are damaged or missing, made again from sound objects.

use std::collections::BTreeMap;

use crate::{
    error::Result,
    format::Digest,
    ops::repair::{How, Scope, Work, objects::is_sound},
    store::{self, Key},
    vault::{Finding, is_damage, is_whole_sidecar, make_sidecar},
};

/// Longest object that has a second copy, in bytes.
const COPIED_LEN_MAX: usize = 2 << 30;

/// Makes what `listed` objects should have beside them. An object that is damaged keeps what it has.
pub fn renew(work: &mut Work, listed: &BTreeMap<Key, Digest>, scope: &Scope) -> Result<()> {
    let parity = work.vault.config.parity;
    for (key, wanted) in listed {
        work.context.cancel.check()?;
        let beside = key.sidecar().unwrap_or_else(|| key.second());
        // Copies of keys are kept in every vault.
        if !(scope.holds(key) || scope.holds(&beside)) || (parity == 0 && !key.as_str().starts_with("keys/")) {
            continue;
        }
        let store = &*work.context.store;
        let bytes = match key.sidecar() {
            Some(_) if is_whole_sidecar(store, key).or_else(|e| if is_damage(&e) { Ok(false) } else { Err(e) })? => None,
            Some(_) => make_sidecar(store, &work.vault.config, key, wanted).or_else(|e| if is_damage(&e) { Ok(None) } else { Err(e) })?,
            None if is_sound(store, &beside, wanted)? => None,
            None if is_sound(store, key, wanted)? => Some(store::get_all(store, key, COPIED_LEN_MAX)?),
            None => None,
        };
        if let Some(bytes) = bytes {
            work.put(&beside, &bytes, How::Again)?;
        }
    }
    signatures(work, listed)
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
