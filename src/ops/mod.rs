//! What one can do with a vault; one file or folder a verb.

pub mod audit;
pub mod cat;
pub mod catalog;
mod chain;
pub mod copy;
pub mod enroll;
pub mod forget;
pub mod head;
pub mod init;
pub mod key;
mod patterns;
pub mod pins;
pub mod prune;
pub mod restore;
pub mod revoke;
pub mod seal;
pub mod snapshots;
pub mod undelete;
pub mod verify;
