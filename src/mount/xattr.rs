//! Extended attributes: those that were sealed, and three that the mount makes up, which have to be asked for by name.
//!
//! `user.coffre.blake3` reads the whole file. A long one is left to a thread of its own, one at a time, so that the mount goes on
//! answering; one that is too long is refused, as `b3sum FILE` can be stopped and this cannot.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
};

use fuser::{Errno, ReplyXattr};

use crate::{
    error::{Error, ErrorKind, Result},
    event::{Event, Sink},
    format::{Content, Digester},
    mount::view::{Node, Views},
};

/// Plain BLAKE3 of a file's content, in hexadecimal digits.
pub const BLAKE3: &[u8] = b"user.coffre.blake3";
/// The snapshot: its id, a space, the name of its directory.
const SNAPSHOT: &[u8] = b"user.coffre.snapshot";
/// How many distinct versions the path has.
const VERSIONS: &[u8] = b"user.coffre.versions";

/// Longest file that is hashed on demand, in bytes: some ten seconds.
const HASHED_LEN_MAX: u64 = 16 << 30;
/// Longest file that is hashed where the question arrives, in bytes: a few milliseconds.
const HASHED_AT_ONCE_MAX: u64 = 4 << 20;
/// Files that wait to be hashed; who asks for more is told that it is busy.
const QUEUE_MAX: usize = 256;
/// Bytes read at once.
const STEP: usize = 1 << 20;

/// The value of attribute `name` of inode `ino`; `None` if it has none.
pub fn value(views: &Views, ino: u64, name: &[u8]) -> Result<Option<Vec<u8>>> {
    let node = views.node(ino)?;
    match name {
        SNAPSHOT => Ok(match &node {
            Node::Root(_, mounted) | Node::Entry(_, mounted, _) => Some(format!("{} {}", mounted.snapshot.id, mounted.name).into_bytes()),
            Node::Made { .. } | Node::Link { .. } => None,
        }),
        VERSIONS => Ok(views.versions_of(&node)?.map(|n| n.to_string().into_bytes())),
        BLAKE3 => match size_of(&node) {
            Some(size) => blake3(views, &node, size).map(Some),
            None => Ok(None),
        },
        name => {
            let xattrs = node.entry().map(|e| e.xattrs.as_slice()).unwrap_or_default();
            Ok(xattrs.iter().find(|(n, _)| **n == *name).map(|(_, value)| value.to_vec()))
        }
    }
}

/// The length of a regular file.
fn size_of(node: &Node) -> Option<u64> {
    match node.entry().map(|e| &e.content) {
        Some(Content::File { size, .. }) => Some(*size),
        _ => None,
    }
}

/// Hashes a file, a step at a time.
fn blake3(views: &Views, node: &Node, size: u64) -> Result<Vec<u8>> {
    let mut digester = Digester::default();
    let mut buf = vec![0; STEP.min(usize::try_from(size).unwrap_or(STEP))];
    let mut at = 0;
    while at < size {
        let n = views.read_node(node, at, &mut buf)?;
        digester.update(&buf[..n]);
        at += n as u64;
    }
    Ok(digester.finish().to_string().into_bytes())
}

/// A file that shall be hashed.
pub struct File {
    node: Node,
    len: u64,
}

type Job = (File, u32, ReplyXattr);

/// Hashes files on demand.
pub struct Blake3 {
    views: Arc<Views>,
    sink: Arc<dyn Sink>,
    queue: SyncSender<Job>,
}

impl Blake3 {
    /// Starts the thread; it ends with the mount.
    pub fn start(views: Arc<Views>, sink: Arc<dyn Sink>) -> Result<Self> {
        let (queue, jobs): (_, Receiver<Job>) = sync_channel(QUEUE_MAX);
        let (its_views, its_sink) = (views.clone(), sink.clone());
        // A panic answers this question with an error, and the thread goes on to the next.
        let one = move |(file, size, reply): Job| {
            let _ = catch_unwind(AssertUnwindSafe(|| reply_xattr(hash(&its_views, &*its_sink, &file), size, reply)));
        };
        let work = move || jobs.into_iter().for_each(one);
        std::thread::Builder::new().name("blake3".to_owned()).spawn(work).map_err(|e| Error::io("cannot start a thread", e))?;
        Ok(Self { views, sink, queue })
    }

    /// The file with the number `ino`; `None` if it is something else.
    pub fn wanted(&self, ino: u64) -> Result<Option<File>> {
        let node = self.views.node(ino)?;
        Ok(size_of(&node).map(|len| File { node, len }))
    }

    /// Answers the question for the hash of `file`, now or when its turn comes.
    pub fn answer(&self, file: File, size: u32, reply: ReplyXattr) {
        match file.len {
            // Who asks for the length alone need not wait.
            _ if size == 0 => reply.size(64),
            0..=HASHED_AT_ONCE_MAX => reply_xattr(hash(&self.views, &*self.sink, &file), size, reply),
            len if len > HASHED_LEN_MAX => reply.error(Errno::EFBIG),
            _ => {
                if let Err(e) = self.queue.try_send((file, size, reply)) {
                    let (TrySendError::Full((_, _, reply)) | TrySendError::Disconnected((_, _, reply))) = e;
                    reply.error(Errno::EBUSY);
                }
            }
        }
    }
}

fn hash(views: &Views, sink: &dyn Sink, file: &File) -> std::result::Result<Vec<u8>, Errno> {
    blake3(views, &file.node, file.len).map_err(|e| {
        if !matches!(e.kind(), ErrorKind::NotFound) {
            sink.send(Event::Warning(e.chain()));
        }
        crate::mount::errno::errno(e.kind())
    })
}

/// Answers with a value, its length if that was asked for, or an error.
pub fn reply_xattr(value: std::result::Result<Vec<u8>, Errno>, size: u32, reply: ReplyXattr) {
    match value {
        Err(e) => reply.error(e),
        Ok(value) if size == 0 => reply.size(value.len() as u32),
        Ok(value) if value.len() > size as usize => reply.error(Errno::ERANGE),
        Ok(value) => reply.data(&value),
    }
}
