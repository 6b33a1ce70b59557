//! `coffre head`.

use crate::{
    cli::{Run, output},
    error::{Error, Result},
    ops::head::{self, Head},
};

/// Print each sealer's newest snapshot in six words, to be compared by eye
///
/// The words are the first 66 bits of the snapshot's id, which is the hash of its receipt; the receipt names the one before it by
/// hash, so two vaults with one head have one history. `coffre seal` prints them too. Needs no key.
#[derive(clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// Of this sealer only
    sealer: Option<String>,
    /// Take the vault as it is now for what this host remembers: after it was put back from an older copy
    #[arg(long)]
    accept: bool,
}

const EXAMPLES: &str = "\
Examples:
  coffre head                                      on the host, and on another copy: the same words?
  coffre head web1 --json | jq -r '.[].id'         the whole hash
  coffre verify --expect-head web1:WORDS           is what was written down still there?
  coffre audit --expect-head WORDS                 the same on the storage side, without any key";

/// Runs it.
pub fn run(run: &Run, args: &Args) -> Result<u8> {
    let opened = run.globals.open()?;
    let (mut heads, findings) = head::run(&opened.vault, &opened.state)?;
    if let Some(sealer) = &args.sealer {
        heads.retain(|h| h.sealer == *sealer);
        if heads.is_empty() {
            return Err(
                Error::not_found(format!("no snapshot of sealer {sealer} counts here")).hint("coffre head lists the sealers that have one")
            );
        }
    }
    if args.accept {
        head::accept(&opened.vault, &opened.state)?;
        run.screen.note("this host remembers these heads from now on");
    }
    run.screen.data(&heads, || text(&heads))?;
    for finding in &findings {
        run.screen.warning(&format!("{}: {}: {}", finding.object, finding.kind.word(), finding.text));
    }
    Ok(0)
}

fn text(heads: &[Head]) -> String {
    if heads.is_empty() {
        return String::new();
    }
    let row = |h: &Head| {
        let revoked = h.revoked.as_ref().map(|since| format!("  revoked since {since}")).unwrap_or_default();
        vec![h.sealer.clone(), h.seq.to_string(), h.words.clone(), h.id.clone() + &revoked]
    };
    output::columns(&["SEALER", "SEQ", "WORDS", "ID"], &heads.iter().map(row).collect::<Vec<_>>())
}
