//! `coffre key add`.

use std::path::PathBuf;

use serde::Serialize;

use crate::{
    cli::{Run, keys, shown},
    error::{Error, Result},
    sys,
    vault::{Domain, NewSealer},
};

/// Add a sealer.
///
/// Prints one line, the token, for `coffre enroll` on its host: `coffre key add --sealer web2 | ssh web2 coffre enroll`.
/// The token works once, and only with the vault; until then keep it as you would keep a password.
#[derive(clap::Args)]
pub struct Args {
    /// A host that may seal, under this name
    #[arg(long, value_name = "NAME")]
    sealer: String,
    /// It shares the dedup domain of this sealer: each can tell whether the other sealed content that it has itself
    #[arg(long, value_name = "OTHER", conflicts_with = "again")]
    domain: Option<String>,
    /// Another token for a sealer that lost its state directory
    #[arg(long)]
    again: bool,
    /// Write the token into this new file, mode 0600, instead of printing it
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Serialize)]
struct Added {
    sealer: String,
    domain: String,
    shared_with: Vec<String>,
    key: String,
    token_file: String,
}

/// Runs it.
pub fn run(run: &Run, args: &Args) -> Result<u8> {
    if run.globals.json && args.output.is_none() {
        return Err(Error::usage("the token is a secret, and secrets are not printed as JSON").hint("add --output FILE"));
    }
    let opened = run.globals.open()?;
    if let Some(path) = args.output.as_ref().filter(|path| path.exists()) {
        return Err(Error::conflict(format!("{} is there already", path.display())).hint("give --output a new file"));
    }
    let owner = keys::unlock(run.globals, &opened.vault)?;
    let domain = args.domain.clone().map_or(Domain::Own, Domain::Of);
    let new = match args.again {
        true => opened.vault.invite_again(&owner, &args.sealer)?,
        false => opened.vault.add_sealer(&owner, &args.sealer, &domain)?,
    };
    give(run, args, &new)
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
        run.screen.plain(&format!("{}\n", *new.token.encode()))?;
        run.screen
            .note(&format!("carry this line to {name} and run coffre enroll there; it works once, and gives nothing without the vault"));
        return Ok(0);
    };
    sys::write_private(path, format!("{}\n", *new.token.encode()).as_bytes()).map_err(|e| {
        Error::io(format!("cannot write {}", path.display()), e)
            .hint(format!("the sealer is known to the vault; make another token: coffre key add --sealer {name} --again"))
    })?;
    let added = Added {
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
