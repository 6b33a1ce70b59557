//! Spaces reads out, so that a seal takes no more than so many bytes a second from a machine in use.

use std::{sync::Mutex, time::Duration};

use crate::{
    error::Result,
    sys::{Cancel, Clock},
};

/// How much may be caught up after a pause, as time: short enough that nobody notices the burst.
const BURST: Duration = Duration::from_millis(100);
/// How long a sleep lasts at most before the wish to stop is looked at.
const NAP: Duration = Duration::from_millis(100);

/// A limit shared by all readers.
pub struct Throttle<'a> {
    clock: &'a dyn Clock,
    bytes_per_sec: u64,
    /// When the bytes taken so far are paid for.
    paid: Mutex<Duration>,
}

impl<'a> Throttle<'a> {
    /// Lets `bytes_per_sec` through, at least 1.
    pub fn new(clock: &'a dyn Clock, bytes_per_sec: u64) -> Self {
        Self { clock, bytes_per_sec: bytes_per_sec.max(1), paid: Mutex::default() }
    }

    /// Takes `bytes`, and waits until they are paid for.
    ///
    /// # Errors
    /// `Cancelled`.
    pub fn take(&self, bytes: u64, cancel: &Cancel) -> Result<()> {
        let until = {
            let mut paid = self.paid.lock().expect("nobody panics while holding the limit");
            let from = (*paid).max(self.clock.monotonic().saturating_sub(BURST));
            *paid = from + Duration::from_secs_f64(bytes as f64 / self.bytes_per_sec as f64);
            *paid
        };
        loop {
            cancel.check()?;
            match until.checked_sub(self.clock.monotonic()) {
                Some(left) if !left.is_zero() => self.clock.sleep(left.min(NAP)),
                _ => return Ok(()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::SimClock;

    #[test]
    fn bytes_take_their_time() {
        let clock = SimClock::at(1000);
        let throttle = Throttle::new(&clock, 1 << 20);
        let began = clock.monotonic();
        for _ in 0..64 {
            throttle.take(256 << 10, &Cancel::default()).unwrap();
        }
        let took = (clock.monotonic() - began).as_secs_f64();
        assert!((15.8..=16.0).contains(&took), "16 MiB at 1 MiB/s took {took} s");
        // A pause is not saved up.
        clock.advance(Duration::from_secs(60));
        let began = clock.monotonic();
        throttle.take(1 << 20, &Cancel::default()).unwrap();
        assert!((clock.monotonic() - began).as_secs_f64() > 0.85);
    }
}
