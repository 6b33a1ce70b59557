//! What one can do with a vault; one file or folder a verb.

pub mod catalog;
pub mod cat;
pub mod init;
pub mod seal;
pub mod snapshots;
pub mod verify;
