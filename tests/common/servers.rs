//! Real servers on loopback, started by `scripts/servers/start`.
#![allow(clippy::unwrap_used)] // a test may stop at the first surprise

use std::{
    fs,
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use tempfile::TempDir;

use super::bin::{tool, until};

/// A server, gone when dropped, with all that it holds.
pub struct Server {
    name: &'static str,
    child: Child,
    dir: TempDir,
    port: u16,
}

/// Whether the person asked to do without this server; said loudly, so that nobody takes it for tested.
pub fn is_left_out(name: &str) -> bool {
    let names = std::env::var("COFFRE_SERVERS_LEFT_OUT").unwrap_or_default();
    let left_out = names.split([',', ' ']).any(|n| n == name);
    if left_out {
        eprintln!("NOT TESTED: {name}, since COFFRE_SERVERS_LEFT_OUT names it");
    }
    left_out
}

impl Server {
    /// Starts it, and waits until it answers.
    pub fn start(name: &'static str) -> Self {
        let dir = tempfile::Builder::new().prefix("coffre-server-").tempdir().unwrap();
        let port = free_ports(if name == "seaweedfs" { 4 } else { 1 });
        let log = fs::File::create(dir.path().join("log")).unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/servers/start");
        let mut command = tool(script.to_str().unwrap());
        command.arg(name).arg(dir.path()).arg(port.to_string()).stdin(Stdio::null());
        let child = command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        let mut server = Self { name, child, dir, port };
        let answers = server.answers_at();
        until(&format!("{name} answers"), || {
            if let Some(status) = server.child.try_wait().unwrap() {
                panic!(
                    "{name} ended with {status}: {}\nscripts/servers/install installs it; COFFRE_SERVERS_LEFT_OUT={name} does without",
                    server.said()
                );
            }
            TcpStream::connect(("127.0.0.1", answers)).is_ok() && (name != "seaweedfs" || server.has_bucket())
        });
        server
    }

    /// What it wrote.
    pub fn said(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// The port that clients speak to.
    pub fn answers_at(&self) -> u16 {
        if self.name == "seaweedfs" { self.port + 3 } else { self.port }
    }

    /// Something in its folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The URL of a place there.
    pub fn url(&self, place: &str) -> String {
        self.url_at(self.answers_at(), place)
    }

    /// The same, by way of another port: a proxy's.
    pub fn url_at(&self, port: u16, place: &str) -> String {
        match self.name {
            "sshd" => format!("sftp://127.0.0.1:{port}{}/{place}", self.path("data").display()),
            "rclone-webdavs" => format!("webdav://127.0.0.1:{port}/{place}"),
            "rclone-webdav" => format!("webdav+http://127.0.0.1:{port}/{place}"),
            _ => format!("s3://coffre-test/{place}?endpoint=http://127.0.0.1:{port}&region=us-east-1"),
        }
    }

    /// What a client must know.
    pub fn env(&self) -> Vec<(&'static str, String)> {
        vec![
            ("AWS_ACCESS_KEY_ID", "coffre".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "coffresecret".to_owned()),
            ("COFFRE_WEBDAV_USER", "coffre".to_owned()),
            ("COFFRE_WEBDAV_PASSWORD", "coffresecret".to_owned()),
            ("COFFRE_SSH_COMMAND", format!("ssh -F {}", self.path("ssh_config").display())),
        ]
    }

    /// Makes the bucket, and says whether it is there.
    fn has_bucket(&self) -> bool {
        let url = format!("http://127.0.0.1:{}/coffre-test", self.answers_at());
        let args = [
            "-s",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            "--max-time",
            "5",
            "--user",
            "coffre:coffresecret",
            "--aws-sigv4",
            "aws:amz:us-east-1:s3",
            "-X",
            "PUT",
            &url,
        ];
        let said = Command::new("curl").args(args).output().expect("curl is needed by this test; apt-get install curl");
        matches!(&said.stdout[..], b"200" | b"409")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let said = self.said();
            eprintln!("{} said last:\n{}", self.name, said.lines().rev().take(15).collect::<Vec<_>>().join("\n"));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The first of `n` ports, one after the other, at which nobody listens, nor 10000 above: below those that the system gives away.
/// None is given twice, as a server takes a while to take it.
fn free_ports(n: u16) -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let seed = std::process::id().wrapping_mul(2_654_435_761) >> 8;
    let free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    let mut candidates = (0..1500).map(|_| 12_000 + (seed.wrapping_add(NEXT.fetch_add(1, Ordering::SeqCst) * 37) % 1500) as u16 * 4);
    candidates.find(|first| (*first..first + n).all(|port| free(port) && free(port + 10_000))).expect("some ports are free")
}
