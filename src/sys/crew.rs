//! Several threads at one list.

use std::sync::{
    Mutex,
    atomic::{AtomicUsize, Ordering},
};

use super::available_cores;

/// Items that a thread takes at once.
const BATCH: usize = 8;

/// What `f` says of each item, in the order of the items, found by as many threads as there are cores, at most `threads_max`.
/// A panic in `f` is passed on.
pub fn in_parallel<T: Sync, R: Send>(items: &[T], threads_max: usize, f: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let threads = available_cores().min(threads_max).min(items.len().div_ceil(BATCH));
    if threads <= 1 {
        return items.iter().map(f).collect();
    }
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::with_capacity(items.len().div_ceil(BATCH))));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(batch) = items.chunks(BATCH).nth(at) else { return };
                    let said: Vec<R> = batch.iter().map(&f).collect();
                    done.lock().expect("nobody panics while adding").push((at, said));
                }
            });
        }
    });
    let mut done = done.into_inner().expect("nobody panics while adding");
    done.sort_unstable_by_key(|(at, _)| *at);
    done.into_iter().flat_map(|(_, said)| said).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_come_in_the_order_of_the_questions() {
        for len in [0, 1, BATCH, BATCH + 1, 1000] {
            let items: Vec<usize> = (0..len).collect();
            assert_eq!(in_parallel(&items, 4, |n| n * 2), items.iter().map(|n| n * 2).collect::<Vec<_>>(), "{len}");
        }
    }
}
