//! Findings: what is not as it should be, each of a kind from a closed list, with the next step.

use std::collections::HashSet;

use serde::Serialize;

/// What is wrong with an object. The words are the same in JSON, on the screen and in `docs/OPERATIONS.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Trouble {
    /// Its bytes are not what they were.
    Altered,
    /// It is gone.
    Deleted,
    /// It cannot be read, or makes no sense.
    Unreadable,
    /// A snapshot that another one, or the owner, vouches for is gone, or its signature is.
    SnapshotDeleted,
    /// A receipt stands where it was not made for, or goes on from what does not come before it.
    SnapshotReordered,
    /// The newest snapshots that somebody remembers are gone.
    RolledBack,
    /// Two snapshots of one sealer go on from the same one: two machines seal under one name.
    Fork,
    /// A snapshot that nobody signed who may seal, or keys that no owner signed.
    Stranger,
    /// A snapshot that a sealer signed after the owner took that right back.
    Revoked,
    /// A snapshot that was made for another vault.
    OtherVault,
    /// A receipt without a signature, or keys of which nobody can tell.
    Unsigned,
    /// A way in that an owner removed.
    Returned,
    /// The vault says that its objects are held against everybody, and this one is not.
    Unlocked,
}

impl Trouble {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Altered => "altered",
            Self::Deleted => "deleted",
            Self::Unreadable => "unreadable",
            Self::SnapshotDeleted => "snapshot-deleted",
            Self::SnapshotReordered => "snapshot-reordered",
            Self::RolledBack => "rolled-back",
            Self::Fork => "fork",
            Self::Stranger => "stranger",
            Self::Revoked => "revoked",
            Self::OtherVault => "other-vault",
            Self::Unsigned => "unsigned",
            Self::Returned => "returned",
            Self::Unlocked => "unlocked",
        }
    }

    /// What to do about it.
    pub fn next_step(self) -> &'static str {
        match self {
            Self::Altered | Self::Deleted | Self::Unreadable | Self::SnapshotDeleted => {
                "coffre verify --repair, or copy it back from another copy of the vault"
            }
            Self::SnapshotReordered => "copy it back from another copy of the vault, and ask who can write to this one",
            Self::RolledBack => "if this is no older copy, look for what is missing in another copy before anybody seals",
            Self::Fork => "give each machine a name of its own; if you know of one machine only, revoke the sealer (coffre key revoke)",
            Self::Stranger => "it does not count: ask who can write to the vault, and move it out",
            Self::Revoked => "it does not count; coffre snapshots --revoked lists it",
            Self::OtherVault => "it does not count: move it out, and ask how it came here",
            Self::Unlocked => {
                "ask who changed the bucket's object lock, or put the object there in another way; a copy elsewhere is as good as a lock"
            }
            Self::Unsigned => {
                "it does not count: a seal did not finish, or the signature was taken away; compare heads (coffre head) with the host"
            }
            Self::Returned => "take it away again: coffre key remove NUMBER; it gets no new keys, but who has its key reads what is older",
        }
    }

    /// Whether another copy of the vault can put it right.
    pub fn is_damage(self) -> bool {
        !matches!(self, Self::Fork | Self::Stranger | Self::Revoked | Self::OtherVault | Self::Unsigned | Self::Returned | Self::Unlocked)
    }
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    /// The object.
    pub object: String,
    /// What kind of thing is wrong.
    pub kind: Trouble,
    /// What is wrong, for people.
    pub text: String,
    /// What to do about it, for people.
    pub next: &'static str,
}

impl Finding {
    /// Notes that `object` cannot be read as it should be.
    pub fn new(object: impl Into<String>, text: impl Into<String>) -> Self {
        Self::of(Trouble::Unreadable, object, text)
    }

    /// Notes that something of this kind is wrong with `object`.
    pub fn of(kind: Trouble, object: impl Into<String>, text: impl Into<String>) -> Self {
        Self { object: object.into(), kind, text: text.into(), next: kind.next_step() }
    }
}

/// Puts findings in order, each once. Of a receipt that the chain has a name for, it is not told again that its bytes are others.
pub fn settle(findings: &mut Vec<Finding>) {
    let is_plain = |f: &Finding| matches!(f.kind, Trouble::Altered | Trouble::Deleted);
    let told: HashSet<String> = findings.iter().filter(|f| f.object.ends_with(".b3") && !is_plain(f)).map(|f| f.object.clone()).collect();
    findings.retain(|f| !is_plain(f) || !told.contains(&f.object));
    findings.sort();
    findings.dedup();
}
