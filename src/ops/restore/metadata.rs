//! Owner, mode, attributes and time of one entry, in the order in which none undoes another: owner, mode, attributes, time.
//!
//! What is refused is counted, and never fails the entry. Setuid and setgid are left away where the owner is not the sealed one: such a
//! program would run as somebody else.

use std::io;

use crate::{
    format::Entry,
    ops::restore::tally::{Part, Tally},
    sys::{self, Subject},
};

/// Whose the entries shall be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Owner {
    /// Whose they were.
    #[default]
    AsSealed,
    /// This user's and group's.
    Given(u32, u32),
    /// Whoever restores them.
    Mine,
}

/// Kinds of attributes that a restore removes where the snapshot lacks them. Others are the system's own.
const REMOVED: [&[u8]; 4] = [b"user.", b"trusted.", b"system.posix_acl_", b"security.capability"];

const SET_ID: u32 = 0o6000;

/// Sets what entries are.
pub struct Setter<'a> {
    tally: &'a Tally<'a>,
    owner: Owner,
    xattrs: bool,
    root: bool,
    us: (u32, u32),
    umask: u32,
}

/// What is known of an entry before it is set.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Owner, group, permission bits.
    pub stat: Option<(u32, u32, u32)>,
    /// It has no extended attributes.
    pub bare: bool,
}

impl Now {
    /// Nothing is known.
    pub const UNKNOWN: Now = Now { stat: None, bare: false };

    /// It has these, and perhaps attributes.
    pub fn of(stat: &sys::Stat) -> Self {
        Now { stat: Some((stat.uid, stat.gid, stat.mode & 0o7777)), bare: false }
    }
}

impl<'a> Setter<'a> {
    /// Sets what is asked for.
    pub fn new(tally: &'a Tally<'a>, owner: Owner, xattrs: bool) -> Self {
        Self { tally, owner, xattrs, root: sys::is_root(), us: sys::effective_ids(), umask: sys::umask() }
    }

    /// Owner and group that the entry shall have; `None`: whatever they are.
    fn owner(&self, entry: &Entry) -> Option<(u32, u32)> {
        match self.owner {
            Owner::AsSealed => Some((entry.uid, entry.gid)),
            Owner::Given(uid, gid) => Some((uid, gid)),
            Owner::Mine => None,
        }
    }

    /// The mode to make a file with, and what is known of it then. The final one at once, if nobody gets to see what he later must not.
    pub fn first_mode(&self, entry: &Entry, passes_on: bool) -> (u32, Now) {
        let mode = entry.mode & 0o7777;
        let ours = self.owner(entry).is_none_or(|owner| owner == self.us);
        let has_acl = entry.xattrs.iter().any(|(name, _)| name.starts_with(b"system."));
        match !passes_on && ours && mode & (0o7000 | self.umask) == 0 && !has_acl {
            true => (mode, Now { stat: Some((self.us.0, self.us.1, mode)), bare: true }),
            false if passes_on => (0o600, Now::UNKNOWN),
            false => (0o600, Now { stat: Some((self.us.0, self.us.1, 0o600 & !self.umask)), bare: true }),
        }
    }

    /// What is known of a link, fifo, device or directory that was just made.
    pub fn just_made(&self, passes_on: bool, mode: u32) -> Now {
        if passes_on { Now::UNKNOWN } else { Now { stat: Some((self.us.0, self.us.1, mode & !self.umask)), bare: true } }
    }

    /// Whether an entry that is there differs in owner or mode.
    pub fn differs(&self, entry: &Entry, stat: &sys::Stat) -> bool {
        let owner = self.owner(entry).is_some_and(|owner| owner != (stat.uid, stat.gid));
        let is_link = matches!(entry.content, crate::format::Content::Symlink(_));
        owner || (!is_link && self.mode(entry, !owner) != stat.mode & 0o7777)
    }

    /// The mode that an entry gets, given whether it has the owner that was asked for.
    fn mode(&self, entry: &Entry, owner_is_set: bool) -> u32 {
        let mode = entry.mode & 0o7777;
        let sealed = owner_is_set && (self.owner == Owner::AsSealed || self.owner(entry) == Some((entry.uid, entry.gid)));
        match sealed || entry.is_dir() {
            true => mode,
            false => mode & !SET_ID,
        }
    }

    /// Sets all of it, and the time last.
    pub fn set(&self, subject: &Subject, entry: &Entry, now: Now, path: &dyn Fn() -> Vec<u8>) {
        let is_link = matches!(entry.content, crate::format::Content::Symlink(_));
        let failed = |part, e: io::Error| self.tally.not_set(part, path, || text(part, &e));
        let has = |uid, gid| now.stat.is_some_and(|(u, g, _)| (u, g) == (uid, gid));
        let mut owned = true;
        let mut chowned = false;
        if let Some((uid, gid)) = self.owner(entry)
            && !has(uid, gid)
        {
            chowned = true;
            let set = match self.root || uid == self.us.0 {
                true => subject.set_owner(Some(uid), Some(gid)),
                // Only root gives files away; a group that one is in can be set.
                false => {
                    let _ = subject.set_owner(None, Some(gid));
                    Err(io::ErrorKind::PermissionDenied.into())
                }
            };
            if let Err(e) = set {
                owned = false;
                failed(Part::Owner, e);
            }
        }
        let mode = self.mode(entry, owned);
        if !is_link
            && (chowned || now.stat.is_none_or(|(_, _, has)| has != mode))
            && let Err(e) = subject.set_mode(mode)
        {
            failed(Part::Mode, e);
        }
        if self.xattrs {
            self.set_xattrs(subject, entry, now.bare, &failed);
        }
        if let Err(e) = subject.set_mtime(entry.mtime_ns) {
            failed(Part::Time, e);
        }
    }

    fn set_xattrs(&self, subject: &Subject, entry: &Entry, bare: bool, failed: &dyn Fn(Part, io::Error)) {
        let there = match bare {
            true => sys::Xattrs::new(),
            // What cannot be listed holds none of ours, or setting them says why not.
            false => subject.xattrs().unwrap_or_default(),
        };
        let find = |list: &sys::Xattrs, name: &[u8]| list.iter().find(|(n, _)| **n == *name).map(|(_, value)| value.clone());
        for (name, _) in there.iter().filter(|(name, _)| REMOVED.iter().any(|kind| name.starts_with(kind))) {
            if find(&entry.xattrs, name).is_none()
                && let Err(e) = subject.remove_xattr(name)
            {
                failed(part_of(name), e);
            }
        }
        let missing = entry.xattrs.iter().filter(|(name, value)| find(&there, name).as_ref() != Some(value));
        let mut refused: Option<(Part, io::Error)> = None;
        for (name, value) in missing {
            if let Err(e) = subject.set_xattr(name, value) {
                refused = refused.or(Some((part_of(name), e)));
            }
        }
        // An entry counts once, however many it lacks.
        if let Some((part, e)) = refused {
            failed(part, e);
        }
    }

    /// Whether the attributes of an entry that is there differ.
    pub fn xattrs_differ(&self, subject: &Subject, entry: &Entry) -> bool {
        if !self.xattrs {
            return false;
        }
        let Ok(there) = subject.xattrs() else { return false };
        let ours = |list: &sys::Xattrs| -> sys::Xattrs {
            list.iter().filter(|(name, _)| REMOVED.iter().any(|kind| name.starts_with(kind))).cloned().collect()
        };
        ours(&there) != ours(&entry.xattrs)
    }
}

fn part_of(name: &[u8]) -> Part {
    if name.starts_with(b"system.posix_acl_") { Part::Acl } else { Part::Xattr }
}

fn text(part: Part, e: &io::Error) -> String {
    let what = match part {
        Part::Owner => "owner",
        Part::Mode => "mode",
        Part::Time => "time",
        Part::Xattr => "extended attribute",
        Part::Acl => "access list",
    };
    match e.kind() {
        io::ErrorKind::Unsupported => format!("its {what} could not be set: the file system of the target knows none"),
        _ => format!("its {what} could not be set: {e}"),
    }
}
