//! Memory that holds secrets: not dumped, not swapped where that is allowed, wiped when it is done with.

use std::{
    mem::MaybeUninit,
    ops::Deref,
    ptr,
    sync::atomic::{Ordering, compiler_fence},
};

/// Keeps this process from being dumped and from being looked into by others of its user. Commands that it starts are as they were.
pub fn refuse_dumps() {
    // SAFETY: the call takes numbers, and touches no memory of ours. Where it fails, all stays as it was, and nothing here depends on it.
    unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) };
}

/// Asks that the pages which hold `values` are never written to swap. An advice: without the right to, or beyond the limit, nothing happens.
///
/// Holds until the process ends, and not in a child: call it again after a fork.
pub fn lock_memory<T>(values: &[T]) {
    if size_of_val(values) > 0 {
        // SAFETY: the range is that of a live slice; locking pages changes nothing that a program could see.
        unsafe { libc::mlock(values.as_ptr().cast(), size_of_val(values)) };
    }
}

/// A value whose memory is overwritten when it goes. On the heap, so that it is never moved, and no copy stays where it was.
pub struct Wiped<T: Copyless>(Box<MaybeUninit<T>>);

/// What [`Wiped`] may hold: a value that owns nothing besides its own bytes.
pub trait Copyless {
    /// Holds for types without anything to drop; checked when the program is built.
    const OWNS_NOTHING: ();
}

impl<T> Copyless for T {
    const OWNS_NOTHING: () = assert!(!std::mem::needs_drop::<T>(), "a wiped value must own nothing besides its bytes");
}

impl<T> Wiped<T> {
    /// Takes what `make` returns.
    pub fn new(make: impl FnOnce() -> T) -> Self {
        let () = T::OWNS_NOTHING;
        let mut place = Box::new(MaybeUninit::uninit());
        place.write(make());
        Self(place)
    }
}

impl<T> Deref for Wiped<T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: `new` is the only way to make one, and it writes the value.
        unsafe { self.0.assume_init_ref() }
    }
}

impl<T: Copyless> Drop for Wiped<T> {
    fn drop(&mut self) {
        let bytes = self.0.as_mut_ptr().cast::<u8>();
        for i in 0..size_of::<T>() {
            // SAFETY: `i` is within the value, which nobody looks at any more: as `MaybeUninit` it may be any bytes, and is not dropped.
            // Volatile, so that the write is not left out because nobody looks.
            unsafe { ptr::write_volatile(bytes.add(i), 0) };
        }
        compiler_fence(Ordering::SeqCst);
    }
}

/// Overwrites `WORDS` times 8 bytes of the stack below the caller: copies that calls before left there. About a tenth of a nanosecond a byte.
///
/// Reaches what stood in frames of its own: what is called before must not have been inlined.
#[inline(never)]
pub fn wipe_stack<const WORDS: usize>() {
    let mut room = [0u64; WORDS];
    for word in &mut room {
        // SAFETY: a write to a word of an array of ours, through a reference; volatile, so that it is not left out.
        unsafe { ptr::write_volatile(word, 0) };
    }
    compiler_fence(Ordering::SeqCst);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wiped_value_is_there_until_it_goes() {
        let value = Wiped::new(|| [7u8; 64]);
        assert_eq!(*value, [7; 64]);
        lock_memory(&value[..]);
        wipe_stack::<64>();
        assert_eq!(*value, [7; 64]);
    }
}
