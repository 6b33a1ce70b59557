//! `coffre enroll`.

use std::{
    io::{IsTerminal, Read},
    path::PathBuf,
};

use zeroize::Zeroizing;

use crate::{
    cli::{
        Run,
        keys::{self, Terminal},
    },
    error::{Error, Result},
    ops,
    vault::{Ask, Token},
};

/// Longest token read, in bytes.
const TOKEN_LEN_MAX: u64 = 1 << 16;

/// Make this host a sealer of the vault, with the token that an owner made for it.
///
/// An owner makes the token with `coffre key add --sealer NAME`. It is used once. From then on `seal`, `snapshots` and
/// `verify` work here without any other key; reading does not.
#[derive(clap::Args)]
pub struct Args {
    /// File with the token; `-` or none is standard input, or a prompt
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Even if this host seals into the vault under another name already
    #[arg(long)]
    replace: bool,
}

/// Runs it.
pub fn run(run: &Run, args: &Args) -> Result<u8> {
    if args.file.as_ref().is_some_and(|path| Token::is_token(&path.to_string_lossy())) {
        return Err(Error::usage("that is the token itself, on a command line that everybody on this machine can see")
            .hint("give a file, or pipe it; and have an owner make another: coffre key add --sealer NAME --again"));
    }
    let opened = run.globals.open()?;
    let text = match args.file.as_deref().filter(|path| path.as_os_str() != "-") {
        Some(path) => keys::secret_file(path)?,
        None if std::io::stdin().is_terminal() => Terminal.secret("enrolment token")?,
        None => piped()?,
    };
    let report = ops::enroll::run(&opened.vault, &opened.state, &Token::decode(&text)?, args.replace, &**run.screen)?;
    run.screen.data(&report, || {
        format!(
            "this host seals into vault {} as {}\n  keys  {}\n  owner {}\n",
            &report.vault[..8],
            report.sealer,
            opened.state.path().display(),
            report.owner
        )
    })?;
    Ok(0)
}

fn piped() -> Result<Zeroizing<String>> {
    let mut text = Zeroizing::new(String::new());
    let read = std::io::stdin().take(TOKEN_LEN_MAX).read_to_string(&mut text);
    read.map_err(|e| Error::io("cannot read the token from standard input", e).hint("give a file: coffre enroll FILE"))?;
    // What some editors put first.
    if text.starts_with('\u{feff}') {
        text.drain(..'\u{feff}'.len_utf8());
    }
    Ok(text)
}
