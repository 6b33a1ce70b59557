//! One request over HTTP, with time-outs. The home of `ureq`.

use std::{
    io::Read,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ureq::{
    Agent, SendBody,
    http::{HeaderMap, Request as HttpRequest},
    tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem},
};

use crate::{
    error::{Error, ErrorKind, Result},
    store::remote::{Attempt, Failure, Settings},
};

/// Longest wait for a name, for a connection.
const CONNECT: Duration = Duration::from_secs(10);
/// Longest silence while bytes are on their way.
const SILENCE: Duration = Duration::from_secs(30);
/// Longest wait for an answer once all is sent: a server may have to put a large object together.
const ANSWER: Duration = Duration::from_secs(120);
/// Bytes between two looks at the limit of speed.
const PIECE: usize = 64 << 10;
/// Connections kept open.
const IDLE_MAX: usize = 16;

/// A way to one server.
pub struct Http {
    agent: Agent,
    settings: Arc<Settings>,
    /// It has answered before: what fails now may pass.
    known: AtomicBool,
}

/// A request.
pub struct Request<'a> {
    /// `GET`, `PROPFIND`…
    pub method: &'static str,
    /// Where.
    pub url: String,
    /// Besides those that are always there.
    pub headers: Vec<(&'static str, String)>,
    /// What is sent.
    pub body: Option<&'a [u8]>,
    /// Longest answer accepted, in bytes.
    pub answer_max: usize,
}

/// What the server said.
pub struct Answer {
    /// The number.
    pub status: u16,
    /// The body.
    pub body: Vec<u8>,
    headers: HeaderMap,
}

impl Answer {
    /// A header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The length of the object that a HEAD asked for.
    pub fn length(&self) -> Option<u64> {
        self.header("content-length")?.parse().ok()
    }
}

impl Http {
    /// Opens no connection yet.
    ///
    /// # Errors
    /// `Usage` if the certificates that `SSL_CERT_FILE` or `AWS_CA_BUNDLE` names cannot be read.
    pub fn new(settings: Arc<Settings>) -> Result<Self> {
        let mut tls = TlsConfig::builder();
        // Whoever sets both, perhaps one of them for all of a machine, means both.
        let named: Vec<String> = ["AWS_CA_BUNDLE", "SSL_CERT_FILE"].into_iter().filter_map(|name| (settings.env)(name)).collect();
        if !named.is_empty() {
            let trusted = named.iter().map(|path| certificates(path)).collect::<Result<Vec<_>>>()?;
            tls = tls.root_certs(RootCerts::from(trusted.concat()));
        }
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .allow_non_standard_methods(true)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("coffre/", env!("CARGO_PKG_VERSION")))
            .timeout_resolve(Some(CONNECT))
            .timeout_connect(Some(CONNECT))
            .timeout_per_read(Some(SILENCE.max(ANSWER)))
            .timeout_per_write(Some(SILENCE))
            .timeout_recv_response(Some(ANSWER))
            .max_idle_connections(IDLE_MAX)
            .max_idle_connections_per_host(IDLE_MAX)
            .tls_config(tls.build())
            .build()
            .new_agent();
        Ok(Self { agent, settings, known: AtomicBool::new(false) })
    }

    /// Sends a request and reads the answer. What a server says by a status is no failure.
    pub fn call(&self, request: &Request) -> Attempt<Answer> {
        self.settings.traffic.request();
        let mut builder = HttpRequest::builder().method(request.method).uri(&request.url);
        for (name, value) in &request.headers {
            builder = builder.header(*name, value);
        }
        let bug = |e: ureq::http::Error| Failure::lasting(Error::bug("cannot make a request").because(e));
        let answer = match request.body {
            Some(body) if self.settings.limits.0.is_some() => {
                let mut slow = Slow { body, settings: &self.settings };
                let request = builder.header("content-length", body.len()).body(SendBody::from_reader(&mut slow)).map_err(bug)?;
                self.agent.run(request)
            }
            Some(body) => self.agent.run(builder.body(body).map_err(bug)?),
            None => self.agent.run(builder.body(()).map_err(bug)?),
        };
        let mut answer = answer.map_err(|e| self.failure(e))?;
        self.known.store(true, Ordering::Relaxed);
        let body = self.receive(&mut answer, request.answer_max)?;
        self.settings.traffic.bytes(request.body.map_or(0, <[u8]>::len), body.len());
        Ok(Answer { status: answer.status().as_u16(), body, headers: answer.headers().clone() })
    }

    fn receive(&self, answer: &mut ureq::http::Response<ureq::Body>, len_max: usize) -> Attempt<Vec<u8>> {
        let mut reader = answer.body_mut().as_reader();
        let mut body = Vec::new();
        let mut piece = vec![0; PIECE];
        loop {
            let n = match reader.read(&mut piece) {
                Ok(0) => return Ok(body),
                Ok(n) => n,
                Err(e) => return Err(Failure::passing(Error::io("the answer broke off", e).as_kind(ErrorKind::Unavailable))),
            };
            if body.len() + n > len_max {
                return Err(Failure::lasting(Error::corrupt(format!(
                    "the server sends more than the {len_max} bytes that were asked for"
                ))));
            }
            body.extend_from_slice(&piece[..n]);
            self.settings.may_receive(n).map_err(Failure::lasting)?;
        }
    }

    /// Says in words why there is no answer. No word of the request goes into it: that holds secrets.
    fn failure(&self, e: ureq::Error) -> Failure {
        let known = self.known.load(Ordering::Relaxed);
        let (text, hint, lasting) = match e {
            ureq::Error::HostNotFound => {
                ("no host has this name".to_owned(), "check the host, and that this machine is on the net", !known)
            }
            ureq::Error::Timeout(ureq::Timeout::Connect | ureq::Timeout::Resolve) => {
                (format!("no connection within {} s", CONNECT.as_secs()), "check host, port, and any firewall or proxy between", false)
            }
            ureq::Error::Timeout(_) => (format!("the server says nothing for {} s", ANSWER.as_secs()), "try again later", false),
            ureq::Error::Io(e) if e.kind() == std::io::ErrorKind::ConnectionRefused => {
                ("nobody answers at this port".to_owned(), "check host and port, and that the server runs", !known)
            }
            // How the system's library says it.
            ureq::Error::Io(e) if e.to_string().starts_with("failed to lookup address") => {
                ("no host has this name".to_owned(), "check the host, and that this machine is on the net", !known)
            }
            // TLS says so by way of the connection.
            ureq::Error::Io(e) if e.kind() == std::io::ErrorKind::InvalidData && e.to_string().contains("certificate") => {
                (format!("no trusted connection: {e}"), "SSL_CERT_FILE may name the certificate of the server's authority", true)
            }
            ureq::Error::Io(e) => (format!("the connection broke: {e}"), "try again later", false),
            ureq::Error::Rustls(e) => {
                (format!("no trusted connection: {e}"), "SSL_CERT_FILE may name the certificate of the server's authority", true)
            }
            ureq::Error::ConnectProxyFailed(_) | ureq::Error::InvalidProxyUrl => {
                ("the proxy does not let this through".to_owned(), "look at HTTPS_PROXY, ALL_PROXY and NO_PROXY", !known)
            }
            ureq::Error::BadUri(_) | ureq::Error::Http(_) => ("this is no address".to_owned(), "check the URL", true),
            _ => ("what the server says is no HTTP".to_owned(), "check host and port; https and http have different ones", !known),
        };
        let error = Error::unavailable(text).hint(hint);
        if lasting { Failure::lasting(error) } else { Failure::passing(error) }
    }
}

/// A body that is sent no faster than it may be.
struct Slow<'a> {
    body: &'a [u8],
    settings: &'a Settings,
}

impl Read for Slow<'_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let n = buf.len().min(self.body.len()).min(PIECE);
        self.settings.may_send(n).map_err(|_| std::io::Error::other("interrupted"))?;
        buf[..n].copy_from_slice(&self.body[..n]);
        self.body = &self.body[n..];
        Ok(n)
    }
}

fn certificates(path: &str) -> Result<Vec<Certificate<'static>>> {
    let bytes =
        std::fs::read(path).map_err(|e| Error::io(format!("cannot read the certificates in {path}"), e).as_kind(ErrorKind::Usage))?;
    let found = parse_pem(&bytes).filter_map(|item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(certificate),
        _ => None,
    });
    Ok(found.collect())
}

/// A path for a URL: what is not a letter, a digit or one of `-._~/` becomes `%` and two digits.
pub fn encoded(path: &str, and_slash: bool) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b) || (b == b'/' && !and_slash);
    path.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// The failure that a status stands for; `said` is the server's own word for it.
pub fn refused(status: u16, said: &str) -> Failure {
    let said = if said.is_empty() { String::new() } else { format!(" ({said})") };
    let error = Error::unavailable(format!("the server answers {status}{said}"));
    match status {
        507 => super::full(),
        401 | 403 => Failure::lasting(error.hint("check the credentials, and what they may do there")),
        // 423: somebody is changing the same folder of a WebDAV server.
        408 | 423 | 425 | 429 | 500 | 502 | 503 | 504 => Failure::passing(error),
        _ => Failure::lasting(error),
    }
}
