//! Signatures of requests to S3: AWS Signature Version 4, as its documentation has it ("Create a signed AWS API request").

use ring::{digest, hmac};

use crate::{format::hex, store::remote::credentials::Keys};

/// What is signed.
pub struct ToSign<'a> {
    /// `GET`, `PUT`…
    pub method: &'a str,
    /// The host, with its port if that is not the usual one.
    pub host: &'a str,
    /// The path, encoded.
    pub path: &'a str,
    /// The query: names and values, encoded, sorted.
    pub query: &'a str,
    /// Further headers, names in lower case, sorted.
    pub headers: &'a [(&'static str, String)],
    /// SHA-256 of the body.
    pub body_hash: &'a str,
    /// When: `20251108T020000Z`.
    pub time: &'a str,
    /// Where.
    pub region: &'a str,
}

/// SHA-256 of some bytes, as hexadecimal digits.
pub fn sha256(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

/// The headers of the request, those that carry the signature among them.
pub fn signed(what: &ToSign, keys: &Keys) -> Vec<(&'static str, String)> {
    let mut headers: Vec<(&'static str, String)> = what.headers.to_vec();
    headers.push(("host", what.host.to_owned()));
    headers.push(("x-amz-content-sha256", what.body_hash.to_owned()));
    headers.push(("x-amz-date", what.time.to_owned()));
    if let Some(token) = &keys.token {
        headers.push(("x-amz-security-token", token.to_string()));
    }
    headers.sort();
    let names: Vec<&str> = headers.iter().map(|(name, _)| *name).collect();
    let names = names.join(";");
    let lines: String = headers.iter().map(|(name, value)| format!("{name}:{}\n", value.trim())).collect();
    let canonical = format!("{}\n{}\n{}\n{lines}\n{names}\n{}", what.method, what.path, what.query, what.body_hash);
    let day = what.time.get(..8).unwrap_or_default();
    let scope = format!("{day}/{}/s3/aws4_request", what.region);
    let text = format!("AWS4-HMAC-SHA256\n{}\n{scope}\n{}", what.time, sha256(canonical.as_bytes()));
    let mut key = mac(format!("AWS4{}", *keys.secret).as_bytes(), day);
    for part in [what.region, "s3", "aws4_request"] {
        key = mac(key.as_ref(), part);
    }
    let signature = hex(mac(key.as_ref(), &text).as_ref());
    let authorization = format!("AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={names}, Signature={signature}", keys.id);
    // The host goes with every request anyway.
    headers.retain(|(name, _)| *name != "host");
    headers.push(("authorization", authorization));
    headers
}

fn mac(key: &[u8], text: &str) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes())
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;

    #[test]
    fn the_example_of_the_documentation_comes_out() {
        // "Examples: Signature Calculations", GET Object, of Amazon's S3 API reference.
        let keys = Keys {
            id: "AKIAIOSFODNN7EXAMPLE".to_owned(),
            secret: Zeroizing::new("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".to_owned()),
            token: None,
        };
        let what = ToSign {
            method: "GET",
            host: "examplebucket.s3.amazonaws.com",
            path: "/test.txt",
            query: "",
            headers: &[("range", "bytes=0-9".to_owned())],
            body_hash: &sha256(b""),
            time: "20130524T000000Z",
            region: "us-east-1",
        };
        let authorization = signed(&what, &keys).pop().unwrap().1;
        assert!(authorization.ends_with("Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"), "{authorization}");
    }
}
