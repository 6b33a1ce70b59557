//! What a program that reads a mount is told: one table.

use fuser::Errno;

use crate::error::ErrorKind;

/// The errno of a failure.
pub fn errno(kind: ErrorKind) -> Errno {
    match kind {
        // A missing name is an answer, not a failure; what is not found is the number of something that is there no more.
        ErrorKind::NotFound => Errno::ESTALE,
        ErrorKind::Locked => Errno::EBUSY,
        ErrorKind::WrongKey => Errno::EACCES,
        ErrorKind::Unsupported | ErrorKind::Usage => Errno::EOPNOTSUPP,
        ErrorKind::Full => Errno::ENOSPC,
        ErrorKind::Cancelled => Errno::EINTR,
        ErrorKind::NoVault
        | ErrorKind::Corrupt
        | ErrorKind::Missing
        | ErrorKind::Unavailable
        | ErrorKind::Source
        | ErrorKind::Conflict
        | ErrorKind::Bug => Errno::EIO,
    }
}
