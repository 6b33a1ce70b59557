//! Readers: open, read, cut, hash. Several at once; each batch's results leave in order.

use std::{ops::Range, sync::Arc};

use crossbeam_channel::{Receiver, Sender};
use rustix::io::Errno;

use crate::{
    error::Result,
    format::{CHUNK_LEN_MAX, CHUNK_LEN_MIN, ChunkId, Chunker, Hole, INLINE_LEN_MAX, Key32},
    ops::seal::{entry::XATTRS_LEN_MAX, pool::Pool, throttle::Throttle},
    sys::{Cancel, Dir, FileType, Manners, SourceFile, Stat, Xattrs, map_sparse, open_file, xattrs_of_fd},
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
/// Room that a piece needs: it is sent when it is full, but never in the middle of a chunk.
pub const PIECE_ROOM: usize = PIECE_LEN + READ_LEN + CHUNK_LEN_MAX;
/// A file is read once more if it changed while it was read, and then taken as it is.
const ATTEMPTS: usize = 2;
/// Most bytes taken of a file that says it is empty and is not, as those of /proc do; some of them never end.
const UNTOLD_LEN_MAX: u64 = 16 << 20;

/// What all readers share.
#[derive(Clone, Copy)]
pub struct Shared<'a> {
    /// Cuts.
    pub chunker: &'a Chunker,
    /// Names chunks.
    pub key: &'a Key32,
    /// Stops the work.
    pub cancel: &'a Cancel,
    /// Room for pieces.
    pub pool: &'a Pool,
    /// Spaces reads out.
    pub throttle: Option<&'a Throttle<'a>>,
}

/// Reads batches until there are no more.
pub fn run(batches: &Receiver<Batch>, shared: Shared) -> Result<()> {
    let mut reader = Reader { shared, manners: Manners::default(), buf: shared.pool.take(), items: Vec::new() };
    for batch in batches {
        for task in &batch.tasks {
            shared.cancel.check()?;
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

/// A file's content as it was read.
struct Content {
    /// Bytes read and holes.
    size: u64,
    holes: Vec<Hole>,
    /// Where the bytes are if they are kept inline.
    inline: Option<Range<usize>>,
}

/// Nobody takes the pieces any more.
struct Gone;

struct Reader<'a> {
    shared: Shared<'a>,
    manners: Manners,
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
        if self.items.is_empty() {
            return Ok(());
        }
        let buf = std::mem::replace(&mut self.buf, self.shared.pool.take());
        pieces.send(Piece { buf, items: std::mem::take(&mut self.items) }).map_err(|_| Gone)
    }

    fn file(&mut self, task: &Task, pieces: &Sender<Piece>) -> std::result::Result<(), Gone> {
        for attempt in 1..=ATTEMPTS {
            let (file, stat) = match open_file(&task.dir, &task.name) {
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
            let mut file = SourceFile::new(file, stat.device, &self.manners);
            let read = match self.content(&mut file, &stat, pieces) {
                Ok(read) => read,
                Err(Stopped::Gone) => return Err(Gone),
                Err(Stopped::Io(e)) => return self.fail(Some(format!("cannot read: {e}"))),
            };
            let after = match crate::sys::stat_of_file(file.file()) {
                Ok(after) => after,
                Err(e) => return self.fail(Some(format!("cannot look at it: {}", std::io::Error::from(e)))),
            };
            let untold = stat.size == 0 && read.size > 0;
            let changed = !after.same_content_as(&stat) || (read.size != stat.size && !untold);
            if changed && attempt < ATTEMPTS {
                continue;
            }
            let (xattrs, mut problem) = match xattrs_of_fd(file.file()) {
                Ok(xattrs) if xattrs.iter().map(|(n, v)| n.len() + v.len()).sum::<usize>() <= XATTRS_LEN_MAX => (xattrs, None),
                Ok(_) => (Xattrs::new(), Some("its extended attributes are too long and were left out".to_owned())),
                Err(e) => (Xattrs::new(), Some(format!("cannot read the extended attributes: {}", std::io::Error::from(e)))),
            };
            let Content { size, holes, inline } = read;
            if untold && size >= UNTOLD_LEN_MAX {
                problem = Some(format!("says that it is empty, and was taken up to {} MiB only", UNTOLD_LEN_MAX >> 20));
            }
            self.items.push(Item::End(Box::new(FileRead { stat, xattrs, holes, size, inline, changed, problem })));
            break;
        }
        if self.buf.len() >= PIECE_LEN { self.send(pieces) } else { Ok(()) }
    }

    fn fail(&mut self, text: Option<String>) -> std::result::Result<(), Gone> {
        self.items.push(Item::Failed(text));
        Ok(())
    }

    /// Reads the file and cuts it.
    fn content(&mut self, file: &mut SourceFile, stat: &Stat, pieces: &Sender<Piece>) -> std::result::Result<Content, Stopped> {
        if stat.allocated < stat.size && stat.size > INLINE_LEN_MAX as u64 {
            let map = map_sparse(file.file(), stat.size).map_err(|e| Stopped::Io(e.into()))?;
            if !map.holes.is_empty() {
                return self.sparse(file, stat, map, pieces);
            }
        }
        let start = self.buf.len();
        let limit = if stat.size == 0 { UNTOLD_LEN_MAX } else { stat.size };
        if stat.size <= CHUNK_LEN_MIN as u64 {
            let want = if stat.size == 0 { CHUNK_LEN_MIN } else { stat.size as usize };
            let got = self.read(file, want)?;
            if got < CHUNK_LEN_MIN || stat.size > 0 {
                if got <= INLINE_LEN_MAX {
                    return Ok(Content { size: got as u64, holes: Vec::new(), inline: Some(start..start + got) });
                }
                self.chunk(start..start + got);
                return Ok(Content { size: got as u64, holes: Vec::new(), inline: None });
            }
            // It said that it is empty, and goes on.
            self.buf.truncate(start);
            file.seek_to(0);
        }
        let size = self.run(file, limit, pieces)?;
        Ok(Content { size, holes: Vec::new(), inline: None })
    }

    fn sparse(
        &mut self,
        file: &mut SourceFile,
        stat: &Stat,
        map: crate::sys::SparseMap,
        pieces: &Sender<Piece>,
    ) -> std::result::Result<Content, Stopped> {
        let mut holes: Vec<Hole> = map.holes.iter().map(|(offset, len)| Hole { offset: *offset, len: *len }).collect();
        for (offset, len) in map.data {
            file.seek_to(offset);
            let got = self.run(file, len, pieces)?;
            if got < len {
                // Cut off while it was read: what is behind is no longer there.
                let size = offset + got;
                holes.retain(|h| h.offset + h.len <= size);
                return Ok(Content { size, holes, inline: None });
            }
        }
        Ok(Content { size: stat.size, holes, inline: None })
    }

    /// Reads `len` bytes from where the file stands, cut into chunks of their own. Returns how many there were.
    fn run(&mut self, file: &mut SourceFile, len: u64, pieces: &Sender<Piece>) -> std::result::Result<u64, Stopped> {
        let mut done = 0u64;
        // Bytes from here on are in no chunk yet.
        let mut open = self.buf.len();
        loop {
            if self.shared.cancel.is_cancelled() {
                return Err(Stopped::Gone);
            }
            let want = READ_LEN.min(usize::try_from(len - done).unwrap_or(READ_LEN));
            let got = self.read(file, want)?;
            done += got as u64;
            let ended = got < want || done == len;
            while self.buf.len() - open >= CHUNK_LEN_MAX || (ended && open < self.buf.len()) {
                let cut = self.shared.chunker.cut(&self.buf[open..]);
                self.chunk(open..open + cut);
                open += cut;
            }
            if ended {
                return Ok(done);
            }
            if open >= PIECE_LEN {
                let mut next = self.shared.pool.take();
                next.extend_from_slice(&self.buf[open..]);
                self.buf.truncate(open);
                let buf = std::mem::replace(&mut self.buf, next);
                pieces.send(Piece { buf, items: std::mem::take(&mut self.items) }).map_err(|_| Gone)?;
                open = 0;
            }
        }
    }

    fn read(&mut self, file: &mut SourceFile, want: usize) -> std::result::Result<usize, Stopped> {
        let got = file.read(&mut self.buf, want, &mut self.manners).map_err(Stopped::Io)?;
        if let Some(throttle) = self.shared.throttle {
            // Who wants to stop is asked by whoever called.
            let _ = throttle.take(got as u64, self.shared.cancel);
        }
        Ok(got)
    }

    fn chunk(&mut self, range: Range<usize>) {
        let id = self.shared.key.chunk_id(&self.buf[range.clone()]);
        self.items.push(Item::Chunk(id, range));
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crossbeam_channel::{bounded, unbounded};

    use super::*;
    use crate::format::DomainKeys;

    /// Reads one file; returns its bytes and what was said at its end.
    fn read(dir: &Path, name: &str) -> (Vec<u8>, Box<FileRead>) {
        let keys = DomainKeys::derive(&Key32::new([7; 32]));
        let (chunker, cancel, pool) = (Chunker::new(keys.gear.clone()), Cancel::default(), Pool::new(PIECE_ROOM));
        let shared = Shared { chunker: &chunker, key: &keys.data, cancel: &cancel, pool: &pool, throttle: None };
        let ((batches_in, batches), (pieces_in, pieces)) = (bounded(1), unbounded());
        let task = Task { dir: Arc::new(Dir::open(dir).unwrap()), name: name.as_bytes().into() };
        batches_in.send(Batch { tasks: vec![task], pieces: pieces_in }).unwrap();
        drop(batches_in);
        run(&batches, shared).unwrap();
        drop(batches);
        let mut bytes = Vec::new();
        for piece in pieces {
            for item in piece.items {
                match item {
                    Item::Chunk(id, range) => {
                        assert_eq!(keys.data.chunk_id(&piece.buf[range.clone()]), id);
                        bytes.extend_from_slice(&piece.buf[range]);
                    }
                    Item::End(file) => {
                        bytes.extend(file.inline.clone().into_iter().flat_map(|range| piece.buf[range].to_vec()));
                        return (bytes, file);
                    }
                    Item::Restart | Item::Failed(_) => panic!("an undisturbed file is read once, and to its end"),
                }
            }
        }
        panic!("the file did not end")
    }

    #[test]
    fn a_file_that_says_it_is_empty_and_is_not_is_read_to_its_end() {
        for name in ["version", "kallsyms", "filesystems"] {
            let (bytes, file) = read(Path::new("/proc"), name);
            assert_eq!((file.stat.size, file.size, file.changed), (0, bytes.len() as u64, false), "{name}");
            assert!(bytes == std::fs::read(Path::new("/proc").join(name)).unwrap(), "{name}");
            assert_eq!(file.problem, None, "{name}");
        }
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("empty"), b"").unwrap();
        assert_eq!((read(dir.path(), "empty").0.len(), read(dir.path(), "empty").1.inline), (0, Some(0..0)));
    }
}
