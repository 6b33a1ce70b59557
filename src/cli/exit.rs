//! What a script is told: one table. docs/OPERATIONS.md lists the codes for people.

use crate::error::ErrorKind;

/// Done, but some source files could not be read.
pub const INCOMPLETE: u8 = 3;
/// Damage found.
pub const DAMAGE: u8 = 4;
/// A recovery objective was missed.
pub const MISSED: u8 = 5;

/// The exit code of a failure.
pub fn code(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::NotFound | ErrorKind::Unavailable | ErrorKind::Full | ErrorKind::Unsupported | ErrorKind::Conflict | ErrorKind::Bug => 1,
        ErrorKind::Usage => 2,
        ErrorKind::Source => INCOMPLETE,
        ErrorKind::Corrupt | ErrorKind::Missing => DAMAGE,
        ErrorKind::NoVault => 10,
        ErrorKind::Locked => 11,
        ErrorKind::WrongKey => 12,
        ErrorKind::Cancelled => 130,
    }
}
