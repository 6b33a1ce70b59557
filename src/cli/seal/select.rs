//! What is taken: the options of `coffre seal` that say so, and the list of `--files-from`.

use std::{
    ffi::{OsStr, OsString},
    io::{IsTerminal, Read},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use crate::{
    cli::mount::parse_size,
    error::{Error, Result},
    ops::seal::{Preset, Rules},
};

/// The ignore file that counts by itself.
const IGNORE_FILE: &str = ".coffreignore";
/// What makes no sense beside `--list-preset`: all of a seal.
const OF_A_SEAL: [&str; 20] = [
    "paths",
    "tag",
    "host",
    "level",
    "set_label",
    "dry_run",
    "stdin_name",
    "from_command",
    "exclude",
    "exclude_file",
    "ignore_file",
    "no_ignore_file",
    "exclude_caches",
    "exclude_if_present",
    "exclude_larger_than",
    "exclude_nodump",
    "one_file_system",
    "preset",
    "files_from",
    "null",
];
/// Longest list of paths accepted, in bytes: some ten million paths.
const LIST_LEN_BYTES_MAX: u64 = 1 << 30;

/// What to take, and what to leave out.
#[derive(clap::Args)]
#[command(next_help_heading = "What is taken")]
pub struct Select {
    /// Leave out what this pattern fits, by the rules of gitignore: a name at any depth, or an absolute path (repeatable)
    ///
    /// `!` brings back what an earlier pattern left out; the last one that fits decides. Stronger than all other patterns.
    #[arg(long, value_name = "GLOB")]
    exclude: Vec<OsString>,
    /// Leave out what the patterns in this file fit, one a line, `#` for comments (repeatable)
    #[arg(long, value_name = "FILE")]
    exclude_file: Vec<PathBuf>,
    /// Name of the ignore files: gitignore lines that count in their directory and below (repeatable; default: .coffreignore)
    #[arg(long, value_name = "NAME", value_parser = parse_name)]
    ignore_file: Vec<OsString>,
    /// Take no notice of ignore files
    #[arg(long, conflicts_with = "ignore_file")]
    no_ignore_file: bool,
    /// Leave out what is in directories with a CACHEDIR.TAG, the tag excepted
    #[arg(long)]
    exclude_caches: bool,
    /// Leave out what is in directories that hold a file of this name, that file excepted (repeatable)
    #[arg(long, value_name = "NAME", value_parser = parse_name)]
    exclude_if_present: Vec<OsString>,
    /// Leave out files that are longer: `500M`, `2G`
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    exclude_larger_than: Option<u64>,
    /// Leave out what has the nodump flag (`chattr +d`)
    #[arg(long)]
    exclude_nodump: bool,
    /// Stay on the file systems of the sources; mount points are taken as empty directories
    #[arg(long, short = 'x')]
    one_file_system: bool,
    /// Leave out what a ready-made list names: `dev` for a developer's files, `server` for a root file system (repeatable)
    ///
    /// The lists are in OPERATIONS.md, and `coffre seal --list-preset NAME` prints one. They are weaker than all other patterns.
    #[arg(long, value_name = "NAME")]
    preset: Vec<PresetName>,
    /// Print the patterns of a preset, and do nothing else
    #[arg(long, value_name = "NAME", conflicts_with_all = OF_A_SEAL)]
    pub list_preset: Option<PresetName>,
    /// Take the paths in this list too, one a line; `-` is standard input (repeatable)
    #[arg(long, value_name = "FILE")]
    pub files_from: Vec<PathBuf>,
    /// The lists of --files-from have a NUL after each path, as of `find -print0`
    #[arg(long, short = '0', requires = "files_from")]
    null: bool,
}

#[derive(Clone, Copy, clap::ValueEnum)]
pub enum PresetName {
    Dev,
    Server,
}

impl PresetName {
    fn preset(self) -> Preset {
        match self {
            Self::Dev => Preset::Dev,
            Self::Server => Preset::Server,
        }
    }

    /// The patterns as a file for `--exclude-file`.
    pub fn text(self) -> String {
        let group = |(what, patterns): &(&str, &[&str])| format!("# {what}\n{}\n", patterns.join("\n"));
        self.preset().groups().iter().map(group).collect::<Vec<_>>().join("\n")
    }
}

impl Select {
    /// What is left out.
    pub fn rules(&self) -> Rules {
        Rules {
            patterns: self.exclude.clone(),
            pattern_files: self.exclude_file.clone(),
            ignore_files: match (self.no_ignore_file, self.ignore_file.is_empty()) {
                (true, _) => Vec::new(),
                (false, true) => vec![IGNORE_FILE.into()],
                (false, false) => self.ignore_file.clone(),
            },
            presets: self.preset.iter().map(|name| name.preset()).collect(),
            if_present: self.exclude_if_present.clone(),
            caches: self.exclude_caches,
            larger_than: self.exclude_larger_than,
            one_file_system: self.one_file_system,
            nodump: self.exclude_nodump,
        }
    }

    /// The first option here that was given, if any was.
    pub fn given(&self) -> Option<&'static str> {
        // Named one by one, so that a new option cannot be forgotten.
        let Self {
            exclude,
            exclude_file,
            ignore_file,
            no_ignore_file,
            exclude_caches,
            exclude_if_present,
            exclude_larger_than,
            exclude_nodump,
            one_file_system,
            preset,
            list_preset,
            files_from,
            null,
        } = self;
        let given = [
            ("--files-from", !files_from.is_empty()),
            ("--null", *null),
            ("--exclude", !exclude.is_empty()),
            ("--exclude-file", !exclude_file.is_empty()),
            ("--ignore-file", !ignore_file.is_empty()),
            ("--no-ignore-file", *no_ignore_file),
            ("--exclude-caches", *exclude_caches),
            ("--exclude-if-present", !exclude_if_present.is_empty()),
            ("--exclude-larger-than", exclude_larger_than.is_some()),
            ("--exclude-nodump", *exclude_nodump),
            ("--one-file-system", *one_file_system),
            ("--preset", !preset.is_empty()),
            ("--list-preset", list_preset.is_some()),
        ];
        given.into_iter().find_map(|(name, is_given)| is_given.then_some(name))
    }

    /// The paths in the lists.
    ///
    /// # Errors
    /// `Usage` if a list would be typed at the terminal; those of reading.
    pub fn listed(&self) -> Result<Vec<PathBuf>> {
        let mut paths = Vec::new();
        for file in &self.files_from {
            let bytes = read_list(file)?;
            let between = if self.null { 0 } else { b'\n' };
            let lines = bytes.split(|b| *b == between).filter(|line| !line.is_empty());
            paths.extend(lines.map(|line| PathBuf::from(OsStr::from_bytes(line))));
        }
        if let Some(path) = paths.iter().find(|path| path.as_os_str().as_bytes().contains(&0)) {
            return Err(Error::usage(format!("a path in the list has a NUL in it: {}", path.display())).hint("for such lists add --null"));
        }
        Ok(paths)
    }
}

fn read_list(file: &Path) -> Result<Vec<u8>> {
    let what = || format!("cannot read the list of paths in {}", file.display());
    let input: Box<dyn Read> = if file == Path::new("-") {
        let stdin = std::io::stdin();
        if stdin.is_terminal() {
            return Err(Error::usage("the list of paths is to come from standard input, and that is a terminal")
                .hint("pipe it: find . -name '*.sql' | coffre seal --files-from -"));
        }
        Box::new(stdin)
    } else {
        Box::new(std::fs::File::open(file).map_err(|e| Error::io(what(), e).hint("nothing was sealed; check the path"))?)
    };
    let mut bytes = Vec::new();
    input.take(LIST_LEN_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|e| Error::io(what(), e))?;
    match bytes.len() as u64 > LIST_LEN_BYTES_MAX {
        true => Err(Error::usage(format!("{}: it is longer than 1 GiB", what())).hint("name the directories instead")),
        false => Ok(bytes),
    }
}

/// A name of an entry, which no path is.
fn parse_name(text: &str) -> std::result::Result<OsString, String> {
    match text.is_empty() || text.contains('/') || text == "." || text == ".." {
        true => Err("the name of a file is wanted, without a directory".to_owned()),
        false => Ok(text.into()),
    }
}
