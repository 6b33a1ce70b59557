//! Where a restore goes: a directory that was named, or the place where the files were. And where it must not go.

use std::{
    ffi::OsStr,
    io,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
};

use crate::{
    error::{Error, Result},
    format::Entry,
    ops::restore::{
        Context, Options,
        extras::is_claimed,
        metadata::{Now, Setter},
    },
    sys::{self, Dir, Subject},
    vault::{parts_of, resolve_path},
};

/// Where to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Into this directory.
    Into(PathBuf),
    /// Where it was.
    Original,
}

/// What is restored, and the directory in the snapshot that the target stands for.
pub struct Start {
    /// The entry; `None` for all of the snapshot.
    pub entry: Option<Entry>,
    /// Path in the snapshot of what goes into the target, without a slash at its end.
    pub base: Vec<u8>,
}

impl Start {
    /// Finds what was asked for.
    ///
    /// # Errors
    /// `NotFound` if the snapshot has no such path.
    pub fn find(context: &Context, options: &Options) -> Result<Self> {
        let entry = resolve_path(context.reader, context.snapshot, &options.path)?;
        let mut base = options.path.clone();
        if entry.as_ref().is_some_and(|entry| !entry.is_dir()) {
            base.truncate(base.iter().rposition(|b| *b == b'/').unwrap_or(0));
        }
        Ok(Self { entry, base })
    }

    /// A path below the target as it stands in the snapshot.
    pub fn path(&self, below: &[u8]) -> Vec<u8> {
        match below.is_empty() {
            true => self.base.clone(),
            false => [&self.base, &b"/"[..], below].concat(),
        }
    }

    /// The target for messages and checks.
    pub fn target(&self, options: &Options) -> PathBuf {
        match &options.place {
            Place::Into(path) => path.clone(),
            Place::Original => Path::new("/").join(OsStr::from_bytes(self.base.strip_prefix(b"/").unwrap_or(&self.base))),
        }
    }
}

/// Opens the target if it is there.
///
/// A directory that was named is reached through links as the person wrote it. The original place is reached through none: whoever owns a
/// directory on the way could have put a link there that leads to another place.
pub fn open(options: &Options, start: &Start) -> Result<Option<Dir>> {
    let path = start.target(options);
    let shown = path.display().to_string();
    if let Place::Into(path) = &options.place {
        return match Dir::open(path).map_err(io::Error::from) {
            Ok(dir) => Ok(Some(dir)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io(format!("cannot open {shown}"), e)),
        };
    }
    let mut dir = root()?;
    for name in parts_of(&start.base) {
        dir = match child(&dir, name, &shown)? {
            Some(dir) => dir,
            None => return Ok(None),
        };
    }
    Ok(Some(dir))
}

/// Opens the target, and makes it if it is not there. Directories above the original place are made as they were.
pub fn make(context: &Context, options: &Options, start: &Start, setter: &Setter) -> Result<Dir> {
    let path = start.target(options);
    let shown = path.display().to_string();
    let failed = |e: io::Error| Error::io(format!("cannot make {shown}"), e);
    if let Place::Into(path) = &options.place {
        match std::fs::create_dir_all(path) {
            Err(_) if path.symlink_metadata().is_ok() && !path.is_dir() => {
                return Err(Error::conflict(format!("{shown} is no directory"))
                    .hint("--to wants a directory: a file goes into it under its own name"));
            }
            made => made.map_err(failed)?,
        }
        return Dir::open(path).map_err(|e| Error::io(format!("cannot open {shown}"), e.into()));
    }
    let (mut dir, mut above) = (root()?, Vec::new());
    for name in parts_of(&start.base) {
        above.extend_from_slice(&[b"/", name].concat());
        dir = match child(&dir, name, &shown)? {
            Some(dir) => dir,
            None => {
                dir.make_dir(name, 0o700).map_err(failed)?;
                let made = child(&dir, name, &shown)?.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
                if let Some(entry) = resolve_path(context.reader, context.snapshot, &above)? {
                    setter.set(&Subject::Dir(&made), &entry, Now::UNKNOWN, &|| above.clone());
                }
                made
            }
        };
    }
    Ok(dir)
}

/// Keeps other restores out of the target until it is closed; of single files several may go into one directory at a time.
///
/// # Errors
/// `Locked` if one is at work there: each would take the files of the other for what must be replaced.
pub fn keep_others_out(target: &Dir, options: &Options, start: &Start) -> Result<()> {
    let alone = start.entry.as_ref().is_none_or(Entry::is_dir);
    match sys::lock_dir(target, alone) {
        true => Ok(()),
        false => Err(Error::locked(format!("another restore into {} is at work", start.target(options).display()))
            .hint("wait until it is done; the same command goes on where it was")),
    }
}

fn root() -> Result<Dir> {
    Dir::root().map_err(|e| Error::io("cannot open /", e))
}

fn child(dir: &Dir, name: &[u8], shown: &str) -> Result<Option<Dir>> {
    match dir.child(name).map_err(io::Error::from) {
        Ok(dir) => Ok(Some(dir)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) if e.kind() == io::ErrorKind::NotADirectory => {
            let name = String::from_utf8_lossy(name).into_owned();
            Err(Error::conflict(format!("cannot restore to {shown}: {name} is no directory now, but a link or a file"))
                .hint("links on the way are not followed, as they may lead anywhere; say where to with --to DIR"))
        }
        Err(e) => Err(Error::io(format!("cannot open {shown}"), e)),
    }
}

/// Whether the target is a place for many things, as `/tmp` is or a disk that is mounted: such a directory stays as it is.
pub fn is_shared(target: &Dir) -> bool {
    let sticky = target.stat().is_ok_and(|stat| stat.mode & 0o1000 != 0);
    sticky || target.parent().is_ok_and(|above| above.mount_id() != target.mount_id())
}

/// The target as it really is, or the lowest directory above it that is there.
fn real(options: &Options, start: &Start) -> PathBuf {
    let target = start.target(options);
    target.ancestors().find_map(|path| path.canonicalize().ok()).unwrap_or(target)
}

/// The directories that no deletion reaches, as paths below the target.
pub fn spared(options: &Options, start: &Start) -> Vec<Vec<u8>> {
    let target = real(options, start);
    let real = options.spared.iter().filter_map(|path| path.canonicalize().ok());
    real.filter_map(|path| path.strip_prefix(&target).ok().map(|below| below.as_os_str().as_bytes().to_vec())).collect()
}

/// Fails if the target lies in a place of the vault, or if what is deleted from could hold the vault.
pub fn check(context: &Context, options: &Options, start: &Start) -> Result<()> {
    let (target, shown) = (real(options, start), start.target(options).display().to_string());
    for never in options.vault.iter().chain(&options.spared) {
        let same = |path: &Path| matches!((path.metadata(), never.metadata()), (Ok(a), Ok(b)) if (a.dev(), a.ino()) == (b.dev(), b.ino()));
        if target.ancestors().any(same) {
            return Err(Error::usage(format!("{shown} is a place of the vault itself"))
                .hint("restore into a directory outside the vault and the state directory"));
        }
    }
    let vault = options.vault.as_ref().filter(|_| options.delete).and_then(|vault| vault.canonicalize().ok());
    let below = vault.as_ref().and_then(|vault| vault.strip_prefix(&target).ok());
    if let Some(below) = below
        && is_claimed(context.snapshot, &start.path(below.as_os_str().as_bytes()))
    {
        return Err(Error::usage(format!("the vault lies below {shown}, and --delete would remove it"))
            .hint("leave --delete away, or restore a part that does not reach so far"));
    }
    Ok(())
}
