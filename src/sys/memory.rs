//! Memory that may not be had: the system's allocator, with a sentence for people where there is none left.
//!
//! Nothing can be put right at that point, and nothing needs to be: a vault is whole at every moment.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

use zeroize::Zeroize;

thread_local! {
    /// Whether what this thread gives back is overwritten first.
    static WIPES: Cell<bool> = const { Cell::new(false) };
}

/// Does `work`, and overwrites all memory that this thread gives back meanwhile: for libraries that leave copies of keys behind. Costs about a
/// tenth of a nanosecond a byte.
pub fn wiping<T>(work: impl FnOnce() -> T) -> T {
    struct Before(bool);
    impl Drop for Before {
        fn drop(&mut self) {
            WIPES.set(self.0);
        }
    }
    let _before = Before(WIPES.replace(true));
    work()
}

/// Overwrites a block that is about to be given back.
///
/// # Safety
/// The block is that of `layout`, and nobody looks at it any more.
unsafe fn wipe(pointer: *mut u8, layout: Layout) {
    // SAFETY: the caller's promise; bytes that were never written are written now, before they are looked at.
    unsafe {
        pointer.write_bytes(0, layout.size());
        std::slice::from_raw_parts_mut(pointer, layout.size()).zeroize();
    }
}

#[global_allocator]
static ALLOCATOR: OrSay = OrSay;

struct OrSay;

/// What is said. No memory may be asked for any more.
const NOTHING_LEFT: &[u8] = b"coffre: error: the system gives no more memory\n\
coffre: hint: raise the limit (ulimit -v, or the container's), or ask for less: mount --cache 32MiB, seal without --profile archive\n";

fn checked(pointer: *mut u8) -> *mut u8 {
    if pointer.is_null() {
        // SAFETY: writes bytes that live for ever, then ends the process; neither touches memory of ours.
        unsafe {
            libc::write(libc::STDERR_FILENO, NOTHING_LEFT.as_ptr().cast(), NOTHING_LEFT.len());
            libc::_exit(1);
        }
    }
    pointer
}

// SAFETY: every call is handed on to the system's allocator as it came, and what that answers is returned unless it is null. A block that grows
// while memory is wiped is copied by hand, as `realloc` may.
unsafe impl GlobalAlloc for OrSay {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are those that `System` asks for.
        checked(unsafe { System.alloc(layout) })
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        checked(unsafe { System.alloc_zeroed(layout) })
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, len: usize) -> *mut u8 {
        if WIPES.get() {
            // SAFETY: the caller promises that `len` with this alignment is a layout, and that the old block is his; both hold the bytes that are copied.
            unsafe {
                let new = self.alloc(Layout::from_size_align_unchecked(len, layout.align()));
                pointer.copy_to_nonoverlapping(new, layout.size().min(len));
                self.dealloc(pointer, layout);
                return new;
            }
        }
        // SAFETY: as above.
        checked(unsafe { System.realloc(pointer, layout, len) })
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above; the block is given back, so nobody looks at it any more.
        unsafe {
            if WIPES.get() {
                wipe(pointer, layout);
            }
            System.dealloc(pointer, layout);
        }
    }
}
