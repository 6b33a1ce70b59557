//! `coffre copies`.

use std::sync::Arc;

use crate::{
    cli::{Globals, Opened, Run, exit, output, repair, verify},
    error::{Error, Result},
    ops::{
        copies::{self, CheckRow, Context, Place, Row},
        verify::{Depth, Extent, Sample},
    },
    store::{Fallback, Store},
    vault::KnownCopy,
};

/// The copies of the vault that this host knows of.
#[derive(clap::Subcommand)]
pub enum Command {
    /// Tell this host of a copy: it is listed, checked and repaired with the others, and read where the vault is damaged
    Add {
        /// What to call it
        #[arg(value_name = "NAME")]
        name: String,
        /// Where it is: a directory or a URL; coffre copy makes one
        #[arg(value_name = "PLACE")]
        place: String,
    },
    /// Show how far each copy is behind the vault, when it was checked, and how much of it was read lately; needs no key
    List,
    Check(CheckArgs),
    /// Forget about a copy; the copy itself stays as it is
    Remove {
        /// What it is called
        #[arg(value_name = "NAME")]
        name: String,
    },
}

/// Check the vault and its copies, or some of them; needs no key
#[derive(clap::Args)]
pub struct CheckArgs {
    /// Only these; `vault` is the vault itself
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Read only a part of the packs of each, what was read longest ago first: `5%`, `2GiB`, or for so long: `10m`
    #[arg(long, value_name = "PART", value_parser = verify::parse_sample)]
    sample: Option<Sample>,
    /// Read no objects, only signatures and lists
    #[arg(long, conflicts_with_all = ["sample", "repair"])]
    quick: bool,
    /// Put right what is damaged or missing in each, from all the others
    #[arg(long)]
    repair: bool,
}

/// Runs it.
pub fn run(run: &Run, command: &Command) -> Result<u8> {
    let opened = run.globals.open()?;
    match command {
        Command::Add { name, place } => add(run, &opened, name, place),
        Command::List => list(run, &opened),
        Command::Check(args) => check(run, &opened, args),
        Command::Remove { name } => {
            let mut copies = opened.state.copies()?;
            let before = copies.len();
            copies.retain(|copy| copy.name != *name);
            match copies.len() < before {
                true => opened.state.keep_copies(&copies).map(|()| 0),
                false => Err(unknown(&opened, name)),
            }
        }
    }
}

fn unknown(opened: &Opened, name: &str) -> Error {
    let names: Vec<String> = opened.state.copies().unwrap_or_default().into_iter().map(|copy| copy.name).collect();
    let hint = if names.is_empty() {
        "there are none: coffre copies add NAME PLACE".to_owned()
    } else {
        format!("there are {}", names.join(", "))
    };
    Error::not_found(format!("this host knows no copy called {name}")).hint(hint)
}

/// The place as it is kept: a directory by its whole path.
fn kept(run: &Run, place: &str) -> Result<(String, Arc<dyn Store>)> {
    let (store, path) = run.globals.store_at(place)?;
    Ok((path.map_or_else(|| place.to_owned(), |path| path.to_string_lossy().into_owned()), store))
}

fn add(run: &Run, opened: &Opened, name: &str, place: &str) -> Result<u8> {
    let (place, store) = kept(run, place)?;
    if store.describe() == opened.vault.store.describe() {
        return Err(Error::usage(format!("{place} is the vault itself")).hint("name another place"));
    }
    copies::same_vault(&opened.vault, &store).map_err(|e| match e.hint_text() {
        None => e.hint("make a copy first: coffre copy PLACE"),
        Some(_) => Error::no_vault(format!("there is no copy of the vault at {place}")).hint("make one first: coffre copy PLACE"),
    })?;
    let mut all = opened.state.copies()?;
    if name == copies::VAULT || all.iter().any(|copy| copy.name == name) {
        return Err(
            Error::usage(format!("a copy called {name} is known already")).hint("choose another name, or coffre copies remove it first")
        );
    }
    all.push(KnownCopy { name: name.to_owned(), place, checked: None });
    opened.state.keep_copies(&all)?;
    list(run, opened)
}

/// The vault and all copies that are known, opened.
fn places(run: &Run, opened: &Opened) -> Result<Vec<Place>> {
    let here = KnownCopy { name: copies::VAULT.to_owned(), place: run.globals.vault.clone().unwrap_or_default(), checked: None };
    let mut places = vec![Place { known: here, store: opened.vault.store.clone() }];
    for known in opened.state.copies()? {
        let (store, _) = run.globals.store_at(&known.place)?;
        places.push(Place { known, store });
    }
    Ok(places)
}

fn list(run: &Run, opened: &Opened) -> Result<u8> {
    let places = places(run, opened)?;
    let rows = copies::list(&context(run, opened, &places))?;
    run.screen.data(&rows, || text(&rows))?;
    Ok(0)
}

fn context<'a>(run: &'a Run, opened: &'a Opened, places: &'a [Place]) -> Context<'a> {
    Context { vault: &opened.vault, copies: places, state: &opened.state, clock: &*run.clock, sink: &**run.screen, cancel: &run.cancel }
}

fn check(run: &Run, opened: &Opened, args: &CheckArgs) -> Result<u8> {
    let places = places(run, opened)?;
    if let Some(name) = args.names.iter().find(|name| !places.iter().any(|place| place.known.name == **name)) {
        return Err(unknown(opened, name));
    }
    let options = copies::Options {
        depth: if args.quick { Depth::Snapshots } else { Depth::Packs },
        extent: Extent { sample: args.sample, ..Extent::default() },
        repair: args.repair,
    };
    let wanted = |name: &str| args.names.is_empty() || args.names.iter().any(|wanted| wanted == name);
    let rows = copies::check(&context(run, opened, &places), &options, wanted)?;
    run.screen.data(&rows, || rows.iter().map(checked).collect())?;
    let wrong = rows.iter().filter(|row| !row.findings.is_empty()).count();
    let unreached: Vec<&str> = rows.iter().filter(|row| row.error.is_some()).map(|row| row.name.as_str()).collect();
    if wrong > 0 {
        let what = if wrong == 1 { "1 of the copies is damaged".to_owned() } else { format!("{wrong} of the copies are damaged") };
        let hint = match args.repair {
            true => "what is named above is in none of them whole; coffre verify tells which files that reaches",
            false => "coffre copies check --repair puts each right from all the others",
        };
        run.screen.error(&Error::corrupt(what).hint(hint));
        return Ok(exit::DAMAGE);
    }
    match unreached.is_empty() {
        true => Ok(0),
        false => Err(Error::unavailable(format!("could not be checked: {}", unreached.join(", ")))
            .hint("is the disk there, the host up? coffre copies remove forgets about a copy that is gone for good")),
    }
}

fn text(rows: &[Row]) -> String {
    let head = ["NAME", "SNAPSHOTS", "BEHIND", "CHECKED", "READ IN 30 DAYS", "PLACE"];
    let vault = rows.iter().find(|row| row.name == copies::VAULT).map(|row| output::visible(&row.place)).unwrap_or_default();
    let line = |row: &Row| {
        let behind = match (row.snapshots_lacking, row.objects_lacking, row.behind_secs) {
            _ if row.error.is_some() => "?".to_owned(),
            _ if row.name == copies::VAULT => String::new(),
            _ if row.snapshots_ahead > 0 => {
                let them = if row.snapshots_ahead == 1 {
                    "a snapshot".to_owned()
                } else {
                    format!("{} snapshots", output::count(row.snapshots_ahead))
                };
                format!("has {them} that the vault lost: coffre copy --from {} {vault}", output::visible(&row.place))
            }
            (0, 0, _) => "nothing".to_owned(),
            (0, n, _) => format!("{} objects", output::count(n)),
            (n, _, Some(secs)) => format!("{} snapshots, {}, {}", output::count(n), output::bytes(row.bytes_lacking), age(secs)),
            (n, _, None) => format!("{} snapshots, {}", output::count(n), output::bytes(row.bytes_lacking)),
        };
        let checked = match (&row.checked, row.findings) {
            (Some(when), Some(0)) => format!("{when}: whole"),
            (Some(when), Some(n)) => format!("{when}: {} WRONG", output::count(n)),
            _ if row.name == copies::VAULT => String::new(),
            _ => "never".to_owned(),
        };
        let read = match row.packs {
            0 => "-".to_owned(),
            packs => format!("{} %", row.packs_read_lately * 100 / packs),
        };
        let place = output::visible(&row.place);
        let place = row.error.as_ref().map_or(place.clone(), |e| format!("{place}: {}", output::visible(e)));
        vec![row.name.clone(), output::count(row.snapshots), behind, checked, read, place]
    };
    output::columns(&head, &rows.iter().map(line).collect::<Vec<_>>())
}

/// A time that has passed, in its largest unit.
fn age(secs: u64) -> String {
    match secs {
        0..=119 => format!("{secs} s"),
        120..=7199 => format!("{} min", secs / 60),
        7200..=172_799 => format!("{} h", secs / 3600),
        _ => format!("{} days", secs / 86_400),
    }
}

fn checked(row: &CheckRow) -> String {
    if let Some(e) = &row.error {
        return format!("{}: not checked: {}\n", row.name, output::visible(e));
    }
    let mut text: String = row.repaired.iter().map(repair::line).collect();
    text.extend(row.findings.iter().map(|finding| verify::finding_line(finding, false)));
    text.push_str(&format!(
        "{}: {}, {} snapshots, {} objects, {} of {} packs read, {}, {:.1} s\n",
        row.name,
        if row.findings.is_empty() { "whole" } else { "DAMAGED" },
        output::count(row.snapshots),
        output::count(row.objects),
        output::count(row.packs_read),
        output::count(row.packs),
        output::bytes(row.bytes),
        row.seconds,
    ));
    text
}

impl Globals {
    /// Lets the vault be read with the help of the copies that this host knows of.
    pub(super) fn with_copies(&self, mut opened: Opened) -> Result<Opened> {
        let mut copies: Vec<Arc<dyn Store>> = Vec::new();
        for copy in opened.state.copies()? {
            let (store, _) = self.store_at(&copy.place)?;
            // Who mounts a copy has the vault, and not that, behind it.
            if store.describe() != opened.vault.store.describe() {
                copies.push(store);
            }
        }
        if !copies.is_empty() {
            opened.vault.store = Arc::new(Fallback::new(opened.vault.store, copies, self.screen().clone()));
        }
        Ok(opened)
    }
}
