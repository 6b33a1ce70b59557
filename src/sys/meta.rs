//! What stat does not say: extended attributes, holes, names of owners.

use std::{
    collections::HashMap,
    fs::File,
    os::fd::{AsFd, AsRawFd},
    sync::Arc,
};

use crate::sys::Dir;
use rustix::{
    fs::{SeekFrom, fgetxattr, flistxattr, lgetxattr, llistxattr, seek},
    io::Errno,
};

/// Extended attributes by name, sorted.
pub type Xattrs = Vec<(Box<[u8]>, Box<[u8]>)>;

/// Calls `get` with growing buffers until the answer fits.
fn grow(first: usize, mut get: impl FnMut(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut buf = vec![0u8; first];
    loop {
        match get(&mut buf) {
            Ok(len) => {
                buf.truncate(len);
                return Ok(buf);
            }
            // The kernel's own limit is 64 KiB for a value and for a list.
            Err(Errno::RANGE) if buf.len() < 1 << 20 => buf = vec![0u8; buf.len() * 4],
            Err(e) => return Err(e),
        }
    }
}

fn collect(list: Vec<u8>, mut value: impl FnMut(&[u8]) -> Result<Vec<u8>, Errno>) -> Result<Xattrs, Errno> {
    let mut found = Xattrs::new();
    for name in list.split(|b| *b == 0).filter(|name| !name.is_empty()) {
        match value(name) {
            Ok(value) => found.push((name.into(), value.into())),
            Err(Errno::NODATA) => (), // Removed meanwhile.
            Err(e) => return Err(e),
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// Attributes of an open file or directory; none where the file system knows none.
pub fn xattrs_of_fd(fd: impl AsFd) -> Result<Xattrs, Errno> {
    let mut first = [0u8; 256];
    let list = match flistxattr(fd.as_fd(), &mut first[..]) {
        Ok(0) | Err(Errno::OPNOTSUPP) => return Ok(Xattrs::new()),
        Ok(len) => first[..len].to_vec(),
        Err(Errno::RANGE) => grow(4096, |buf| flistxattr(fd.as_fd(), buf))?,
        Err(e) => return Err(e),
    };
    collect(list, |name| grow(1024, |buf| fgetxattr(fd.as_fd(), name, buf)))
}

/// Attributes of the entry `name` in `dir` itself, links not followed. For what cannot be opened: links, fifos, devices.
pub fn xattrs_of_name(dir: &Dir, name: &[u8]) -> Result<Xattrs, Errno> {
    // There is no llistxattrat before Linux 6.13; the descriptor's name in /proc stands for the directory.
    xattrs_of_path(&[format!("/proc/self/fd/{}/", dir.as_fd().as_raw_fd()).as_bytes(), name].concat())
}

/// Attributes of what stands at `path` itself, links not followed.
pub(super) fn xattrs_of_path(path: &[u8]) -> Result<Xattrs, Errno> {
    let list = match grow(256, |buf| llistxattr(path, buf)) {
        Err(Errno::OPNOTSUPP | Errno::NOENT) => return Ok(Xattrs::new()),
        list => list?,
    };
    collect(list, |name| grow(1024, |buf| lgetxattr(path, name, buf)))
}

/// Data and holes of a file, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SparseMap {
    /// (offset, length) of each run of data.
    pub data: Vec<(u64, u64)>,
    /// (offset, length) of each hole.
    pub holes: Vec<(u64, u64)>,
}

/// Most holes kept for a file; the shortest beyond that are read as the zeros that they are.
const HOLES_MAX: usize = 65_536;

/// Maps the first `size` bytes of `file`. One seek a run; all data where the file system cannot say.
pub fn map_sparse(file: &File, size: u64) -> Result<SparseMap, Errno> {
    let mut holes = Vec::new();
    let mut at = 0;
    while at < size {
        let data = match seek(file, SeekFrom::Data(at)) {
            Ok(data) => data.min(size),
            Err(Errno::NXIO) => size,
            Err(Errno::INVAL | Errno::OPNOTSUPP) => break,
            Err(e) => return Err(e),
        };
        if data > at {
            holes.push((at, data - at));
        }
        at = if data < size { seek(file, SeekFrom::Hole(data))?.min(size) } else { size };
    }
    if holes.len() > HOLES_MAX {
        let mut lens: Vec<u64> = holes.iter().map(|(_, len)| *len).collect();
        let (_, shortest_kept, _) = lens.select_nth_unstable_by(HOLES_MAX - 1, |a, b| b.cmp(a));
        let shortest_kept = *shortest_kept;
        holes.retain(|(_, len)| *len > shortest_kept);
    }
    let mut map = SparseMap { data: Vec::new(), holes };
    let mut at = 0;
    for (offset, len) in &map.holes {
        if *offset > at {
            map.data.push((at, offset - at));
        }
        at = offset + len;
    }
    if at < size {
        map.data.push((at, size - at));
    }
    Ok(map)
}

/// Names of users and groups by number, each asked for once.
#[derive(Default)]
pub struct Names {
    users: HashMap<u32, Option<Arc<[u8]>>>,
    groups: HashMap<u32, Option<Arc<[u8]>>>,
}

impl Names {
    /// Name of user `uid`.
    pub fn user(&mut self, uid: u32) -> Option<Arc<[u8]>> {
        self.users.entry(uid).or_insert_with(|| uzers::get_user_by_uid(uid).map(|u| bytes(u.name()))).clone()
    }

    /// Name of group `gid`.
    pub fn group(&mut self, gid: u32) -> Option<Arc<[u8]>> {
        self.groups.entry(gid).or_insert_with(|| uzers::get_group_by_gid(gid).map(|g| bytes(g.name()))).clone()
    }
}

fn bytes(name: &std::ffi::OsStr) -> Arc<[u8]> {
    std::os::unix::ffi::OsStrExt::as_bytes(name).into()
}
