//! How far the work is: a bar on a terminal, or a JSON object a line. The home of `indicatif`'s bar.

use std::{
    io::{self, Write},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use crate::{
    cli::output::{bytes, count, visible},
    event::HowFar,
};

/// Time over which the pace is smoothed, in ms: a single large file or a run of small ones does not throw the estimate about.
const SMOOTH_MS: f64 = 10_000.0;

/// How fast the work goes, and when it will be done.
#[derive(Debug, Default)]
pub struct Pace {
    last: HowFar,
    /// Smoothed, in bytes a second: of those that are done with, and of those that were read.
    done: f64,
    read: f64,
}

impl Pace {
    /// Takes in how far the work is.
    pub fn update(&mut self, step: &HowFar) {
        let past = step.elapsed_ms.saturating_sub(self.last.elapsed_ms) as f64;
        if past <= 0.0 {
            return;
        }
        // At first the plain average, later what was lately.
        let weight = (1.0 - (-past / SMOOTH_MS).exp()).max(past / step.elapsed_ms as f64);
        let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 * 1000.0 / past;
        self.done += weight * (rate(step.bytes, self.last.bytes) - self.done);
        self.read += weight * (rate(step.bytes_read, self.last.bytes_read) - self.read);
        self.last = HowFar { current: None, ..*step };
    }

    /// Seconds until all is done, if that can be said.
    pub fn left_secs(&self) -> Option<u64> {
        let left = self.last.bytes_total?.saturating_sub(self.last.bytes);
        (self.done >= 1.0).then(|| (left as f64 / self.done).ceil() as u64)
    }
}

/// One line of `--progress json`.
#[derive(Serialize)]
struct Line<'a> {
    entries: u64,
    bytes: u64,
    bytes_total: Option<u64>,
    bytes_read: u64,
    bytes_read_per_second: u64,
    elapsed_seconds: f64,
    eta_seconds: Option<u64>,
    current: Option<&'a str>,
}

/// Writes one object a line to standard error.
pub fn write_line(step: &HowFar, pace: &Pace) {
    let line = Line {
        entries: step.entries,
        bytes: step.bytes,
        bytes_total: step.bytes_total,
        bytes_read: step.bytes_read,
        bytes_read_per_second: pace.read as u64,
        elapsed_seconds: step.elapsed_ms as f64 / 1000.0,
        eta_seconds: pace.left_secs(),
        current: step.current.as_deref(),
    };
    let text = serde_json::to_string(&line).unwrap_or_default();
    // Nobody is left to tell if standard error is gone.
    let _ = writeln!(io::stderr(), "{text}");
}

/// A bar on standard error.
pub fn bar() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(10));
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// Shows how far the work is on `bar`.
pub fn draw(bar: &ProgressBar, step: &HowFar, pace: &Pace) {
    let known = step.bytes_total.is_some_and(|total| total > 0);
    if known != bar.length().is_some() || bar.position() == 0 {
        let template = if known { "{bar:20} {wide_msg}" } else { "{spinner} {wide_msg}" };
        bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
    }
    if let Some(total) = step.bytes_total.filter(|_| known) {
        bar.set_length(total.max(step.bytes));
    }
    bar.set_position(step.bytes.max(1));
    bar.set_message(text(step, pace));
}

fn text(step: &HowFar, pace: &Pace) -> String {
    let mut text = format!("{} done, {}", count(step.entries), bytes(step.bytes));
    if let Some(total) = step.bytes_total.filter(|total| *total > 0) {
        text.push_str(&format!(" of {}", bytes(total)));
    }
    text.push_str(&format!(", {}/s", bytes(pace.read as u64)));
    if let Some(secs) = pace.left_secs() {
        text.push_str(&format!(", {} left", duration(secs)));
    }
    if let Some(current) = &step.current {
        text.push_str(&format!("  {}", visible(current)));
    }
    text
}

fn duration(secs: u64) -> String {
    match secs {
        0..60 => format!("{secs} s"),
        60..3600 => format!("{} min {:02} s", secs / 60, secs % 60),
        _ => format!("{} h {:02} min", secs / 3600, secs / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(elapsed_ms: u64, bytes: u64) -> HowFar {
        HowFar { elapsed_ms, bytes, bytes_read: bytes, bytes_total: Some(100 << 20), entries: 5, current: Some("/a\u{1b}".to_owned()) }
    }

    #[test]
    fn the_estimate_settles_and_is_not_thrown_about() {
        let mut pace = Pace::default();
        for second in 1..=50 {
            pace.update(&step(second * 1000, second << 20));
            assert_eq!(pace.left_secs(), Some(100 - second), "an even pace is known from the first step on");
        }
        // A standstill of a second moves the estimate by a tenth, not to infinity.
        pace.update(&step(51_000, 50 << 20));
        assert!((50..=56).contains(&pace.left_secs().unwrap()), "{pace:?}");
        assert_eq!(text(&step(51_000, 50 << 20), &pace), "5 done, 50.00 MiB of 100.00 MiB, 926.55 KiB/s, 56 s left  /a\\u{1b}");
    }

    #[test]
    fn durations_are_short() {
        assert_eq!([59, 60, 3599, 3600, 90_061].map(duration), ["59 s", "1 min 00 s", "59 min 59 s", "1 h 00 min", "25 h 01 min"]);
    }
}
