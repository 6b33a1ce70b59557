//! Snapshots as a read-only file system.
//!
//! `fs` translates for the kernel and decides nothing; `view` and `inode` decide and know no kernel. The home of `fuser`.
//! What `history/` and `changes/` show is found out in `vault::history` and `vault::changes`.

mod attr;
mod doors;
mod errno;
mod fs;
mod guard;
mod inode;
mod list;
mod listing;
mod names;
mod onward;
mod preflight;
mod push;
mod requests;
mod view;
mod watch;
mod xattr;

use std::{
    mem::ManuallyDrop,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use fuser::{Config, MountOption, Session, SessionACL};

pub use inode::ROOT;
pub use view::{Found, Listed, Node, Views};
pub use xattr::value as xattr_value;

use crate::{
    error::{Error, ErrorKind, Result},
    event::{Event, Sink},
    sys::{self, Cancel, Clock},
    vault::Reader,
};

/// Whether extended attributes are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Xattrs {
    /// If a snapshot has any: asking costs `cp -a` three requests a file, which the kernel never caches.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// What may be done with programs and devices in a mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flags {
    /// Programs can be run.
    pub exec: bool,
    /// Programs that become another user do.
    pub suid: bool,
    /// Devices can be opened.
    pub dev: bool,
    /// Longest read that the kernel asks for, in bytes.
    pub max_read: Option<u32>,
}

impl Default for Flags {
    fn default() -> Self {
        Self { exec: true, suid: false, dev: false, max_read: None }
    }
}

/// How to mount.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where.
    pub point: PathBuf,
    /// Directories that must be apart from the mount point.
    pub not_over: Vec<PathBuf>,
    /// Let other users in (root: always).
    pub allow_other: bool,
    /// Show everything as owned by these.
    pub owner: Option<(u32, u32)>,
    /// Programs and devices.
    pub flags: Flags,
    /// Extended attributes.
    pub xattrs: Xattrs,
    /// The host whose newest snapshot is `latest`.
    pub host: String,
    /// Tell at the end what was asked for, and what it took.
    pub account: bool,
}

/// Bytes of decoded directories kept.
const DIRS_BYTES_MAX: u64 = 48 << 20;
/// Threads that answer the kernel: two halve the latency even for one client.
const THREADS_MIN: usize = 2;
const THREADS_MAX: usize = 8;
/// Longest that readiness is kept back until the first file of a pack has not to wait for its header. It takes a tenth of that on a disk
/// that is not busy.
const OPENING_WAIT: Duration = Duration::from_millis(100);
/// Read-ahead that root asks for: twice the speed of the kernel's 128 KiB.
const READ_AHEAD_KIB: u32 = 1024;

/// Makes sure that mounting at `options.point` can work; returns its real path.
pub fn check(options: &Options, sink: &dyn Sink) -> Result<PathBuf> {
    preflight::check(&options.point, &options.not_over, sink)
}

/// Mounts and serves until somebody unmounts or a signal comes. Calls `ready` once the mount answers.
pub fn serve(reader: Arc<Reader>, options: &Options, sink: Arc<dyn Sink>, clock: Arc<dyn Clock>, ready: impl FnOnce()) -> Result<()> {
    let point = preflight::check(&options.point, &options.not_over, &*sink)?;
    let views = Arc::new(Views::new(reader.clone(), options.host.clone(), DIRS_BYTES_MAX, clock.clone(), sink.clone()));
    reader.tell(sink.clone());
    reader.read_ahead()?;
    views.decode_onward()?;
    let opened = reader.open_packs()?;
    let mut watch = watch::Watch::start(reader.clone(), views.clone(), sink.clone())?;
    let root = sys::is_root();
    let xattrs = match options.xattrs {
        Xattrs::Always => true,
        Xattrs::Never => false,
        Xattrs::Auto => views.has_xattrs(),
    };
    watch.without_xattrs = !xattrs && options.xattrs == Xattrs::Auto;
    let everybody = root || options.allow_other;
    let push = Arc::new(push::Push::new(views.clone(), clock.clone()));
    let requests = Arc::new(requests::Requests::default());
    let fs = fs::Fs {
        blake3: xattr::Blake3::start(views.clone(), sink.clone())?,
        views,
        push: push.clone(),
        sink: sink.clone(),
        xattrs,
        owners: attr::Owners { all: options.owner, mounter: sys::effective_ids() },
        posix_acl: everybody,
        requests: requests.clone(),
    };
    // From here on a signal unmounts; before, nothing is mounted, and it just ends the process.
    let signals = sys::CaughtSignals::catch()?;
    let session = Session::new(fs, &point, &config(&reader, everybody, options.flags)).map_err(|e| failed(&point, e))?;
    // fuser 0.18 unmounts whatever is at this path when a session is dropped, and by then that may be somebody else's mount;
    // so the session runs in the background, its handle is never dropped, and only its thread is waited for.
    let mut session = ManuallyDrop::new(session.spawn().map_err(|e| failed(&point, e))?);
    let serving = std::mem::replace(&mut session.guard, std::thread::spawn(|| Ok(())));
    if root && let Some(mount) = sys::mount_at(&point)? {
        sys::set_read_ahead(&mount, READ_AHEAD_KIB);
    }
    push.start(session.notifier())?;
    let ended = Cancel::default();
    {
        let (notifier, ended) = (session.notifier(), ended.clone());
        std::thread::Builder::new()
            .name("watch".to_owned())
            .spawn(move || watch.run(&notifier, &*clock, &ended))
            .map_err(|e| Error::io("cannot start a thread", e))?;
    }
    {
        let (point, sink) = (point.clone(), sink.clone());
        signals.each(move || stop(&point, &*sink))?;
    }
    let _ = opened.recv_timeout(OPENING_WAIT);
    ready();
    let served = serving.join();
    ended.cancel();
    if options.account {
        let (frames, peak) = (reader.frames_decoded(), sys::peak_memory_bytes() >> 20);
        sink.send(Event::Note(format!("requests: {requests}; {frames} frames decoded; {peak} MiB of memory at most")));
    }
    match served {
        // The kernel said that the mount is gone. What is at its place now is somebody else's, and not to be touched.
        Ok(Ok(())) => Ok(()),
        // Nobody serves it any more, but it is still there.
        other => {
            let reason = other.map_or_else(|_| "a thread panicked".to_owned(), |e| e.map_or_else(|e| e.to_string(), |()| String::new()));
            if sys::mount_at(&point)?.is_some_and(|mount| mount.kind == "fuse.coffre" && mount.source == source(&reader)) {
                sys::detach(&point)?;
            }
            let error = Error::unavailable(format!("the mount on {} ended by itself", point.display())).because(reason);
            Err(error.hint("mount it again; the log above may say more"))
        }
    }
}

/// Unmounts on a signal. True to go on waiting for another one.
fn stop(point: &Path, sink: &dyn Sink) -> bool {
    match sys::unmount(point) {
        Ok(()) => false,
        Err(e) if e.kind() == ErrorKind::Locked => match sys::detach(point) {
            Ok(()) => {
                sink.send(Event::Note(format!("{} is still in use: it is unmounted, and ends when its last user leaves", point.display())));
                false
            }
            Err(e) => {
                sink.send(Event::Warning(e.chain()));
                true
            }
        },
        Err(e) => {
            sink.send(Event::Warning(e.chain()));
            true
        }
    }
}

fn source(reader: &Reader) -> String {
    format!("coffre:{}", reader.vault.config.id)
}

fn config(reader: &Reader, everybody: bool, flags: Flags) -> Config {
    let either = |given, yes, no| if given { yes } else { no };
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::RO,
        either(flags.exec, MountOption::Exec, MountOption::NoExec),
        either(flags.suid, MountOption::Suid, MountOption::NoSuid),
        either(flags.dev, MountOption::Dev, MountOption::NoDev),
        MountOption::NoAtime,
        MountOption::FSName(source(reader)),
        // Not `Subtype`, which fuser leaves out when it mounts as root.
        MountOption::CUSTOM("subtype=coffre".to_owned()),
    ];
    if let Some(bytes) = flags.max_read {
        config.mount_options.push(MountOption::CUSTOM(format!("max_read={bytes}")));
    }
    if everybody {
        // Others may look in, so the kernel must check permissions: without this, anybody reads everything.
        config.mount_options.push(MountOption::DefaultPermissions);
        config.acl = SessionACL::All;
    } else {
        config.acl = SessionACL::Owner;
    }
    config.n_threads = Some(sys::available_cores().clamp(THREADS_MIN, THREADS_MAX));
    config
}

fn failed(point: &Path, e: std::io::Error) -> Error {
    let error = Error::new(ErrorKind::Unavailable, format!("cannot mount on {}", point.display()));
    match e.kind() {
        std::io::ErrorKind::NotFound => error.because(e).hint("apt-get install fuse3: mounting as a plain user needs fusermount3"),
        std::io::ErrorKind::PermissionDenied => error
            .because(e)
            .hint("mount as root, or see that fusermount3 is installed and, for --allow-other, that /etc/fuse.conf says user_allow_other"),
        _ => error.because(e),
    }
}

/// Unmounts a vault from `dir`; `lazy` takes it away even while it is in use.
pub fn unmount(dir: &Path, lazy: bool) -> Result<()> {
    let shown = dir.display();
    let absolute = std::path::absolute(dir).map_err(|e| Error::io("cannot find the current directory", e))?;
    // A dead mount cannot be resolved, but its path as it was typed can be looked up.
    let point = std::fs::canonicalize(&absolute).unwrap_or(absolute);
    match sys::mount_at(&point)? {
        Some(mount) if mount.kind == "fuse.coffre" => (),
        Some(mount) => {
            return Err(Error::usage(format!("{shown} holds {} ({}), not a vault", mount.source, mount.kind)).hint("use umount for it"));
        }
        None => {
            return Err(
                Error::not_found(format!("nothing is mounted on {shown}")).hint("findmnt -t fuse.coffre shows where vaults are mounted")
            );
        }
    }
    if lazy {
        return sys::detach(&point);
    }
    match sys::unmount(&point) {
        Err(e) if e.kind() == ErrorKind::Locked => {
            Err(e.hint(format!("somebody is using it (fuser -vm {shown} says who); leave it, or use coffre unmount --lazy {shown}")))
        }
        other => other,
    }
}
