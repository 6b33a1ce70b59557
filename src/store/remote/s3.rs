//! Object storage that speaks S3, by paths: `https://ENDPOINT/BUCKET/PATH`.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU32, Ordering},
};

use crate::{
    error::{Error, ErrorKind, Result},
    format::unhex,
    store::{
        Holds,
        place::Url,
        remote::{
            Attempt, Backend, Failure, Found, Page, Put, Settings,
            credentials::{Aws, Keys, base64},
            http::{Answer, Http, Request, encoded, refused},
            sign::{ToSign, sha256, signed},
            xml,
        },
    },
    sys,
};

/// Longer objects travel in parts, each of which is tried again by itself.
const PART_LEN: usize = 16 << 20;
/// Longest list or message accepted, in bytes.
const ANSWER_MAX: usize = 16 << 20;
/// A day, in ns.
const DAY_NS: i128 = 86_400_000_000_000;

/// A folder in a bucket.
pub struct S3 {
    http: Http,
    keys: Keys,
    endpoint: String,
    host: String,
    bucket: String,
    /// With a slash at its end, or empty.
    folder: String,
    region: String,
    settings: Arc<Settings>,
    /// The server knows no conditional put.
    unconditional: AtomicBool,
    /// Days for which what is put is held.
    hold_days: AtomicU32,
    /// The bucket is known to be there.
    seen: AtomicBool,
}

impl S3 {
    /// `s3://BUCKET/PATH?endpoint=URL&region=NAME&profile=NAME`; what is not said there is looked for in the environment and in `~/.aws`.
    pub fn open(url: &Url, settings: Arc<Settings>) -> Result<Self> {
        let aws = Aws::read(&settings, url.option("profile"));
        let region = url.option("region").map(str::to_owned).or_else(|| aws.region()).unwrap_or_else(|| "us-east-1".to_owned());
        let endpoint = url.option("endpoint").map(str::to_owned).or_else(|| aws.endpoint());
        let endpoint = endpoint.unwrap_or_else(|| format!("https://s3.{region}.amazonaws.com"));
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        let host = endpoint.strip_prefix("https://").or_else(|| endpoint.strip_prefix("http://"));
        let host = host.filter(|host| !host.is_empty() && !host.contains('/') && !host.contains('@')).ok_or_else(|| {
            Error::usage("the endpoint of S3 is not an address").hint("it looks like https://s3.example.org, without a path")
        })?;
        url.only(&["profile", "region", "endpoint"])?;
        Ok(Self {
            http: Http::new(settings.clone())?,
            keys: aws.keys()?,
            host: host.to_owned(),
            bucket: url.host.clone(),
            folder: url.folder(),
            endpoint,
            region,
            settings,
            unconditional: AtomicBool::new(false),
            hold_days: AtomicU32::new(0),
            seen: AtomicBool::new(false),
        })
    }

    fn call(
        &self,
        method: &'static str,
        path: &str,
        query: &str,
        headers: &[(&'static str, String)],
        body: Option<&[u8]>,
        max: usize,
    ) -> Attempt<Answer> {
        let path = format!("/{}/{}", encoded(&self.bucket, true), encoded(path, false));
        let path = if path.ends_with("//") { path.trim_end_matches('/') } else { &path };
        let time: String = sys::utc_name(self.settings.clock.now_ns()).chars().filter(|c| *c != '-').collect();
        let what = ToSign {
            method,
            host: &self.host,
            path,
            query,
            headers,
            body_hash: &sha256(body.unwrap_or_default()),
            time: &time,
            region: &self.region,
        };
        let headers = signed(&what, &self.keys);
        let query = if query.is_empty() { String::new() } else { format!("?{query}") };
        let url = format!("{}{path}{query}", self.endpoint);
        self.http.call(&Request { method, url, headers, body, answer_max: max })
    }

    fn object(&self, path: &str) -> String {
        format!("{}{path}", self.folder)
    }

    /// What is wrong, as the server says.
    fn refused(&self, answer: &Answer) -> Failure {
        let code = xml::text(&String::from_utf8_lossy(&answer.body), "Code").filter(|code| code.len() < 64).unwrap_or_default();
        let error = |text: String, hint: &str| Failure::lasting(Error::unavailable(text).hint(hint));
        match (answer.status, code.as_str()) {
            (_, "NoSuchBucket") => Failure::lasting(
                Error::new(ErrorKind::NotFound, format!("there is no bucket {} at {}", self.bucket, self.endpoint))
                    .hint("check name, endpoint and region, or create the bucket; coffre does not"),
            ),
            (_, "InvalidAccessKeyId" | "SignatureDoesNotMatch" | "InvalidToken" | "ExpiredToken") => error(
                format!("the server does not accept these credentials ({code})"),
                "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or ~/.aws/credentials",
            ),
            (_, "RequestTimeTooSkewed") => error("the clock of this machine is wrong, says the server".to_owned(), "set the clock"),
            (301 | 307 | 308, _) | (400, "AuthorizationHeaderMalformed") => {
                error(format!("bucket {} is not in region {}", self.bucket, self.region), "set AWS_REGION, or add ?region=… to the URL")
            }
            (_, "QuotaExceeded" | "StorageFull" | "XMinioStorageFull" | "QuotaExceededException") => super::full(),
            (400, "RequestTimeout" | "IncompleteBody" | "BadDigest" | "XAmzContentSHA256Mismatch") => {
                Failure::passing(Error::unavailable(format!("the object did not arrive whole ({code})")))
            }
            (status, code) => refused(status, code),
        }
    }

    /// A 404 without words may mean that there is no such bucket. Asked once.
    fn not_there<T>(&self) -> Attempt<Option<T>> {
        if !self.seen.load(Ordering::Relaxed) {
            let answer = self.call("GET", "", "list-type=2&max-keys=1", &[], None, ANSWER_MAX)?;
            // Who may not list may still read; then the object is what is not there.
            if answer.status != 200 && answer.status != 403 {
                return Err(self.refused(&answer));
            }
            self.seen.store(true, Ordering::Relaxed);
        }
        Ok(None)
    }

    /// What a put says so that the object is held.
    fn lock_headers(&self) -> Vec<(&'static str, String)> {
        let days = self.hold_days.load(Ordering::Relaxed);
        if days == 0 {
            return Vec::new();
        }
        let until = self.settings.clock.now_ns() + i128::from(days) * DAY_NS;
        vec![("x-amz-object-lock-mode", "COMPLIANCE".to_owned()), ("x-amz-object-lock-retain-until-date", sys::utc_iso(until))]
    }

    fn put_whole(&self, path: &str, bytes: &[u8]) -> Attempt<Put> {
        let once = !self.unconditional.load(Ordering::Relaxed);
        let mut headers = self.lock_headers();
        if once {
            headers.push(("if-none-match", "*".to_owned()));
        }
        if headers.len() > 1 {
            // Whoever asks for a lock must say what is locked.
            headers.push(("x-amz-checksum-sha256", base64(&unhex::<32>(&sha256(bytes)).unwrap_or_default())));
        }
        let answer = self.call("PUT", &self.object(path), "", &headers, Some(bytes), ANSWER_MAX)?;
        match answer.status {
            200 | 201 | 204 => Ok(Put::Done(mark(&answer))),
            412 => Ok(Put::Exists),
            501 if once => {
                self.unconditional.store(true, Ordering::Relaxed);
                self.put_whole(path, bytes)
            }
            // Somebody else is putting the same object: what it is will be seen.
            409 => Err(Failure::passing(Error::unavailable("another put of the same object is under way"))),
            _ => Err(self.refused(&answer)),
        }
    }

    fn put_parts(&self, path: &str, bytes: &[u8]) -> Attempt<Put> {
        let object = self.object(path);
        let answer = self.call("POST", &object, "uploads=", &self.lock_headers(), Some(b""), ANSWER_MAX)?;
        let id = match answer.status {
            200 => xml::text(&String::from_utf8_lossy(&answer.body), "UploadId"),
            _ => return Err(self.refused(&answer)),
        };
        let id = id.ok_or_else(|| Failure::lasting(Error::unavailable("the server begins an upload and does not name it")))?;
        let query = format!("uploadId={}", encoded(&id, true));
        let sent = self.send_parts(&object, &query, bytes).and_then(|list| self.complete(&object, &query, &list));
        if sent.is_err() {
            // Parts that nobody wants cost money; a failure here changes nothing about the first one.
            let _ = self.call("DELETE", &object, &query, &[], None, ANSWER_MAX);
        }
        sent
    }

    fn send_parts(&self, object: &str, query: &str, bytes: &[u8]) -> Attempt<String> {
        let mut list = String::from("<CompleteMultipartUpload>");
        for (n, part) in bytes.chunks(PART_LEN).enumerate() {
            let query = format!("partNumber={}&{query}", n + 1);
            let send = || match self.call("PUT", object, &query, &[], Some(part), ANSWER_MAX)? {
                answer if answer.status == 200 => Ok(answer),
                answer => Err(self.refused(&answer)),
            };
            // A part that failed is sent once more by itself before all of them are.
            let answer = send().or_else(|failure| if failure.again { send() } else { Err(failure) })?;
            let tag = answer.header("etag").unwrap_or_default().replace('"', "&quot;");
            list.push_str(&format!("<Part><PartNumber>{}</PartNumber><ETag>{tag}</ETag></Part>", n + 1));
        }
        list.push_str("</CompleteMultipartUpload>");
        Ok(list)
    }

    fn complete(&self, object: &str, query: &str, list: &str) -> Attempt<Put> {
        let answer = self.call("POST", object, query, &[], Some(list.as_bytes()), ANSWER_MAX)?;
        // An error may come after the status: the server answers before it is done.
        match answer.status {
            200 if !xml::has(&String::from_utf8_lossy(&answer.body), "Error") => {
                Ok(Put::Done(xml::text(&String::from_utf8_lossy(&answer.body), "ETag").map(|tag| tag.trim_matches('"').to_owned())))
            }
            200 => Err(Failure::passing(Error::unavailable("the server could not put the parts together"))),
            _ => Err(self.refused(&answer)),
        }
    }

    /// One page of a list, from `next` on, and where it goes on.
    fn page(&self, folder: &str, next: Option<&str>) -> Attempt<Page> {
        let prefix = if folder.is_empty() { self.folder.clone() } else { format!("{}{folder}/", self.folder) };
        let token = next.map(|token| format!("continuation-token={}&", encoded(token, true))).unwrap_or_default();
        let query = format!("{token}list-type=2&prefix={}", encoded(&prefix, true));
        let answer = self.call("GET", "", &query, &[], None, ANSWER_MAX)?;
        if answer.status != 200 {
            return Err(self.refused(&answer));
        }
        self.seen.store(true, Ordering::Relaxed);
        let text = String::from_utf8_lossy(&answer.body);
        let mut page = Page::default();
        xml::each(&text, "Contents", |entry| {
            let path = xml::text(entry, "Key").and_then(|key| key.strip_prefix(&self.folder).map(str::to_owned));
            let size = xml::text(entry, "Size").and_then(|size| size.parse().ok());
            let tag = xml::text(entry, "ETag").map(|tag| tag.trim_matches('"').to_owned()).unwrap_or_default();
            let stored_ns = xml::text(entry, "LastModified").and_then(|text| sys::parse_server_time(&text));
            let named = path.filter(|path| !path.ends_with('/')).zip(size);
            page.found.extend(named.map(|(path, len)| Found { path, len, stored_ns, tag }));
        });
        if xml::text(&text, "IsTruncated").as_deref() == Some("true") {
            let cut = || Failure::lasting(Error::unavailable("the server cuts a list and does not say how it goes on"));
            page.next = Some(xml::text(&text, "NextContinuationToken").ok_or_else(cut)?);
        }
        Ok(page)
    }
}

/// The mark of the object that was put.
fn mark(answer: &Answer) -> Option<String> {
    answer.header("etag").map(|tag| tag.trim_matches('"').to_owned()).filter(|tag| !tag.is_empty())
}

impl Backend for S3 {
    fn put(&self, path: &str, bytes: &[u8]) -> Attempt<Put> {
        if bytes.len() <= PART_LEN * 2 { self.put_whole(path, bytes) } else { self.put_parts(path, bytes) }
    }

    fn get(&self, path: &str, offset: u64, len: usize) -> Attempt<Option<Vec<u8>>> {
        let range = format!("bytes={offset}-{}", offset.saturating_add(len as u64 - 1));
        let answer = self.call("GET", &self.object(path), "", &[("range", range)], None, len.max(ANSWER_MAX))?;
        match answer.status {
            206 => Ok(Some(answer.body)),
            // Some answer 200 and send the range all the same, and say so.
            200 if answer.header("content-range").is_some() => Ok(Some(answer.body)),
            200 => {
                let from = usize::try_from(offset).unwrap_or(usize::MAX).min(answer.body.len());
                let to = from.saturating_add(len).min(answer.body.len());
                Ok(Some(answer.body[from..to].to_vec()))
            }
            416 => Ok(Some(Vec::new())),
            404 => match xml::text(&String::from_utf8_lossy(&answer.body), "Code").as_deref() {
                Some("NoSuchBucket") => Err(self.refused(&answer)),
                _ => self.not_there(),
            },
            _ => Err(self.refused(&answer)),
        }
    }

    fn stat(&self, path: &str) -> Attempt<Option<u64>> {
        let answer = self.call("HEAD", &self.object(path), "", &[], None, ANSWER_MAX)?;
        match answer.status {
            200 => {
                self.seen.store(true, Ordering::Relaxed);
                answer
                    .length()
                    .map(Some)
                    .ok_or_else(|| Failure::lasting(Error::unavailable("the server does not say how long an object is")))
            }
            404 => self.not_there(),
            // A HEAD has no words: those of a list say why.
            403 => match self.call("GET", "", "list-type=2&max-keys=1", &[], None, ANSWER_MAX)? {
                answer if answer.status == 200 => Ok(None),
                answer => Err(self.refused(&answer)),
            },
            _ => Err(self.refused(&answer)),
        }
    }

    fn list(&self, folder: &str, next: Option<&str>) -> Attempt<Page> {
        self.page(folder, next)
    }

    fn glance(&self, folder: &str) -> Attempt<Option<Vec<Found>>> {
        let page = self.page(folder, None)?;
        Ok((page.next.is_none() && page.found.iter().all(|found| !found.tag.is_empty())).then_some(page.found))
    }

    fn stored_ns(&self, path: &str) -> Attempt<Option<i128>> {
        let answer = self.call("HEAD", &self.object(path), "", &[], None, ANSWER_MAX)?;
        match answer.status {
            200 => Ok(answer.header("last-modified").and_then(sys::parse_server_time)),
            404 => Ok(None),
            _ => Err(self.refused(&answer)),
        }
    }

    fn tidy(&self, before_ns: i128) -> Attempt<()> {
        let answer = self.call("GET", "", &format!("prefix={}&uploads=", encoded(&self.folder, true)), &[], None, ANSWER_MAX)?;
        // A server that knows no uploads in parts has none that are unfinished, and who may only add objects tidies nothing.
        if matches!(answer.status, 403 | 404 | 405 | 501) {
            return Ok(());
        }
        if answer.status != 200 {
            return Err(self.refused(&answer));
        }
        let mut unfinished = Vec::new();
        xml::each(&String::from_utf8_lossy(&answer.body), "Upload", |upload| {
            let begun = xml::text(upload, "Initiated").and_then(|text| sys::parse_server_time(&text));
            let named = xml::text(upload, "Key").zip(xml::text(upload, "UploadId"));
            unfinished.extend(named.filter(|(key, _)| key.starts_with(&self.folder) && begun.is_some_and(|at| at < before_ns)));
        });
        for (object, id) in unfinished {
            let answer = self.call("DELETE", &object, &format!("uploadId={}", encoded(&id, true)), &[], None, ANSWER_MAX)?;
            if !matches!(answer.status, 200 | 204 | 404) {
                return Err(self.refused(&answer));
            }
        }
        Ok(())
    }

    fn holds(&self) -> Attempt<Holds> {
        let ask = |what: &str, word: &str| {
            let answer = self.call("GET", "", what, &[], None, ANSWER_MAX)?;
            // Servers that know nothing of it, and credentials that may not ask.
            let text = xml::text(&String::from_utf8_lossy(&answer.body), word).filter(|_| answer.status == 200);
            Ok(text.as_deref() == Some("Enabled"))
        };
        Ok(Holds { locks: ask("object-lock=", "ObjectLockEnabled")?, versions: ask("versioning=", "Status")? })
    }

    fn hold(&self, days: u32) {
        self.hold_days.store(days, Ordering::Relaxed);
    }

    fn held_until_ns(&self, path: &str) -> Attempt<Option<i128>> {
        let answer = self.call("HEAD", &self.object(path), "", &[], None, ANSWER_MAX)?;
        match answer.status {
            200 => Ok(answer.header("x-amz-object-lock-retain-until-date").and_then(sys::parse_server_time)),
            404 => Ok(None),
            _ => Err(self.refused(&answer)),
        }
    }

    fn delete(&self, path: &str) -> Attempt<()> {
        let answer = self.call("DELETE", &self.object(path), "", &[], None, ANSWER_MAX)?;
        match answer.status {
            200 | 204 | 404 => Ok(()),
            _ => Err(self.refused(&answer)),
        }
    }

    fn describe(&self) -> String {
        let path = format!("s3://{}/{}", self.bucket, self.folder);
        format!("{} at {}", path.trim_end_matches('/'), self.host)
    }
}
