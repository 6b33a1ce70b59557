//! Locks between processes: an flock on a file, with the holder's number in it, or on a directory. The kernel frees it on any death.

use std::{
    fs::{File, TryLockError},
    io::{Read, Seek, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

use crate::{
    error::{Error, Result},
    sys::Dir,
};

/// Held until dropped.
#[derive(Debug)]
pub struct FileLock {
    file: File,
}

impl FileLock {
    /// Takes the lock at `path`, waiting for whoever has it; `wait` is told the holder's process once before that.
    pub fn take(path: &Path, wait: impl FnOnce(&str)) -> Result<Self> {
        let failed = |e| Error::io(format!("cannot lock {}", path.display()), e);
        let mut file = File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => (),
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                file.read_to_string(&mut holder).map_err(failed)?;
                wait(if holder.trim().is_empty() { "just starting" } else { holder.trim() });
                file.lock().map_err(failed)?;
            }
            Err(TryLockError::Error(e)) => return Err(failed(e)),
        }
        // Who holds it is for people; a failure to say so is no failure to hold it.
        let _ = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id()));
        Ok(Self { file })
    }
}

/// Locks a directory until it is closed, alone or with others who ask for no more than that. Whether nobody is in the way: a file system that
/// knows no such locks lets everybody in.
pub fn lock_dir(dir: &Dir, alone: bool) -> bool {
    let operation = if alone { FlockOperation::NonBlockingLockExclusive } else { FlockOperation::NonBlockingLockShared };
    flock(dir, operation) != Err(Errno::WOULDBLOCK)
}

impl Drop for FileLock {
    fn drop(&mut self) {
        let _ = self.file.unlock();
    }
}
