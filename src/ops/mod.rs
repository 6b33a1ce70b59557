//! What one can do with a vault; one file or folder a verb.

pub mod audit;
pub mod cat;
pub mod catalog;
pub mod copy;
mod chain;
pub mod enroll;
pub mod head;
pub mod init;
pub mod key;
pub mod revoke;
mod patterns;
pub mod restore;
pub mod seal;
pub mod snapshots;
pub mod verify;
