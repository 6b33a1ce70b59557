//! Going to the background: the parent waits until the child says that it is ready, or why it is not.

use std::{
    fs::File,
    io::{Read, Write},
    os::{
        fd::OwnedFd,
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
};

use crate::error::{Error, Result};

/// The child's end: says once that the work can begin, or what went wrong.
pub struct Readiness(Option<File>);

impl Readiness {
    /// A readiness that nobody waits for.
    pub fn nobody() -> Self {
        Self(None)
    }

    /// Tells the parent that everything works; it then exits with 0.
    ///
    /// Lets go of standard output, and of standard error if that is a pipe: whoever reads it would wait for us for ever. A
    /// terminal or a log file is kept for warnings.
    pub fn ready(&mut self) {
        if self.is_awaited()
            && let Ok(null) = File::options().write(true).open("/dev/null")
        {
            let piped = |stat: rustix::fs::Stat| {
                matches!(rustix::fs::FileType::from_raw_mode(stat.st_mode), rustix::fs::FileType::Fifo | rustix::fs::FileType::Socket)
            };
            let _ = rustix::stdio::dup2_stdout(&null);
            if rustix::fs::fstat(rustix::stdio::stderr()).is_ok_and(piped) {
                let _ = rustix::stdio::dup2_stderr(&null);
            }
        }
        self.tell(b"+");
    }

    /// Tells the parent what to print before it exits: an exit code and the text.
    pub fn failed(&mut self, code: u8, text: &str) {
        self.tell(&[&[b'-', code], text.as_bytes()].concat());
    }

    /// Whether somebody still waits.
    pub fn is_awaited(&self) -> bool {
        self.0.is_some()
    }

    fn tell(&mut self, bytes: &[u8]) {
        if let Some(mut pipe) = self.0.take() {
            // A parent that was killed no longer needs to know.
            let _ = pipe.write_all(bytes);
        }
    }
}

/// Tells who started this process, if it wants to know, that the work can begin: sd_notify(3), `Type=notify` of systemd.
pub fn notify_ready() -> Result<()> {
    let Some(place) = std::env::var_os("NOTIFY_SOCKET").filter(|place| !place.is_empty()) else { return Ok(()) };
    let address = match place.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        _ => SocketAddr::from_pathname(&place),
    };
    let told = address.and_then(|address| UnixDatagram::unbound()?.send_to_addr(b"READY=1\n", &address));
    told.map(drop).map_err(|e| Error::io("cannot tell systemd that the mount answers", e))
}

/// Forks. In the child returns `Ok(Ok(readiness))`; in the parent waits for it and returns `Ok(Err((code, text)))`.
///
/// Call it while the process has one thread only. The child is the leader of a session of its own, with standard
/// input from /dev/null; its standard output and error stay, so that warnings reach the log they are sent to.
pub fn daemonise() -> Result<std::result::Result<Readiness, (u8, String)>> {
    let failed = |e: rustix::io::Errno| Error::unavailable("cannot go to the background").because(std::io::Error::from(e));
    let (reader, writer): (OwnedFd, OwnedFd) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(failed)?;
    // SAFETY: fork in a single-threaded process; the child goes on with ordinary code, as after any fork(2).
    match unsafe { libc::fork() } {
        -1 => Err(Error::unavailable("cannot go to the background").because(std::io::Error::last_os_error())),
        0 => {
            drop(reader);
            rustix::process::setsid().map_err(failed)?;
            let null = File::options().read(true).open("/dev/null").map_err(|e| Error::io("cannot open /dev/null", e))?;
            rustix::stdio::dup2_stdin(&null).map_err(failed)?;
            Ok(Ok(Readiness(Some(File::from(writer)))))
        }
        _ => {
            drop(writer);
            let mut told = Vec::new();
            File::from(reader).read_to_end(&mut told).map_err(|e| Error::io("cannot hear from the background process", e))?;
            Ok(Err(match told.split_first() {
                Some((b'+', _)) => (0, String::new()),
                Some((b'-', [code, text @ ..])) => (*code, String::from_utf8_lossy(text).into_owned()),
                _ => (1, "the background process ended before it was ready".to_owned()),
            }))
        }
    }
}
