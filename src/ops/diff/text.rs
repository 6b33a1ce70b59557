//! How the content of a text differs: a unified diff. The home of `similar`.

use std::time::Duration;

use similar::{Algorithm, TextDiff};

use crate::{
    error::{Error, Result},
    format::{Content, Entry},
    ops::{
        diff::{Change, Row},
        look::Look,
    },
    vault::{FileReader, Side},
};

/// Longest text that is compared line by line, in bytes.
const TEXT_LEN_MAX: u64 = 4 << 20;
/// Bytes at the start in which a NUL says that it is no text, as git has it.
const LOOKED_AT: usize = 8000;
/// After this the diff is no longer the shortest one.
const PATIENCE: Duration = Duration::from_secs(1);
/// Equal lines shown around a change.
const CONTEXT_LINES: usize = 3;

/// How two contents compare.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compared {
    /// A unified diff, heads with the paths included.
    Lines(String),
    /// They differ, and one of them is no text.
    Binary,
    /// They differ, and one is too long to compare.
    TooLong,
    /// Nothing to compare: no file, or equal.
    Nothing,
}

/// Compares the contents of the entries of `row`, those of links being their targets. Reads both files, if they are texts of at most 4 MiB.
pub fn compare(look: &Look, sides: (&Side, &Side), row: &Row) -> Result<Compared> {
    if row.change == Change::Metadata {
        return Ok(Compared::Nothing);
    }
    let size = |entry: &Option<Entry>| entry.as_ref().map_or(0, Entry::size);
    let has_text = |entry: &Option<Entry>| entry.as_ref().is_none_or(|e| matches!(e.content, Content::File { .. } | Content::Symlink(_)));
    let (old, new) = (&row.entries.0, &row.entries.1);
    if !(has_text(old) && has_text(new)) {
        return Ok(Compared::Nothing);
    }
    if size(old).max(size(new)) > TEXT_LEN_MAX {
        return Ok(Compared::TooLong);
    }
    let (a, b) = (bytes(look, sides.0, old)?, bytes(look, sides.1, new)?);
    if a == b {
        return Ok(Compared::Nothing);
    }
    let is_binary = |bytes: &[u8]| bytes[..bytes.len().min(LOOKED_AT)].contains(&0);
    if is_binary(&a) || is_binary(&b) {
        return Ok(Compared::Binary);
    }
    let (a, b) = (String::from_utf8_lossy(&a), String::from_utf8_lossy(&b));
    let name = |side: &str, entry: &Option<Entry>, path: &str| match entry {
        Some(_) => format!("{side}{path}"),
        None => "/dev/null".to_owned(),
    };
    let from = row.from.as_ref().unwrap_or(&row.path);
    let (from, to) = (name("a", old, &from.path), name("b", new, &row.path.path));
    Ok(Compared::Lines(unified(&a, &b, &from, &to)))
}

fn unified(a: &str, b: &str, from: &str, to: &str) -> String {
    let diff = TextDiff::configure().algorithm(Algorithm::Myers).timeout(PATIENCE).diff_lines(a, b);
    diff.unified_diff().context_radius(CONTEXT_LINES).header(from, to).to_string()
}

fn bytes(look: &Look, side: &Side, entry: &Option<Entry>) -> Result<Vec<u8>> {
    let Some(entry) = entry else { return Ok(Vec::new()) };
    if let Content::Symlink(target) = &entry.content {
        return Ok(target.to_vec());
    }
    let Some(file) = FileReader::new(&side.keys, entry) else { return Ok(Vec::new()) };
    let mut bytes = vec![0; usize::try_from(file.size()).map_err(|_| Error::bug("a text is longer than was checked"))?];
    let n = look.dirs.reader().read_file(&file, 0, &mut bytes)?;
    bytes.truncate(n);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unified_diff_is_what_patch_reads() {
        let text = unified("a\nb\nc\n", "a\nB\nc", "a/x", "b/x");
        assert_eq!(text, "--- a/x\n+++ b/x\n@@ -1,3 +1,3 @@\n a\n-b\n-c\n+B\n+c\n\\ No newline at end of file\n");
    }
}
