//! `coffre key add`: a way in, or a sealer.

use std::path::PathBuf;

use serde::Serialize;

use crate::{
    cli::{
        Opened, Run,
        init::recipients_in,
        keys::{self, NewPassphrase},
        shown,
    },
    error::{Error, Result},
    sys,
    vault::{Domain, NewSealer, OwnerKeys, Way},
};

/// Add a way into the vault, or a sealer.
///
/// A way in reads everything that was sealed and will be: a passphrase, unless --recipient or --recipients-file says otherwise.
///
/// With --sealer a host that seals and cannot read. Prints one line, the token, for `coffre enroll` on that host:
/// `coffre key add --sealer web2 | ssh web2 coffre enroll`. The token works once, and only with the vault; until then keep
/// it as you would keep a password.
#[derive(clap::Args)]
#[command(group = clap::ArgGroup::new("reader").multiple(true).conflicts_with("sealer"))]
pub struct Args {
    /// Public key that is to open the vault: age1..., that of an age plugin, or an ssh-ed25519 or ssh-rsa line (repeatable)
    #[arg(long, value_name = "KEY", group = "reader", allow_hyphen_values = true)]
    recipient: Vec<String>,
    /// File with such keys, one a line
    #[arg(long, value_name = "FILE", group = "reader")]
    recipients_file: Vec<PathBuf>,
    /// What to call the way in; everybody who sees the vault can read it
    #[arg(long, value_name = "NAME", group = "reader")]
    name: Option<String>,
    #[command(flatten)]
    passphrase: NewPassphrase,
    /// A host that may seal, under this name, and read nothing
    #[arg(long, value_name = "NAME")]
    sealer: Option<String>,
    /// It shares the dedup domain of this sealer: each can tell whether the other sealed content that it has itself
    #[arg(long, value_name = "OTHER", conflicts_with = "again", requires = "sealer")]
    domain: Option<String>,
    /// Another token for a sealer that lost its state directory
    #[arg(long, requires = "sealer")]
    again: bool,
    /// Write the token into this new file, mode 0600, instead of printing it
    #[arg(long, value_name = "FILE", requires = "sealer")]
    output: Option<PathBuf>,
}

#[derive(Serialize)]
struct AddedWay {
    number: u32,
    kind: String,
    name: Option<String>,
    file: String,
}

#[derive(Serialize)]
struct AddedSealer {
    sealer: String,
    domain: String,
    shared_with: Vec<String>,
    key: String,
    token_file: String,
}

/// Runs it.
pub fn run(run: &Run, args: &Args) -> Result<u8> {
    match &args.sealer {
        Some(name) => sealer(run, args, name),
        None => ways(run, args),
    }
}

fn ways(run: &Run, args: &Args) -> Result<u8> {
    let opened = run.globals.open()?;
    let ways = recipients_in(&args.recipient, &args.recipients_file)?;
    if args.passphrase.is_given() && !ways.is_empty() {
        return Err(Error::usage("a passphrase and public keys are added by two commands").hint("leave one of the two out"));
    }
    let owner = keys::unlock(run.globals, &opened.vault)?;
    let ways = match ways.is_empty() {
        true => vec![Way::Passphrase(args.passphrase.get()?)],
        false => ways,
    };
    add_all(run, &opened, &owner, ways, args.name.as_deref())?;
    Ok(0)
}

/// Adds ways in and says so.
pub fn add_all(run: &Run, opened: &Opened, owner: &OwnerKeys, ways: Vec<Way>, name: Option<&str>) -> Result<()> {
    let added_at = sys::utc_text(run.clock.now_ns());
    let ways: Vec<Way> = ways.into_iter().map(|way| way.asking(keys::person())).collect();
    let files = opened.vault.add_ways(owner, &ways, name, &added_at)?.into_iter();
    let added: Vec<AddedWay> =
        files.map(|file| AddedWay { number: file.number, file: file.path(), kind: file.kind, name: file.name }).collect();
    run.screen.data(&added, || added.iter().map(|way| format!("way in {} added: {}\n", way.number, way.file)).collect())
}

fn sealer(run: &Run, args: &Args, name: &str) -> Result<u8> {
    if run.globals.json && args.output.is_none() {
        return Err(Error::usage("the token is a secret, and secrets are not printed as JSON").hint("add --output FILE"));
    }
    if args.passphrase.is_given() {
        return Err(Error::usage("a sealer has no passphrase").hint("leave --new-passphrase-file and --new-passphrase-command out"));
    }
    let opened = run.globals.open()?;
    if let Some(path) = args.output.as_ref().filter(|path| path.exists()) {
        return Err(Error::conflict(format!("{} is there already", path.display())).hint("give --output a new file"));
    }
    let owner = keys::unlock(run.globals, &opened.vault)?;
    let domain = args.domain.clone().map_or(Domain::Own, Domain::Of);
    let new = match args.again {
        true => opened.vault.invite_again(&owner, name)?,
        false => opened.vault.add_sealer(&owner, name, &domain)?,
    };
    if let Err(e) = opened.state.saw_signers(new.list.number) {
        run.screen.note(&format!("this host will not notice if the new list of signers goes missing: {}", e.chain()));
    }
    give(run, args, &new)
}

fn again(name: &str) -> String {
    format!("the sealer is known to the vault; make another token: coffre key add --sealer {name} --again")
}

fn give(run: &Run, args: &Args, new: &NewSealer) -> Result<u8> {
    let name = &new.keys.name;
    if !new.shared_with.is_empty() {
        let others = new.shared_with.join(", ");
        run.screen.note(&format!(
            "{name} shares the dedup domain of {others}: whoever has one of these hosts can test whether content that he guesses was sealed by any of them"
        ));
    }
    let Some(path) = &args.output else {
        run.screen.plain(&format!("{}\n", *new.token.encode())).map_err(|e| e.hint(again(name)))?;
        run.screen
            .note(&format!("carry this line to {name} and run coffre enroll there; it works once, and gives nothing without the vault"));
        return Ok(0);
    };
    sys::write_private(path, format!("{}\n", *new.token.encode()).as_bytes())
        .map_err(|e| Error::io(format!("cannot write {}", path.display()), e).hint(again(name)))?;
    let added = AddedSealer {
        sealer: name.clone(),
        domain: new.keys.domain.short(),
        shared_with: new.shared_with.clone(),
        key: new.keys.sign.public(),
        token_file: path.display().to_string(),
    };
    run.screen
        .data(&added, || format!("sealer {name} is known to the vault; carry {} to it and run: coffre enroll FILE\n", shown(path)))?;
    Ok(0)
}
