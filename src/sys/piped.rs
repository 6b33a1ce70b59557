//! Content that comes through a pipe: standard input, or the output of a shell command that is watched over.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, BufRead, BufReader, Read},
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::{CommandExt, ExitStatusExt},
    },
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    thread::JoinHandle,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    process::{Pid, Signal, kill_process_group},
};

use crate::{
    error::{Error, Result},
    sys::{Cancel, Clock, SystemClock},
};

/// How long a read waits before it looks whether it should stop.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long a command that is told to end may take before it is killed.
const GRACE: Duration = Duration::from_secs(2);
/// Last lines of a command's standard error that are kept, and how long each may be, in bytes.
const KEPT_LINES: usize = 5;
const KEPT_LINE_LEN: usize = 500;

/// Something to read to its end.
pub struct Piped {
    from: File,
    command: Option<Running>,
}

/// A shell command in a session of its own, so that it has no terminal to ask at, and all of it can be ended at once.
struct Running {
    text: String,
    child: Child,
    listener: Option<JoinHandle<()>>,
    said: Arc<Mutex<VecDeque<String>>>,
    ended: Option<ExitStatus>,
}

impl Piped {
    /// Reads standard input.
    pub fn stdin() -> Result<Self> {
        let fd = io::stdin().as_fd().try_clone_to_owned();
        fd.map(Self::file).map_err(|e| Error::io("cannot use standard input", e))
    }

    /// Reads a file or a pipe that is open.
    pub fn file(from: impl Into<OwnedFd>) -> Self {
        Self { from: File::from(from.into()), command: None }
    }

    /// Starts `sh -c text` and reads what it prints. `each` gets every line of its standard error, on another thread.
    pub fn command(text: &str, mut each: impl FnMut(String) + Send + 'static) -> Result<Self> {
        let failed = |e| Error::io(format!("cannot start `{text}`"), e);
        let mut command = Command::new("/bin/sh");
        command.args(["-c", text]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // SAFETY: between fork and exec only setsid is called, which is async-signal-safe and allocates nothing.
        unsafe {
            command.pre_exec(|| rustix::process::setsid().map(drop).map_err(io::Error::from));
        }
        let mut child = command.spawn().map_err(failed)?;
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let said = Arc::new(Mutex::new(VecDeque::new()));
        let mut running = Running { text: text.to_owned(), child, listener: None, said: said.clone(), ended: None };
        let (out, err) = out.zip(err).ok_or_else(|| Error::bug("a command was started without pipes"))?;
        let listen = move || {
            for line in lines(BufReader::new(err)) {
                let mut said = said.lock().expect("nobody panics while holding this");
                if said.len() == KEPT_LINES {
                    said.pop_front();
                }
                said.push_back(line.clone());
                drop(said);
                each(line);
            }
        };
        running.listener = Some(std::thread::Builder::new().name("command".to_owned()).spawn(listen).map_err(failed)?);
        Ok(Self { from: File::from(OwnedFd::from(out)), command: Some(running) })
    }

    /// Fills `buf` as far as there is content; short only at the end.
    ///
    /// # Errors
    /// `Cancelled` if the wish to stop came first, even while nothing arrives.
    pub fn read(&mut self, buf: &mut [u8], cancel: &Cancel) -> Result<usize> {
        let mut filled = 0;
        while filled < buf.len() {
            cancel.check()?;
            let wait = rustix::time::Timespec::try_from(LOOK_EVERY).expect("a tenth of a second");
            let mut ready = [PollFd::new(&self.from, PollFlags::IN)];
            match poll(&mut ready, Some(&wait)) {
                Ok(0) | Err(rustix::io::Errno::INTR) => continue,
                Ok(_) => (),
                Err(e) => return Err(self.failed(e.into())),
            }
            match self.from.read(&mut buf[filled..]) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(e) if matches!(e.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => (),
                Err(e) => return Err(self.failed(e)),
            }
        }
        Ok(filled)
    }

    fn failed(&self, e: io::Error) -> Error {
        match &self.command {
            Some(running) => Error::io(format!("cannot read from `{}`", running.text), e),
            None => Error::io("cannot read standard input", e),
        }
    }

    /// To be called once everything was read: fails unless the command, if there is one, ended well.
    ///
    /// # Errors
    /// `Unavailable` with the status and the last lines of standard error, `Cancelled`.
    pub fn finish(mut self, cancel: &Cancel) -> Result<()> {
        let Some(running) = &mut self.command else { return Ok(()) };
        // Closed its output is not ended: it may still work, and fail.
        while running.ended().is_none() {
            cancel.check()?;
            SystemClock.sleep(LOOK_EVERY / 10);
        }
        let status = running.ended().ok_or_else(|| Error::bug("a command ended and did not"))?;
        if status.success() {
            return Ok(());
        }
        // What it left running may hold standard error open for ever.
        running.end();
        let how = match (status.code(), status.signal()) {
            (Some(code), _) => format!("exit status {code}"),
            (None, Some(signal)) => format!("signal {signal}"),
            (None, None) => status.to_string(),
        };
        let error = Error::unavailable(format!("`{}` ended with {how}, so there is no snapshot", running.text))
            .hint("what it printed before is no whole file; run the command by itself to see what is wrong");
        let said = running.said.lock().expect("nobody panics while holding this");
        Err(match said.is_empty() {
            true => error,
            false => error.because(said.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" | ")),
        })
    }
}

impl Running {
    fn ended(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().ok().flatten();
        }
        self.ended
    }

    /// Ends the command and all that it started, and hears the rest of what it says.
    fn end(&mut self) {
        let group = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let signal = |signal| group.is_none_or(|group| kill_process_group(group, signal).is_err());
        // An error means that nobody is left in the group.
        let mut gone = signal(Signal::TERM);
        let until = SystemClock.monotonic() + GRACE;
        while !gone && SystemClock.monotonic() < until {
            // Without being waited for, it would stay in its group for ever.
            let _ = self.ended();
            gone = group.is_none_or(|group| rustix::process::test_kill_process_group(group).is_err());
            if !gone {
                SystemClock.sleep(LOOK_EVERY / 10);
            }
        }
        if !gone {
            signal(Signal::KILL);
        }
        if self.ended.is_none() {
            self.ended = self.child.wait().ok();
        }
        self.hear();
    }

    /// Waits a moment for the rest of what it says: whoever else holds its standard error is not waited for.
    fn hear(&self) {
        let until = SystemClock.monotonic() + LOOK_EVERY;
        while self.listener.as_ref().is_some_and(|listener| !listener.is_finished()) && SystemClock.monotonic() < until {
            SystemClock.sleep(LOOK_EVERY / 100);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // What a command that ended well left in the background is its own business.
        match self.ended {
            Some(status) if status.success() => self.hear(),
            _ => self.end(),
        }
    }
}

/// Lines as text, cut at a length that can be kept, until there are no more.
fn lines(mut from: impl BufRead) -> impl Iterator<Item = String> {
    std::iter::from_fn(move || {
        let mut line = Vec::new();
        match (&mut from).take(KEPT_LINE_LEN as u64).read_until(b'\n', &mut line) {
            Ok(1..) => Some(String::from_utf8_lossy(&line).trim_end().to_owned()),
            Ok(0) | Err(_) => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(mut piped: Piped, cancel: &Cancel) -> Result<Vec<u8>> {
        let mut buf = [0; 1000];
        let n = piped.read(&mut buf, cancel)?;
        piped.finish(cancel).map(|()| buf[..n].to_vec())
    }

    #[test]
    fn a_command_is_read_to_its_end_and_its_failure_is_ours() {
        let cancel = Cancel::default();
        let run = |text: &str| all(Piped::command(text, |_| ()).unwrap(), &cancel);
        assert_eq!(run("echo a; echo b >&2; echo c").unwrap(), b"a\nc\n");
        let failed = run("echo half; echo one >&2; echo two >&2; exit 3").unwrap_err();
        assert_eq!(
            failed.chain(),
            "`echo half; echo one >&2; echo two >&2; exit 3` ended with exit status 3, so there is no snapshot: one | two"
        );
        assert!(run("kill -9 $$").unwrap_err().chain().contains("signal 9"));
        assert!(run("exec >&-; exit 4").unwrap_err().chain().contains("status 4"), "an end of output is no success");
        assert!(run("none-of-such").unwrap_err().chain().contains("127"));
        // Nothing to ask at.
        assert!(run("cat < /dev/tty").is_err());
    }

    #[test]
    fn a_wish_to_stop_ends_the_command_and_what_it_started() {
        let cancel = Cancel::default();
        let dir = tempfile::tempdir().unwrap();
        let text = format!("echo $$ > {}/pid; sleep 1000 | sleep 1000; echo", dir.path().display());
        let mut piped = Piped::command(&text, |_| ()).unwrap();
        let pid = loop {
            match std::fs::read_to_string(dir.path().join("pid")).map(|text| text.trim().parse::<i32>()) {
                Ok(Ok(pid)) => break pid,
                _ => std::thread::yield_now(),
            }
        };
        cancel.cancel();
        assert_eq!(piped.read(&mut [0; 10], &cancel).unwrap_err().kind(), crate::error::ErrorKind::Cancelled);
        drop(piped);
        assert!(rustix::process::test_kill_process_group(Pid::from_raw(pid).unwrap()).is_err(), "nobody is left");
    }
}
