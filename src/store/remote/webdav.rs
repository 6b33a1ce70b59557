//! A folder of a WebDAV server (RFC 4918).

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use zeroize::Zeroizing;

use crate::{
    error::{Error, ErrorKind, Result},
    format::hex,
    store::{
        place::Url,
        remote::{
            Attempt, Backend, Failure, Found, Page, Put, Settings,
            credentials::{basic, netrc},
            http::{Answer, Http, Request, encoded, refused},
            xml,
        },
    },
    sys,
};

/// Longest list accepted, in bytes.
const LIST_MAX: usize = 256 << 20;
/// What is asked of files.
const PROPERTIES: &[u8] =
    br#"<?xml version="1.0"?><propfind xmlns="DAV:"><prop><resourcetype/><getcontentlength/><getlastmodified/><getetag/></prop></propfind>"#;
/// Longest list of all that is there that a glance takes, in bytes: about a thousand objects.
const GLANCE_MAX: usize = 512 << 10;
/// Folders listed at once, each by a connection of its own.
const FOLDERS_AT_ONCE: usize = 8;
/// Deepest folder looked into; a vault has four levels.
const DEPTH_MAX: usize = 8;

/// A folder of a server.
pub struct WebDav {
    http: Http,
    /// `https://host:port`
    server: String,
    /// The folder's path, encoded, with a slash at both ends.
    folder: String,
    authorization: Option<Zeroizing<String>>,
    shown: String,
    made: Mutex<HashSet<String>>,
    /// The server lists one folder at a time only.
    shallow: AtomicBool,
}

impl WebDav {
    /// `webdav://[USER@]HOST[:PORT]/PATH`, by https; `webdav+http://…` without encryption. The password is never part of it.
    pub fn open(url: &Url, settings: Arc<Settings>) -> Result<Self> {
        url.only(&[])?;
        let env = settings.env;
        let scheme = if url.scheme == "webdav+http" { "http" } else { "https" };
        let host = url.host.split(':').next().unwrap_or_default();
        let user = url.user.clone().or_else(|| env("COFFRE_WEBDAV_USER"));
        let file = env("NETRC").or_else(|| env("HOME").map(|home| format!("{home}/.netrc")));
        let known = file.and_then(|path| std::fs::read_to_string(path).ok()).and_then(|text| netrc(&text, host));
        let login = match (user, env("COFFRE_WEBDAV_PASSWORD")) {
            (Some(user), Some(password)) => Some((user, password)),
            (user, _) => known.filter(|(login, _)| user.is_none_or(|user| user == *login)),
        };
        Ok(Self {
            http: Http::new(settings.clone())?,
            server: format!("{scheme}://{}", url.host),
            folder: encoded(&format!("/{}", url.folder()), false),
            authorization: login.map(|(user, password)| Zeroizing::new(basic(&user, &password))),
            shown: format!("{}://{}/{}", url.scheme, url.host, url.folder()).trim_end_matches('/').to_owned(),
            made: Mutex::default(),
            shallow: AtomicBool::new(false),
        })
    }

    fn url(&self, path: &str) -> String {
        format!("{}{}{}", self.server, self.folder, encoded(path, false))
    }

    fn call(
        &self,
        method: &'static str,
        url: String,
        mut headers: Vec<(&'static str, String)>,
        body: Option<&[u8]>,
        max: usize,
    ) -> Attempt<Answer> {
        headers.extend(self.authorization.as_ref().map(|value| ("authorization", value.to_string())));
        self.http.call(&Request { method, url, headers, body, answer_max: max })
    }

    /// Makes the folders of `path`, this one's own and those above it among them.
    fn make_folders(&self, path: &str) -> Attempt<()> {
        let whole = format!("{}{}", self.folder, encoded(path, false));
        let ends: Vec<usize> = whole.match_indices('/').map(|(at, _)| at).filter(|at| *at > 0).collect();
        // From the innermost up to the first that is there, then down again.
        let mut missing = Vec::new();
        for end in ends.iter().rev() {
            let folder = &whole[..=*end];
            if self.made().contains(folder) {
                break;
            }
            let answer = self.call("MKCOL", format!("{}{folder}", self.server), Vec::new(), None, LIST_MAX)?;
            match answer.status {
                // 405: it is there.
                200 | 201 | 301 | 405 => {
                    self.made().insert(folder.to_owned());
                    break;
                }
                409 | 403 | 404 => missing.push((folder.to_owned(), answer.status)),
                status => return Err(refused(status, "MKCOL")),
            }
        }
        for (folder, _) in missing.into_iter().rev() {
            let answer = self.call("MKCOL", format!("{}{folder}", self.server), Vec::new(), None, LIST_MAX)?;
            match answer.status {
                200 | 201 | 301 | 405 => drop(self.made().insert(folder)),
                status => return Err(refused(status, "MKCOL")),
            }
        }
        Ok(())
    }

    fn made(&self) -> std::sync::MutexGuard<'_, HashSet<String>> {
        self.made.lock().expect("nobody panics while holding the folders")
    }

    /// What lies in one folder, or in all below it: files with lengths, and folders with a slash at their end. `None` if there is no such folder.
    fn entries(&self, path: &str, depth: &str, max: usize) -> Attempt<Listed> {
        let slash = if path.is_empty() { "" } else { "/" };
        let headers = vec![("depth", depth.to_owned()), ("content-type", "application/xml".to_owned())];
        let answer = self.call("PROPFIND", format!("{}{slash}", self.url(path)), headers, Some(PROPERTIES), max)?;
        match answer.status {
            207 => (),
            404 => return Ok(Listed::Missing),
            // RFC 4918 lets a server refuse to list all that is below.
            400 | 403 | 405 | 412 | 501 | 507 if depth != "1" => return Ok(Listed::Refused),
            status => return Err(refused(status, "PROPFIND")),
        }
        let (mut found, text) = (Vec::new(), String::from_utf8_lossy(&answer.body).into_owned());
        // A server that meets a file which is just being renamed may stop there, and says so only behind what it has sent.
        if !text.trim_end().ends_with("multistatus>") {
            return Err(Failure::passing(Error::unavailable("the server broke off in the middle of a list")));
        }
        let mut all: Vec<(String, &str)> = Vec::new();
        xml::each(&text, "response", |entry| all.push((href(entry), entry)));
        // The folder is listed with what is in it, whatever a proxy between calls it.
        let asked = decoded(&format!("{}{}", self.folder, encoded(path, false)));
        let folders = || all.iter().filter(|(_, entry)| is_folder(entry)).map(|(href, _)| href);
        let own = folders().find(|href| href.ends_with(asked.trim_end_matches('/'))).or_else(|| folders().min_by_key(|href| href.len()));
        let own = own.cloned().unwrap_or_default();
        for (href, entry) in all {
            let Some(inside) = href.strip_prefix(&own).map(|inside| inside.trim_start_matches('/')).filter(|inside| !inside.is_empty())
            else {
                continue;
            };
            let whole = if path.is_empty() { inside.to_owned() } else { format!("{path}/{inside}") };
            if is_folder(entry) {
                self.made().insert(format!("{}{}/", self.folder, encoded(&whole, false)));
                found.push(Found { path: format!("{whole}/"), ..Found::default() });
            } else if let Some(len) = xml::text(entry, "getcontentlength").and_then(|len| len.parse().ok()) {
                let stored_ns = stored(entry);
                found.push(Found { path: whole, len, stored_ns, tag: tag(entry, stored_ns) });
            }
        }
        Ok(Listed::Found(found))
    }

    /// What lies in one folder.
    fn folder(&self, path: &str) -> Attempt<Option<Vec<Found>>> {
        match self.entries(path, "1", LIST_MAX)? {
            Listed::Found(found) => Ok(Some(found)),
            Listed::Missing => Ok(None),
            Listed::Refused => Err(refused(403, "PROPFIND")),
        }
    }

    /// Files in all folders below `path`, by one request. `None` if the server, or whoever set it up, does not want that.
    fn below(&self, path: &str, max: usize) -> Attempt<Option<Vec<Found>>> {
        if self.shallow.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let found = match self.entries(path, "infinity", max)? {
            Listed::Found(found) => found,
            Listed::Missing => return Ok(Some(Vec::new())),
            Listed::Refused => {
                self.shallow.store(true, Ordering::Relaxed);
                return Ok(None);
            }
        };
        let (folders, mut files): (Vec<Found>, Vec<Found>) = found.into_iter().partition(|found| found.path.ends_with('/'));
        let mut filled: HashSet<&str> = HashSet::new();
        for path in folders.iter().chain(&files).map(|found| found.path.trim_end_matches('/')) {
            filled.extend(path.rsplit_once('/').map(|(above, _)| above));
        }
        // A folder in which nothing was listed is empty, or the server goes less deep than it was asked to.
        let bare: Vec<String> = folders
            .iter()
            .map(|found| found.path.trim_end_matches('/').to_owned())
            .filter(|path| !filled.contains(path.as_str()))
            .collect();
        for path in bare {
            if self.folder(&path)?.is_some_and(|found| !found.is_empty()) {
                self.shallow.store(true, Ordering::Relaxed);
                return Ok(None);
            }
        }
        files.retain(|found| !found.path.starts_with("lost+found/"));
        Ok(Some(files))
    }
}

/// What came of a list.
enum Listed {
    Found(Vec<Found>),
    Missing,
    Refused,
}

/// The path in an entry, without the server and a slash at the end.
fn href(entry: &str) -> String {
    let href = xml::text(entry, "href").unwrap_or_default();
    let path = href.split_once("://").map_or(href.as_str(), |(_, rest)| rest.find('/').map_or("", |at| &rest[at..]));
    decoded(path.trim_end_matches('/'))
}

fn is_folder(entry: &str) -> bool {
    xml::has(entry, "collection")
}

/// The server's mark of a file: the entity tag if there is one, or when it was stored.
fn tag(entry: &str, stored_ns: Option<i128>) -> String {
    let said = xml::text(entry, "getetag").map(|tag| tag.trim_matches('"').to_owned()).filter(|tag| !tag.is_empty());
    said.or_else(|| stored_ns.map(|at| at.to_string())).unwrap_or_default()
}

/// When a file was stored.
fn stored(entry: &str) -> Option<i128> {
    xml::text(entry, "getlastmodified").and_then(|text| sys::parse_server_time(&text))
}

fn decoded(name: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = name.as_bytes();
    while let [first, more @ ..] = rest {
        let digits = more.get(..2).and_then(|d| u8::from_str_radix(std::str::from_utf8(d).ok()?, 16).ok()).filter(|_| *first == b'%');
        bytes.push(digits.unwrap_or(*first));
        rest = if digits.is_some() { &more[2..] } else { more };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

impl Backend for WebDav {
    fn put(&self, path: &str, bytes: &[u8]) -> Attempt<Put> {
        let (above, _) = path.rsplit_once('/').map_or(("", path), |(above, name)| (above, name));
        let above = if above.is_empty() { String::new() } else { format!("{above}/") };
        self.make_folders(&above)?;
        // Under another name first: readers would see the beginning of an object that is still being written.
        let random: [u8; 8] = sys::random().map_err(Failure::lasting)?;
        let unfinished = format!("{above}{}{}", super::UNFINISHED, hex(&random));
        // Without its folder a large object is not even read to its end.
        let answer = self.call("PUT", self.url(&unfinished), Vec::new(), Some(bytes), LIST_MAX).inspect_err(|_| self.made().clear())?;
        match answer.status {
            200 | 201 | 204 => (),
            404 | 409 => {
                // Somebody removed the folder: it is made again at the next attempt.
                self.made().clear();
                return Err(Failure::passing(Error::unavailable(format!("the folder {above} is gone"))));
            }
            status => return Err(refused(status, "PUT")),
        }
        let headers = vec![("destination", self.url(path)), ("overwrite", "F".to_owned())];
        let moved = self.call("MOVE", self.url(&unfinished), headers, None, LIST_MAX);
        let outcome = match moved.map(|answer| answer.status) {
            Ok(200 | 201 | 204) => return Ok(Put::Done(None)),
            Ok(412) => Ok(Put::Exists),
            Ok(status) => Err(refused(status, "MOVE")),
            Err(failure) => Err(failure),
        };
        let _ = self.delete(&unfinished);
        outcome
    }

    fn get(&self, path: &str, offset: u64, len: usize) -> Attempt<Option<Vec<u8>>> {
        let range = format!("bytes={offset}-{}", offset.saturating_add(len as u64 - 1));
        let answer = self.call("GET", self.url(path), vec![("range", range)], None, LIST_MAX)?;
        match answer.status {
            206 => Ok(Some(answer.body)),
            200 => {
                let from = usize::try_from(offset).unwrap_or(usize::MAX).min(answer.body.len());
                let to = from.saturating_add(len).min(answer.body.len());
                Ok(Some(answer.body[from..to].to_vec()))
            }
            416 => Ok(Some(Vec::new())),
            404 | 405 => Ok(None),
            status => Err(refused(status, "GET")),
        }
    }

    fn stored_ns(&self, path: &str) -> Attempt<Option<i128>> {
        let headers = vec![("depth", "0".to_owned()), ("content-type", "application/xml".to_owned())];
        let answer = self.call("PROPFIND", self.url(path), headers, Some(PROPERTIES), LIST_MAX)?;
        match answer.status {
            207 => Ok(stored(&String::from_utf8_lossy(&answer.body))),
            301 | 404 => Ok(None),
            status => Err(refused(status, "PROPFIND")),
        }
    }

    fn stat(&self, path: &str) -> Attempt<Option<u64>> {
        let headers = vec![("depth", "0".to_owned()), ("content-type", "application/xml".to_owned())];
        let answer = self.call("PROPFIND", self.url(path), headers, Some(PROPERTIES), LIST_MAX)?;
        match answer.status {
            207 => {
                let text = String::from_utf8_lossy(&answer.body);
                let len = xml::text(&text, "getcontentlength").and_then(|len| len.parse().ok());
                Ok(len.filter(|_| !xml::has(&text, "collection")))
            }
            301 | 404 => Ok(None),
            status => Err(refused(status, "PROPFIND")),
        }
    }

    fn list(&self, folder: &str, _: Option<&str>) -> Attempt<Page> {
        match self.below(folder, LIST_MAX)? {
            Some(found) => Ok(Page { found, next: None }),
            None => super::list_folders(folder, DEPTH_MAX, FOLDERS_AT_ONCE, &|path| self.folder(path)),
        }
    }

    fn glance(&self, folder: &str) -> Attempt<Option<Vec<Found>>> {
        match self.below(folder, GLANCE_MAX) {
            Ok(None) => super::glance_folders(folder, DEPTH_MAX, FOLDERS_AT_ONCE, &|path| self.folder(path)),
            // More than a glance takes.
            Err(failure) if failure.error.kind() == ErrorKind::Corrupt => Ok(None),
            other => Ok(other?.and_then(super::at_a_glance)),
        }
    }

    fn delete(&self, path: &str) -> Attempt<()> {
        let answer = self.call("DELETE", self.url(path), Vec::new(), None, LIST_MAX)?;
        match answer.status {
            200 | 204 | 404 => Ok(()),
            status => Err(refused(status, "DELETE")),
        }
    }

    fn describe(&self) -> String {
        self.shown.clone()
    }
}
