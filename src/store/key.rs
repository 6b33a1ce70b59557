//! Keys: relative paths that no store can misunderstand.

use std::fmt;

use crate::format::{Digest, DomainId, SnapshotKey, unhex};

/// The path of an object in a vault: parts of `A-Z a-z 0-9 . _ -`, joined by slashes, none starting with a dot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(String);

impl Key {
    /// Takes `path` if it is legal.
    pub fn parse(path: &str) -> Option<Self> {
        let part = |p: &str| {
            !p.is_empty() && !p.starts_with('.') && p.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        };
        (path.len() <= 255 && path.split('/').all(part)).then(|| Self(path.to_owned()))
    }

    /// The path of a fixed object, such as `VAULT`.
    ///
    /// # Panics
    /// If `path` is not legal: use it for paths that the program itself makes.
    pub fn fixed(path: impl AsRef<str>) -> Self {
        Self::parse(path.as_ref()).expect("paths made by the program are legal")
    }

    /// The path of a pack.
    pub fn pack(digest: &Digest) -> Self {
        let hex = digest.to_string();
        Self(format!("packs/{}/{hex}.age", &hex[..2]))
    }

    /// The path of an index segment.
    pub fn segment(domain: DomainId, digest: &Digest) -> Self {
        Self(format!("index/{}/{digest}.age", domain.short()))
    }

    /// The path of a manifest.
    pub fn manifest(snapshot: &SnapshotKey) -> Self {
        Self(snapshot.manifest())
    }

    /// The path of a receipt.
    pub fn receipt(snapshot: &SnapshotKey) -> Self {
        Self(snapshot.receipt())
    }

    /// The path of a receipt's signature.
    pub fn signature(snapshot: &SnapshotKey) -> Self {
        Self(snapshot.signature())
    }

    /// The path of a pack's sidecar, or `None` if this is no pack.
    pub fn sidecar(&self) -> Option<Self> {
        let digest = self.digest().filter(|_| self.0.starts_with("packs/"))?.to_string();
        Some(Self(format!("parity/{}/{digest}.par", &digest[..2])))
    }

    /// The path of the second copy of an object that has no sidecar.
    pub fn second(&self) -> Self {
        Self(format!("parity/{}", self.0))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last part.
    pub fn file_name(&self) -> &str {
        self.0.rsplit('/').next().expect("a key has a part")
    }

    /// The digest in the name of a pack or segment.
    pub fn digest(&self) -> Option<Digest> {
        unhex(self.file_name().strip_suffix(".age")?).map(Digest::from_bytes)
    }
}

impl AsRef<str> for Key {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::Key;

    #[test]
    fn a_key_can_not_leave_its_vault() {
        for good in ["VAULT", "snaps/web-1/0000000001.b3.sig", "keys/owner-0001-age.age"] {
            assert!(Key::parse(good).is_some(), "{good}");
        }
        for bad in ["", "/etc", "a//b", "a/../b", ".tmp-x", "a/.b", "a b", "a\0", "a/", "é"] {
            assert!(Key::parse(bad).is_none(), "{bad}");
        }
    }
}
