//! What one can do with a vault; one file or folder a verb.

pub mod cat;
pub mod catalog;
pub mod diff;
pub mod find;
pub mod history;
pub mod init;
pub mod look;
pub mod ls;
pub mod row;
pub mod seal;
pub mod snapshots;
pub mod stats;
pub mod verify;
