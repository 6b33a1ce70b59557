//! `coffre bisect`.

use crate::{
    cli::{Run, complete, look},
    error::Result,
    ops::{
        bisect::{self, Report},
        history::Row,
    },
};

/// Find the first version of a file for which a command fails.
///
/// Tries versions by halves, so a thousand take ten runs. The command gets a private copy of each. One that ends with 0 passes; 126, 127
/// or a signal stop the search.
#[derive(clap::Args)]
pub struct Args {
    /// The full path, as it was at the source
    #[arg(add = complete::stored_path())]
    path: std::path::PathBuf,
    /// Shell command; `{}` is the copy, added at the end if there is none
    #[arg(long, value_name = "CMD")]
    run: String,
    /// Of this host
    #[arg(long, value_name = "NAME")]
    host: Option<String>,
}

/// Runs it.
pub fn run(run: &Run, args: &Args) -> Result<u8> {
    let path = look::absolute(&args.path)?;
    let look = look::open(run)?;
    let report = bisect::run(&look, &path, args.host.as_deref(), &args.run, &**run.screen, &run.cancel)?;
    run.screen.data(&report, || text(&report))?;
    Ok(0)
}

fn text(report: &Report) -> String {
    let row = |row: &Row| {
        let (first, last) = (&row.first, &row.last);
        let since = format!("{} ({})", first.short(), first.time);
        if first == last { since } else { format!("{since} to {} ({})", last.short(), last.time) }
    };
    let tried = format!("{} of {} versions tried", report.tried, report.versions);
    match (&report.first_failing, &report.last_passing) {
        (Some(bad), Some(good)) => format!("first fails  {}\nlast passes  {}\n{tried}\n", row(bad), row(good)),
        (Some(bad), None) => format!("fails in the oldest version already  {}\n{tried}\n", row(bad)),
        (None, Some(good)) => format!("does not fail in the newest version  {}\n{tried}\n", row(good)),
        (None, None) => format!("{tried}\n"),
    }
}
