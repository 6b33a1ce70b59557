//! What lies beside objects: their second copies, judged by the same hashes, and sidecars, which say themselves whether they are whole.

use std::collections::{BTreeMap, HashSet};

use crate::{
    error::{ErrorKind, Result},
    format::Digest,
    store::{self, Key, Store},
    sys::Cancel,
    vault::{Finding, Trouble, is_whole_sidecar},
};

/// Longest signature looked at, in bytes.
const SIGNATURE_LEN_MAX: usize = 1 << 20;

/// Second copies with their hashes, and the sidecars of what is `listed`. Those that are not there cost nothing but a chance: a seal that died may not
/// have come to make them, and a repair does.
#[derive(Default)]
pub struct Beside {
    /// Second copies.
    pub copies: BTreeMap<Key, Digest>,
    /// Packs that have a sidecar, and its length in bytes.
    pub sidecars: BTreeMap<Key, u64>,
}

/// Finds them, by one listing.
pub fn find(store: &dyn Store, listed: &BTreeMap<Key, Digest>) -> Result<Beside> {
    let there: BTreeMap<Key, u64> = store::list_all(store, "parity")?.into_iter().collect();
    let copies = listed.iter().map(|(key, digest)| (key.second(), *digest)).filter(|(key, _)| there.contains_key(key)).collect();
    let sidecars = listed.keys().filter_map(|pack| Some((pack.clone(), *there.get(&pack.sidecar()?)?))).collect();
    Ok(Beside { copies, sidecars })
}

/// Holds the second copies of signatures against the signatures, which no receipt gives a hash. Of one that is `damaged` itself nothing is said.
pub fn check_signatures(store: &dyn Store, listed: &BTreeMap<Key, Digest>, damaged: &[Finding], cancel: &Cancel) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    let is_signed = |key: &&Key| key.as_str().ends_with(".txt") || (key.as_str().starts_with("snaps/") && key.as_str().ends_with(".b3"));
    let damaged: HashSet<&str> = damaged.iter().map(|f| f.object.trim_end_matches(".sig")).collect();
    for key in listed.keys().filter(is_signed).filter(|key| !damaged.contains(key.as_str())) {
        cancel.check()?;
        let signature = Key::fixed(format!("{key}.sig"));
        let second = signature.second();
        let read = |key: &Key| store::get_all(store, key, SIGNATURE_LEN_MAX);
        match (read(&signature), read(&second)) {
            (Ok(first), Ok(copy)) if first != copy => {
                findings.push(Finding::of(Trouble::Altered, second.as_str(), "its content is not what it was"));
            }
            (_, Err(e)) if !matches!(e.kind(), ErrorKind::Missing | ErrorKind::Cancelled) => {
                findings.push(Finding::new(second.as_str(), e.chain()))
            }
            _ => (),
        }
    }
    Ok(findings)
}

/// Reads the sidecar of a pack; what is wrong with it. It is held in memory: 0.9 MiB for a pack of 16 MiB at 5 %.
pub fn check(store: &dyn Store, pack: &Key) -> Result<Option<Finding>> {
    let Some(key) = pack.sidecar() else { return Ok(None) };
    let text = "it is not what it was; the pack that it belongs to has nothing from it";
    match is_whole_sidecar(store, pack) {
        Ok(true) => Ok(None),
        Ok(false) => Ok(Some(Finding::of(Trouble::Altered, key.as_str(), text))),
        // Deleted with its pack, meanwhile.
        Err(e) if e.kind() == ErrorKind::Missing => Ok(None),
        Err(e) if e.kind() == ErrorKind::Cancelled => Err(e),
        Err(e) => Ok(Some(Finding::new(key.as_str(), e.chain()))),
    }
}
