//! Tar in the pax format, as GNU tar writes it: times to the nanosecond, attributes, access lists, hard links, sparse files (PAX 1.0).
//!
//! What fits a ustar header stands there alone, so an ordinary entry costs one block; names that are not UTF-8 stand there as they are.
//! No crate: `tar` knows neither sparse files of this kind nor access lists, and what is left of it are the hundred lines below.

use std::io::{self, Write};

use crate::{
    format::{Content, Data, Entry, Hole},
    ops::{
        dump::{Archive, Item, pax},
        layout::data_len,
    },
};

const BLOCK: usize = 512;
/// Tapes are written in records of so many blocks, and readers expect it.
const RECORD: u64 = 20 * BLOCK as u64;
/// Largest numbers that fit eight and twelve octal places.
const OCTAL_7: u64 = 0o7_777_777;
const OCTAL_11: u64 = 0o77_777_777_777;

const ACCESS: &[u8] = b"system.posix_acl_access";
const DEFAULT: &[u8] = b"system.posix_acl_default";

/// An archive being written.
pub struct Tar<'a> {
    out: &'a mut dyn Write,
    len: u64,
    /// Bytes of the current member that are still to come.
    left: u64,
}

impl<'a> Tar<'a> {
    /// Writes to `out`.
    pub fn new(out: &'a mut dyn Write) -> Self {
        Self { out, len: 0, left: 0 }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.len += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    /// Fills the block up.
    fn pad(&mut self) -> io::Result<()> {
        let rest = (self.len % BLOCK as u64) as usize;
        if rest == 0 { Ok(()) } else { self.write(&[0; BLOCK][rest..]) }
    }
}

impl Archive for Tar<'_> {
    fn knows_links(&self) -> bool {
        true
    }

    fn begin(&mut self, item: &Item) -> io::Result<bool> {
        let entry = item.entry;
        let mut path = item.path.to_vec();
        if entry.is_dir() {
            path.push(b'/');
        }
        let mut records = pax::Records::default();
        let mut head = Head::new(entry);
        head.link(item, &mut records);
        let map = match (&entry.content, item.link_to) {
            (Content::File { size, holes, data }, None) if !holes.is_empty() => {
                let map = sparse_map(*size, holes, data);
                records.add(b"GNU.sparse.major", b"1");
                records.add(b"GNU.sparse.minor", b"0");
                records.add(b"GNU.sparse.name", &path);
                records.add(b"GNU.sparse.realsize", size.to_string().as_bytes());
                // Who does not know sparse files finds the map and the data under another name.
                let name = path.rsplit(|b| *b == b'/').next().unwrap_or_default();
                path = [b"GNUSparseFile.0/", &name[..name.len().min(80)]].concat();
                map
            }
            _ => Vec::new(),
        };
        head.path(&path, &mut records);
        let size = match (&entry.content, item.link_to) {
            (Content::File { .. }, None) => data_len(entry) + map.len() as u64,
            _ => 0,
        };
        head.size(size, &mut records);
        head.numbers(entry, &mut records);
        if item.link_to.is_none() {
            for (name, value) in &entry.xattrs {
                match (&**name, pax::acl_text(value)) {
                    (ACCESS, Some(text)) => records.add(b"SCHILY.acl.access", text.as_bytes()),
                    (DEFAULT, Some(text)) => records.add(b"SCHILY.acl.default", text.as_bytes()),
                    _ => records.xattr(name, value),
                }
            }
        }
        if !records.0.is_empty() {
            let mut before = Head::new(entry);
            before.set(156, b"x");
            let tail = &path[path.len().saturating_sub(80)..];
            before.set(0, &[&b"PaxHeaders/"[..], tail].concat());
            before.octal(124, 12, records.0.len() as u64);
            self.write(&before.done())?;
            self.write(&records.0)?;
            self.pad()?;
        }
        self.write(&head.done())?;
        self.write(&map)?;
        self.left = size - map.len() as u64;
        Ok(true)
    }

    fn data(&mut self, _: u64, bytes: &[u8]) -> io::Result<()> {
        self.left -= bytes.len() as u64;
        self.write(bytes)
    }

    fn end(&mut self, _: bool) -> io::Result<()> {
        // A member is as long as its header says, or nothing behind it can be read.
        while self.left > 0 {
            let n = self.left.min(BLOCK as u64);
            self.write(&[0; BLOCK][..n as usize])?;
            self.left -= n;
        }
        self.pad()
    }

    fn finish(&mut self) -> io::Result<()> {
        self.write(&[0; 2 * BLOCK])?;
        while !self.len.is_multiple_of(RECORD) {
            self.write(&[0; BLOCK])?;
        }
        self.out.flush()
    }
}

/// The map of a sparse file: how many runs of data, then offset and length of each; padded to whole blocks.
fn sparse_map(size: u64, holes: &[Hole], data: &Data) -> Vec<u8> {
    let mut runs = Vec::new();
    let mut at = 0;
    for hole in holes {
        if hole.offset > at {
            runs.push((at, hole.offset - at));
        }
        at = hole.offset + hole.len;
    }
    // The last run says where the file ends, even if nothing is in it.
    let has_data = !matches!(data, Data::Inline(bytes) if bytes.is_empty());
    if at < size || !has_data || runs.last().is_none_or(|(offset, len)| offset + len < size) {
        runs.push((at, size - at));
    }
    let mut map = format!("{}\n", runs.len());
    for (offset, len) in runs {
        map.push_str(&format!("{offset}\n{len}\n"));
    }
    let mut map = map.into_bytes();
    map.resize(map.len().next_multiple_of(BLOCK), 0);
    map
}

/// One ustar header.
struct Head([u8; BLOCK]);

impl Head {
    fn new(entry: &Entry) -> Self {
        let mut head = Self([0; BLOCK]);
        head.octal(100, 8, u64::from(entry.mode & 0o7777));
        head.octal(108, 8, 0);
        head.octal(116, 8, 0);
        head.octal(124, 12, 0);
        head.octal(136, 12, 0);
        head.set(257, b"ustar\x0000");
        let kind = match &entry.content {
            Content::File { .. } => b"0",
            Content::Symlink(_) => b"2",
            Content::Device { .. } if entry.mode & 0o170_000 == 0o020_000 => b"3",
            Content::Device { .. } => b"4",
            Content::Dir { .. } => b"5",
            Content::Fifo => b"6",
        };
        head.set(156, kind);
        if let Content::Device { major, minor } = entry.content {
            head.octal(329, 8, u64::from(major));
            head.octal(337, 8, u64::from(minor));
        }
        head
    }

    fn set(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// A number in octal digits, with a NUL behind it; the largest one if it does not fit, as a record says the right one.
    fn octal(&mut self, at: usize, len: usize, n: u64) {
        let max = if len == 8 { OCTAL_7 } else { OCTAL_11 };
        let text = format!("{:0width$o}", n.min(max), width = len - 1);
        self.set(at, text.as_bytes());
    }

    /// The name: in its field, or cut in two at a slash, or in a record.
    fn path(&mut self, path: &[u8], records: &mut pax::Records) {
        if path.len() <= 100 {
            return self.set(0, path);
        }
        let cut =
            path.iter().enumerate().find(|(at, b)| **b == b'/' && *at > 0 && *at <= 155 && (1..=100).contains(&(path.len() - at - 1)));
        match cut {
            Some((at, _)) => {
                self.set(345, &path[..at]);
                self.set(0, &path[at + 1..]);
            }
            None => {
                self.set(0, &path[..100]);
                records.add(b"path", path);
            }
        }
    }

    /// Another name of a file that is in the archive, or the target of a link.
    fn link(&mut self, item: &Item, records: &mut pax::Records) {
        let target = match (&item.entry.content, item.link_to) {
            (_, Some(first)) => {
                self.set(156, b"1");
                first
            }
            (Content::Symlink(target), None) => target,
            _ => return,
        };
        self.set(157, &target[..target.len().min(100)]);
        if target.len() > 100 {
            records.add(b"linkpath", target);
        }
    }

    fn size(&mut self, size: u64, records: &mut pax::Records) {
        self.octal(124, 12, size);
        if size > OCTAL_11 {
            records.add(b"size", size.to_string().as_bytes());
        }
    }

    /// Owner, group, their names, and the time.
    fn numbers(&mut self, entry: &Entry, records: &mut pax::Records) {
        for (at, key, id) in [(108, &b"uid"[..], entry.uid), (116, b"gid", entry.gid)] {
            self.octal(at, 8, u64::from(id));
            if u64::from(id) > OCTAL_7 {
                records.add(key, id.to_string().as_bytes());
            }
        }
        for (at, key, name) in [(265, &b"uname"[..], &entry.user), (297, b"gname", &entry.group)] {
            match name {
                Some(name) if name.len() < 32 => self.set(at, name),
                Some(name) => records.add(key, name),
                None => (),
            }
        }
        let secs = u64::try_from(entry.mtime_ns.div_euclid(1_000_000_000)).unwrap_or(0);
        self.octal(136, 12, secs);
        if entry.mtime_ns < 0 || entry.mtime_ns % 1_000_000_000 != 0 || secs > OCTAL_11 {
            records.add(b"mtime", pax::time(entry.mtime_ns).as_bytes());
        }
    }

    /// The block, with its checksum.
    fn done(mut self) -> [u8; BLOCK] {
        self.set(148, b"        ");
        let sum: u64 = self.0.iter().map(|b| u64::from(*b)).sum();
        self.set(148, format!("{sum:06o}\0 ").as_bytes());
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sparse_map_ends_where_the_file_does() {
        let hole = |offset, len| Hole { offset, len };
        let some = Data::Inline(b"x"[..].into());
        let text = |size, holes: &[Hole], data: &Data| {
            let map = sparse_map(size, holes, data);
            assert_eq!(map.len() % BLOCK, 0);
            String::from_utf8(map).unwrap().trim_end_matches('\0').replace('\n', " ")
        };
        assert_eq!(text(30, &[hole(0, 10)], &some), "1 10 20 ");
        assert_eq!(text(30, &[hole(10, 20)], &some), "2 0 10 30 0 ");
        assert_eq!(text(30, &[hole(10, 5)], &some), "2 0 10 15 15 ");
        assert_eq!(text(30, &[hole(0, 30)], &Data::Inline(Box::default())), "1 30 0 ");
    }
}
