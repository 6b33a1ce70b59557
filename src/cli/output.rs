//! Words on the screen. Data goes to standard output, everything else to standard error, in lower case, without a final
//! period, with `coffre: ` before it; a hint has a line of its own. With `--json` the same facts as objects.

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal, Write},
    sync::Mutex,
};

use clap::builder::styling::{AnsiColor, Style};
use indicatif::{HumanBytes, HumanCount, ProgressBar};
use serde::Serialize;

use crate::{
    cli::{
        censor::without_secrets,
        exit,
        progress::{self, Pace},
    },
    error::{Error, Result},
    event::{Event, HowFar, LeftOut, Sink},
};

/// When to colour, or to show progress as a bar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum When {
    /// On a terminal.
    Auto,
    /// In any case.
    Always,
    /// Never.
    Never,
}

/// How to show progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Progress {
    /// A bar, if standard error is a terminal.
    Auto,
    /// A bar in any case.
    Always,
    /// Not at all.
    Never,
    /// One JSON object a line on standard error.
    Json,
}

/// The screen.
pub struct Screen {
    /// Data as JSON.
    pub json: bool,
    quiet: bool,
    colour: bool,
    data_colour: bool,
    progress: Progress,
    bar: Mutex<Option<ProgressBar>>,
    pace: Mutex<Pace>,
}

impl Screen {
    /// Writes as told.
    pub fn new(json: bool, quiet: bool, colour: When, progress: Progress) -> Self {
        let terminal = io::stderr().is_terminal();
        let coloured = |terminal: bool| match colour {
            When::Always => true,
            When::Never => false,
            // https://no-color.org: set and not empty.
            When::Auto => terminal && std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty()),
        };
        let progress = match progress {
            _ if quiet => Progress::Never,
            Progress::Auto if terminal => Progress::Always,
            Progress::Auto => Progress::Never,
            other => other,
        };
        let (colour, data_colour) = (coloured(terminal), coloured(io::stdout().is_terminal()));
        Self { json, quiet, colour, data_colour, progress, bar: Mutex::default(), pace: Mutex::default() }
    }

    /// Whether data on standard output is coloured.
    pub fn colours_data(&self) -> bool {
        self.data_colour && !self.json
    }

    fn line(&self, style: Style, word: &'static str, text: &str) {
        if self.progress == Progress::Json {
            return self.object(&Told { did: word, text: &without_secrets(text) });
        }
        let text = visible(&without_secrets(text));
        let line = match self.colour {
            true => format!("coffre: {style}{word}:{style:#} {text}\n"),
            false => format!("coffre: {word}: {text}\n"),
        };
        self.write(&line);
    }

    /// Writes one object a line, so that who asked for objects finds nothing else.
    fn object(&self, told: &impl Serialize) {
        self.write(&(serde_json::to_string(told).unwrap_or_default() + "\n"));
    }

    fn write(&self, line: &str) {
        // Nobody is left to tell if standard error is gone.
        let write = || drop(io::stderr().write_all(line.as_bytes()));
        match &*self.bar.lock().expect("nobody panics while drawing") {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    /// Says a fact for the person watching.
    pub fn note(&self, text: &str) {
        if !self.quiet {
            self.line(AnsiColor::Cyan.on_default(), "note", text);
        }
    }

    /// Says a fact, as an object where progress is told in objects, else as a note with this text, if any.
    pub fn fact(&self, object: &impl Serialize, text: impl FnOnce() -> Option<String>) {
        match self.progress {
            Progress::Json => self.object(object),
            _ => text().iter().for_each(|text| self.note(text)),
        }
    }

    /// Passes on what a command said.
    pub fn said(&self, text: &str) {
        if self.progress == Progress::Json {
            return self.object(&Told { did: "said", text });
        }
        self.write(&format!("{}\n", visible(&text.replace('\t', "    "))));
    }

    /// Says that something is wrong, though the work goes on.
    pub fn warning(&self, text: &str) {
        self.line(AnsiColor::Yellow.on_default(), "warning", text);
    }

    /// Says what is left out, and why: as an object where progress is told in objects.
    fn left_out(&self, left: &LeftOut) {
        #[derive(Serialize)]
        #[serde(tag = "did", rename = "leave_out")]
        struct Line<'a> {
            #[serde(flatten)]
            left: &'a LeftOut,
        }
        match self.progress {
            Progress::Json => self.object(&Line { left }),
            _ => self.line(AnsiColor::Cyan.on_default(), "left out", &left_out(left)),
        }
    }

    /// Says why the command failed.
    pub fn error(&self, e: &Error) {
        self.end_progress();
        if self.json || self.progress == Progress::Json {
            #[derive(Serialize)]
            struct Failure<'a> {
                error: String,
                hint: Option<&'a str>,
                kind: String,
                exit_code: u8,
            }
            let failure = Failure {
                error: without_secrets(&e.chain()),
                hint: e.hint_text(),
                kind: format!("{:?}", e.kind()),
                exit_code: exit::code(e.kind()),
            };
            return self.object(&failure);
        }
        self.line(AnsiColor::Red.on_default().bold(), "error", &e.chain());
        if let Some(hint) = e.hint_text() {
            self.line(AnsiColor::Green.on_default(), "hint", hint);
        }
    }

    /// Prints data: as JSON, or as `text` says.
    pub fn data<T: Serialize>(&self, value: &T, text: impl FnOnce() -> String) -> Result<()> {
        self.end_progress();
        let out = match self.json {
            true => serde_json::to_string_pretty(value).map_err(|e| Error::bug("cannot write JSON").because(e))? + "\n",
            false => text(),
        };
        match io::stdout().write_all(out.as_bytes()).and_then(|()| io::stdout().flush()) {
            // Whoever read it has read enough.
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            other => other.map_err(|e| Error::io("cannot write the output", e)),
        }
    }

    /// Prints a text that is the same with `--json`.
    pub fn plain(&self, text: &str) -> Result<()> {
        match io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush()) {
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            other => other.map_err(|e| Error::io("cannot write the output", e)),
        }
    }

    /// Takes the bar away.
    pub fn end_progress(&self) {
        if let Some(bar) = self.bar.lock().expect("nobody panics while drawing").take() {
            bar.finish_and_clear();
        }
    }

    fn progress(&self, step: &HowFar) {
        let mut pace = self.pace.lock().expect("nobody panics while measuring");
        pace.update(step);
        match self.progress {
            Progress::Never | Progress::Auto => (),
            Progress::Json => progress::write_line(step, &pace),
            Progress::Always => {
                let mut bar = self.bar.lock().expect("nobody panics while drawing");
                progress::draw(bar.get_or_insert_with(progress::bar), step, &pace);
            }
        }
    }
}

impl Sink for Screen {
    fn send(&self, event: Event) {
        match event {
            Event::Note(text) => self.note(&text),
            Event::Warning(text) => self.warning(&text),
            Event::Said(text) => self.said(&text),
            Event::LeftOut(left) => self.left_out(&left),
            Event::Progress(far) => self.progress(&far),
        }
    }

    fn wants_progress(&self) -> bool {
        matches!(self.progress, Progress::Always | Progress::Json)
    }
}

/// A line for people, for who reads objects.
#[derive(Serialize)]
struct Told<'a> {
    did: &'static str,
    text: &'a str,
}

/// Text with control characters made visible, those that turn the direction of writing among them: a file name must neither steer a
/// terminal nor show as another one.
pub fn visible(text: &str) -> String {
    let hides = |c: char| {
        matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}') || c.is_control()
    };
    text.chars().map(|c| if hides(c) { c.escape_default().to_string() } else { c.to_string() }).collect()
}

/// The same for bytes; those that are not UTF-8 become `\xNN`.
pub fn visible_bytes(bytes: &[u8]) -> String {
    let parts = bytes.utf8_chunks().map(|part| {
        let broken: String = part.invalid().iter().map(|b| format!("\\x{b:02x}")).collect();
        visible(part.valid()) + &broken
    });
    parts.collect()
}

/// The same for a line of a text, whose tabs stay.
pub fn visible_line(line: &str) -> String {
    line.split('\t').map(visible).collect::<Vec<_>>().join("\t")
}

/// What is left out, for people: not yet made visible.
pub fn left_out(left: &LeftOut) -> String {
    format!("{}{}  ({})", left.path, if left.content_only { "/*" } else { "" }, left.rule.text)
}

/// A size for people.
pub fn bytes(n: u64) -> String {
    HumanBytes(n).to_string()
}

/// A count for people.
pub fn count(n: u64) -> String {
    HumanCount(n).to_string()
}

/// So many of them, for people: `1 pack`, `2 packs`.
pub fn counted(n: u64, what: &str) -> String {
    format!("{} {what}{}", count(n), if n == 1 { "" } else { "s" })
}

/// Labels for people.
pub fn labels(labels: &BTreeMap<String, String>) -> String {
    visible(&labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(", "))
}

/// Lines of cells as aligned columns, two spaces apart; the last column is as long as it likes.
pub fn columns(head: &[&str], rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(|cell| visible(cell)).collect()).collect();
    let width = |n: usize| rows.iter().map(|row| row[n].chars().count()).chain([head[n].len()]).max().unwrap_or(0);
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |cells: Vec<&str>| {
        let padded: Vec<String> = cells
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell}{}", " ".repeat(width - cell.chars().count().min(*width))))
            .collect();
        padded.join("  ").trim_end().to_owned() + "\n"
    };
    let mut text = line(head.to_vec());
    for row in &rows {
        text.push_str(&line(row.iter().map(String::as_str).collect()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_name_cannot_steer_the_terminal() {
        assert_eq!(visible("a\x1b[31mb\nc"), "a\\u{1b}[31mb\\nc");
        assert_eq!(visible("a\u{202e}txt.exe é 日本"), "a\\u{202e}txt.exe é 日本");
        assert_eq!(visible_bytes(b"caf\xe9\x1b \xc3\xa9"), "caf\\xe9\\u{1b} é");
        assert_eq!(visible_line("a\tb\r"), "a\tb\\r");
        assert_eq!(columns(&["ID", "PATH"], &[vec!["1".into(), "x\ty".into()]]), "ID  PATH\n1   x\\ty\n");
    }
}
