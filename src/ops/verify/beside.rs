//! What lies beside objects: their second copies, judged by the same hashes, and sidecars, which say themselves whether they are whole.

use std::collections::BTreeMap;

use crate::{
    error::{ErrorKind, Result},
    format::{Digest, Sidecar},
    store::{self, Key, Store},
    sys::Cancel,
    vault::{Finding, SIDECAR_LEN_MAX, Trouble},
};

/// Second copies with their hashes, and the sidecars, with their lengths, of what is `listed`. Those that are not there cost nothing but a chance: a seal that died may not
/// have come to make them, and a repair does.
pub struct Beside {
    /// Second copies.
    pub copies: BTreeMap<Key, Digest>,
    /// Sidecars, and their lengths in bytes.
    pub sidecars: Vec<(Key, u64)>,
}

/// Finds them, by one listing.
pub fn find(store: &dyn Store, listed: &BTreeMap<Key, Digest>) -> Result<Beside> {
    let there: BTreeMap<Key, u64> = store::list_all(store, "parity")?.into_iter().collect();
    let copies = listed.iter().map(|(key, digest)| (key.second(), *digest)).filter(|(key, _)| there.contains_key(key)).collect();
    let sidecars = listed.keys().filter_map(Key::sidecar).filter_map(|key| Some((key.clone(), *there.get(&key)?))).collect();
    Ok(Beside { copies, sidecars })
}

/// Reads sidecars; what is wrong with them. Each is held in memory: 0.9 MiB for a pack of 16 MiB at 5 %.
pub fn check(store: &dyn Store, sidecars: &[(Key, u64)], cancel: &Cancel) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for (key, _) in sidecars {
        cancel.check()?;
        let text = "it is not what it was; the pack that it belongs to has nothing from it";
        match store::get_all(store, key, SIDECAR_LEN_MAX) {
            Ok(bytes) if Sidecar::decode(&bytes).is_ok_and(|sidecar| sidecar.is_whole) => (),
            Ok(_) => findings.push(Finding::of(Trouble::Altered, key.as_str(), text)),
            // Deleted with its pack, meanwhile.
            Err(e) if e.kind() == ErrorKind::Missing => (),
            Err(e) if e.kind() == ErrorKind::Cancelled => return Err(e),
            Err(e) => findings.push(Finding::new(key.as_str(), e.chain())),
        }
    }
    Ok(findings)
}
