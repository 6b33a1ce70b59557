//! Examples in `--help` and in the manual: one table, so that `tests/help.rs` runs each of them as it stands.
//!
//! They all live in one small world: `COFFRE_VAULT` names a vault with some snapshots of `~/site`, `COFFRE_IDENTITY` the owner's key.

use clap::Command;

/// One line as it is typed, and what it is for.
pub type Example = (&'static str, &'static str);

/// Examples by command; the name of a command below another has a space in it.
pub const EXAMPLES: &[(&str, &[Example])] = &[
    (
        "init",
        &[
            ("coffre --vault ~/new init --recipients-file ~/owners.txt", "opens with the age or SSH keys in that file"),
            ("coffre --vault ~/other init --passphrase-file ~/passphrase", "opens with a passphrase; without the option it is asked for"),
        ],
    ),
    (
        "seal",
        &[
            ("coffre seal ~/site", "a new snapshot of a directory"),
            ("coffre seal ~/site --tag before-upgrade --exclude '*.log'", "with a tag, without logs"),
            ("coffre seal ~/site --preset dev --dry-run", "what would be left out, and why"),
            ("coffre seal --stdin-name dump.sql --from-command 'cat ~/site/dump.sql'", "what a command prints, if it ends well"),
        ],
    ),
    (
        "snapshots",
        &[
            ("coffre snapshots", "all of them, oldest first"),
            ("coffre snapshots --since yesterday --tag nightly", "of some days, with a tag"),
            ("coffre --json snapshots --last 1", "exact values"),
        ],
    ),
    (
        "mount",
        &[
            ("coffre mount ~/mnt --daemon", "every snapshot as files; returns when it is ready"),
            ("cp -a ~/mnt/latest$HOME/site ~/site-again", "restoring is copying"),
            ("ls ~/mnt/history$HOME/site/nginx.conf", "every version of a file"),
        ],
    ),
    ("unmount", &[("coffre unmount ~/mnt", "")]),
    (
        "cat",
        &[
            ("coffre cat latest:$HOME/site/nginx.conf", "a file as it was sealed last"),
            ("coffre cat latest~1:$HOME/site/nginx.conf > ~/nginx.old", "as it was before that"),
        ],
    ),
    (
        "ls",
        &[
            ("coffre ls latest", "what was sealed last"),
            ("coffre ls -l latest:$HOME/site", "with mode, owner, size and time"),
            ("coffre ls -r latest~1:$HOME/site", "all that is below"),
            ("coffre --json ls latest:$HOME/site", "exact values, one object a line"),
        ],
    ),
    (
        "find",
        &[
            ("coffre find nginx.conf", "this name, in all snapshots"),
            ("coffre find '*.sql' --larger 1K", "by size"),
            ("coffre find 'site/**/*.html' --in latest", "paths, in the newest snapshot"),
            ("coffre find '*' --in latest --type l", "all links"),
            ("coffre find '*' --newer yesterday --owner root -0", "exact paths, for xargs -0"),
        ],
    ),
    (
        "history",
        &[
            ("coffre history ~/site/nginx.conf", "every version, and what changed"),
            ("coffre --json history ~/site/nginx.conf", "exact values, one object a line"),
        ],
    ),
    (
        "diff",
        &[
            ("coffre diff latest~1 latest", "what the last seal found changed"),
            ("coffre diff latest~1 latest ~/site", "below one path"),
            ("coffre diff latest~1 latest --stat", "how much, by kind"),
            ("coffre diff latest~1 latest ~/site --content", "line by line"),
        ],
    ),
    (
        "bisect",
        &[
            ("coffre bisect ~/site/nginx.conf --run 'grep -q gzip {}'", "the first version without gzip"),
            ("coffre bisect ~/site/app.json --run 'python3 -m json.tool {}'", "the first one that is no JSON"),
        ],
    ),
    (
        "stats",
        &[
            ("coffre stats", "counts, sizes, ratios, growth"),
            ("coffre stats --biggest", "the largest files and directories of the newest snapshot"),
            ("coffre stats --biggest latest~1:$HOME/site --top 3", "of another one, below a path"),
            ("coffre stats --alone", "what would be freed by forgetting one snapshot"),
        ],
    ),
    (
        "verify",
        &[
            ("coffre verify", "every object is there and is what it was; needs no key on a sealing host"),
            ("coffre verify --depth chunks", "every file can be read"),
        ],
    ),
    ("copy", &[("coffre copy ~/copied", "make a copy, or bring it up to date"), ("coffre copy ~/copied --verify", "compare all of it")]),
    ("copies add", &[("coffre copy ~/copied && coffre copies add usb ~/copied", "make a copy and let this host know of it")]),
    ("copies list", &[("coffre copies list", "how far each copy is behind the vault, and when it was checked")]),
    (
        "copies check",
        &[
            ("coffre copies check --sample 5%", "the vault and each copy, a part at a time"),
            ("coffre copies check --repair", "put right in each what is damaged, from the others"),
        ],
    ),
    ("copies remove", &[("coffre copies remove usb", "the copy itself stays as it is")]),
    (
        "status",
        &[
            ("coffre status", "each host's last seal, what was read back, what waits"),
            ("coffre status --max-age 26h", "exit code 5 if a host did not seal since yesterday"),
            ("coffre --json status", "exact values"),
        ],
    ),
    ("key list", &[("coffre key list", "")]),
    (
        "key add",
        &[
            ("coffre key add --sealer web2 --output ~/web2.token", "a token for the host web2"),
            ("coffre key add --new-passphrase-file ~/passphrase", "a passphrase; without the option it is asked for"),
        ],
    ),
    ("enroll", &[("coffre enroll ~/web2.token", "on web2, from then on a sealer")]),
    ("key passphrase", &[("coffre key passphrase --new-passphrase-file ~/passphrase", "a new one; without the option it is asked for")]),
    ("key kit", &[("coffre key kit > ~/kit", "the page to print, with the file of the way that was used")]),
    ("key restore", &[("coffre key restore ~/kit", "put that file back, if the vault has lost it")]),
    ("key rotate", &[("coffre key rotate", "")]),
    ("key remove", &[("coffre key remove 3", "by the number that key list shows")]),
    ("catalog rebuild", &[("coffre catalog rebuild", "")]),
    (
        "completions",
        &[
            ("coffre completions bash > ~/coffre.bash", "for /etc/bash_completion.d, or: source ~/coffre.bash"),
            ("coffre completions zsh > ~/_coffre", "for a directory in $fpath"),
            ("coffre completions fish > ~/coffre.fish", "for ~/.config/fish/completions"),
        ],
    ),
    (
        "man",
        &[
            ("coffre man > ~/coffre.1", "the overview; read it with: man -l ~/coffre.1"),
            ("coffre man ls > ~/coffre-ls.1", "of one command"),
            ("coffre man --dir ~/man1", "a page for each command"),
        ],
    ),
];

/// Adds the examples to the commands that have none of their own.
pub fn add(command: Command) -> Command {
    add_below(command, "")
}

fn add_below(mut command: Command, above: &str) -> Command {
    let names: Vec<String> = command.get_subcommands().map(|sub| sub.get_name().to_owned()).collect();
    for name in names {
        let full = if above.is_empty() { name.clone() } else { format!("{above} {name}") };
        command = command.mut_subcommand(&name, |sub| {
            let sub = add_below(sub, &full);
            let Some((_, examples)) = EXAMPLES.iter().find(|(of, _)| *of == full) else { return sub };
            match sub.get_after_long_help().or(sub.get_after_help()).map(ToString::to_string) {
                Some(own) if own.contains("Examples:") => sub,
                Some(own) => sub.after_help(text(examples)).after_long_help(format!("{}\n\n{own}", text(examples))),
                None => sub.after_help(text(examples)),
            }
        });
    }
    command
}

fn text(examples: &[Example]) -> String {
    let width = examples.iter().filter(|(_, what)| !what.is_empty()).map(|(line, _)| line.chars().count()).max().unwrap_or(0).min(58);
    let lines = examples.iter().map(|(line, what)| match what.is_empty() {
        true => format!("\n  {line}"),
        false => format!("\n  {line:<width$}  # {what}"),
    });
    format!("Examples:{}", lines.collect::<String>())
}
