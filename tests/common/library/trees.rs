//! Whole trees, of a snapshot and of the disk, to be held against each other.
#![allow(clippy::unwrap_used)] // a test may stop at the first surprise

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File, Metadata},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::{
            ffi::{OsStrExt, OsStringExt},
            fs::{FileTypeExt, MetadataExt},
        },
    },
    path::{Path, PathBuf},
};

use coffre::{
    error::Result,
    format::{ChunkId, Content, Data, Entry, digest},
    vault::{self, Reader, Snapshot},
};
use rustix::fs::{Mode, OFlags, SeekFrom, lgetxattr, llistxattr, openat, seek};

/// What an entry is, as far as a restore must bring it back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    pub mode: u32,
    pub owner: (u32, u32),
    pub mtime_ns: i128,
    pub size: u64,
    /// For an inode with several names: how many, and the first of them.
    pub names: Option<(u32, Vec<u8>)>,
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub target: Vec<u8>,
    pub device: Option<(u32, u32)>,
    pub holes: Vec<(u64, u64)>,
    pub inode: u64,
}

/// Every path with what it is and its content.
pub type Tree = BTreeMap<Vec<u8>, (Meta, Vec<u8>)>;

/// The part of `tree` at and below `root`; everything else must be directories on the way to it.
pub fn below(tree: &Tree, root: &Path) -> Tree {
    let root = root.as_os_str().as_bytes();
    let is_below = |path: &[u8]| path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest[0] == b'/');
    for (path, (meta, _)) in tree.iter().filter(|(path, _)| !is_below(path)) {
        let leads = root.strip_prefix(path.as_slice()).is_some_and(|rest| rest[0] == b'/') && meta.mode & 0o170_000 == 0o040_000;
        assert!(leads, "{} is not on the way to the source", String::from_utf8_lossy(path));
    }
    tree.iter().filter(|(path, _)| is_below(path)).map(|(path, entry)| (path.clone(), entry.clone())).collect()
}

/// Compares trees and shows what differs instead of everything.
pub fn assert_same(got: &Tree, expected: &Tree, what: &str) {
    let differs = |path: &&Vec<u8>| got.get(*path) != expected.get(*path);
    let mut paths: Vec<&Vec<u8>> = got.keys().chain(expected.keys()).filter(differs).collect();
    paths.dedup();
    let show = |entry: Option<&(Meta, Vec<u8>)>| entry.map(|(meta, bytes)| (meta.clone(), bytes.len(), digest(bytes).short()));
    let lines: Vec<String> = paths
        .iter()
        .take(10)
        .map(|path| {
            format!("{}\n  got      {:?}\n  expected {:?}", String::from_utf8_lossy(path), show(got.get(*path)), show(expected.get(*path)))
        })
        .collect();
    assert!(paths.is_empty(), "{what}: {} paths differ:\n{}", paths.len(), lines.join("\n"));
}

/// Reads a whole snapshot.
pub fn read_snapshot(reader: &Reader, snapshot: &Snapshot) -> Result<Tree> {
    let mut tree = Tree::new();
    let mut groups = HashMap::new();
    read_dir(reader, snapshot, &snapshot.manifest.root, &mut Vec::new(), &mut tree, &mut groups)?;
    Ok(tree)
}

type Groups = HashMap<u64, Vec<u8>>;

fn read_dir(reader: &Reader, snapshot: &Snapshot, node: &ChunkId, path: &mut Vec<u8>, tree: &mut Tree, groups: &mut Groups) -> Result<()> {
    let keys = reader.keys(snapshot);
    for entry in reader.dir(&keys, node)? {
        let len = path.len();
        path.push(b'/');
        path.extend_from_slice(&entry.name);
        tree.insert(path.clone(), (meta_of(&entry, path, groups), read_entry(reader, snapshot, &entry)?));
        if let Content::Dir { node, .. } = &entry.content {
            read_dir(reader, snapshot, node, path, tree, groups)?;
        }
        path.truncate(len);
    }
    Ok(())
}

/// The content of a file; nothing for the rest.
pub fn read_entry(reader: &Reader, snapshot: &Snapshot, entry: &Entry) -> Result<Vec<u8>> {
    let keys = reader.keys(snapshot);
    let Some(file) = vault::FileReader::new(&keys, entry) else { return Ok(Vec::new()) };
    let mut bytes = vec![0; usize::try_from(file.size()).unwrap()];
    let n = reader.read_file(&file, 0, &mut bytes)?;
    assert_eq!(n, bytes.len(), "a read that is not short and not an error");
    Ok(bytes)
}

fn meta_of(entry: &Entry, path: &[u8], groups: &mut Groups) -> Meta {
    let (mut target, mut device, mut holes) = (Vec::new(), None, Vec::new());
    match &entry.content {
        Content::File { data, holes: h, .. } => {
            holes = h.iter().map(|h| (h.offset, h.len)).collect();
            assert!(!matches!(data, Data::Inline(bytes) if bytes.len() > 256), "inline content is short");
        }
        Content::Symlink(to) => target = to.to_vec(),
        Content::Device { major, minor } => device = Some((*major, *minor)),
        _ => (),
    }
    let names = entry.hard_link.map(|link| (link.nlink, groups.entry(link.group).or_insert_with(|| path.to_vec()).clone()));
    Meta {
        mode: entry.mode,
        owner: (entry.uid, entry.gid),
        mtime_ns: entry.mtime_ns,
        size: if entry.is_dir() { 0 } else { entry.size() },
        names,
        xattrs: entry.xattrs.iter().map(|(n, v)| (n.to_vec(), v.to_vec())).collect(),
        target,
        device,
        holes,
        inode: entry.source_inode,
    }
}

/// Reads a directory from the disk, itself included; sockets are left out. Goes by descriptors, so no path is too long.
pub fn read_disk(root: &Path) -> Tree {
    let mut tree = Tree::new();
    let mut links = HashMap::new();
    let meta = fs::symlink_metadata(root).unwrap();
    let mut path = root.as_os_str().as_bytes().to_vec();
    tree.insert(path.clone(), disk_entry(root, &meta, &path, &mut links));
    if meta.is_dir() {
        let dir = openat(rustix::fs::CWD, root, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        read_disk_dir(&dir, &mut path, &mut tree, &mut links);
    }
    tree
}

type Links = HashMap<(u64, u64), Vec<u8>>;

fn read_disk_dir(dir: &OwnedFd, path: &mut Vec<u8>, tree: &mut Tree, links: &mut Links) {
    let here = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd()));
    let mut names: Vec<Vec<u8>> = fs::read_dir(&here).unwrap().map(|e| e.unwrap().file_name().into_vec()).collect();
    names.sort();
    for name in names {
        let at = here.join(std::ffi::OsStr::from_bytes(&name));
        let meta = fs::symlink_metadata(&at).unwrap();
        if meta.file_type().is_socket() {
            continue;
        }
        let len = path.len();
        path.push(b'/');
        path.extend_from_slice(&name);
        tree.insert(path.clone(), disk_entry(&at, &meta, path, links));
        if meta.is_dir() {
            let child = openat(dir.as_fd(), name.as_slice(), OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW, Mode::empty()).unwrap();
            read_disk_dir(&child, path, tree, links);
        }
        path.truncate(len);
    }
}

fn disk_entry(at: &Path, meta: &Metadata, path: &[u8], links: &mut Links) -> (Meta, Vec<u8>) {
    let kind = meta.file_type();
    let several = meta.nlink() > 1 && !kind.is_dir();
    let mut first = || links.entry((meta.dev(), meta.ino())).or_insert_with(|| path.to_vec()).clone();
    let is_device = kind.is_block_device() || kind.is_char_device();
    let bytes = if kind.is_file() { fs::read(at).unwrap() } else { Vec::new() };
    let target = if kind.is_symlink() { fs::read_link(at).unwrap().into_os_string().into_vec() } else { Vec::new() };
    let of_file = |meta: &Metadata| if meta.is_file() { meta.len() } else { 0 };
    let entry = Meta {
        mode: meta.mode(),
        owner: (meta.uid(), meta.gid()),
        mtime_ns: i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec()),
        size: if kind.is_symlink() { target.len() as u64 } else { of_file(meta) },
        names: several.then(|| (u32::try_from(meta.nlink()).unwrap(), first())),
        xattrs: xattrs(at),
        target,
        device: is_device.then(|| (rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev()))),
        holes: if kind.is_file() && meta.blocks() * 512 < meta.len() && meta.len() > 256 { holes(at, meta.len()) } else { Vec::new() },
        inode: meta.ino(),
    };
    (entry, bytes)
}

fn xattrs(at: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut buf = vec![0; 64 << 10];
    let n = llistxattr(at, &mut buf[..]).unwrap_or(0);
    let mut names: Vec<Vec<u8>> = buf[..n].split(|b| *b == 0).filter(|n| !n.is_empty()).map(<[u8]>::to_vec).collect();
    names.sort();
    let value = |name: Vec<u8>| {
        let mut buf = vec![0; 64 << 10];
        let n = lgetxattr(at, name.as_slice(), &mut buf[..]).unwrap();
        (name, buf[..n].to_vec())
    };
    names.into_iter().map(value).collect()
}

fn holes(at: &Path, size: u64) -> Vec<(u64, u64)> {
    let file = File::open(at).unwrap();
    let (mut holes, mut here) = (Vec::new(), 0);
    while here < size {
        let data = seek(&file, SeekFrom::Data(here)).unwrap_or(size).min(size);
        if data > here {
            holes.push((here, data - here));
        }
        here = if data < size { seek(&file, SeekFrom::Hole(data)).unwrap().min(size) } else { size };
    }
    holes
}
