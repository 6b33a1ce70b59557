//! `coffre dump`.

use std::{
    ffi::OsString,
    io::{self, BufWriter, IsTerminal},
    sync::Arc,
};

use crate::{
    cli::{DISK_CACHE_BYTES, Run, exit, look, output},
    error::{Error, Result},
    ops::{
        dump::{self, Format, Report},
        restore::Wanted,
    },
};

/// Frames kept while the tree is read in its order.
const CACHE_BYTES: u64 = 64 << 20;
/// Bytes given to the reader of the archive at once.
const OUT_LEN: usize = 1 << 20;

/// Write a snapshot, or a part of one, as a tar or zip to standard output.
///
/// Names are relative to PATH, so `tar -x` in a directory makes that directory what PATH was; a whole snapshot has full paths. A tar holds
/// everything: times in nanoseconds, owners, attributes, ACLs, hard links, holes, devices. A zip holds files, directories and links.
#[derive(clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// Snapshot, and path in it: `latest`, `latest:/etc/nginx`, `1a2b3c4d:/etc/hosts`, `yesterday:/srv`
    #[arg(value_name = "SNAP[:PATH]")]
    what: OsString,
    /// Kind of archive
    #[arg(long, value_name = "FORMAT", default_value = "tar", value_enum)]
    format: FormatArg,
    /// Only what fits this pattern, with all that is below it (repeatable; rules of gitignore, on paths in the snapshot)
    #[arg(long, value_name = "GLOB")]
    include: Vec<OsString>,
    /// Not what fits this pattern (repeatable; `!GLOB` takes back)
    #[arg(long, value_name = "GLOB")]
    exclude: Vec<OsString>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum FormatArg {
    Tar,
    Zip,
}

const EXAMPLES: &str = "Examples:
  coffre dump latest:/home/u/studio | tar -x --xattrs --xattrs-include='*' --acls -C /srv/back
  coffre dump latest:/home/u/studio | zstd > studio.tar.zst
  coffre dump latest:/home/u/studio | ssh web2 tar -x -C /home/u/studio
  coffre dump --format zip yesterday:/home/u/studio > studio.zip";

/// Runs it.
pub fn run(run: &Run, args: &Args) -> Result<u8> {
    let out = io::stdout();
    if out.is_terminal() {
        return Err(Error::usage("an archive is nothing for a terminal").hint("send it to a file or a program: coffre dump … > studio.tar"));
    }
    let (selector, path) = look::snap_path(run, &args.what)?;
    let wanted = Wanted::new(&args.include, &args.exclude)?;
    let opened = run.globals.open_to_read(DISK_CACHE_BYTES)?;
    let (reader, snapshot) = look::one(run, &opened, &selector, CACHE_BYTES, None)?;
    let reader = Arc::new(reader);
    reader.read_ahead()?;
    let format = match args.format {
        FormatArg::Tar => Format::Tar,
        FormatArg::Zip => Format::Zip,
    };
    let mut out = BufWriter::with_capacity(OUT_LEN, out.lock());
    let report = dump::run(&reader, &snapshot, &path, &wanted, format, &mut out, &run.cancel);
    // What is left in the buffer of somebody who no longer reads is not worth a message.
    drop(out.into_parts());
    Ok(ended(run, &report?))
}

/// Says what is not in the archive, and returns the exit code.
fn ended(run: &Run, report: &Report) -> u8 {
    for file in &report.lost {
        run.screen.warning(&format!("{}: {}", output::visible_bytes(&file.bytes), file.text));
    }
    let lost = report.lost.len() as u64 + report.lost_more;
    if lost > 0 {
        let error = Error::corrupt(format!("{} of the snapshot are damaged in the vault", output::count(lost)));
        run.screen.error(&error.hint("coffre verify says what is damaged; all that is not named above is right in the archive"));
        return exit::DAMAGE;
    }
    if report.left_out > 0 {
        run.screen.warning(&format!("{} fifos and devices are left out: a zip cannot hold them", output::count(report.left_out)));
        return exit::INCOMPLETE;
    }
    0
}
