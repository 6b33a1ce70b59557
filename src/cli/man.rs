//! `coffre man`. The home of `clap_mangen`.

use std::{fs, path::PathBuf};

use clap_mangen::Man;

use crate::{
    cli::{Run, command, shown},
    error::{Error, Result},
    vault::nearest,
};

/// Print a manual page, or write all of them.
#[derive(clap::Args)]
pub struct Args {
    /// Of this command: `ls`, `key add`; of the program, if none is named
    #[arg(value_name = "COMMAND", conflicts_with = "dir")]
    command: Vec<String>,
    /// Write a page for each command into this directory
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// A page and its name without the section: `coffre-key-add`.
struct Page {
    name: String,
    text: Vec<u8>,
}

/// Runs it.
pub fn run(run: &Run, args: &Args) -> Result<u8> {
    let pages = pages()?;
    if let Some(dir) = &args.dir {
        let failed = |e| Error::io(format!("cannot write manual pages to {}", shown(dir)), e);
        fs::create_dir_all(dir).map_err(failed)?;
        for page in &pages {
            fs::write(dir.join(format!("{}.1", page.name)), &page.text).map_err(failed)?;
        }
        run.screen.note(&format!("{} manual pages in {}", pages.len(), shown(dir)));
        return Ok(0);
    }
    let wanted: Vec<&str> = std::iter::once("coffre").chain(args.command.iter().map(String::as_str)).collect();
    let wanted = wanted.join("-");
    let page = pages.iter().find(|page| page.name == wanted).ok_or_else(|| {
        let error = Error::usage(format!("there is no command `{}`", args.command.join(" ")));
        match nearest(&wanted, pages.iter().map(|page| &*page.name)) {
            Some(near) => error.hint(format!("did you mean `{}`?", near.trim_start_matches("coffre-").replace('-', " "))),
            None => error.hint("coffre --help lists the commands"),
        }
    })?;
    run.screen.plain(&String::from_utf8_lossy(&page.text))?;
    Ok(0)
}

/// A section of lines as they stand: roff would fill them, and take a dot at the start of one for a command.
fn as_it_stands(text: &str) -> Vec<u8> {
    let head = if text.starts_with("Examples:") { "EXAMPLES" } else { "NOTES" };
    let lines = text.lines().filter(|line| *line != "Examples:");
    let lines: String = lines.map(|line| format!("\\&{}\n", line.replace('\\', "\\e").replace('-', "\\-"))).collect();
    format!(".SH {head}\n.nf\n{lines}.fi\n").into_bytes()
}

fn pages() -> Result<Vec<Page>> {
    let mut pages = Vec::new();
    let mut program = command();
    program.build();
    // Commands yet to be written, each with its name.
    let mut waiting = vec![("coffre".to_owned(), program)];
    while let Some((name, command)) = waiting.pop() {
        let below = command.get_subcommands().filter(|sub| sub.get_name() != "help" && !sub.is_hide_set());
        waiting.extend(below.map(|sub| (format!("{name}-{}", sub.get_name()), sub.clone())));
        let mut text = Vec::new();
        let after = command.get_after_long_help().or(command.get_after_help()).map(ToString::to_string);
        let bare = command.name(name.clone()).disable_help_subcommand(true).after_help(None::<&str>).after_long_help(None::<&str>);
        Man::new(bare).manual("Coffre").render(&mut text).map_err(|e| Error::bug("cannot write a manual page").because(e))?;
        if let Some(after) = after {
            text.extend_from_slice(&as_it_stands(&after));
        }
        pages.push(Page { name, text });
    }
    pages.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(pages)
}
