//! Dump: a snapshot, or a part of one, as an archive into a stream.
//!
//! The tree is walked in order of names and nothing is kept but the directories on the way, the first names of inodes with several, and
//! one file of up to `AHEAD_LEN_MAX` bytes: so long ones are read whole before their header is written, and a damaged one is left out. A
//! longer one whose end proves damaged has its header out already; the archive then says what the format lets it say.

mod pax;
mod tar;
mod zip;

use std::{
    collections::HashMap,
    io::{self, Write},
};

use serde::Serialize;

use crate::{
    error::{Error, ErrorKind, Result},
    format::{Content, DIR_DEPTH_MAX, Data, DomainKeys, Entry},
    ops::{
        layout::{Layout, data_len, runs},
        restore::{Failed, Taken, Wanted},
    },
    sys::Cancel,
    vault::{Reader, Snapshot, resolve_path},
};

/// Files of this length are read whole before anything of them is written.
const AHEAD_LEN_MAX: u64 = 16 << 20;
/// Most files listed one by one.
const LISTED_MAX: usize = 10_000;

/// Kinds of archives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// POSIX pax, with everything that an entry has.
    #[default]
    Tar,
    /// Zip, with zip64 where needed: files, directories and links, with their modes, owners by number, and times in seconds.
    Zip,
}

/// What was written.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Entries.
    pub entries: u64,
    /// Bytes of content, without holes.
    pub bytes: u64,
    /// Files that are damaged in the vault: left out, or, if they are long, not right in the archive.
    pub lost: Vec<Failed>,
    /// Not listed.
    pub lost_more: u64,
    /// Entries that the format cannot hold: fifos and devices in a zip.
    pub left_out: u64,
}

/// What an archive is told of an entry.
struct Item<'a> {
    /// Path in the archive: relative, without a slash at its end; `.` for the directory itself.
    path: &'a [u8],
    entry: &'a Entry,
    /// The path of another name of the same inode, if that is in the archive already.
    link_to: Option<&'a [u8]>,
}

/// A kind of archive being written.
trait Archive {
    /// Whether several names of one inode are kept as such; if not, each has its content.
    fn knows_links(&self) -> bool;
    /// Starts an entry; whether the format can hold it.
    fn begin(&mut self, item: &Item) -> io::Result<bool>;
    /// Bytes of its content, `at` that offset of the file. In order, holes left out.
    fn data(&mut self, at: u64, bytes: &[u8]) -> io::Result<()>;
    /// Ends an entry whose content was given; `whole` is false if some of it could not be had.
    fn end(&mut self, whole: bool) -> io::Result<()>;
    /// Ends the archive.
    fn finish(&mut self) -> io::Result<()>;
}

/// Writes `path` of `snapshot` into `out`. Who reads may stop reading: that is no error.
///
/// # Errors
/// `NotFound` if there is no such path, or if nothing in it is wanted. Damage is in the report.
pub fn run(
    reader: &Reader,
    snapshot: &Snapshot,
    path: &[u8],
    wanted: &Wanted,
    format: Format,
    out: &mut dyn Write,
    cancel: &Cancel,
) -> Result<Report> {
    let start = resolve_path(reader, snapshot, path)?;
    let keys = reader.keys(snapshot);
    let mut archive: Box<dyn Archive + '_> = match format {
        Format::Tar => Box::new(tar::Tar::new(out)),
        Format::Zip => Box::new(zip::Zip::new(out)),
    };
    let mut dump = Dump {
        reader,
        keys: &keys,
        wanted,
        cancel,
        archive: &mut *archive,
        firsts: HashMap::new(),
        report: Report::default(),
        took: false,
        gone: false,
    };
    let done = dump.start(snapshot, start, path);
    match done {
        Err(_) if dump.gone => Ok(dump.report),
        done => done.map(|()| dump.report),
    }
}

/// Takes a run of content and its offset.
type Each<'a, D> = dyn FnMut(&mut D, u64, &[u8]) -> Result<()> + 'a;

struct Dump<'a, 'b> {
    reader: &'a Reader,
    keys: &'a DomainKeys,
    wanted: &'a Wanted,
    cancel: &'a Cancel,
    archive: &'a mut (dyn Archive + 'b),
    /// Where the first name of an inode is in the archive.
    firsts: HashMap<u64, Vec<u8>>,
    report: Report,
    /// Something was taken.
    took: bool,
    /// Nobody reads any more.
    gone: bool,
}

impl Dump<'_, '_> {
    fn start(&mut self, snapshot: &Snapshot, start: Option<Entry>, path: &[u8]) -> Result<()> {
        let mut full = path.to_vec();
        let is_file = start.as_ref().is_some_and(|entry| !entry.is_dir());
        match start {
            None => self.dir(&snapshot.manifest.root, &mut full, &mut Vec::new(), false, 0)?,
            Some(entry) => match entry.content {
                Content::Dir { node, .. } => {
                    self.put(&entry, b".", path)?;
                    self.dir(&node, &mut full, &mut Vec::new(), false, 0)?;
                }
                _ => self.put(&entry, &entry.name, path)?,
            },
        }
        let finished = self.archive.finish();
        self.written(finished)?;
        match self.took || is_file || self.wanted.is_all() {
            true => Ok(()),
            false => Err(self.wanted.fits_nothing(snapshot, path)),
        }
    }

    /// What became of a write: the end, quietly, once nobody reads.
    fn written<T>(&mut self, result: io::Result<T>) -> Result<T> {
        result.map_err(|e| {
            self.gone |= e.kind() == io::ErrorKind::BrokenPipe;
            Error::io("cannot write the archive", e)
        })
    }

    /// Everything in a directory, whose path in the snapshot and in the archive are given. Recursion is bounded by `DIR_DEPTH_MAX`.
    fn dir(&mut self, node: &crate::format::ChunkId, full: &mut Vec<u8>, at: &mut Vec<u8>, within: bool, depth: usize) -> Result<()> {
        if depth > DIR_DEPTH_MAX {
            self.lost(full, "is nested too deep".to_owned());
            return Ok(());
        }
        let (reader, keys) = (self.reader, self.keys);
        let mut stopped = None;
        let walked = reader.each_part(keys, node, |_, entries| {
            entries.into_iter().try_for_each(|entry| self.entry(&entry, full, at, within, depth)).inspect_err(|e| {
                stopped = Some(e.kind());
            })
        });
        match walked {
            Err(e) if stopped.is_some() => Err(e),
            Err(e) => {
                self.lost(&[full, &b"/"[..]].concat(), format!("the directory and what is below it cannot be read: {}", e.chain()));
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    fn entry(&mut self, entry: &Entry, full: &mut Vec<u8>, at: &mut Vec<u8>, within: bool, depth: usize) -> Result<()> {
        self.cancel.check()?;
        let (full_len, at_len) = (full.len(), at.len());
        full.push(b'/');
        full.extend_from_slice(&entry.name);
        if !at.is_empty() {
            at.push(b'/');
        }
        at.extend_from_slice(&entry.name);
        let taken = self.wanted.taken(full, &entry.name, entry.is_dir(), within);
        self.took |= taken == Taken::Yes;
        let done = match (taken, &entry.content) {
            (Taken::No, _) => Ok(()),
            (_, Content::Dir { node, .. }) => {
                let put = if taken == Taken::Yes { self.put(entry, at, full) } else { Ok(()) };
                put.and_then(|()| self.dir(node, full, at, taken == Taken::Yes, depth + 1))
            }
            _ => self.put(entry, at, full),
        };
        full.truncate(full_len);
        at.truncate(at_len);
        done
    }

    /// Writes one entry.
    fn put(&mut self, entry: &Entry, at: &[u8], full: &[u8]) -> Result<()> {
        let group = entry.hard_link.map(|link| link.group).filter(|_| self.archive.knows_links());
        let link_to = group.and_then(|group| self.firsts.get(&group).cloned());
        let has_content = matches!(entry.content, Content::File { .. }) && link_to.is_none();
        let mut ahead: Vec<(u64, Vec<u8>)> = Vec::new();
        let is_short = data_len(entry) <= AHEAD_LEN_MAX;
        if has_content && is_short {
            let read = self.content(entry, &mut |_, at, bytes| {
                ahead.push((at, bytes.to_vec()));
                Ok(())
            });
            match read {
                Ok(()) => (),
                Err(e) if e.kind() == ErrorKind::Cancelled => return Err(e),
                Err(e) => {
                    self.lost(full, e.chain());
                    return Ok(());
                }
            }
        }
        let begun = self.archive.begin(&Item { path: at, entry, link_to: link_to.as_deref() });
        if !self.written(begun)? {
            self.report.left_out += 1;
            return Ok(());
        }
        if has_content {
            let read = match is_short {
                true => ahead.iter().try_for_each(|(at, bytes)| self.data(*at, bytes)),
                false => self.content(entry, &mut |dump, at, bytes| dump.data(at, bytes)),
            };
            let damage = match read {
                Err(e) if !matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::Missing) => return Err(e),
                read => read.err(),
            };
            let ended = self.archive.end(damage.is_none());
            self.written(ended)?;
            if let Some(e) = damage {
                self.lost(full, format!("is not right in the archive: {}", e.chain()));
            }
        }
        self.report.entries += 1;
        if let Some(group) = group {
            self.firsts.entry(group).or_insert_with(|| at.to_vec());
        }
        Ok(())
    }

    fn data(&mut self, at: u64, bytes: &[u8]) -> Result<()> {
        self.report.bytes += bytes.len() as u64;
        let written = self.archive.data(at, bytes);
        self.written(written)
    }

    /// Calls `each` with every run of a file's content and its offset.
    fn content(&mut self, entry: &Entry, each: &mut Each<Self>) -> Result<()> {
        let Content::File { data, holes, .. } = &entry.content else { return Ok(()) };
        let mut layout = Layout::new(holes);
        let mut put = |dump: &mut Self, bytes: &[u8]| {
            let start = layout.place(bytes.len() as u64);
            runs(holes, start, bytes.len()).try_for_each(|(at, range)| each(dump, at, &bytes[range]))
        };
        if let Data::Inline(bytes) = data {
            return put(self, bytes);
        }
        let (reader, keys) = (self.reader, self.keys);
        reader.each_chunk(keys, data, |chunk| {
            self.cancel.check()?;
            reader.with_chunk(&chunk.id, &keys.data, |bytes| match bytes.len() == chunk.len as usize {
                true => put(self, bytes),
                false => Err(Error::corrupt(format!("chunk {} has another length than its file says", chunk.id.short()))),
            })?
        })
    }

    fn lost(&mut self, path: &[u8], text: String) {
        match self.report.lost.len() < LISTED_MAX {
            true => self.report.lost.push(Failed::new(path, text)),
            false => self.report.lost_more += 1,
        }
    }
}
