//! This process and its machine.

use std::{
    os::unix::fs::MetadataExt,
    process::{Command, Stdio},
};

use zeroize::Zeroizing;

use crate::error::{Error, Result};

/// The variable that may hold a passphrase: taken away by `take_variable` before any command could be started that would get to see it.
pub const PASSPHRASE_VARIABLE: &std::ffi::CStr = c"COFFRE_PASSPHRASE";

/// Takes a secret out of the environment: what is started later does not get it, and nobody finds it there. Call it before there is a second thread.
pub fn take_variable(name: &std::ffi::CStr) -> Option<Zeroizing<String>> {
    let name_text = name.to_str().ok()?;
    let value = std::env::var_os(name_text)?;
    // SAFETY: there is one thread, so nobody reads or changes the environment meanwhile. `getenv` returns the text itself, which ends with a zero
    // and may be overwritten.
    unsafe {
        let text = libc::getenv(name.as_ptr());
        if !text.is_null() {
            std::ptr::write_bytes(text, 0, libc::strlen(text));
        }
        std::env::remove_var(name_text);
    }
    value.into_string().ok().map(Zeroizing::new)
}

/// How many threads can run at once, at least 1.
pub fn available_cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Ends the process now, without a word to its other threads: for when they wait for what never comes.
pub fn leave(code: i32) -> ! {
    // SAFETY: ends the process; nothing of it is used afterwards.
    unsafe { libc::_exit(code) }
}

/// Whether this process may do what root may.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Effective user and group.
pub fn effective_ids() -> (u32, u32) {
    (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
}

/// The host's name.
pub fn host_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    if name.is_empty() { "localhost".to_owned() } else { name }
}

/// Raises the number of files this process may have open as far as allowed.
pub fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // Without it the soft limit stays, which is enough for ordinary trees.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

/// How many files this process may have open.
pub fn file_limit() -> u64 {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Lets everybody else go first, on the processor and on the disk: nice 19, and the lowest of the ordinary I/O priorities. Holds for the
/// threads that are started from now on.
pub fn give_way() -> std::io::Result<()> {
    const WHO_PROCESS: libc::c_int = 1;
    const CLASS_BEST_EFFORT: libc::c_int = 2 << 13;
    const LOWEST: libc::c_int = 7;
    rustix::process::setpriority_process(None, 19)?;
    // SAFETY: the call takes three numbers, and touches no memory of ours; there is no wrapper of it in libc.
    let done = unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, CLASS_BEST_EFFORT | LOWEST) };
    if done == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// `N` random bytes from the operating system.
pub fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|e| Error::unavailable("the operating system gives no random bytes").because(e.to_string()))?;
    Ok(bytes)
}

/// Has the threads that are started from now on share two heaps. By default each has its own, and what one freed no other can use.
pub fn share_heaps() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the call takes two numbers, and touches no memory of ours.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 2);
    }
}

/// Has memory that was freed stay with the process, and new memory come in larger steps: for who reads thousands of small things, once. Costs
/// a few MiB.
pub fn keep_heaps() {
    const STEP_BYTES: libc::c_int = 1 << 20;
    const KEPT_BYTES: libc::c_int = 32 << 20;
    #[cfg(target_env = "gnu")]
    // SAFETY: each call takes two numbers, and touches no memory of ours.
    unsafe {
        libc::mallopt(libc::M_TOP_PAD, STEP_BYTES);
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT_BYTES);
    }
}

/// The most memory that this process has had resident, in bytes; 0 if the kernel does not say.
pub fn peak_memory_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// Which share of the machine's memory is free or can be freed at once, 0 to 1; 1 if the kernel does not say.
pub fn memory_free_share() -> f64 {
    let info = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = |name: &str| info.lines().find_map(|l| l.strip_prefix(name)?.split_whitespace().next()?.parse::<f64>().ok());
    match (kib("MemAvailable:"), kib("MemTotal:")) {
        (Some(free), Some(total)) if total > 0.0 => free / total,
        _ => 1.0,
    }
}

/// Runs a shell command and returns the first line that it prints; its standard error stays on the terminal.
pub fn run_for_line(command: &str) -> Result<Zeroizing<String>> {
    let failed = || format!("`{command}` did not give a passphrase");
    let output = Command::new("/bin/sh")
        .args(["-c", command])
        .stdin(Stdio::inherit())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|e| Error::io(failed(), e))?;
    let text = Zeroizing::new(output.stdout);
    if !output.status.success() {
        return Err(Error::wrong_key(failed()).because(format!("it ended with {}", output.status)));
    }
    let line = text.split(|b| *b == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let line = std::str::from_utf8(line).map_err(|_| Error::wrong_key(failed()).because("it is not UTF-8"))?;
    Ok(Zeroizing::new(line.to_owned()))
}

/// The permission bits of a regular file that others than its owner may read.
pub fn readable_by_others(meta: &std::fs::Metadata) -> Option<u32> {
    let mode = meta.mode();
    (mode & libc::S_IFMT == libc::S_IFREG && mode & 0o077 != 0).then_some(mode & 0o7777)
}
