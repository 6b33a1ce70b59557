//! `coffre key remove`, `key passphrase` and `key rotate`.

use serde::Serialize;

use crate::{
    cli::{
        Run, exit,
        keys::{self, NewPassphrase},
        output,
    },
    error::{Error, Result},
    ops::key,
    sys,
    vault::{Way, find_way, way_files},
};

/// Take a way in out of the vault.
///
/// Who had it may have kept a copy: of its file, and of what it opened. It goes on opening, in copies of the vault too, what was
/// sealed so far; and what is sealed from now on until `coffre key rotate`.
#[derive(clap::Args)]
pub struct RemoveArgs {
    /// Its number, name or file: `coffre key list`
    #[arg(value_name = "WAY")]
    way: String,
}

/// Change a passphrase.
///
/// The new one is asked for twice, or read. The old one goes; copies of the vault keep opening by it.
#[derive(clap::Args)]
pub struct PassphraseArgs {
    /// Which one, if the vault has several: number, name or file
    #[arg(value_name = "WAY")]
    way: Option<String>,
    #[command(flatten)]
    new: NewPassphrase,
}

#[derive(Serialize)]
struct Changed {
    removed: Option<String>,
    added: Option<String>,
}

/// Runs `key remove`.
pub fn remove(run: &Run, args: &RemoveArgs) -> Result<u8> {
    let opened = run.globals.open()?;
    let ways = way_files(&*opened.vault.store)?;
    let way = find_way(&ways, &args.way)?;
    let owner = keys::unlock(run.globals, &opened.vault)?;
    opened.vault.remove_way(&owner, way)?;
    let changed = Changed { removed: Some(way.path()), added: None };
    run.screen.data(&changed, || format!("way in {} removed: {}\n", way.number, way.path()))?;
    run.screen.note("copies of the vault still open by it, and so does what is sealed until coffre key rotate");
    Ok(0)
}

/// Runs `key passphrase`.
pub fn passphrase(run: &Run, args: &PassphraseArgs) -> Result<u8> {
    let opened = run.globals.open()?;
    let ways = way_files(&*opened.vault.store)?;
    let chosen = args.way.as_deref().map(|text| find_way(&ways, text)).transpose()?;
    if let Some(way) = chosen.filter(|way| way.kind != "passphrase") {
        return Err(Error::usage(format!("{} is no passphrase", way.path())).hint("coffre key add and key remove change other ways in"));
    }
    let owner = keys::unlock(run.globals, &opened.vault)?;
    let old = key::passphrase_way(&ways, chosen, &owner)?;
    let new = Way::Passphrase(args.new.get()?);
    let added = opened.vault.add_way(&owner, &new, old.name.as_deref(), &sys::utc_text(run.clock.now_ns()))?;
    opened.vault.remove_way(&owner, old)?;
    let changed = Changed { removed: Some(old.path()), added: Some(added.path()) };
    run.screen.data(&changed, || format!("passphrase changed: way in {} takes the place of {}\n", added.number, old.number))?;
    run.screen
        .note("copies of the vault that are older still open by the old passphrase; a printed kit holds the old file: coffre key kit");
    Ok(0)
}

/// Runs `key rotate`.
pub fn rotate(run: &Run) -> Result<u8> {
    let opened = run.globals.open()?;
    let owner = keys::unlock(run.globals, &opened.vault)?;
    let done = opened.vault.rotate(&owner)?;
    run.screen.data(&done, || {
        format!(
            "epoch {} begins: {} its keys; sealers use them from their next seal on: {}\n",
            done.epoch,
            if done.ways == 1 { "1 way in has".to_owned() } else { format!("{} ways in have", output::count(done.ways as u64)) },
            done.sealers.join(", ")
        )
    })?;
    run.screen.note("mounts that run now do not see later snapshots: mount again; print a new recovery kit: coffre key kit");
    if done.untold.is_empty() {
        return Ok(0);
    }
    let names = done.untold.join(", ");
    let lost =
        Error::missing(format!("the vault has lost what it kept for {names}: what is sealed there still opens by the keys of before"));
    run.screen.error(&lost.hint("bring keys/ back from another copy and rotate again; or give these machines sealers of other names (coffre key add --sealer NAME) and revoke the old ones"));
    Ok(exit::DAMAGE)
}
