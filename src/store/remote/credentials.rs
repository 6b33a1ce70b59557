//! Who one is to a server: from the environment, else from the files that other tools read too. Never printed.

use std::{collections::BTreeMap, fs};

use zeroize::Zeroizing;

use crate::{
    error::{Error, Result},
    store::remote::Settings,
};

/// Keys for S3.
#[derive(Clone)]
pub struct Keys {
    /// Which.
    pub id: String,
    /// The secret.
    pub secret: Zeroizing<String>,
    /// What makes temporary keys valid.
    pub token: Option<Zeroizing<String>>,
}

/// What the environment and `~/.aws` say about S3.
pub struct Aws {
    profile: String,
    shared: BTreeMap<String, String>,
    config: BTreeMap<String, String>,
    env: fn(&str) -> Option<String>,
}

impl Aws {
    /// Reads both files, if they are there.
    pub fn read(settings: &Settings, profile: Option<&str>) -> Self {
        let env = settings.env;
        let profile = profile.map(str::to_owned).or_else(|| env("AWS_PROFILE")).unwrap_or_else(|| "default".to_owned());
        let file = |variable: &str, name: &str| {
            let path = env(variable).or_else(|| env("HOME").map(|home| format!("{home}/.aws/{name}")));
            path.and_then(|path| fs::read_to_string(path).ok()).map(Zeroizing::new).unwrap_or_default()
        };
        let shared = section(&file("AWS_SHARED_CREDENTIALS_FILE", "credentials"), &[&profile]);
        let config = section(&file("AWS_CONFIG_FILE", "config"), &[&profile, &format!("profile {profile}")]);
        Self { profile, shared, config, env }
    }

    /// A setting: the first variable that is set, else what the files say.
    fn setting(&self, variables: &[&str], name: &str) -> Option<String> {
        let set = variables.iter().find_map(|variable| (self.env)(variable).filter(|value| !value.is_empty()));
        set.or_else(|| self.config.get(name).cloned()).or_else(|| self.shared.get(name).cloned())
    }

    /// The region.
    pub fn region(&self) -> Option<String> {
        self.setting(&["AWS_REGION", "AWS_DEFAULT_REGION"], "region")
    }

    /// Where the server is.
    pub fn endpoint(&self) -> Option<String> {
        self.setting(&["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"], "endpoint_url")
    }

    /// The keys.
    ///
    /// # Errors
    /// `Usage` if there are none.
    pub fn keys(&self) -> Result<Keys> {
        let env = |name: &str| (self.env)(name).filter(|value| !value.is_empty());
        if let (Some(id), Some(secret)) = (env("AWS_ACCESS_KEY_ID"), env("AWS_SECRET_ACCESS_KEY")) {
            return Ok(Keys { id, secret: Zeroizing::new(secret), token: env("AWS_SESSION_TOKEN").map(Zeroizing::new) });
        }
        let get = |name: &str| self.shared.get(name).or_else(|| self.config.get(name)).cloned();
        match (get("aws_access_key_id"), get("aws_secret_access_key")) {
            (Some(id), Some(secret)) => {
                Ok(Keys { id, secret: Zeroizing::new(secret), token: get("aws_session_token").map(Zeroizing::new) })
            }
            _ => Err(Error::usage(format!(
                "there are no credentials for S3: none in the environment, none for profile {} in ~/.aws",
                self.profile
            ))
            .hint("set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or write ~/.aws/credentials and perhaps set AWS_PROFILE")),
        }
    }
}

/// The lines `name = value` below the first heading `[…]` that is in `names`.
fn section(text: &str, names: &[&str]) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut inside = false;
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';'])) {
        if let Some(heading) = line.strip_prefix('[').and_then(|rest| rest.split(']').next()) {
            inside = names.contains(&heading.trim());
        } else if let Some((name, value)) = line.split_once('=').filter(|_| inside) {
            found.insert(name.trim().to_owned(), value.trim().to_owned());
        }
    }
    found
}

/// The header that says who one is by a name and a password.
pub fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", base64(format!("{user}:{password}").as_bytes()))
}

/// Bytes in 64 letters.
pub fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digit = |n: u32, at: u32| char::from(DIGITS[(n >> at & 63) as usize]);
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let n = three.iter().fold(0, |n, b| n << 8 | u32::from(*b)) << (8 * (3 - three.len()));
        let four = [digit(n, 18), digit(n, 12), digit(n, 6), digit(n, 0)];
        text.extend(&four[..=three.len()]);
        text.extend(std::iter::repeat_n('=', 3 - three.len()));
    }
    text
}

/// Name and password for `host` in a `.netrc`.
pub fn netrc(text: &str, host: &str) -> Option<(String, String)> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let start = words.windows(2).position(|w| w[0] == "machine" && w[1] == host).map(|at| at + 2)?;
    let mine = words[start..].split(|word| matches!(*word, "machine" | "default")).next()?;
    let of = |name: &str| mine.windows(2).find(|w| w[0] == name).map(|w| w[1].to_owned());
    Some((of("login")?, of("password")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_headers_are_what_other_tools_read() {
        let text = "# mine\n[default]\naws_access_key_id = A\n[profile work]\nregion=eu-1\n[other]\nregion = x\n";
        assert_eq!(section(text, &["work", "profile work"]), BTreeMap::from([("region".to_owned(), "eu-1".to_owned())]));
        assert_eq!(section(text, &["default"]).get("aws_access_key_id").map(String::as_str), Some("A"));
        // RFC 7617, section 2; RFC 4648, section 10.
        assert_eq!(basic("Aladdin", "open sesame"), "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
        assert_eq!(["", "f", "fo", "foo", "foob"].map(|t| base64(t.as_bytes())), ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg=="]);
        let text = "machine a login x password y\nmachine b\n login u\n password v\ndefault login z password w";
        assert_eq!(netrc(text, "b"), Some(("u".into(), "v".into())));
        assert_eq!(netrc(text, "c"), None);
    }
}
