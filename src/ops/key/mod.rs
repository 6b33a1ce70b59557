//! Key: who can read a vault, and who can seal into it. Writes small objects; no pack is ever touched.

mod list;

pub use list::{Listed, SealerRow, WayRow, list};
