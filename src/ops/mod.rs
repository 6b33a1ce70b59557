//! What one can do with a vault; one file or folder a verb.

pub mod cat;
pub mod catalog;
pub mod enroll;
pub mod init;
pub mod key;
mod patterns;
pub mod restore;
pub mod seal;
pub mod snapshots;
pub mod verify;
