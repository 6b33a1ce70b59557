//! As much of XML as servers' answers need: the text between two tags, whatever their namespace.

/// Calls `each` with what stands in every element `name` of `text`, outermost ones only.
pub fn each<'a>(text: &'a str, name: &str, mut each: impl FnMut(&'a str)) {
    let mut rest = text;
    while let Some((inside, after)) = next(rest, name) {
        each(inside);
        rest = after;
    }
}

/// What stands in the first element `name`, without entities.
pub fn text(xml: &str, name: &str) -> Option<String> {
    next(xml, name).map(|(inside, _)| unescaped(inside.trim()))
}

/// Whether there is an element `name`, empty or not.
pub fn has(xml: &str, name: &str) -> bool {
    next(xml, name).is_some()
}

fn next<'a>(text: &'a str, name: &str) -> Option<(&'a str, &'a str)> {
    let mut at = 0;
    while let Some(open) = text[at..].find('<').map(|n| at + n) {
        let end = open + text[open..].find('>')?;
        let tag = &text[open + 1..end];
        let local = local_name(tag);
        if !tag.starts_with(['/', '?', '!']) && local == name {
            if tag.ends_with('/') {
                return Some(("", &text[end + 1..]));
            }
            let mut from = end + 1;
            while let Some(close) = text[from..].find("</").map(|n| from + n) {
                let close_end = close + text[close..].find('>')?;
                if local_name(&text[close + 2..close_end]) == name {
                    return Some((&text[end + 1..close], &text[close_end + 1..]));
                }
                from = close_end + 1;
            }
            return None;
        }
        at = end + 1;
    }
    None
}

fn local_name(tag: &str) -> &str {
    let name = tag.split([' ', '\t', '\r', '\n', '/']).next().unwrap_or("");
    name.rsplit(':').next().unwrap_or(name)
}

fn unescaped(text: &str) -> String {
    let entities = [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&#34;", "\""), ("&apos;", "'"), ("&#39;", "'"), ("&amp;", "&")];
    entities.iter().fold(text.to_owned(), |text, (entity, c)| text.replace(entity, c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_found_whatever_their_namespace() {
        let xml = r#"<?xml version="1.0"?><D:multistatus xmlns:D="DAV:"><D:response><D:href>/a&amp;b</D:href><D:prop><lp1:getcontentlength>7</lp1:getcontentlength><D:resourcetype/></D:prop></D:response><D:response ><D:href>/c/</D:href><D:resourcetype><D:collection/></D:resourcetype></D:response></D:multistatus>"#;
        let mut found = Vec::new();
        each(xml, "response", |r| found.push((text(r, "href"), text(r, "getcontentlength"), has(r, "collection"))));
        assert_eq!(found, [(Some("/a&b".into()), Some("7".into()), false), (Some("/c/".into()), None, true)]);
        for broken in ["", "<", "<response", "<response>", "<response></other>", "</response>"] {
            each(broken, "response", |_| panic!("{broken}"));
        }
    }
}
