//! The commands of a page.
#![allow(clippy::unwrap_used)] // a test may stop at the first surprise

/// How lines begin that are shown as output.
const OUTPUT: [&str; 8] = ["coffre: ", "damaged ", "suspect ", "lost ", "DAMAGE", "SEALER", "{", "["];

/// The commands of the page with this title, in order: indented lines; of a block with `$ ` those only, and none of a block of output.
pub fn commands(title: &str) -> Vec<String> {
    let text = include_str!("../../docs/OPERATIONS.md");
    let start = text.find(&format!("\n## {title}\n")).unwrap_or_else(|| panic!("there is no page {title}"));
    let page = &text[start + 4..];
    let page = &page[..page.find("\n## ").unwrap_or(page.len())];
    let mut commands = Vec::new();
    let mut block: Vec<&str> = Vec::new();
    for line in page.lines().chain([""]) {
        if let Some(line) = line.strip_prefix("    ") {
            block.push(line);
            continue;
        }
        let typed: Vec<&str> = block.iter().filter_map(|line| line.strip_prefix("$ ")).collect();
        match block.first() {
            _ if !typed.is_empty() => commands.extend(typed.into_iter().map(str::to_owned)),
            Some(first) if !OUTPUT.iter().any(|start| first.starts_with(start)) => commands.extend(block.iter().map(|l| l.to_string())),
            _ => (),
        }
        block.clear();
    }
    commands
}
