//! What one can do with a vault; one file or folder a verb.

pub mod cat;
pub mod catalog;
pub mod enroll;
pub mod forget;
pub mod init;
pub mod key;
pub mod pins;
pub mod prune;
pub mod seal;
pub mod snapshots;
pub mod undelete;
pub mod verify;
