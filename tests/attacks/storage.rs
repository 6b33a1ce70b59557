//! The storage side.
