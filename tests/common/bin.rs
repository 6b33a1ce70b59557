//! Runs the binary as a person would: a home with a vault, a key and a state directory of its own, and nothing from outside.

use std::{
    ffi::{OsStr, OsString},
    fs,
    io::Write,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    time::Duration,
};

use coffre::sys::{Clock, SystemClock, mounts};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// Longest wait for anything that another process does. Far more than needed: it only ends tests that hang.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// How often it is looked whether it has happened.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// One host and one vault, gone when dropped.
pub struct Home {
    dir: TempDir,
    top: PathBuf,
}

impl Home {
    /// An owner's key, and no vault yet.
    pub fn without_vault() -> Self {
        let dir = tempfile::Builder::new().prefix("coffre-test-").tempdir().expect("a temporary directory can be made");
        let top = dir.path().canonicalize().expect("it is there");
        let home = Self { dir, top };
        for name in ["source", "mnt"] {
            fs::create_dir(home.path(name)).expect("a directory can be made");
        }
        run_tool("age-keygen", "age", &[OsStr::new("-o"), home.key().as_os_str()]);
        home
    }

    /// A vault that opens with the owner's key, and this host as its sealer.
    pub fn new() -> Self {
        let home = Self::without_vault();
        home.coffre(["init", "--recipient", &home.recipient()]).ok();
        home
    }

    /// Something in this home.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.top.join(name)
    }

    /// Where the vault is.
    pub fn vault(&self) -> PathBuf {
        self.path("vault")
    }

    /// Where the mount goes.
    pub fn mnt(&self) -> PathBuf {
        self.path("mnt")
    }

    /// What is sealed.
    pub fn source(&self) -> PathBuf {
        self.path("source")
    }

    /// The owner's age identity file.
    pub fn key(&self) -> PathBuf {
        self.path("owner.key")
    }

    /// The owner's public key.
    pub fn recipient(&self) -> String {
        run_tool("age-keygen", "age", &[OsStr::new("-y"), self.key().as_os_str()]).trim().to_owned()
    }

    /// This host's state directory of the vault.
    pub fn state(&self) -> PathBuf {
        let mut inside = fs::read_dir(self.path("state")).expect("the host has a state directory");
        inside.next().expect("it holds one of the vault").expect("it can be read").path()
    }

    /// `coffre --vault VAULT ARGS`, without any key but the host's sealing key.
    pub fn coffre<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(&self, args: I) -> Coffre {
        self.bare(["--vault".into(), self.vault().into_os_string()]).args(args)
    }

    /// The same with the owner's key.
    pub fn owner<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(&self, args: I) -> Coffre {
        self.coffre(["--identity".into(), self.key().into_os_string()]).args(args)
    }

    /// `coffre ARGS` with nothing else.
    pub fn bare<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(&self, args: I) -> Coffre {
        let mut command = Command::new(env!("CARGO_BIN_EXE_coffre"));
        clean(&mut command).env("COFFRE_STATE_DIR", self.path("state")).current_dir(&self.top);
        Coffre(command).args(args)
    }

    /// Seals the source, and returns the report.
    pub fn seal(&self) -> Value {
        self.coffre(["--json", "seal"]).args([self.source()]).ok().json()
    }

    /// Snapshots as `coffre snapshots` lists them.
    pub fn snapshots(&self) -> Vec<Value> {
        self.owner(["--json", "snapshots"]).ok().json().as_array().expect("a list").clone()
    }

    /// Where `path` is in a mount, or in what RESTORE.py made.
    pub fn inside(&self, tree: impl AsRef<Path>, path: impl AsRef<Path>) -> PathBuf {
        tree.as_ref().join(path.as_ref().strip_prefix("/").expect("an absolute path"))
    }

    /// The objects of the vault whose path starts with `folder` and ends with `ending`, sorted.
    pub fn objects(&self, folder: &str, ending: &str) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut folders = vec![self.vault().join(folder)];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).into_iter().flatten() {
                let path = entry.expect("a folder can be read").path();
                match path.is_dir() {
                    true => folders.push(path),
                    false => found.push(path),
                }
            }
        }
        found.retain(|p| p.to_string_lossy().ends_with(ending));
        found.sort();
        found
    }
}

/// Takes out of the environment what is the person's own: variables of coffre and of git, and languages.
fn clean(command: &mut Command) -> &mut Command {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("COFFRE_") || text.starts_with("GIT_") || text.starts_with("LC_") {
            command.env_remove(&name);
        }
    }
    let git = [("GIT_CONFIG_NOSYSTEM", "1"), ("GIT_CONFIG_GLOBAL", "/dev/null"), ("GIT_CONFIG_COUNT", "1")];
    let safe = [("GIT_CONFIG_KEY_0", "safe.directory"), ("GIT_CONFIG_VALUE_0", "*")];
    command.envs(git).envs(safe).env("LC_ALL", "C.UTF-8").stdin(Stdio::null())
}

/// One run of the binary, not yet started.
pub struct Coffre(pub Command);

impl Coffre {
    /// Adds arguments.
    pub fn args<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(mut self, args: I) -> Self {
        self.0.args(args);
        self
    }

    /// Sets a variable.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.0.env(name, value);
        self
    }

    /// The same, started by another program: `setpriv --reuid 65534`, `unshare -m`.
    pub fn under(self, program: &str, args: &[&str]) -> Self {
        let mut command = Command::new(program);
        command.args(args).arg(self.0.get_program()).args(self.0.get_args()).stdin(Stdio::null());
        for (name, value) in self.0.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.current_dir(self.0.get_current_dir().expect("every run has its directory"));
        Self(command)
    }

    /// Runs it to its end.
    pub fn run(mut self) -> Done {
        let shown = format!("{:?}", self.0.get_args().collect::<Vec<_>>());
        Done::of(shown, self.0.output().expect("the binary starts"))
    }

    /// Runs it; it must succeed.
    #[track_caller]
    pub fn ok(self) -> Done {
        self.run().exits(0)
    }

    /// Runs it; it must fail with this exit code, an error and a hint.
    #[track_caller]
    pub fn refused(self, code: i32) -> Done {
        let done = self.run().exits(code);
        assert!(done.err.contains("coffre: error: ") && done.err.contains("\ncoffre: hint: "), "{done:?} has an error and a hint");
        assert!(done.out.is_empty(), "{done:?} prints no data");
        done
    }

    /// Starts it; what it says goes into the files `log` and `log`.out.
    pub fn spawn(mut self, log: &Path) -> Child {
        let file = |path: &Path| fs::File::create(path).expect("a log can be made");
        let out = log.with_extension("out");
        self.0.stdout(file(&out)).stderr(file(log)).spawn().expect("the binary starts")
    }

    /// Runs it at a terminal: waits for each text, and types the answer to it. What it printed comes back in `out`.
    pub fn at_terminal(self, answers: &[(&str, &str)]) -> Done {
        at_terminal(self.0, answers)
    }
}

/// How a run ended.
#[derive(Debug)]
pub struct Done {
    shown: String,
    /// Exit code; 128 and the signal if one ended it.
    pub code: i32,
    /// Standard output.
    pub out: Vec<u8>,
    /// Standard error.
    pub err: String,
}

impl Done {
    fn of(shown: String, output: Output) -> Self {
        Self { shown, code: code(output.status), out: output.stdout, err: String::from_utf8_lossy(&output.stderr).into_owned() }
    }

    /// Fails unless this is its exit code.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        let out = String::from_utf8_lossy(&self.out[..self.out.len().min(4000)]).into_owned();
        assert_eq!(self.code, code, "exit code of {}\n{out}\n{}", self.shown, self.err);
        self
    }

    /// Fails unless standard error says this.
    #[track_caller]
    pub fn says(self, text: &str) -> Self {
        assert!(self.err.contains(text), "{} says `{text}`:\n{}", self.shown, self.err);
        self
    }

    /// Standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8(self.out.clone()).expect("text")
    }

    /// Standard output as one JSON document.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.out).unwrap_or_else(|e| panic!("{} prints one JSON document: {e}\n{}", self.shown, self.text()))
    }
}

/// The exit code as a shell tells it.
pub fn code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().expect("it ended by a signal"))
}

/// A command with the environment of the tests.
pub fn tool(program: &str) -> Command {
    let mut command = Command::new(program);
    clean(&mut command);
    command
}

/// Runs a program of the system, which must succeed, and returns what it printed.
#[track_caller]
pub fn run_tool<S: AsRef<OsStr>>(program: &str, package: &str, args: &[S]) -> String {
    let output = tool(program).args(args).output();
    let output = output.unwrap_or_else(|e| panic!("{program} is needed by this test; apt-get install {package}: {e}"));
    let args: Vec<&OsStr> = args.iter().map(AsRef::as_ref).collect();
    let (out, err) = (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} {args:?} ended with {}\n{out}\n{err}", output.status);
    out
}

/// Runs a piece of shell in `dir`, which must succeed, and returns what it printed, standard error included.
#[track_caller]
pub fn shell(dir: &Path, script: &str) -> String {
    let script = format!("exec 2>&1; set -euo pipefail\n{script}");
    let output = tool("bash").arg("-c").arg(&script).current_dir(dir).output().expect("bash is there");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{script}\nended with {}:\n{said}", output.status);
    said
}

/// The driver of a terminal: argv is a JSON list of [text, answer], then the command. Waits for each text in turn.
const TERMINAL: &str = r"
import json, os, pty, select, sys, termios, time
steps, command = json.loads(sys.argv[1]), sys.argv[2:]
pid, fd = pty.fork()
if pid == 0:
    os.execvp(command[0], command)
seen, start, end = b'', 0, time.monotonic() + 60
while time.monotonic() < end:
    if select.select([fd], [], [], 0.2)[0]:
        try:
            data = os.read(fd, 65536)
        except OSError:
            data = b''
        if not data:
            break
        seen += data
    # A person does not type before the echo is off, which comes just after the question.
    hidden = not termios.tcgetattr(fd)[3] & termios.ECHO
    at = seen.find(steps[0][0].encode(), start) if steps and hidden else -1
    if at >= 0:
        start = at + len(steps[0][0])
        answer = steps.pop(0)[1]
        # Nothing at all: only to be seen.
        if answer != '\0':
            os.write(fd, answer.encode() + b'\r')
else:
    os.kill(pid, 9)
sys.stdout.buffer.write(seen.replace(b'\r\n', b'\n'))
sys.stdout.flush()
if steps:
    sys.exit('never seen: %r' % (steps,))
status = os.waitpid(pid, 0)[1]
sys.exit(os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status))
";

/// Runs `command` with a terminal of its own, on which a person answers.
pub fn at_terminal(command: Command, answers: &[(&str, &str)]) -> Done {
    let steps = serde_json::to_string(answers).expect("texts");
    let shown = format!("{command:?}");
    let driver = Coffre(command).under("python3", &["-c", TERMINAL, &steps]);
    let mut driver = driver.0;
    Done::of(shown, driver.output().expect("python3 is needed by this test; apt-get install python3"))
}

/// Waits until `done` says so.
#[track_caller]
pub fn until(what: &str, done: impl FnMut() -> bool) {
    assert!(within(PATIENCE, done), "{what}: not within {} s", PATIENCE.as_secs());
}

/// Whether `done` says so within `time`.
pub fn within(time: Duration, mut done: impl FnMut() -> bool) -> bool {
    let end = SystemClock.monotonic() + time;
    loop {
        // Looked at once more after the time is over: a machine may be slow, the answer is not.
        let late = SystemClock.monotonic() > end;
        if done() {
            return true;
        }
        if late {
            return false;
        }
        SystemClock.sleep(LOOK_EVERY);
    }
}

/// Sends a signal to a process that this test started.
pub fn send(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).expect("the process is ours");
}

/// Whether anything is mounted on `point`.
pub fn is_mounted(point: &Path) -> bool {
    mounts().expect("mounts can be read").iter().any(|m| m.point == point)
}

/// A running mount. Dropped, it is taken away, however it fared.
pub struct Mounted {
    /// Where.
    pub point: PathBuf,
    /// What it said.
    pub log: PathBuf,
    child: Option<Child>,
}

impl Mounted {
    /// Mounts in the foreground, and waits until it says that it is there.
    #[track_caller]
    pub fn start(home: &Home, args: &[&str]) -> Self {
        Self::of(home, home.owner(["mount"]).args(args), &home.mnt())
    }

    /// The same with a command of one's own, without the mount point.
    #[track_caller]
    pub fn of(home: &Home, command: Coffre, point: &Path) -> Self {
        let log = home.path(format!("{}.log", point.file_name().expect("a name").to_string_lossy()));
        let child = command.args([point]).spawn(&log);
        let mut mounted = Self { point: point.to_owned(), log, child: Some(child) };
        until("the mount is ready", || {
            assert!(mounted.child().try_wait().expect("ours").is_none(), "the mount ended: {}", mounted.said());
            mounted.said().contains("mounted on ")
        });
        mounted
    }

    /// Guards a mount that somebody else started.
    pub fn guard(point: &Path, log: &Path) -> Self {
        Self { point: point.to_owned(), log: log.to_owned(), child: None }
    }

    /// Its process.
    pub fn child(&mut self) -> &mut Child {
        self.child.as_mut().expect("a mount in the foreground")
    }

    /// What it said so far.
    pub fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits for its end, and returns the exit code.
    pub fn wait(&mut self) -> i32 {
        let child = self.child();
        let mut status = None;
        until("the mount process ends", || {
            status = child.try_wait().expect("ours");
            status.is_some()
        });
        code(status.expect("just seen"))
    }

    /// Where `path` is in its newest snapshot.
    pub fn latest(&self, path: &Path) -> PathBuf {
        self.point.join("latest").join(path.strip_prefix("/").expect("an absolute path"))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Lazily, since a failed test may still hold files; twice, since one may have been put over another.
        while is_mounted(&self.point) {
            let flags = rustix::mount::UnmountFlags::DETACH;
            if rustix::mount::unmount(&self.point, flags).is_err() {
                break;
            }
        }
        if let Some(child) = &mut self.child {
            if child.try_wait().is_ok_and(|ended| ended.is_none())
                && !within(Duration::from_secs(5), || !matches!(child.try_wait(), Ok(None)))
            {
                let _ = child.kill();
            }
            let _ = child.wait();
        }
    }
}

/// A file system of the machine that a test mounted: a tmpfs, a bind mount. Dropped, it goes.
pub struct Attached(PathBuf);

impl Attached {
    /// `mount ARGS POINT`; only root can.
    pub fn new(args: &[&str], point: &Path) -> Self {
        let args: Vec<&OsStr> = args.iter().map(OsStr::new).chain([point.as_os_str()]).collect();
        run_tool("mount", "mount", &args);
        Self(point.to_owned())
    }

    /// Mounts it once more with other options.
    pub fn remount(&self, options: &str) {
        let options = OsString::from(format!("remount,{options}"));
        run_tool("mount", "mount", &[OsStr::new("-o"), &options, self.0.as_os_str()]);
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

/// Puts `content` into a private file.
pub fn secret(path: &Path, content: &str) {
    use std::os::unix::fs::OpenOptionsExt;
    let file = fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(content.as_bytes())).expect("a secret can be written");
}

/// The vault as somebody left it: every object, with its bytes.
pub fn everything_in(dir: &Path) -> Vec<(PathBuf, Option<Vec<u8>>)> {
    let mut found = Vec::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten() {
            let path = entry.expect("a folder can be read").path();
            if path.is_dir() {
                folders.push(path.clone());
            }
            found.push((path.strip_prefix(dir).expect("below it").to_owned(), fs::read(&path).ok()));
        }
    }
    found.sort();
    found
}
