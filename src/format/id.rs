//! Names of things: chunk, tree, pack and snapshot ids, and the keyed hashes that make them.
//!
//! The home of `blake3`. Keys live here only as opaque values; who may hold them is decided in `vault`.

use std::fmt;

use zeroize::Zeroizing;

macro_rules! hash_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 32]);

        impl $name {
            /// Takes 32 bytes as they were stored.
            pub const fn from_bytes(bytes: [u8; 32]) -> Self { Self(bytes) }
            /// The 32 bytes to store.
            pub const fn as_bytes(&self) -> &[u8; 32] { &self.0 }
            /// Takes a slice of exactly 32 bytes.
            pub fn from_slice(bytes: &[u8]) -> Option<Self> { bytes.try_into().ok().map(Self) }
            /// The first eight hexadecimal digits, for people.
            pub fn short(&self) -> String { hex(&self.0[..4]) }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str(&hex(&self.0)) }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { write!(f, "{}({})", stringify!($name), self.short()) }
        }
    };
}

hash_id! {
    /// A piece of content, or a tree node: keyed BLAKE3 of its bytes.
    ChunkId
}
hash_id! {
    /// A stored object: plain BLAKE3 of its bytes as they lie in the store.
    Digest
}
hash_id! {
    /// A snapshot: plain BLAKE3 of its receipt.
    SnapshotId
}

/// 16 random bytes that name a vault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VaultId(pub [u8; 16]);

/// 16 random bytes that name a dedup domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DomainId(pub [u8; 16]);

impl fmt::Display for VaultId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Display for DomainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl DomainId {
    /// The first eight hexadecimal digits: the name of the domain's folder below `index/`.
    pub fn short(&self) -> String {
        hex(&self.0[..4])
    }
}

/// Returns `bytes` in lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().flat_map(|b| [DIGITS[usize::from(b >> 4)] as char, DIGITS[usize::from(b & 15)] as char]).collect()
}

/// Returns the bytes that lower-case hexadecimal `text` stands for, if it is `N` of them.
pub fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let text = text.as_bytes();
    if text.len() != 2 * N {
        return None;
    }
    let digit = |c: u8| match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    };
    let mut out = [0; N];
    for (i, byte) in out.iter_mut().enumerate() {
        *byte = digit(text[2 * i])? << 4 | digit(text[2 * i + 1])?;
    }
    Some(out)
}

/// Returns the name of a stored object. About 6.7 GB/s on one core.
pub fn digest(bytes: &[u8]) -> Digest {
    Digest(*blake3::hash(bytes).as_bytes())
}

/// A digest made piece by piece.
#[derive(Default)]
pub struct Digester(blake3::Hasher);

impl Digester {
    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of all bytes taken so far.
    pub fn finish(&self) -> Digest {
        Digest(*self.0.finalize().as_bytes())
    }
}

/// A key of 32 bytes. On the heap, so that it is never moved; zeroed when dropped, never printed.
#[derive(Clone)]
pub struct Key32(Box<Zeroizing<[u8; 32]>>);

impl fmt::Debug for Key32 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key32(…)")
    }
}

impl Key32 {
    /// Takes 32 secret bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(Box::new(Zeroizing::new(bytes)))
    }

    /// The secret bytes.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// Derives another key for `context`, BLAKE3's key derivation.
    pub fn derive(&self, context: &str) -> Key32 {
        Key32::new(blake3::derive_key(context, &self.0[..]))
    }

    /// Another key that only who has this one and `secret` can make.
    pub fn with(&self, secret: &[u8]) -> Key32 {
        Key32::new(*blake3::keyed_hash(&self.0, secret).as_bytes())
    }

    /// Returns the id of `bytes` under this key.
    pub fn chunk_id(&self, bytes: &[u8]) -> ChunkId {
        ChunkId(*blake3::keyed_hash(&self.0, bytes).as_bytes())
    }

    /// Returns a keyed 16-byte name of `bytes`, for the catalog's keys.
    pub fn short_name(&self, bytes: &[u8]) -> [u8; 16] {
        let full = blake3::keyed_hash(&self.0, bytes);
        full.as_bytes()[..16].try_into().expect("16 of 32 bytes")
    }
}

/// The keys of one dedup domain: FORMAT section 1.
#[derive(Clone)]
pub struct DomainKeys {
    /// Names data chunks.
    pub data: Key32,
    /// Names tree nodes.
    pub tree: Key32,
    /// Chooses the cut points: one word for each byte value.
    pub gear: Box<Zeroizing<[u64; 256]>>,
    /// The bytes of the index identity.
    pub index: Key32,
    /// Names of the host's own catalog records; not part of the format.
    pub catalog: Key32,
}

impl DomainKeys {
    /// Derives the keys of a domain from its domain key.
    pub fn derive(dk: &Key32) -> Self {
        Self {
            data: dk.derive("coffre v1 data chunk id"),
            tree: dk.derive("coffre v1 tree node id"),
            gear: gear_table(dk),
            index: dk.derive("coffre v1 index identity"),
            catalog: dk.derive("coffre v1 catalog names"),
        }
    }
}

/// Derives the gear table from a domain key: 2048 bytes of extended output, as 256 little-endian words.
fn gear_table(dk: &Key32) -> Box<Zeroizing<[u64; 256]>> {
    let mut bytes = Zeroizing::new([0u8; 2048]);
    blake3::Hasher::new_derive_key("coffre v1 gear table").update(dk.expose()).finalize_xof().fill(&mut bytes[..]);
    let mut table = Box::new(Zeroizing::new([0u64; 256]));
    for (word, eight) in table.iter_mut().zip(bytes.chunks_exact(8)) {
        *word = u64::from_le_bytes(eight.try_into().expect("eight bytes"));
    }
    table
}

/// Derives the domain key of `domain` from the vault secret.
pub fn domain_key(vault_secret: &Key32, domain: DomainId) -> Key32 {
    let mut material = Zeroizing::new([0u8; 48]);
    material[..32].copy_from_slice(vault_secret.expose());
    material[32..].copy_from_slice(&domain.0);
    Key32::new(blake3::derive_key("coffre v1 dedup domain", &material[..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_goes_both_ways_and_refuses_the_rest() {
        assert_eq!(hex(&[0, 0x9f, 0xff]), "009fff");
        assert_eq!(unhex::<3>("009fff"), Some([0, 0x9f, 0xff]));
        for wrong in ["009ff", "009fff0", "009fFf", "009f f"] {
            assert_eq!(unhex::<3>(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn data_and_tree_ids_of_the_same_bytes_differ() {
        let keys = DomainKeys::derive(&domain_key(&Key32::new([7; 32]), DomainId([9; 16])));
        assert_ne!(keys.data.chunk_id(b"x"), keys.tree.chunk_id(b"x"));
    }
}
