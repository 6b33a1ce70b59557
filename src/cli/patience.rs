//! A store that does not answer: says so, and lets ^C work all the same.
//!
//! A thread that waits for a dead file server cannot be told to stop; the process can. It may end at any moment, as by `kill -9`.

use std::time::Duration;

use crate::{
    cli::Run,
    error::{Error, Result},
    sys,
};

/// After this long a call is told of.
const PATIENCE: Duration = Duration::from_secs(30);
/// So long a call may still take after ^C.
const PATIENCE_AT_END: Duration = Duration::from_secs(5);
/// So long a command may take to end after ^C if no store is to blame.
const PATIENCE_WITHOUT_CALL: Duration = Duration::from_secs(10);
/// How often it is looked.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Watches the calls of this run's stores in a thread of its own, until the process ends; signals too, unless somebody else does.
pub fn watch(run: &Run, watches_signals: bool) -> Result<()> {
    let (calls, cancel, clock, screen) = (run.globals.calls.clone(), run.cancel.clone(), run.clock.clone(), run.screen.clone());
    let work = move || {
        let (mut told, mut stopped_at) = (0, None);
        loop {
            clock.sleep(LOOK_EVERY);
            let now = clock.monotonic();
            if cancel.is_cancelled() {
                stopped_at = stopped_at.or(Some(now));
            }
            let ending_since = stopped_at.map_or(Duration::ZERO, |at| now - at);
            let Some((number, call)) = calls.oldest() else {
                // Something else waits: a directory on a dead file server that is no store.
                if ending_since > PATIENCE_WITHOUT_CALL {
                    screen.error(&Error::cancelled().because("and something does not answer: this process ends as it is"));
                    sys::leave(130);
                }
                continue;
            };
            let waited = now.saturating_sub(call.since);
            if ending_since > PATIENCE_AT_END && waited > PATIENCE_AT_END {
                let error =
                    Error::cancelled().because(format!("and the store does not answer since {} s: {}", waited.as_secs(), call.what));
                screen.error(&error);
                sys::leave(130);
            }
            if waited > PATIENCE && told != number {
                told = number;
                screen.warning(&format!(
                    "the store has not answered for {} s, and may be gone: {}; waiting on, ^C ends it",
                    waited.as_secs(),
                    call.what
                ));
            }
        }
    };
    sys::start("patience", work)?;
    // That thread never waits for a store, so it handles them.
    if watches_signals {
        sys::leave_signals_to_others();
    }
    Ok(())
}
