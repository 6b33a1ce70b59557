//! What lies between a host and a server: TLS, proxies, limits of speed, broken connections, silence.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use coffre::sys::{Clock, SystemClock};

use crate::common::{
    bin::{Coffre, Home, send, until},
    library::noise,
    line::Line,
    servers::{Server, is_left_out},
};

fn run<'a>(home: &'a Home, server: &'a Server, url: &'a str) -> impl Fn(&[&str]) -> Coffre + 'a {
    move |args| {
        let command = home.bare(["-v", "--vault", url]).args(args).env("COFFRE_CACHE_DIR", home.path("cache"));
        server.env().iter().fold(command, |command, (name, value)| command.env(name, value))
    }
}

/// A proxy that lets through whatever it is asked to connect to, and counts it.
fn proxy() -> (u16, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (port, asked) = (listener.local_addr().unwrap().port(), Arc::new(AtomicU64::new(0)));
    let counted = asked.clone();
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let counted = counted.clone();
            std::thread::spawn(move || {
                let mut lines = BufReader::new(client.try_clone().unwrap()).lines().map_while(Result::ok);
                let first = lines.next().unwrap_or_default();
                lines.take_while(|line| !line.is_empty()).for_each(drop);
                let to = first.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next()).map(str::to_owned);
                let Some(mut server) = to.and_then(|to| TcpStream::connect(to).ok()) else { return };
                counted.fetch_add(1, Ordering::SeqCst);
                client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
                let (mut from, mut back) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                std::thread::spawn(move || std::io::copy(&mut back, &mut client));
                let _ = std::io::copy(&mut from, &mut server);
            });
        }
    });
    (port, asked)
}

#[test]
fn a_server_with_an_authority_of_its_own_is_trusted_if_one_says_so_and_proxies_are_used() {
    if is_left_out("rclone-webdavs") {
        return;
    }
    let server = Server::start("rclone-webdavs");
    let home = Home::without_vault();
    let url = server.url("vault");
    let run = run(&home, &server, &url);
    let recipient = home.recipient();
    let refused = run(&["init", "--recipient", &recipient]).refused(1);
    assert!(refused.err.contains("no trusted connection") && refused.err.contains("SSL_CERT_FILE"), "{}", refused.err);
    let trusted = |args: &[&str]| run(args).env("SSL_CERT_FILE", server.path("ca.pem"));
    trusted(&["init", "--recipient", &recipient]).ok();
    fs::write(home.source().join("file"), noise(500_000, 1)).unwrap();
    trusted(&["seal", home.source().to_str().unwrap()]).ok();

    let (port, asked) = proxy();
    let by = |name: &str| trusted(&["verify"]).env(name, format!("http://127.0.0.1:{port}"));
    by("HTTPS_PROXY").ok();
    let first = asked.swap(0, Ordering::SeqCst);
    by("ALL_PROXY").ok();
    assert!(first > 0 && asked.swap(0, Ordering::SeqCst) > 0);
    by("HTTPS_PROXY").env("NO_PROXY", "127.0.0.1").ok();
    assert_eq!(asked.load(Ordering::SeqCst), 0);
    // A proxy that is not there is named.
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let refused = trusted(&["verify"]).env("HTTPS_PROXY", format!("http://127.0.0.1:{closed}")).refused(1);
    assert!(refused.err.contains("coffre: hint: "), "{}", refused.err);
}

#[test]
fn broken_connections_resume_and_limits_hold() {
    if is_left_out("rclone-s3") {
        return;
    }
    let server = Server::start("rclone-s3");
    let home = Home::without_vault();
    let source = home.source().display().to_string();
    let content = noise(3_000_000, 1);
    fs::write(home.source().join("file"), &content).unwrap();

    // Each of the first connections breaks in the middle of something.
    let line = Line::that_breaks(server.answers_at(), 700_000, 3);
    let url = server.url_at(line.port, "broken");
    let far = run(&home, &server, &url);
    far(&["init", "--recipient", &home.recipient()]).ok();
    let done = far(&["seal", &source]).ok();
    assert!(done.err.contains(" of them again)"), "{}", done.err);
    let file = format!("latest:{source}/file");
    let key = home.key().display().to_string();
    assert_eq!(far(&["--identity", &key, "cat", &file]).ok().out, content);
    far(&["--identity", &key, "verify", "--depth", "chunks"]).ok();

    let url = server.url("slow");
    let near = run(&home, &server, &url);
    near(&["init", "--recipient", &home.recipient()]).ok();
    let began = SystemClock.monotonic();
    near(&["--limit-upload", "1M", "seal", &source]).ok();
    let took = SystemClock.monotonic() - began;
    assert!(took > Duration::from_millis(2500), "3 MB at 1 MiB a second: {took:?}");
    let began = SystemClock.monotonic();
    assert_eq!(near(&["--identity", &key, "--limit-download", "1M", "cat", &file]).ok().out, content);
    let took = SystemClock.monotonic() - began;
    assert!(took > Duration::from_millis(2500), "{took:?}");
}

#[test]
fn a_silent_server_does_not_keep_anybody() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked = Arc::new(AtomicU64::new(0));
    let counted = asked.clone();
    std::thread::spawn(move || {
        let mut kept = Vec::new();
        for client in listener.incoming().flatten() {
            counted.fetch_add(1, Ordering::SeqCst);
            kept.push(client);
        }
    });
    let home = Home::without_vault();
    let url = format!("s3://bucket/x?endpoint=http://127.0.0.1:{port}");
    let command = home.bare(["--vault", &url, "verify"]).env("AWS_ACCESS_KEY_ID", "a").env("AWS_SECRET_ACCESS_KEY", "topsecret");
    let mut child = command.spawn(&home.path("log"));
    until("it asks", || asked.load(Ordering::SeqCst) > 0);
    let began = SystemClock.monotonic();
    send(&child, rustix::process::Signal::INT);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(SystemClock.monotonic() - began < Duration::from_secs(10));
    let said = fs::read_to_string(home.path("log")).unwrap();
    assert!(!said.contains("topsecret"), "{said}");
}
