//! What several tests share.
#![allow(dead_code)]

pub mod bin;
pub mod contract;
pub mod library;
pub mod line;
pub mod servers;
pub mod tree;
