//! What goes over a line: counted, limited, a bounded number of requests at once.

use std::{
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::{
    error::Result,
    sys::{Cancel, Clock},
};

/// Requests at once.
const REQUESTS_MAX: usize = 16;
/// How often a wait looks whether the person wants to stop.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How to speak to servers.
pub struct Settings {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Stops what waits.
    pub cancel: Cancel,
    /// What went over the line.
    pub traffic: Arc<Traffic>,
    /// Variables of the environment.
    pub env: fn(&str) -> Option<String>,
    /// Bytes a second, at most: sent, received.
    pub limits: (Option<u64>, Option<u64>),
    taken: [Mutex<Duration>; 2],
    busy: Arc<(Mutex<usize>, Condvar)>,
}

/// What went over the line to servers, since the program began.
#[derive(Debug, Default)]
pub struct Traffic {
    requests: AtomicU64,
    retries: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
}

impl Traffic {
    /// Counts a request.
    pub fn request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts an attempt that is made again.
    pub fn retried(&self) {
        self.retries.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts bytes of objects and lists.
    pub fn bytes(&self, sent: usize, received: usize) {
        self.sent.fetch_add(sent as u64, Ordering::Relaxed);
        self.received.fetch_add(received as u64, Ordering::Relaxed);
    }

    /// Requests, those among them that were made again, bytes sent, bytes received.
    pub fn so_far(&self) -> [u64; 4] {
        [&self.requests, &self.retries, &self.sent, &self.received].map(|n| n.load(Ordering::Relaxed))
    }
}

impl Settings {
    /// No limits of speed.
    pub fn new(clock: Arc<dyn Clock>, cancel: Cancel, traffic: Arc<Traffic>, env: fn(&str) -> Option<String>) -> Self {
        Self { clock, cancel, traffic, env, limits: (None, None), taken: Default::default(), busy: Arc::default() }
    }

    /// How often a wait looks whether the person wants to stop.
    pub fn look_every(&self) -> Duration {
        LOOK_EVERY
    }

    /// Waits, unless the person wants to stop.
    pub fn pause(&self, time: Duration) -> Result<()> {
        let end = self.clock.monotonic() + time;
        loop {
            self.cancel.check()?;
            let left = end.saturating_sub(self.clock.monotonic());
            if left.is_zero() {
                return Ok(());
            }
            self.clock.sleep(left.min(LOOK_EVERY));
        }
    }

    /// Waits as long as sending `len` bytes may take.
    pub fn may_send(&self, len: usize) -> Result<()> {
        self.take(self.limits.0, &self.taken[0], len)
    }

    /// Waits as long as receiving `len` bytes may take.
    pub fn may_receive(&self, len: usize) -> Result<()> {
        self.take(self.limits.1, &self.taken[1], len)
    }

    fn take(&self, limit: Option<u64>, taken: &Mutex<Duration>, len: usize) -> Result<()> {
        let Some(limit) = limit else { return Ok(()) };
        let end = {
            let mut taken = taken.lock().expect("nobody panics while measuring");
            *taken = self.clock.monotonic().max(*taken) + Duration::from_secs_f64(len as f64 / limit.max(1) as f64);
            *taken
        };
        self.pause(end.saturating_sub(self.clock.monotonic()))
    }

    /// Waits until fewer than the greatest number of requests are on their way.
    pub fn slot(&self) -> Result<Slot> {
        let (busy, freed) = &*self.busy;
        let mut n = busy.lock().expect("nobody panics while counting");
        while *n >= REQUESTS_MAX {
            self.cancel.check()?;
            n = freed.wait_timeout(n, LOOK_EVERY).expect("nobody panics while counting").0;
        }
        *n += 1;
        Ok(Slot(self.busy.clone()))
    }
}

/// The right to have one request on its way.
pub struct Slot(Arc<(Mutex<usize>, Condvar)>);

impl Drop for Slot {
    fn drop(&mut self) {
        *self.0.0.lock().expect("nobody panics while counting") -= 1;
        self.0.1.notify_one();
    }
}
