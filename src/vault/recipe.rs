//! The recipe that lies in every vault: how to restore it without coffre.

/// `RESTORE.py`, put into every vault.
pub const RESTORE: &str = include_str!("recipe/RESTORE.py");
/// `README.txt`, put into every vault.
pub const README: &str = include_str!("recipe/README.txt");
