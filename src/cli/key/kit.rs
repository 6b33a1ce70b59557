//! `coffre key kit` and `key restore`.

use std::{
    fs::File,
    io::{IsTerminal, Read},
    path::PathBuf,
};

use serde::Serialize;

use crate::{
    cli::{Run, keys},
    error::{Error, Result},
    vault::{KIT_LEN_MAX, find_way, way_files},
};

/// Print the recovery kit: one page for paper.
///
/// It names the ways in and holds the file of one of them, by default of the one that was used. Without the key of that way it opens nothing.
#[derive(clap::Args)]
pub struct Args {
    /// Whose file to print: number, name or file
    #[arg(value_name = "WAY")]
    way: Option<String>,
}

/// Put the way in of a recovery kit back.
///
/// For a vault whose `keys/` is gone. Takes the key of that way, by --identity or as passphrase, and checks it before anything is written.
#[derive(clap::Args)]
pub struct RestoreArgs {
    /// File with the kit, or with the part from the line above BEGIN to END; `-` is standard input
    #[arg(value_name = "KIT")]
    kit: PathBuf,
}

#[derive(Serialize)]
struct Kit {
    recovery_kit: String,
}

#[derive(Serialize)]
struct Restored {
    restored: Vec<String>,
}

/// Runs `key kit`.
pub fn run(run: &Run, args: &Args) -> Result<u8> {
    let opened = run.globals.open()?;
    let ways = way_files(&*opened.vault.store)?;
    let way = args.way.as_deref().map(|text| find_way(&ways, text)).transpose()?;
    let owner = keys::unlock(run.globals, &opened.vault)?;
    let kit = Kit { recovery_kit: opened.vault.recovery_kit(&owner, way)? };
    run.screen.data(&kit, || kit.recovery_kit.clone())?;
    Ok(0)
}

/// Runs `key restore`.
pub fn restore(run: &Run, args: &RestoreArgs) -> Result<u8> {
    let opened = run.globals.open()?;
    let shown = args.kit.display();
    let failed = |e| Error::io(format!("cannot read {shown}"), e).hint("give the file that holds the recovery kit");
    let mut text = String::new();
    match args.kit.as_os_str() == "-" {
        true if std::io::stdin().is_terminal() => run.screen.note("paste the kit, then press ^D"),
        _ => (),
    }
    let read = match args.kit.as_os_str() == "-" {
        true => std::io::stdin().take(KIT_LEN_MAX).read_to_string(&mut text),
        false => File::open(&args.kit).map_err(failed)?.take(KIT_LEN_MAX).read_to_string(&mut text),
    };
    read.map_err(failed)?;
    let unlocking = keys::unlocking(run.globals)?.expecting(opened.state.pinned_owner()?);
    let restored = Restored { restored: opened.vault.restore_kit(&text, &unlocking)? };
    run.screen.data(&restored, || match restored.restored.is_empty() {
        true => "all of the kit is in the vault already\n".to_owned(),
        false => format!("back in the vault: {}\n", restored.restored.join(", ")),
    })?;
    Ok(0)
}
