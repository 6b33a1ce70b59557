//! Threads that may not be had: where memory or the number of processes is limited, that is an error, and no panic.

use std::{
    cell::Cell,
    io,
    sync::Once,
    thread::{Builder, Scope, ScopedJoinHandle},
};

use crate::error::{Error, Result};

/// Starts a thread within `scope`.
///
/// # Errors
/// `Unavailable` if the system gives none.
pub fn spawn_in<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    work: impl FnOnce() -> T + Send + 'scope,
) -> Result<ScopedJoinHandle<'scope, T>> {
    Builder::new().spawn_scoped(scope, work).map_err(no_thread)
}

/// Does `work` in `n` threads, this one among them, or in fewer if the system gives no more; the first error comes back once all are done.
pub fn share(n: usize, work: impl Fn() -> Result<()> + Sync) -> Result<()> {
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..n).map_while(|_| spawn_in(scope, &work).ok()).collect();
        let mine = work();
        others.into_iter().map(|other| other.join().expect("a worker's panic is ours")).fold(mine, Result::and)
    })
}

/// Starts a thread that nobody waits for.
pub fn start(name: &str, work: impl FnOnce() + Send + 'static) -> Result<()> {
    Builder::new().name(name.to_owned()).spawn(work).map(drop).map_err(no_thread)
}

/// Runs `f`, of which a panic is caught and told by who calls: the usual message about it does not appear.
pub fn quietly<T>(f: impl FnOnce() -> T) -> T {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !QUIET.get() {
                usual(panic);
            }
        }));
    });
    let before = QUIET.replace(true);
    let result = f();
    QUIET.set(before);
    result
}

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

fn no_thread(e: io::Error) -> Error {
    Error::io("cannot start a thread", e)
        .hint("memory or the number of processes is limited: see ulimit -v, ulimit -u, and the container's limits")
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn the_work_is_shared_and_its_error_comes_back() {
        let done = AtomicUsize::new(0);
        share(3, || {
            done.fetch_add(1, Ordering::SeqCst);
            Ok(())
        })
        .unwrap();
        assert_eq!(done.into_inner(), 3);
        let failing = AtomicUsize::new(0);
        let result = share(3, || if failing.fetch_add(1, Ordering::SeqCst) == 1 { Err(Error::bug("one")) } else { Ok(()) });
        assert!(result.is_err() && failing.into_inner() == 3);
    }
}
