//! A disk of the test's own, below the real binary: what it may hold after a crash at any moment, and what it does when it fails.
//!
//! The disk is a FUSE file system in memory (`device`, `serve`) that keeps a log of all that is done to it, down to each write and sync,
//! and fails, answers by halves or not at all as told. From the log come the disks that a crash may leave (`image`).
#![allow(clippy::unwrap_used)] // a test may stop at the first surprise

mod common;

#[path = "disk/broken.rs"]
mod broken;
#[path = "disk/device.rs"]
mod device;
#[path = "disk/image.rs"]
mod image;
#[path = "disk/points.rs"]
mod points;
#[path = "disk/pruned.rs"]
mod pruned;
#[path = "disk/serve.rs"]
mod serve;
