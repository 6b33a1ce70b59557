//! Data that comes piece by piece: with `--json` one object a line, else lines for people.

use std::{
    io::{self, BufWriter, IsTerminal, Write},
    ops::ControlFlow,
};

use serde::Serialize;

use crate::{
    cli::output::Screen,
    error::{Error, Result},
};

/// Bytes gathered before they are written.
const BUFFER_LEN: usize = 1 << 16;

/// Standard output, for many pieces. On a terminal each line is shown at once.
pub struct Stream<'a> {
    screen: &'a Screen,
    out: BufWriter<io::StdoutLock<'static>>,
    at_once: bool,
    /// Nobody reads any more.
    closed: bool,
}

impl<'a> Stream<'a> {
    /// Writes for `screen`.
    pub fn new(screen: &'a Screen) -> Self {
        screen.end_progress();
        let out = BufWriter::with_capacity(BUFFER_LEN, io::stdout().lock());
        Self { screen, out, at_once: io::stdout().is_terminal(), closed: false }
    }

    /// Writes one piece: as JSON, or as `text` says. Breaks once nobody reads any more; whoever goes on nevertheless writes nothing.
    pub fn row<T: Serialize>(&mut self, value: &T, text: impl FnOnce() -> String) -> Result<ControlFlow<()>> {
        match self.screen.json {
            true => {
                let mut line = serde_json::to_vec(value).map_err(|e| Error::bug("cannot write JSON").because(e))?;
                line.push(b'\n');
                self.raw(&line)
            }
            false => self.raw(text().as_bytes()),
        }
    }

    /// Writes bytes as they are.
    pub fn raw(&mut self, bytes: &[u8]) -> Result<ControlFlow<()>> {
        if self.closed {
            return Ok(ControlFlow::Break(()));
        }
        let written = self.out.write_all(bytes).and_then(|()| if self.at_once { self.out.flush() } else { Ok(()) });
        let flow = ended(written)?;
        self.closed = flow.is_break();
        Ok(flow)
    }

    /// Writes what is left.
    pub fn finish(mut self) -> Result<()> {
        if self.closed { Ok(()) } else { ended(self.out.flush()).map(drop) }
    }
}

/// Whoever read it has read enough if the pipe is closed.
fn ended(written: io::Result<()>) -> Result<ControlFlow<()>> {
    match written {
        Ok(()) => Ok(ControlFlow::Continue(())),
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(ControlFlow::Break(())),
        Err(e) => Err(Error::io("cannot write the output", e)),
    }
}
