//! Memory that may not be had: the system's allocator, with a sentence for people where there is none left.
//!
//! Nothing can be put right at that point, and nothing needs to be: a vault is whole at every moment.

use std::alloc::{GlobalAlloc, Layout, System};

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

// SAFETY: every call is handed on to the system's allocator as it came, and what that answers is returned unless it is null.
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
        // SAFETY: as above.
        checked(unsafe { System.realloc(pointer, layout, len) })
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}
