//! `coffre init`.

use std::{fs::File, io::Read, path::PathBuf};

use serde::Serialize;
use zeroize::Zeroizing;

use crate::{
    cli::{Run, keys, state_base},
    error::{Error, Result},
    format::{LOCK_DAYS_MAX, PARITY_MAX, name_from},
    ops, sys,
    vault::{Promise, Way},
};

/// Create a vault and print its recovery kit.
#[derive(clap::Args)]
pub struct Args {
    /// Public key that opens the vault: age1..., that of an age plugin, or an ssh-ed25519 or ssh-rsa line (repeatable)
    #[arg(long, value_name = "KEY", allow_hyphen_values = true)]
    recipient: Vec<String>,
    /// File with such keys, one a line
    #[arg(long, value_name = "FILE")]
    recipients_file: Vec<PathBuf>,
    /// Name under which this host seals (default: its host name)
    #[arg(long, value_name = "NAME")]
    sealer: Option<String>,
    /// How much of each object may be damaged and still be mended: 5%, or 0 for nothing. Takes as much room; holds for the life of the vault
    #[arg(long, value_name = "N%", default_value = "5%", value_parser = percent)]
    parity: u8,
    /// Have the bucket hold each object against everybody, its owner too, for so many days after it was stored: 30d. The bucket must have object lock switched on
    #[arg(long, value_name = "DAYS", default_value = "0", hide_default_value = true, value_parser = days)]
    object_lock: u32,
}

fn days(text: &str) -> std::result::Result<u32, String> {
    let n = text.strip_suffix('d').unwrap_or(text).parse().ok().filter(|n| *n <= LOCK_DAYS_MAX);
    n.ok_or_else(|| format!("days, at most {LOCK_DAYS_MAX}: 30d"))
}

/// Most bytes read of a file with public keys.
const RECIPIENTS_LEN_MAX: u64 = 1 << 20;

fn percent(text: &str) -> std::result::Result<u8, String> {
    let n = text.strip_suffix('%').unwrap_or(text).parse().ok().filter(|n| *n <= PARITY_MAX);
    n.ok_or_else(|| format!("a whole number from 0% to {PARITY_MAX}%"))
}

#[derive(Serialize)]
struct Made {
    vault: String,
    place: String,
    sealer: String,
    ways: Vec<String>,
    recovery_kit: String,
}

/// Runs it.
pub fn run(run: &Run, args: &Args) -> Result<u8> {
    let (store, _) = run.globals.store()?;
    let mut ways: Vec<Way> = recipients_in(&args.recipient, &args.recipients_file)?;
    ways = ways.into_iter().map(|way| way.asking(keys::person())).collect();
    // A passphrase in the environment is meant for opening vaults; beside recipients only an option adds one.
    match keys::passphrase(run.globals, !ways.is_empty())? {
        Some(secret) => ways.push(Way::Passphrase(secret)),
        None if ways.is_empty() => ways.push(Way::Passphrase(keys::new_passphrase()?)),
        None => (),
    }
    let sealer = args.sealer.clone().unwrap_or_else(|| name_from(&sys::host_name()));
    let report = ops::init::run(store, &ways, &sealer, Promise { parity: args.parity, lock_days: args.object_lock }, &state_base()?)?;
    let made = Made {
        vault: report.vault.config.id.to_string(),
        place: report.vault.store.describe(),
        sealer: report.sealer,
        ways: ways.iter().map(Way::describe).collect(),
        recovery_kit: report.recovery_kit,
    };
    run.screen.data(&made, || made.recovery_kit.clone())?;
    run.screen.note(&format!("vault {} is ready; print the kit above and keep it apart from this machine", made.place));
    Ok(0)
}

/// The ways in that public keys and files of them name.
pub fn recipients_in(recipients: &[String], files: &[PathBuf]) -> Result<Vec<Way>> {
    let mut ways: Vec<Way> = recipients.iter().map(|text| Way::parse(text)).collect::<Result<_>>()?;
    for path in files {
        let mut text = Zeroizing::new(String::new());
        File::open(path).and_then(|file| file.take(RECIPIENTS_LEN_MAX).read_to_string(&mut text)).map_err(|e| {
            Error::io(format!("cannot read {}", path.display()), e).hint("check the path that --recipients-file names; nothing was made")
        })?;
        let before = ways.len();
        for (n, line) in text.lines().map(str::trim).enumerate().filter(|(_, l)| !l.is_empty() && !l.starts_with('#')) {
            ways.push(Way::parse(line).map_err(|e| e.while_doing(format!("line {} of {}", n + 1, path.display())))?);
        }
        if ways.len() == before {
            return Err(Error::usage(format!("{} holds no public key", path.display())));
        }
    }
    Ok(ways)
}
