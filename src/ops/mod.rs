//! What one can do with a vault; one file or folder a verb.

pub mod audit;
pub mod bisect;
pub mod cat;
pub mod catalog;
mod chain;
pub mod copy;
pub mod diff;
pub mod enroll;
pub mod find;
pub mod forget;
pub mod head;
pub mod history;
pub mod init;
pub mod key;
pub mod look;
pub mod ls;
mod patterns;
pub mod pins;
pub mod prune;
pub mod restore;
pub mod revoke;
pub mod row;
pub mod seal;
pub mod snapshots;
pub mod stats;
pub mod undelete;
pub mod verify;
