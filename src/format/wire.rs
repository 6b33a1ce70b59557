//! Bounded little-endian reading.

use crate::error::{Error, Result};

/// Takes fields off the front of a slice; running short is `Corrupt`, never a panic.
pub struct Wire<'a> {
    rest: &'a [u8],
    what: &'a str,
}

impl<'a> Wire<'a> {
    /// Reads `bytes`; `what` names the structure in errors.
    pub fn new(bytes: &'a [u8], what: &'a str) -> Self {
        Self { rest: bytes, what }
    }

    /// The next `len` bytes.
    pub fn bytes(&mut self, len: usize) -> Result<&'a [u8]> {
        let (head, rest) = self.rest.split_at_checked(len).ok_or_else(|| Error::corrupt(format!("{} ends early", self.what)))?;
        self.rest = rest;
        Ok(head)
    }

    /// The next `N` bytes as an array.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        Ok(self.bytes(N)?.try_into().expect("bytes() returns as many as asked for"))
    }

    /// The next u32.
    pub fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// The next u64.
    pub fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// Refuses anything but `expected` next.
    pub fn expect(&mut self, expected: &[u8]) -> Result<()> {
        match self.bytes(expected.len())? == expected {
            true => Ok(()),
            false => Err(Error::corrupt(format!("{} does not start as it should", self.what))),
        }
    }

    /// What has not been read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Refuses left-over bytes.
    pub fn end(self) -> Result<()> {
        match self.rest.is_empty() {
            true => Ok(()),
            false => Err(Error::corrupt(format!("{} has {} bytes too many", self.what, self.rest.len()))),
        }
    }
}
