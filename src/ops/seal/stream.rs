//! One file whose content comes through a pipe: read to its end, cut and hashed as a walk's files are.
//!
//! Takes the place of walker and readers. Its length is known when it ends; a piece at a time is held.

use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    path::{Component, Path},
    sync::Mutex,
};

use crossbeam_channel::{Sender, bounded};

use crate::{
    error::{Error, Result},
    format::{CHUNK_LEN_MAX, Chunker, INLINE_LEN_MAX, Key32},
    ops::seal::{
        read::{FileRead, Item, Piece},
        walk::{EnteredDir, GROUP_PIECES, Group, Step},
    },
    sys::{Cancel, Dir, Piped, Stat, effective_ids},
};

/// A file for the snapshot: where it stands there, and what is in it.
pub struct Stream {
    /// Absolute path, made of names only.
    path: Vec<u8>,
    /// Taken when it is read.
    content: Mutex<Option<Piped>>,
}

/// Bytes asked for at once, and sent on at once.
const READ_LEN: usize = 512 << 10;
const PIECE_LEN: usize = 1 << 20;
/// Longest path, in bytes; the kernel's own limit.
const PATH_LEN_MAX: usize = 4096;
const REGULAR: u32 = 0o100_000;
const DIRECTORY: u32 = 0o040_000;

impl Stream {
    /// A file called `name`: in the root directory, or where an absolute path says. `content` is asked for once that is clear.
    ///
    /// # Errors
    /// `Usage` if that is no path of a file.
    pub fn new(name: &OsStr, content: impl FnOnce() -> Result<Piped>) -> Result<Self> {
        let wrong = |why: &str| {
            Error::usage(format!("`{}` cannot be the name of a file in the snapshot: {why}", name.to_string_lossy()))
                .hint("give a name such as app.sql, or an absolute path such as /var/backups/app.sql")
        };
        let bytes = name.as_bytes();
        if bytes.is_empty() || bytes.ends_with(b"/") || bytes.contains(&0) {
            return Err(wrong("it names no file"));
        }
        if bytes.len() > PATH_LEN_MAX || bytes.split(|b| *b == b'/').any(|part| part.len() > 255) {
            return Err(wrong("it is too long"));
        }
        let mut path = Vec::new();
        for part in Path::new(name).components() {
            match part {
                Component::Normal(name) => path.extend_from_slice(&[b"/", name.as_bytes()].concat()),
                Component::RootDir => (),
                Component::CurDir | Component::ParentDir | Component::Prefix(_) => return Err(wrong("`.` and `..` are no names")),
            }
        }
        Ok(Self { path, content: Mutex::new(Some(content()?)) })
    }

    /// Where it stands.
    pub fn path(&self) -> &[u8] {
        &self.path
    }

    /// Sends the file, and the directories above it as they are here, or as new ones.
    ///
    /// # Errors
    /// Those of reading, and of the command's end. Then the file's end is never sent, so nothing can be committed.
    pub fn run(&self, groups: &Sender<Group>, chunker: &Chunker, key: &Key32, now_ns: i128, cancel: &Cancel) -> Result<()> {
        let content = self.content.lock().map_err(|_| Error::bug("a stream panicked"))?.take();
        let mut content = content.ok_or_else(|| Error::bug("a stream is read twice"))?;
        let (pieces_in, pieces) = bounded(GROUP_PIECES);
        groups.send(Group { steps: self.steps(now_ns), pieces }).map_err(|_| Error::cancelled())?;
        let mut cutter = Cutter { chunker, key, pieces: pieces_in, buf: Vec::new(), items: Vec::new(), size: 0 };
        let inline = cutter.run(&mut content, cancel)?;
        content.finish(cancel)?;
        let stat = new(REGULAR | 0o600, now_ns);
        let size = cutter.size;
        let read =
            FileRead { stat: Stat { size, ..stat }, xattrs: Vec::new(), holes: Vec::new(), size, inline, changed: false, problem: None };
        cutter.items.push(Item::End(Box::new(read)));
        cutter.send()
    }

    fn steps(&self, now_ns: i128) -> Vec<Step> {
        let parts: Vec<&[u8]> = self.path[1..].split(|b| *b == b'/').collect();
        let (name, dirs) = parts.split_last().expect("a path has a last part");
        let mut path = Vec::new();
        let mut steps = vec![enter(b"", &path, now_ns)];
        for dir in dirs {
            path.extend_from_slice(&[b"/", *dir].concat());
            steps.push(enter(dir, &path, now_ns));
        }
        steps.push(Step::Read((*name).into(), 0));
        steps.extend((0..=dirs.len()).map(|_| Step::Leave));
        steps
    }
}

/// A directory above the file: with the owner and mode that it has here, so that a restore of everything does no harm.
fn enter(name: &[u8], path: &[u8], now_ns: i128) -> Step {
    let here = Path::new("/").join(OsStr::from_bytes(path.strip_prefix(b"/").unwrap_or(path)));
    let stat = Dir::open(&here).and_then(|dir| dir.stat()).unwrap_or_else(|_| new(DIRECTORY | 0o755, now_ns));
    Step::Enter(Box::new(EnteredDir {
        name: name.into(),
        stat,
        xattrs: Vec::new(),
        record_name: None,
        listing: [0; 32],
        unchanged: None,
        listed_ns: now_ns,
        path: path.to_vec(),
    }))
}

/// What an entry is that was made now, by this user.
fn new(mode: u32, now_ns: i128) -> Stat {
    let (uid, gid) = effective_ids();
    Stat {
        mode,
        uid,
        gid,
        nlink: 1,
        inode: 0,
        device: 0,
        rdev: 0,
        size: 0,
        allocated: 0,
        mtime_ns: now_ns,
        ctime_ns: now_ns,
        nodump: false,
    }
}

struct Cutter<'a> {
    chunker: &'a Chunker,
    key: &'a Key32,
    pieces: Sender<Piece>,
    buf: Vec<u8>,
    items: Vec<Item>,
    size: u64,
}

impl Cutter<'_> {
    /// Cuts everything; returns where the content is if it is short enough to be kept in the tree.
    fn run(&mut self, content: &mut Piped, cancel: &Cancel) -> Result<Option<std::ops::Range<usize>>> {
        // Bytes from here on are in no chunk yet.
        let mut open = 0;
        loop {
            let at = self.buf.len();
            self.buf.resize(at + READ_LEN, 0);
            let got = content.read(&mut self.buf[at..], cancel)?;
            self.buf.truncate(at + got);
            self.size += got as u64;
            let ended = got < READ_LEN;
            if ended && self.size <= INLINE_LEN_MAX as u64 {
                return Ok(Some(0..self.buf.len()));
            }
            while self.buf.len() - open >= CHUNK_LEN_MAX || (ended && open < self.buf.len()) {
                let cut = self.chunker.cut(&self.buf[open..]);
                let id = self.key.chunk_id(&self.buf[open..open + cut]);
                self.items.push(Item::Chunk(id, open..open + cut));
                open += cut;
            }
            if ended {
                return Ok(None);
            }
            if open >= PIECE_LEN {
                let rest = self.buf.split_off(open);
                self.send()?;
                self.buf = rest;
                self.buf.reserve(PIECE_LEN + READ_LEN + CHUNK_LEN_MAX);
                open = 0;
            }
        }
    }

    fn send(&mut self) -> Result<()> {
        let piece = Piece { buf: std::mem::take(&mut self.buf), items: std::mem::take(&mut self.items) };
        self.pieces.send(piece).map_err(|_| Error::cancelled())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_path_below_the_root() {
        let null = || Ok(Piped::file(std::fs::File::open("/dev/null").unwrap()));
        for (name, path) in [("app.sql", "/app.sql"), ("/var/backups/app.sql", "/var/backups/app.sql"), ("a//b", "/a/b")] {
            assert_eq!(Stream::new(OsStr::new(name), null).unwrap().path(), path.as_bytes());
        }
        for wrong in ["", "/", "a/", "../a", "./a", "/a/../b", "a\0b", &"x".repeat(256)] {
            assert!(Stream::new(OsStr::new(wrong), null).is_err(), "{wrong}");
        }
    }
}
