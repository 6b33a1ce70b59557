//! What one can do with a vault; one file or folder a verb.

pub mod cat;
pub mod catalog;
pub mod copy;
pub mod enroll;
pub mod init;
pub mod key;
pub mod seal;
pub mod snapshots;
pub mod verify;
