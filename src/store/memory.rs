//! A map as a store, for tests and simulations; with ways to hurt it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
};

use crate::{
    error::Result,
    store::{Key, Store, Upload, conflict, missing, short},
};

/// Objects in memory. Clones share them, as two processes share a disk.
#[derive(Clone, Debug, Default)]
pub struct Memory(Arc<Mutex<BTreeMap<Key, Vec<u8>>>>);

impl Memory {
    fn map(&self) -> MutexGuard<'_, BTreeMap<Key, Vec<u8>>> {
        self.0.lock().expect("nobody panics while holding the map")
    }

    /// Changes an object behind everybody's back; false if there is none.
    pub fn damage(&self, key: &Key, change: impl FnOnce(&mut Vec<u8>)) -> bool {
        self.map().get_mut(key).map(change).is_some()
    }
}

impl Store for Memory {
    fn put(&self, key: &Key, bytes: &[u8]) -> Result<()> {
        match self.map().entry(key.clone()).or_insert_with(|| bytes.to_vec()) {
            there if there == bytes => Ok(()),
            _ => Err(conflict(key)),
        }
    }

    fn begin(&self) -> Result<Box<dyn Upload>> {
        Ok(Box::new(Pending { store: self.clone(), bytes: Vec::new() }))
    }

    fn get(&self, key: &Key, offset: u64, buf: &mut [u8]) -> Result<()> {
        let map = self.map();
        let bytes = map.get(key).ok_or_else(|| missing(key))?;
        let start = usize::try_from(offset).ok();
        let range = start.and_then(|start| bytes.get(start..start.checked_add(buf.len())?)).ok_or_else(|| short(key))?;
        buf.copy_from_slice(range);
        Ok(())
    }

    fn stat(&self, key: &Key) -> Result<Option<u64>> {
        Ok(self.map().get(key).map(|bytes| bytes.len() as u64))
    }

    fn list(&self, prefix: &str, each: &mut dyn FnMut(Key, u64) -> Result<()>) -> Result<()> {
        let below = |key: &Key| prefix.is_empty() || key.as_str().strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/'));
        let found: Vec<_> = self.map().iter().filter(|(key, _)| below(key)).map(|(key, bytes)| (key.clone(), bytes.len() as u64)).collect();
        found.into_iter().try_for_each(|(key, len)| each(key, len))
    }

    fn delete(&self, key: &Key) -> Result<()> {
        self.map().remove(key);
        Ok(())
    }

    fn describe(&self) -> String {
        "memory".to_owned()
    }
}

struct Pending {
    store: Memory,
    bytes: Vec<u8>,
}

impl Upload for Pending {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn commit(self: Box<Self>, key: &Key) -> Result<()> {
        self.store.put(key, &self.bytes)
    }
}
