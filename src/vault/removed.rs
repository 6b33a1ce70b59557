//! Which key files an owner took out of the vault: `keys/removed.NNNN`, signed.
//!
//! Receipts name all of `keys/`. Without this nobody could tell a way in that was removed from one that the storage lost.

use std::collections::BTreeSet;

use crate::{
    error::{Error, ErrorKind, Result},
    format::VaultId,
    store::{self, Key, Store},
    vault::{PUBLIC_LEN_MAX, keys::OwnerKeys, sign},
};

const PREFIX: &str = "removed.";
/// How often the next number is tried when another owner took the one before.
const ATTEMPTS: u32 = 8;

fn numbers(store: &dyn Store) -> Result<Vec<u32>> {
    let number = |key: &Key| key.file_name().strip_prefix(PREFIX)?.parse().ok();
    Ok(store::list_all(store, "keys")?.iter().filter_map(|(key, _)| number(key)).collect())
}

fn place(number: u32) -> Key {
    Key::fixed(format!("keys/{PREFIX}{number:04}"))
}

fn signature_of(place: &Key) -> Key {
    Key::fixed(format!("{place}.sig"))
}

/// Takes back what `put` stored, while nothing has been done about it.
pub(super) fn take_back(store: &dyn Store, place: &Key) -> Result<()> {
    store.delete(&signature_of(place))?;
    store.delete(place)
}

/// Whether these names of key files tell that anything was removed.
pub(super) fn is_any(names: &[String]) -> bool {
    names.iter().any(|name| name.starts_with(PREFIX))
}

/// Stores that `paths` are removed, and returns where that is said. The signature goes last: without it nothing is said.
pub(super) fn put(store: &dyn Store, owner: &OwnerKeys, paths: &[String]) -> Result<Key> {
    let text = format!("coffre-removed 1\nvault {}\n{}\n", owner.vault(), paths.join("\n"));
    let signature = owner.sign.sign(sign::REMOVED, text.as_bytes())?;
    let first = numbers(store)?.into_iter().max().unwrap_or(0) + 1;
    for number in first..first + ATTEMPTS {
        match store.put(&place(number), text.as_bytes()) {
            Err(e) if e.kind() == ErrorKind::Conflict => continue,
            other => other?,
        }
        return store.put(&signature_of(&place(number)), &signature).map(|()| place(number));
    }
    Err(Error::conflict("other owners change the keys at the same moment, again and again").hint("try again"))
}

/// The paths that `owner`, a public key, signed away. What is not signed is passed over.
pub fn list(store: &dyn Store, owner: &str, vault: VaultId) -> Result<BTreeSet<String>> {
    let head = format!("coffre-removed 1\nvault {vault}\n");
    let mut paths = BTreeSet::new();
    for number in numbers(store)? {
        let read = |key: Key| store::get_all(store, &key, PUBLIC_LEN_MAX);
        let (Ok(text), Ok(signature)) = (read(place(number)), read(signature_of(&place(number)))) else { continue };
        if sign::is_signed(owner, sign::REMOVED, &text, &signature)
            && let Some(rest) = std::str::from_utf8(&text).ok().and_then(|text| text.strip_prefix(&head))
        {
            // Only key files: nobody talks packs away like this.
            paths.extend(rest.lines().filter(|path| path.starts_with("keys/owner-") || path.starts_with("keys/way-")).map(str::to_owned));
        }
    }
    Ok(paths)
}
