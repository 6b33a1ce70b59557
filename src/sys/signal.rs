//! SIGINT and SIGTERM become a flag that the work looks at. The home of `signal-hook`.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::error::{Error, Result};

/// Set once the work should stop. Clones share the flag.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Asks for the end.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Whether the end was asked for.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// `Err(Cancelled)` if the end was asked for.
    pub fn check(&self) -> Result<()> {
        if self.is_cancelled() { Err(Error::cancelled()) } else { Ok(()) }
    }
}

/// Turns SIGINT, SIGTERM and SIGHUP into `cancel`; a second one ends the process at once.
pub fn catch_signals(cancel: &Cancel) -> Result<()> {
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        let failed = |e| Error::io("cannot catch signals", e);
        signal_hook::flag::register_conditional_shutdown(signal, 130, cancel.0.clone()).map_err(failed)?;
        signal_hook::flag::register(signal, cancel.0.clone()).map_err(failed)?;
    }
    Ok(())
}

/// From now on signals are handled by other threads only, of which one must have been started before. A thread that waits for a dead file
/// server handles none, and the kernel may choose just that one.
pub fn leave_signals_to_others() {
    // SAFETY: both calls work on a set of signals that lives on this stack; the mask is this thread's, and that of those it starts.
    unsafe {
        let mut signals = std::mem::zeroed();
        libc::sigemptyset(&raw mut signals);
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            libc::sigaddset(&raw mut signals, signal);
        }
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const signals, std::ptr::null_mut());
    }
}

/// SIGINT, SIGTERM and SIGHUP, caught and kept until somebody takes them.
pub struct CaughtSignals(signal_hook::iterator::Signals);

impl CaughtSignals {
    /// Catches them from now on: before something is done that they must undo.
    pub fn catch() -> Result<Self> {
        signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP]).map(Self).map_err(|e| Error::io("cannot catch signals", e))
    }

    /// Calls `each` for every one, those that came already among them, on a thread of its own, until it returns false.
    pub fn each(mut self, mut each: impl FnMut() -> bool + Send + 'static) -> Result<()> {
        let work = move || self.0.forever().all(|_| each());
        std::thread::Builder::new().name("signals".to_owned()).spawn(work).map(drop).map_err(|e| Error::io("cannot start a thread", e))
    }
}
