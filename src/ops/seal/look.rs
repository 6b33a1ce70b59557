//! Looks at one directory: lists it, decides what is taken, and whether anything changed since the catalog saw it last.
//!
//! Needs no order and nothing that a walk knows, so several threads may look at several directories (`ahead`).

use std::{io, sync::Arc};

use crate::{
    event::LeftOut,
    format::Entry,
    ops::seal::{
        exclude::{Decided, Excludes, Listed, Scope},
        memory::Memory,
        skip::{DirRecord, listing_hash},
        sources::Skeleton,
    },
    sys::{Dir, FileType, Found, Stat, Xattrs, xattrs_of_fd},
};

/// What it takes to look.
#[derive(Clone, Copy)]
pub struct Looker<'a> {
    pub excludes: &'a Excludes,
    /// Whether what is left out is told.
    pub explain: bool,
    pub memory: &'a Memory<'a>,
    pub now_ns: &'a (dyn Fn() -> i128 + Sync),
}

/// Where a directory is, and what holds there.
pub struct Below<'s> {
    /// The directory that it is in.
    pub parent: Arc<Dir>,
    /// Its name.
    pub name: Box<[u8]>,
    /// Its absolute path.
    pub path: Vec<u8>,
    /// What was named at or below it.
    pub skeleton: Option<&'s Skeleton>,
    /// Whether it is a source itself.
    pub is_source: bool,
    /// What holds in the directory above; `None` above the sources, where only what leads to them is looked at.
    pub scope: Option<Scope>,
}

/// A directory as it was found.
pub struct Looked<'s> {
    /// The open directory; `None` while the walk is far below it, or if nothing in it is of interest.
    pub dir: Option<Arc<Dir>>,
    pub name: Box<[u8]>,
    pub path: Vec<u8>,
    pub skeleton: Option<&'s Skeleton>,
    pub stat: Stat,
    /// What holds in it; `None` above the sources.
    pub scope: Option<Scope>,
    /// Directories in it that are left out themselves, but lead to a source.
    pub through: Vec<Box<[u8]>>,
    /// What is taken, sorted by name; if it is unchanged, the directories only.
    pub listing: Vec<Found>,
    /// Sockets that are no longer in the listing.
    pub sockets: usize,
    /// When it was listed, ns since 1970.
    pub listed_ns: i128,
    /// Its keyed name in the catalog.
    pub record_name: Option<[u8; 16]>,
    /// Hash of the listing.
    pub listing_hash: [u8; 32],
    /// What the catalog knows, if the listing is still the same.
    pub unchanged: Option<DirRecord>,
    /// Else its entries as the catalog knows them; `None` if it knows none.
    pub cached: Option<Vec<Entry>>,
    /// Its attributes, unless it is unchanged.
    pub xattrs: Xattrs,
    /// What is left out, if that is to be told.
    pub left_out: Vec<LeftOut>,
    /// What the person should know.
    pub warnings: Vec<String>,
    /// What could not be done.
    pub problems: Vec<String>,
}

impl Looker<'_> {
    /// Opens the directory and looks at it. What is missing of it is in `problems`.
    ///
    /// # Errors
    /// Why it cannot be opened.
    pub fn open<'s>(&self, below: Below<'s>) -> io::Result<Looked<'s>> {
        let dir = below.parent.child(&below.name)?;
        let stat = dir.stat()?;
        Ok(self.look(Arc::new(dir), stat, below))
    }

    /// Looks at `dir`, the open directory that `below` names.
    pub fn look<'s>(&self, dir: Arc<Dir>, stat: Stat, below: Below<'s>) -> Looked<'s> {
        let Below { name, path, skeleton, is_source, scope, .. } = below;
        let scope = if is_source { Some(Excludes::source(scope.as_ref(), &stat)) } else { scope };
        let listed_ns = (self.now_ns)();
        let (mut left_out, mut problems) = (Vec::new(), Vec::new());
        let listed = match (&scope, skeleton) {
            (Some(scope), _) => {
                let mut told = |out| left_out.push(out);
                let told = self.explain.then_some(&mut told as &mut dyn FnMut(LeftOut));
                self.excludes.list(scope, &stat, &Listed { dir: &dir, path: &path, named: skeleton }, told)
            }
            (None, named) => {
                let names = named.iter().flat_map(|skeleton| skeleton.children.keys());
                Ok((names.map(|name| Found { name: name.clone(), stat: dir.stat_of(name) }).collect(), Decided::default()))
            }
        };
        let (mut listing, decided) = listed.unwrap_or_else(|e| {
            problems.push(format!("cannot list: {e}"));
            Default::default()
        });
        let scope = scope.map(|_| decided.scope);
        let record_name = scope.is_some().then(|| self.memory.name(&path));
        let listing_hash = listing_hash(&stat, &listing, listed_ns);
        let known = record_name.and_then(|name| self.memory.dir(&name));
        let unchanged = known.filter(|record| record.listing == listing_hash && listing_hash != [0; 32]);
        let cached = match (&unchanged, record_name) {
            (None, Some(name)) => self.memory.entries(&name),
            _ => None,
        };
        let xattrs = match &unchanged {
            Some(_) => Xattrs::new(), // They are in the node, and the directory's ctime says that they are the same.
            None => xattrs_of_fd(&*dir).unwrap_or_else(|e| {
                problems.push(format!("cannot read the extended attributes: {}", io::Error::from(e)));
                Xattrs::new()
            }),
        };
        let mut sockets = 0;
        if unchanged.is_some() {
            let is = |found: &Found, kind| found.stat.as_ref().is_ok_and(|stat| stat.file_type() == kind);
            sockets = listing.iter().filter(|found| is(found, FileType::Socket)).count();
            listing.retain(|found| is(found, FileType::Dir));
            listing.shrink_to_fit();
        }
        let Decided { through, warnings, .. } = decided;
        Looked {
            dir: (unchanged.is_none() || !listing.is_empty()).then_some(dir),
            name,
            path,
            skeleton,
            stat,
            scope,
            through,
            listing,
            sockets,
            listed_ns,
            record_name,
            listing_hash,
            unchanged,
            cached,
            xattrs,
            left_out,
            warnings,
            problems,
        }
    }
}

impl<'s> Looked<'s> {
    /// The open directory.
    pub fn dir(&self) -> &Arc<Dir> {
        self.dir.as_ref().expect("the directory in work is open")
    }

    /// The directory `name` in this one, whose absolute path is `path`.
    pub fn below(&self, name: &[u8]) -> Below<'s> {
        let skeleton = self.skeleton.and_then(|skeleton| skeleton.children.get(name));
        Below {
            parent: self.dir().clone(),
            name: name.into(),
            path: [&self.path, &b"/"[..], name].concat(),
            skeleton,
            is_source: skeleton.is_some_and(|named| named.is_source),
            scope: if self.through.iter().any(|through| **through == *name) { None } else { self.scope.clone() },
        }
    }
}
