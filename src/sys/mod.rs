//! The operating system: clock, durable files, directories, metadata, locks, signals, mounts.
//!
//! The only room with `unsafe`, and the home of `libc` and `rustix`. Knows nothing of vaults.
#![allow(unsafe_code)]

mod calendar;
mod clock;
mod copy;
mod crew;
mod daemon;
mod dir;
mod file;
mod lock;
mod make;
mod memory;
mod meta;
mod mounts;
mod piped;
mod process;
mod secret;
mod set;
mod signal;
mod source;
mod threads;
mod time;

pub use calendar::{Calendar, Period, parse_span};
pub use clock::{Clock, SimClock, SystemClock};
pub use copy::{PrivateCopy, run_on_file};
pub use crew::in_parallel;
pub use daemon::{Readiness, daemonise, notify_ready};
pub use dir::{Dir, FileType, Found, Stat, open_file, stat_of_file};
pub use file::{
    NewFile, create_dir, create_dirs, create_private_dir, expect_reads, free_bytes, is_unfinished, make_private, open_at_once, read_at,
    remove_dir, replace, replace_durably, sync_dir, sync_file_and_dir, write_private,
};
pub use lock::{FileLock, lock_dir};
pub use make::{copy_content, forget_pages, open_unlinked, reserve, sync_file_system, umask};
pub use memory::wiping;
pub use meta::{Names, SparseMap, Xattrs, map_sparse, xattrs_of_fd, xattrs_of_name};
pub use mounts::{MountInfo, detach, mount_at, mounts, set_read_ahead, unmount};
pub use piped::Piped;
pub use process::{
    PASSPHRASE_VARIABLE, available_cores, effective_ids, file_limit, give_way, host_name, is_root, keep_heaps, leave, memory_free_share,
    peak_memory_bytes, raise_file_limit, random, readable_by_others, run_for_line, share_heaps, take_variable,
};
pub use secret::{Wiped, lock_memory, refuse_dumps, wipe_stack};
pub use set::Subject;
pub use signal::{Cancel, CaughtSignals, catch_signals, leave_signals_to_others};
pub use source::{Manners, SourceFile};
pub use threads::{quietly, share, spawn_in, start};
pub use time::{day_name, local_minute, parse_moment, parse_server_time, parse_start, utc_iso, utc_name, utc_stamp, utc_text};
