//! `coffre stats`.

use std::ffi::OsString;

use crate::{
    cli::{Run, complete, look, output},
    error::Result,
    ops::stats::{self, Alone, Big, Report},
};

/// Show how much a vault holds, what it costs, and how it grows.
#[derive(clap::Args)]
pub struct Args {
    /// The largest files and directories of a snapshot
    #[arg(long, value_name = "SNAP[:PATH]", num_args = 0..=1, default_missing_value = "latest", add = complete::snap_path())]
    biggest: Option<OsString>,
    /// How many of them
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=1000))]
    top: u16,
    /// What each snapshot holds that no other does; reads every directory
    #[arg(long)]
    alone: bool,
}

/// Runs it.
pub fn run(run: &Run, args: &Args) -> Result<u8> {
    let biggest = args.biggest.as_deref().map(|what| look::snap_path(run, what)).transpose()?;
    let look = look::open(run)?;
    let mut report = stats::run(&look)?;
    if let Some((selector, path)) = biggest {
        let n = look.select(&selector)?;
        report.biggest = Some(stats::biggest(&look, n, &path, args.top.into(), &run.cancel)?);
    }
    if args.alone {
        report.alone = Some(stats::alone(&look, &run.cancel)?);
    }
    run.screen.data(&report, || text(&report))?;
    Ok(0)
}

fn text(report: &Report) -> String {
    let sealed = |s: &Option<crate::ops::look::SnapshotRow>| s.as_ref().map_or_else(|| "none".to_owned(), |s| s.time.clone());
    // Little in a vault takes more than it is: packs, parity and lists have a least size.
    let than =
        |ratio: f64| if ratio >= 1.0 { format!("{ratio:.1} times less") } else { format!("{:.1} times more", 1.0 / ratio.max(0.001)) };
    let mut lines = vec![
        ("snapshots", output::count(report.snapshots as u64)),
        ("hosts", output::count(report.hosts as u64)),
        ("oldest", sealed(&report.oldest)),
        ("newest", sealed(&report.newest)),
        ("newest holds", format!("{} files, {}", output::count(report.newest_files), output::bytes(report.newest_bytes))),
        ("all together", output::bytes(report.logical_bytes)),
        ("without repeats", format!("{}, {}", output::bytes(report.unique_bytes), than(report.dedup_ratio))),
        ("compressed", format!("{}, {}", output::bytes(report.compressed_bytes), than(report.compression_ratio))),
        ("stored", format!("{}, {} than all together", output::bytes(report.stored_bytes), than(report.ratio))),
    ];
    if report.forgotten > 0 {
        lines.push(("forgotten", format!("{} more, which can still come back; repeats and sizes count them", snapshots(report.forgotten))));
    }
    if report.condemned_objects > 0 {
        let (objects, bytes) = (output::count(report.condemned_objects), output::bytes(report.condemned_bytes));
        lines.push(("condemned", format!("{bytes} of it in {objects} objects: coffre prune --list")));
    }
    for objects in &report.objects {
        lines.push(("", format!("{}: {} in {} objects", objects.kind, output::bytes(objects.bytes), output::count(objects.objects))));
    }
    let growth = match &report.growth {
        Some(growth) if growth.days >= 1.0 => {
            format!("{} a day, over {:.0} days", output::bytes(growth.stored_bytes_a_day as u64), growth.days)
        }
        Some(_) => "not known before a day has passed".to_owned(),
        None => "not known before there are two snapshots".to_owned(),
    };
    lines.push(("growth", growth));
    let mut text: String = lines.iter().map(|(name, value)| format!("{name:<16} {value}\n")).collect();
    if let Some(biggest) = &report.biggest {
        text += &format!("\nlargest of {} ({})\n", biggest.snapshot.short(), biggest.snapshot.time);
        text += &bigs(&biggest.dirs, "DIRECTORY");
        text.push('\n');
        text += &bigs(&biggest.files, "FILE");
    }
    if let Some(alone) = &report.alone {
        text.push('\n');
        text += &alone_table(alone);
    }
    text
}

fn snapshots(n: usize) -> String {
    if n == 1 { "1 snapshot".to_owned() } else { format!("{} snapshots", output::count(n as u64)) }
}

fn bigs(bigs: &[Big], head: &str) -> String {
    let rows: Vec<Vec<String>> =
        bigs.iter().map(|b| vec![output::bytes(b.bytes), output::count(b.files), output::visible_bytes(&b.path.bytes)]).collect();
    output::columns(&["SIZE", "FILES", head], &rows)
}

fn alone_table(alone: &[Alone]) -> String {
    let rows: Vec<Vec<String>> = alone
        .iter()
        .map(|a| {
            let id = a.snapshot.short().to_owned();
            vec![id, a.snapshot.time.clone(), a.snapshot.host.clone(), output::bytes(a.bytes), output::bytes(a.stored_bytes)]
        })
        .collect();
    output::columns(&["ID", "TIME", "HOST", "ALONE", "STORED"], &rows)
}
