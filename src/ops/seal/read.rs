//! Readers: open, read, cut, hash. Several at once; each batch's results leave in order.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    ops::Range,
    sync::Arc,
};

use crossbeam_channel::{Receiver, Sender};
use rustix::io::Errno;

use crate::{
    error::Result,
    format::{CHUNK_LEN_MAX, CHUNK_LEN_MIN, ChunkId, Chunker, Hole, INLINE_LEN_MAX, Key32},
    ops::seal::entry::XATTRS_LEN_MAX,
    sys::{Cancel, Dir, FileType, Stat, Xattrs, map_sparse, open_file, xattrs_of_fd},
};

/// A file to read.
pub struct Task {
    /// The directory that it is in.
    pub dir: Arc<Dir>,
    /// Its name.
    pub name: Box<[u8]>,
}

/// Files to read, and where their content goes.
pub struct Batch {
    /// The files, in order.
    pub tasks: Vec<Task>,
    /// Takes their content.
    pub pieces: Sender<Piece>,
}

/// Bytes, and what they are.
pub struct Piece {
    /// Content of chunks and inline files.
    pub buf: Vec<u8>,
    /// In order.
    pub items: Vec<Item>,
}

/// Part of a file's content, or its end.
pub enum Item {
    /// The next chunk of the file in work.
    Chunk(ChunkId, Range<usize>),
    /// The file changed: its chunks so far do not count.
    Restart,
    /// The file is complete.
    End(Box<FileRead>),
    /// The file cannot be taken. `None`: it is gone, which is no problem.
    Failed(Option<String>),
}

/// A file as it was read.
pub struct FileRead {
    /// Its stat when it was open.
    pub stat: Stat,
    /// Its attributes.
    pub xattrs: Xattrs,
    /// Its holes.
    pub holes: Vec<Hole>,
    /// Its size: bytes read and holes.
    pub size: u64,
    /// Its content if that is kept in the tree.
    pub inline: Option<Range<usize>>,
    /// It changed while it was read, twice.
    pub changed: bool,
    /// Attributes that could not be taken, and why.
    pub problem: Option<String>,
}

/// Bytes after which a piece is sent.
const PIECE_LEN: usize = 1 << 20;
/// Bytes asked for at once.
const READ_LEN: usize = 512 << 10;
/// A file is read once more if it changed while it was read, and then taken as it is.
const ATTEMPTS: usize = 2;

/// Reads batches until there are no more.
pub fn run(batches: &Receiver<Batch>, chunker: &Chunker, key: &Key32, cancel: &Cancel) -> Result<()> {
    let mut reader = Reader { chunker, key, cancel, buf: Vec::new(), items: Vec::new() };
    for batch in batches {
        for task in &batch.tasks {
            cancel.check()?;
            // A receiver that is gone has failed, and has said why.
            if reader.file(task, &batch.pieces).is_err() {
                return Ok(());
            }
        }
        if reader.send(&batch.pieces).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// A file's size, its holes, and where its bytes are if they are kept inline.
type Content = (u64, Vec<Hole>, Option<Range<usize>>);

/// Nobody takes the pieces any more.
struct Gone;

struct Reader<'a> {
    chunker: &'a Chunker,
    key: &'a Key32,
    cancel: &'a Cancel,
    buf: Vec<u8>,
    items: Vec<Item>,
}

/// Why a file's content could not be read to its end.
enum Stopped {
    Gone,
    Io(std::io::Error),
}

impl From<Gone> for Stopped {
    fn from(_: Gone) -> Self {
        Self::Gone
    }
}

impl Reader<'_> {
    fn send(&mut self, pieces: &Sender<Piece>) -> std::result::Result<(), Gone> {
        let piece = Piece { buf: std::mem::take(&mut self.buf), items: std::mem::take(&mut self.items) };
        if piece.items.is_empty() {
            self.buf = piece.buf;
            return Ok(());
        }
        pieces.send(piece).map_err(|_| Gone)
    }

    fn file(&mut self, task: &Task, pieces: &Sender<Piece>) -> std::result::Result<(), Gone> {
        for attempt in 1..=ATTEMPTS {
            let (mut file, stat) = match open_file(&task.dir, &task.name) {
                Ok((file, stat)) if stat.file_type() == FileType::File => (file, stat),
                Ok(_) | Err(Errno::LOOP | Errno::NXIO) => {
                    return self.fail(Some("it became something else while it was sealed".to_owned()));
                }
                Err(Errno::NOENT) => return self.fail(None),
                Err(e) => return self.fail(Some(format!("cannot open: {}", std::io::Error::from(e)))),
            };
            if attempt > 1 {
                self.items.push(Item::Restart);
            }
            let read = match self.content(&mut file, &stat, pieces) {
                Ok(read) => read,
                Err(Stopped::Gone) => return Err(Gone),
                Err(Stopped::Io(e)) => return self.fail(Some(format!("cannot read: {e}"))),
            };
            let after = match crate::sys::stat_of_file(&file) {
                Ok(after) => after,
                Err(e) => return self.fail(Some(format!("cannot look at it: {}", std::io::Error::from(e)))),
            };
            let changed = !after.same_content_as(&stat) || read.0 != stat.size;
            if changed && attempt < ATTEMPTS {
                continue;
            }
            let (xattrs, problem) = match xattrs_of_fd(&file) {
                Ok(xattrs) if xattrs.iter().map(|(n, v)| n.len() + v.len()).sum::<usize>() <= XATTRS_LEN_MAX => (xattrs, None),
                Ok(_) => (Xattrs::new(), Some("its extended attributes are too long and were left out".to_owned())),
                Err(e) => (Xattrs::new(), Some(format!("cannot read the extended attributes: {}", std::io::Error::from(e)))),
            };
            let (size, holes, inline) = read;
            self.items.push(Item::End(Box::new(FileRead { stat, xattrs, holes, size, inline, changed, problem })));
            break;
        }
        if self.buf.len() >= PIECE_LEN { self.send(pieces) } else { Ok(()) }
    }

    fn fail(&mut self, text: Option<String>) -> std::result::Result<(), Gone> {
        self.items.push(Item::Failed(text));
        Ok(())
    }

    /// Reads the file and cuts it. Returns its size, its holes, and where its bytes are if they are kept inline.
    fn content(&mut self, file: &mut File, stat: &Stat, pieces: &Sender<Piece>) -> std::result::Result<Content, Stopped> {
        if stat.allocated < stat.size && stat.size > INLINE_LEN_MAX as u64 {
            let map = map_sparse(file, stat.size).map_err(|e| Stopped::Io(e.into()))?;
            if !map.holes.is_empty() {
                return self.sparse(file, stat, map, pieces);
            }
            // Looking for holes moved the file's position.
            file.rewind().map_err(Stopped::Io)?;
        }
        let start = self.buf.len();
        if stat.size <= CHUNK_LEN_MIN as u64 {
            let want = stat.size as usize;
            self.buf.resize(start + want, 0);
            let got = read_full(file, &mut self.buf[start..])?;
            self.buf.truncate(start + got);
            if got <= INLINE_LEN_MAX {
                return Ok((got as u64, Vec::new(), Some(start..start + got)));
            }
            self.chunk(start..start + got);
            return Ok((got as u64, Vec::new(), None));
        }
        let size = self.run(file, stat.size, pieces)?;
        Ok((size, Vec::new(), None))
    }

    fn sparse(
        &mut self,
        file: &mut File,
        stat: &Stat,
        map: crate::sys::SparseMap,
        pieces: &Sender<Piece>,
    ) -> std::result::Result<Content, Stopped> {
        let mut holes: Vec<Hole> = map.holes.iter().map(|(offset, len)| Hole { offset: *offset, len: *len }).collect();
        for (offset, len) in map.data {
            file.seek(SeekFrom::Start(offset)).map_err(Stopped::Io)?;
            let got = self.run(file, len, pieces)?;
            if got < len {
                // Cut off while it was read: what is behind is no longer there.
                let size = offset + got;
                holes.retain(|h| h.offset + h.len <= size);
                return Ok((size, holes, None));
            }
        }
        Ok((stat.size, holes, None))
    }

    /// Reads `len` bytes from where the file stands, cut into chunks of their own. Returns how many there were.
    fn run(&mut self, file: &mut File, len: u64, pieces: &Sender<Piece>) -> std::result::Result<u64, Stopped> {
        let mut done = 0u64;
        // Bytes from here on are in no chunk yet.
        let mut open = self.buf.len();
        loop {
            if self.cancel.is_cancelled() {
                return Err(Stopped::Gone);
            }
            let at = self.buf.len();
            let want = READ_LEN.min(usize::try_from(len - done).unwrap_or(READ_LEN));
            self.buf.resize(at + want, 0);
            let got = read_full(file, &mut self.buf[at..])?;
            self.buf.truncate(at + got);
            done += got as u64;
            let ended = got < want || done == len;
            while self.buf.len() - open >= CHUNK_LEN_MAX || (ended && open < self.buf.len()) {
                let cut = self.chunker.cut(&self.buf[open..]);
                self.chunk(open..open + cut);
                open += cut;
            }
            if ended {
                return Ok(done);
            }
            if open >= PIECE_LEN {
                let rest = self.buf.split_off(open);
                self.send(pieces)?;
                self.buf = rest;
                self.buf.reserve(PIECE_LEN + READ_LEN + CHUNK_LEN_MAX);
                open = 0;
            }
        }
    }

    fn chunk(&mut self, range: Range<usize>) {
        let id = self.key.chunk_id(&self.buf[range.clone()]);
        self.items.push(Item::Chunk(id, range));
    }
}

/// Reads until `buf` is full or the file ends.
fn read_full(file: &mut File, buf: &mut [u8]) -> std::result::Result<usize, Stopped> {
    let mut filled = 0;
    while filled < buf.len() {
        match file.read(&mut buf[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => (),
            Err(e) => return Err(Stopped::Io(e)),
        }
    }
    Ok(filled)
}
