//! `coffre ls`.

use std::ffi::OsString;

use crate::{
    cli::{Run, complete, look, output, stream::Stream},
    error::Result,
    ops::{
        ls::{self, Row},
        row::{Facts, Type},
    },
    sys,
};

/// List a directory of a snapshot.
#[derive(clap::Args)]
pub struct Args {
    /// Snapshot and path: `latest`, `latest:/etc`, `yesterday:/home`
    #[arg(value_name = "SNAP[:PATH]", default_value = "latest", add = complete::snap_path())]
    what: OsString,
    /// With mode, owner, size and time
    #[arg(short, long)]
    long: bool,
    /// With everything below, by full paths
    #[arg(short, long, visible_short_alias = 'R')]
    recursive: bool,
    /// Exact names, each ended by NUL
    #[arg(short = '0', long, conflicts_with = "long")]
    null: bool,
}

/// Runs it.
pub fn run(run: &Run, args: &Args) -> Result<u8> {
    let (selector, path) = look::snap_path(run, &args.what)?;
    let look = look::open(run)?;
    let n = look.select(&selector)?;
    let mut out = Stream::new(run.screen);
    ls::run(&look, n, &path, args.recursive, &run.cancel, |row| match args.null && !run.screen.json {
        true => out.raw(&[shown(&row, args.recursive), b"\0"].concat()),
        false => out.row(&row, || text(&row, args)),
    })?;
    out.finish()?;
    Ok(0)
}

/// The full path, or the name alone.
fn shown(row: &Row, full: bool) -> &[u8] {
    let path = &row.path.bytes;
    let start = if full { 0 } else { path.iter().rposition(|b| *b == b'/').map_or(0, |at| at + 1) };
    &path[start..]
}

fn text(row: &Row, args: &Args) -> String {
    let name = output::visible_bytes(shown(row, args.recursive));
    match args.long {
        true => format!("{} {name}{}\n", long(&row.facts), target(&row.facts)),
        false => format!("{name}{}\n", if row.facts.kind == Type::Dir { "/" } else { "" }),
    }
}

/// Mode, owner, size and time, as `ls -l` has them.
pub fn long(facts: &Facts) -> String {
    let owner = format!("{}:{}", who(facts.user.as_deref(), facts.uid), who(facts.group.as_deref(), facts.gid));
    let size = match facts.device {
        Some([major, minor]) => format!("{major},{minor}"),
        None if facts.kind == Type::Dir => "-".to_owned(),
        None => output::bytes(facts.size),
    };
    format!("{} {owner:<17} {size:>11}  {}", mode(facts), sys::local_minute(facts.mtime_ns.into()))
}

/// ` -> TARGET` for a link.
pub fn target(facts: &Facts) -> String {
    facts.target.as_ref().map_or_else(String::new, |target| format!(" -> {}", output::visible_bytes(&target.bytes)))
}

fn who(name: Option<&str>, id: u32) -> String {
    name.map_or_else(|| id.to_string(), output::visible)
}

/// `drwxr-xr-x`.
fn mode(facts: &Facts) -> String {
    let bits = u32::from_str_radix(&facts.mode, 8).unwrap_or(0);
    let letter = if facts.kind == Type::File { '-' } else { facts.kind.letter() };
    let special = [(0o4000, 's', 'S'), (0o2000, 's', 'S'), (0o1000, 't', 'T')];
    let mut text = String::from(letter);
    for (shift, (bit, with_x, without)) in [6, 3, 0].into_iter().zip(special) {
        let x = match (bits & bit != 0, bits >> shift & 1 != 0) {
            (true, true) => with_x,
            (true, false) => without,
            (false, true) => 'x',
            (false, false) => '-',
        };
        text.push(if bits >> shift & 4 != 0 { 'r' } else { '-' });
        text.push(if bits >> shift & 2 != 0 { 'w' } else { '-' });
        text.push(x);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_look_like_those_of_ls() {
        let of = |kind: Type, bits: &str| {
            let facts = Facts {
                kind,
                mode: bits.to_owned(),
                uid: 0,
                gid: 0,
                user: None,
                group: None,
                size: 0,
                mtime: String::new(),
                mtime_ns: 0,
                target: None,
                device: None,
                links: None,
                xattrs: Vec::new(),
                below: None,
            };
            mode(&facts)
        };
        assert_eq!(of(Type::File, "0644"), "-rw-r--r--");
        assert_eq!(of(Type::Dir, "1777"), "drwxrwxrwt");
        assert_eq!(of(Type::File, "4755"), "-rwsr-xr-x");
        assert_eq!(of(Type::File, "2640"), "-rw-r-S---");
    }
}
