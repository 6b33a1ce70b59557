//! Cat: one file of a snapshot, to a writer.

use std::io::Write;

use crate::{
    error::{Error, Result},
    format::Content,
    sys::Cancel,
    vault::{FileReader, Reader, Snapshot, resolve_path},
};

/// Bytes read at once.
const STEP: usize = 1 << 20;

/// Writes the content of the file at `path` in `snapshot` to `out`; a symbolic link gives its target's text an error, not its content.
pub fn run(reader: &Reader, snapshot: &Snapshot, path: &[u8], out: &mut dyn Write, cancel: &Cancel) -> Result<u64> {
    let shown = String::from_utf8_lossy(path);
    let entry = resolve_path(reader, snapshot, path)?;
    let entry = match entry {
        Some(entry) if !entry.is_dir() => entry,
        _ => return Err(Error::usage(format!("{shown} is a directory")).hint("name a file, or mount the vault and look around")),
    };
    if let Content::Symlink(target) = &entry.content {
        return Err(Error::usage(format!("{shown} is a symbolic link to {}", String::from_utf8_lossy(target)))
            .hint("name the file that it points to"));
    }
    let keys = reader.keys(snapshot);
    let Some(file) = FileReader::new(&keys, &entry) else {
        return Err(Error::usage(format!("{shown} is no regular file and has no content")));
    };
    let mut buf = vec![0; STEP.min(usize::try_from(file.size()).unwrap_or(STEP)).max(1)];
    let mut at = 0;
    while at < file.size() {
        cancel.check()?;
        let n = reader.read_file(&file, at, &mut buf).map_err(|e| e.while_doing(format!("cannot read {shown} at byte {at}")))?;
        match out.write_all(&buf[..n]) {
            // Whoever read it has read enough.
            Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => return Ok(at),
            other => other.map_err(|e| Error::io("cannot write the output", e))?,
        }
        at += n as u64;
    }
    out.flush().map_err(|e| Error::io("cannot write the output", e))?;
    Ok(at)
}
