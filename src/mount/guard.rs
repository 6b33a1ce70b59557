//! Who may look into a directory of `history/`.
//!
//! A file that a closed directory kept from others must not be had by way of its history. So `history/PATH/` lets in only whom every
//! version of the directory let in.

use crate::{
    format::Entry,
    vault::{Past, Version, has_acl},
};

/// Owner and permission bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guard {
    /// Numeric owner; `None` for whoever mounted.
    pub owner: Option<(u32, u32)>,
    /// Permission bits.
    pub perm: u16,
}

impl Guard {
    /// What one version of a directory allows.
    pub fn of(owner: (u32, u32), mode: u32, has_acl: bool) -> Self {
        // An access list can take from the mode what it seems to give.
        let mask = if has_acl { 0o700 } else { 0o777 };
        Self { owner: Some(owner), perm: (mode & mask) as u16 }
    }

    /// What the directory `entry` allows.
    pub fn of_entry(entry: &Entry) -> Self {
        Self::of((entry.uid, entry.gid), entry.mode, has_acl(entry))
    }

    /// What both allow. Two owners have nothing in common but root.
    pub fn and(self, other: Self) -> Self {
        let mask = if self.owner == other.owner { 0o777 } else { 0o700 };
        let owner = self.owner.filter(|_| self.owner == other.owner);
        Self { owner, perm: self.perm & other.perm & mask }
    }

    /// The same or none, and one more.
    pub fn more(guard: Option<Self>, other: Self) -> Option<Self> {
        Some(guard.map_or(other, |guard| guard.and(other)))
    }

    /// What all versions of a directory allow; `None` if it never was one.
    pub fn of_past(past: &Past) -> Option<Self> {
        let dirs = past.versions.iter().filter(|v| v.node.is_some());
        dirs.fold(None, |guard, v| Self::more(guard, Self::of_version(v)))
    }

    fn of_version(v: &Version) -> Self {
        Self::of((v.uid, v.gid), v.mode, v.has_acl)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whom_every_version_let_in_gets_in() {
        let open = Guard::of((1000, 100), 0o755, false);
        let closed = Guard::of((1000, 100), 0o700, false);
        let others = Guard::of((1001, 100), 0o755, false);
        assert_eq!(open.and(closed), closed);
        assert_eq!(open.and(others), Guard { owner: None, perm: 0o700 });
        assert_eq!(open.and(others).and(open), Guard { owner: None, perm: 0o700 });
        assert_eq!(Guard::of((0, 0), 0o755, true).perm, 0o700);
    }
}
