//! What several tests share.
#![allow(dead_code)]

pub mod bin;
pub mod library;
pub mod tree;
