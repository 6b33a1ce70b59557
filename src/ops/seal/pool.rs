//! Buffers that go round: whoever has emptied one leaves it for whoever fills the next.
//!
//! Fresh memory costs a page fault for every 4 KiB, which for all content of a seal is a tenth of the work.

use std::sync::Mutex;

/// Most buffers that wait; more are freed.
const WAITING_MAX: usize = 24;

/// Empty buffers of one size.
pub struct Pool {
    capacity: usize,
    waiting: Mutex<Vec<Vec<u8>>>,
}

impl Pool {
    /// Buffers with room for `capacity` bytes at least.
    pub fn new(capacity: usize) -> Self {
        Self { capacity, waiting: Mutex::default() }
    }

    /// An empty buffer.
    pub fn take(&self) -> Vec<u8> {
        let waiting = self.waiting.lock().expect("nobody panics while holding the pool").pop();
        waiting.unwrap_or_else(|| Vec::with_capacity(self.capacity))
    }

    /// Gives a buffer back. One that grew far beyond the rest is freed, one that never had room is not worth keeping.
    pub fn put(&self, mut buf: Vec<u8>) {
        if !(self.capacity..=4 * self.capacity).contains(&buf.capacity()) {
            return;
        }
        buf.clear();
        let mut waiting = self.waiting.lock().expect("nobody panics while holding the pool");
        if waiting.len() < WAITING_MAX {
            waiting.push(buf);
        }
    }
}
