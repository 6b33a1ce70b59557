//! `coffre mount` and `coffre unmount`.

use std::{path::PathBuf, sync::Arc};

use serde::Serialize;

use crate::{
    cli::{Run, exit, keys, mount_options, patience, shown},
    error::{Error, Result},
    mount::{self, Options, Xattrs},
    sys,
    vault::Reader,
};

/// What stands below a mount.
const VIEWS: &str = "\
Below DIR:
  latest/                 the newest snapshot: of this host, else of any
  snapshots/NAME/         each snapshot, with the full paths of its sources
  hosts/HOST/, tags/TAG/  links to the snapshots of one host, or with one tag
  at/TIME/                the newest snapshot at or before TIME: 2025-11-08 (the end of that day),
                          2025-11-08T03:00, yesterday, '3 days ago'; or an id, latest~2;
                          or any of these after HOST@
  history/FILE/           every version of FILE, named by time, newest last, even if it was deleted
  history/DIR/            every name that ever stood in DIR, to go on from
  history/DIR/@versions/  every version of DIR itself; a name @versions is shown as @versions@
  changes/A..B/           added/, modified/, removed/: what differs between two snapshots, as
                          files; A and B as in at/

Where extended attributes are shown, these can be asked for by name:
  user.coffre.snapshot    id of the snapshot, and the name of its directory
  user.coffre.versions    how many versions the path has
  user.coffre.blake3      BLAKE3 of the content; reads the whole file, of up to 16 GiB";

/// Show every snapshot as files below a directory, until ^C or unmount.
#[derive(clap::Args)]
#[command(after_long_help = VIEWS)]
pub struct Args {
    /// An empty directory
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Go to the background, and return once the mount answers
    #[arg(long)]
    daemon: bool,
    /// Let other users look in, as far as the recorded permissions let them (root: always)
    #[arg(long)]
    allow_other: bool,
    /// Show everything as owned by these numbers
    #[arg(long, value_name = "UID:GID", value_parser = parse_owner)]
    owner: Option<(u32, u32)>,
    /// Memory for decoded data
    #[arg(long, value_name = "SIZE", default_value = "128M", value_parser = parse_size)]
    cache: u64,
    /// Disk for what was read from a server, encrypted as it is; below COFFRE_CACHE_DIR, or ~/.cache/coffre. 0 keeps nothing
    #[arg(long, value_name = "SIZE", default_value = "2G", value_parser = parse_size)]
    disk_cache: u64,
    /// Whether to show extended attributes and ACLs: `auto` does if a snapshot has any
    #[arg(long, value_name = "WHEN", default_value = "auto", value_enum)]
    xattrs: XattrsArg,
    /// Options as for mount(8): exec (the default), noexec, suid, dev, max_read=N; and the long ones of this command
    #[arg(short = 'o', value_name = "OPTION,…", value_delimiter = ',')]
    options: Vec<String>,
}

/// When extended attributes are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum XattrsArg {
    /// If a snapshot has any.
    Auto,
    /// In any case.
    Always,
    /// Not at all.
    Never,
}

/// End a mount.
#[derive(clap::Args)]
pub struct UnmountArgs {
    /// Where the vault is mounted
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Even while it is in use: it disappears now, and ends when its last user leaves
    #[arg(long)]
    lazy: bool,
}

/// Two numbers, with a colon between them.
pub fn parse_owner(text: &str) -> std::result::Result<(u32, u32), String> {
    let numbers = text.split_once(':').and_then(|(uid, gid)| Some((uid.parse().ok()?, gid.parse().ok()?)));
    numbers.ok_or_else(|| "two numbers are wanted, such as 1000:1000".to_owned())
}

/// A size in bytes, with `K`, `M`, `G` or `T` behind it if wanted.
pub fn parse_size(text: &str) -> std::result::Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text[digits.len()..].to_ascii_lowercase().trim_end_matches("ib").trim_end_matches('b') {
        "" => Some(0),
        "k" => Some(10),
        "m" => Some(20),
        "g" => Some(30),
        "t" => Some(40),
        _ => None,
    };
    let size = shift.and_then(|shift| digits.parse::<u64>().ok()?.checked_mul(1 << shift));
    size.ok_or_else(|| "a size is wanted, such as 64M or 1G".to_owned())
}

#[derive(Serialize)]
struct Mounted {
    mounted: String,
}

/// Runs it.
pub fn run(run: &Run, args: &Args) -> Result<u8> {
    let given = mount_options::parse(&args.options)?;
    let opened = run.globals.open_to_read(args.disk_cache)?;
    let mut options = Options {
        point: args.dir.clone(),
        not_over: opened.path.iter().cloned().chain([opened.state.path().to_owned()]).collect(),
        allow_other: args.allow_other || given.allow_other,
        owner: given.owner.or(args.owner),
        flags: given.flags,
        xattrs: match given.xattrs.unwrap_or(args.xattrs) {
            XattrsArg::Auto => Xattrs::Auto,
            XattrsArg::Always => Xattrs::Always,
            XattrsArg::Never => Xattrs::Never,
        },
        host: opened.host()?,
        account: run.globals.verbose > 0,
    };
    // Before the passphrase is asked for, and before there is nobody to tell.
    options.point = mount::check(&options, &**run.screen)?;
    let owner = Arc::new(keys::unlock(run.globals, &opened.vault)?);
    // It stays for days, and needs it no more.
    keys::forget_passphrase();
    let mut readiness = match args.daemon {
        false => sys::Readiness::nobody(),
        true => match sys::daemonise()? {
            Ok(readiness) => readiness,
            Err((0, _)) => return told(run, args).map(|()| 0),
            // The child has said why on the same standard error.
            Err((code, text)) if text.is_empty() => return Ok(code),
            Err((_, text)) => return Err(Error::unavailable(text)),
        },
    };
    // Locks stay behind in the process that forked.
    owner.lock_in_memory();
    let cache = given.cache.unwrap_or(args.cache);
    let served = serve(run, args, cache, opened.vault, owner, &options, &mut readiness);
    match served {
        Err(e) if readiness.is_awaited() => {
            run.screen.error(&e);
            readiness.failed(exit::code(e.kind()), "");
            Ok(exit::code(e.kind()))
        }
        other => other.map(|()| 0),
    }
}

fn serve(
    run: &Run,
    args: &Args,
    cache: u64,
    vault: crate::vault::Vault,
    owner: Arc<crate::vault::OwnerKeys>,
    options: &Options,
    readiness: &mut sys::Readiness,
) -> Result<()> {
    sys::share_heaps();
    patience::watch(run, false)?;
    let (reader, findings) = Reader::open(vault, owner, cache)?;
    for finding in findings {
        run.screen.warning(&format!("{}: {}; what it lists is looked for in the packs themselves", finding.object, finding.text));
    }
    mount::serve(Arc::new(reader), options, run.screen.clone(), run.clock.clone(), || {
        if let Err(e) = sys::notify_ready() {
            run.screen.warning(&e.chain());
        }
        if readiness.is_awaited() {
            readiness.ready();
        } else if let Err(e) = told(run, args) {
            run.screen.warning(&e.chain());
        }
    })
}

fn told(run: &Run, args: &Args) -> Result<()> {
    let mounted = Mounted { mounted: args.dir.display().to_string() };
    if run.globals.json {
        return run.screen.data(&mounted, String::new);
    }
    let how = if args.daemon { format!("coffre unmount {} ends it", shown(&args.dir)) } else { "^C ends it".to_owned() };
    run.screen.note(&format!("mounted on {}; {how}", shown(&args.dir)));
    Ok(())
}

/// Ends a mount.
pub fn unmount(run: &Run, args: &UnmountArgs) -> Result<u8> {
    mount::unmount(&args.dir, args.lazy)?;
    run.screen.note(&format!("unmounted {}", shown(&args.dir)));
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_owners_are_read() {
        assert_eq!((parse_size("64M"), parse_size("1GiB"), parse_size("512")), (Ok(64 << 20), Ok(1 << 30), Ok(512)));
        assert!(parse_size("much").is_err() && parse_size("-1M").is_err() && parse_size("M").is_err());
        assert_eq!(parse_owner("1000:100"), Ok((1000, 100)));
        assert!(parse_owner("me:us").is_err());
    }
}
