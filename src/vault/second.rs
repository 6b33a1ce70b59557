//! Second copies: what small objects have in place of a sidecar.

use crate::{
    error::Result,
    store::{self, Key, Store},
    vault::sidecars::is_damage,
};

/// Returns what `take` makes of a small object, or of its second copy if the first one is damaged or gone, or of what other copies of the vault have.
///
/// # Errors
/// Those of the first one.
pub fn read_either<T>(store: &dyn Store, key: &Key, len_max: usize, take: impl Fn(Vec<u8>) -> Result<T>) -> Result<T> {
    let read = |store: &dyn Store, key: &Key| store::get_all(store, key, len_max).and_then(&take);
    match read(store, key) {
        Err(e) if is_damage(&e) => {
            let elsewhere = || store.others().iter().find_map(|other| read(&**other, key).ok());
            read(store, &key.second()).ok().or_else(elsewhere).ok_or(e)
        }
        other => other,
    }
}
