//! Checks before mounting: each failure here would be worse after.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::{
    error::{Error, Result},
    event::{Event, Sink},
    sys,
};

/// Returns the real path of the mount point `dir` once it is sure that mounting there is right.
///
/// `not_over` are directories that must not be covered, nor cover it: the vault, the state directory. A dead mount of ours is cleared away.
pub fn check(dir: &Path, not_over: &[PathBuf], sink: &dyn Sink) -> Result<PathBuf> {
    let shown = dir.display();
    if let Err(e) = fs::symlink_metadata(dir)
        && e.raw_os_error() == Some(rustix::io::Errno::NOTCONN.raw_os_error())
    {
        clear_dead(dir, sink)?;
    }
    let real = fs::canonicalize(dir).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => Error::not_found(format!("the mount point {shown} does not exist")).hint(format!("mkdir -p {shown}")),
        _ if e.raw_os_error() == Some(rustix::io::Errno::NOTCONN.raw_os_error()) => {
            Error::locked(format!("a dead mount is on {shown}")).hint(format!("coffre unmount {shown}"))
        }
        _ => Error::io(format!("cannot use the mount point {shown}"), e),
    })?;
    if !real.is_dir() {
        return Err(Error::usage(format!("the mount point {shown} is not a directory")));
    }
    for place in not_over {
        if let Ok(place) = fs::canonicalize(place)
            && (real.starts_with(&place) || place.starts_with(&real))
        {
            return Err(Error::usage(format!("the mount point {shown} and {} are inside one another", place.display()))
                .hint("choose a mount point outside the vault and its state directory"));
        }
    }
    if let Some(there) = sys::mount_at(&real)? {
        let what = if there.kind == "fuse.coffre" { "a vault".to_owned() } else { format!("{} ({})", there.source, there.kind) };
        return Err(Error::locked(format!("{what} is already mounted on {shown}"))
            .hint(format!("coffre unmount {shown}, or choose another mount point")));
    }
    let mut entries = fs::read_dir(&real).map_err(|e| Error::io(format!("cannot look into the mount point {shown}"), e))?;
    if entries.next().is_some() {
        return Err(Error::conflict(format!("the mount point {shown} is not empty"))
            .hint("choose an empty directory; what is in this one would be hidden"));
    }
    device()?;
    Ok(real)
}

/// Takes away what a killed mount process left on `dir`.
fn clear_dead(dir: &Path, sink: &dyn Sink) -> Result<()> {
    let absolute = std::path::absolute(dir).map_err(|e| Error::io("cannot find the current directory", e))?;
    match sys::mount_at(&absolute)? {
        Some(mount) if mount.kind == "fuse.coffre" => {
            sys::detach(&absolute)?;
            sink.send(Event::Note(format!("cleared a dead mount from {}", dir.display())));
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Whether FUSE can be used here at all.
fn device() -> Result<()> {
    match fs::File::options().read(true).write(true).open("/dev/fuse") {
        Ok(_) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            Err(Error::unsupported("this machine has no /dev/fuse, so nothing can be mounted")
                .hint("modprobe fuse; in a container give it /dev/fuse and CAP_SYS_ADMIN; `coffre cat` and RESTORE.py work without"))
        }
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Err(Error::unsupported("/dev/fuse cannot be opened by this user")
            .because(e)
            .hint("run as root, or ask for access to /dev/fuse; `coffre cat` works without")),
        Err(e) => Err(Error::unsupported("/dev/fuse cannot be opened")
            .because(e)
            .hint("modprobe fuse; in a container give it /dev/fuse and CAP_SYS_ADMIN")),
    }
}
