//! File keys of age headers that were opened before.
//!
//! Opening a header takes 60 µs of curve arithmetic, each time. A vault of a thousand snapshots has some thousand small objects, and
//! who only looks at one file needs them all. So a reader keeps what headers gave, on disk between its runs, encrypted under a key that
//! only an owner of the newest epoch has; and which signatures it found good.
//!
//! Never the truth: each fact is found by a hash of every byte that it was made from, and what is true of some bytes stays true of
//! them. Without any of it everything is only slower (docs/SECURITY.md says what it is worth to whom).

use std::{
    collections::HashMap,
    sync::{
        RwLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use zeroize::{Zeroize, Zeroizing};

use crate::format::{Digester, Key32};

/// Facts kept, at most; 32 bytes each on disk.
const FACTS_MAX: usize = 1 << 16;
/// Longest file accepted, in bytes.
pub const FILE_LEN_MAX: u64 = (FACTS_MAX * FACT_LEN + 64) as u64;
const FACT_LEN: usize = 32;
/// Version of the file. Another one is as good as none.
const VERSION: u8 = 2;

/// What a fact is found by.
type Tag = [u8; 16];

/// What headers gave, by their hash. Shared by threads.
#[derive(Default)]
pub struct Headers {
    facts: RwLock<HashMap<Tag, [u8; 16]>>,
    fresh: AtomicUsize,
}

impl Drop for Headers {
    fn drop(&mut self) {
        if let Ok(facts) = self.facts.get_mut() {
            facts.values_mut().for_each(Zeroize::zeroize);
        }
    }
}

/// Hashes parts so that no other parts give the same.
pub fn tag_of<'a>(parts: impl Iterator<Item = &'a [u8]>) -> Tag {
    let mut digester = Digester::default();
    for part in parts {
        digester.update(&(part.len() as u64).to_le_bytes());
        digester.update(part);
    }
    digester.finish().as_bytes()[..16].try_into().expect("16 of 32 bytes")
}

impl Headers {
    /// What is known of `tag`.
    pub fn get(&self, tag: &Tag) -> Option<[u8; 16]> {
        self.facts.read().expect("nobody panics while looking").get(tag).copied()
    }

    /// Notes a fact; forgets it at once if there are too many.
    pub fn put(&self, tag: Tag, fact: [u8; 16]) {
        let mut facts = self.facts.write().expect("nobody panics while looking");
        if facts.len() < FACTS_MAX && facts.insert(tag, fact).is_none() {
            self.fresh.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many facts came since it was read or written.
    pub fn fresh(&self) -> usize {
        self.fresh.load(Ordering::Relaxed)
    }

    /// Returns everything, encrypted under `key`.
    pub fn encode(&self, key: &Key32, nonce: [u8; 12]) -> Vec<u8> {
        let facts = self.facts.read().expect("nobody panics while looking");
        let mut plain = Zeroizing::new(Vec::with_capacity(facts.len() * FACT_LEN + 16));
        for (tag, fact) in facts.iter() {
            plain.extend_from_slice(tag);
            plain.extend_from_slice(fact);
        }
        self.fresh.store(0, Ordering::Relaxed);
        [&[VERSION], &nonce[..], &super::cipher::seal_small(key, nonce, &plain)].concat()
    }

    /// Takes up what `encode` returned; nothing if it is damaged, or of another key.
    pub fn take_up(&self, key: &Key32, bytes: &[u8]) {
        let Some((nonce, sealed)) = bytes.strip_prefix(&[VERSION]).and_then(|rest| rest.split_first_chunk::<12>()) else { return };
        let Some(plain) = super::cipher::open_small(key, *nonce, sealed) else { return };
        let mut facts = self.facts.write().expect("nobody panics while looking");
        for pair in plain.chunks_exact(FACT_LEN).take(FACTS_MAX) {
            let (tag, fact) = pair.split_at(16);
            facts.insert(tag.try_into().expect("16 bytes"), fact.try_into().expect("16 bytes"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_come_back_under_their_key_only() {
        let (headers, key) = (Headers::default(), Key32::new([7; 32]));
        let tag = tag_of([&b"a"[..], b"bc"].into_iter());
        assert_ne!(tag, tag_of([&b"ab"[..], b"c"].into_iter()));
        headers.put(tag, [9; 16]);
        assert_eq!(headers.fresh(), 1);
        let file = headers.encode(&key, [1; 12]);
        assert_eq!(headers.fresh(), 0);
        assert!(!file.windows(16).any(|w| w == [9; 16]), "nothing is kept in the clear");
        let read = |key: &Key32, file: &[u8]| {
            let again = Headers::default();
            again.take_up(key, file);
            again.get(&tag)
        };
        assert_eq!(read(&key, &file), Some([9; 16]));
        assert_eq!(read(&Key32::new([8; 32]), &file), None);
        for n in 0..file.len() {
            let mut hurt = file.clone();
            hurt[n] ^= 1;
            assert_eq!((read(&key, &hurt), read(&key, &file[..n])), (None, None), "byte {n}");
        }
    }
}
