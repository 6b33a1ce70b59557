//! Coffre: an encrypted, compressed, deduplicating backup vault whose every snapshot is a read-only file system.
//!
//! The rooms stand on one another in this order; a room uses only rooms below its own (`tests/layers.rs`).
//! Start reading at `store`, then `vault::write`, then `ops::seal`. `docs/ARCHITECTURE.md` is the map.

// ground
pub mod error;
pub mod event;

// the operating system, and the bytes
pub mod sys;

pub mod format;

// objects by key
pub mod store;

// many chunks in one encrypted object; where each chunk is
pub mod catalog;
pub mod pack;

// the only handle that operations get
pub mod vault;

// what one can do
pub mod mount;
pub mod ops;

// the face
pub mod cli;
