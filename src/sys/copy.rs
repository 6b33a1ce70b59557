//! A copy of something secret, for a command that wants a file: private, and gone afterwards.

use std::{
    ffi::{OsStr, OsString},
    fs::{File, OpenOptions},
    os::unix::{
        ffi::OsStrExt,
        fs::{OpenOptionsExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::error::{Error, Result};

/// A file in a directory of its own, mode 0700, both removed when this is dropped.
pub struct PrivateCopy {
    // Dropped last: the file in it is closed then.
    file: Option<File>,
    path: PathBuf,
    _dir: tempfile::TempDir,
}

impl PrivateCopy {
    /// An empty file called `name`, which is one name, in the directory for temporary files.
    pub fn create(name: &[u8], executable: bool) -> Result<Self> {
        let failed = |e| Error::io("cannot make a private copy for the command", e).hint("TMPDIR names the directory for it");
        let private = std::fs::Permissions::from_mode(0o700);
        let dir = tempfile::Builder::new().prefix("coffre-").permissions(private).tempdir().map_err(failed)?;
        let path = dir.path().join(OsStr::from_bytes(name));
        let mode = if executable { 0o700 } else { 0o600 };
        let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&path).map_err(failed)?;
        Ok(Self { file: Some(file), path, _dir: dir })
    }

    /// The file, to be filled.
    pub fn file(&mut self) -> &mut File {
        self.file.as_mut().expect("it is closed last")
    }

    /// Closes it, so that it can be run.
    pub fn close(&mut self) -> &Self {
        self.file = None;
        self
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Runs a shell command in which `{}` stands for `file`; at its end, if there is none. What it prints goes to standard error. Returns its exit
/// code; `None` if a signal ended it.
pub fn run_on_file(command: &str, file: &Path) -> Result<Option<i32>> {
    let quoted = [b"'", &file.as_os_str().as_bytes().iter().flat_map(quoted_byte).copied().collect::<Vec<u8>>()[..], b"'"].concat();
    let line = match command.contains("{}") {
        true => command.split("{}").map(str::as_bytes).collect::<Vec<_>>().join(&quoted[..]),
        false => [command.as_bytes(), b" ", &quoted].concat(),
    };
    let failed = |e| Error::io(format!("cannot run `{command}`"), e);
    let out = std::io::stderr();
    let out = std::os::fd::AsFd::as_fd(&out).try_clone_to_owned().map_err(failed)?;
    let status = Command::new("/bin/sh").arg("-c").arg(OsString::from(OsStr::from_bytes(&line))).stdin(Stdio::null()).stdout(out).status();
    Ok(status.map_err(failed)?.code())
}

fn quoted_byte(byte: &u8) -> &[u8] {
    if *byte == b'\'' { b"'\\''" } else { std::slice::from_ref(byte) }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_command_gets_a_private_file_that_is_gone_afterwards() {
        let mut copy = PrivateCopy::create("it's a $(name).conf".as_bytes(), false).unwrap();
        copy.file().write_all(b"text").unwrap();
        let path = copy.close().path().to_owned();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        assert_eq!(run_on_file("test \"$(cat {})\" = text && test -f {}", &path).unwrap(), Some(0));
        assert_eq!(run_on_file("grep -q text", &path).unwrap(), Some(0));
        assert_eq!(run_on_file("exit 3 # {}", &path).unwrap(), Some(3));
        assert_eq!(run_on_file("kill -9 $$ # {}", &path).unwrap(), None);
        drop(copy);
        assert!(!path.parent().unwrap().exists());
    }
}
