//! Presets: patterns that most people would write. Weaker than every other pattern, so any of them can be taken back.

/// A ready-made list of patterns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// A developer's files.
    Dev,
    /// A root file system.
    Server,
}

/// What can be made again, is of one moment, or is rubbish, among a developer's files. `.git`, `node_modules` and virtual
/// environments are kept: making them again needs a network, the right versions, and luck.
const DEV: &[(&str, &[&str])] = &[
    ("temporary files", &["*.tmp", "*.temp", "tmp/", ".tmp/"]),
    ("swap files, locks and backups of editors", &["*.swp", "*.swo", ".#*", "\\#*\\#", "*~", ".~lock.*#"]),
    ("logs", &["*.log", "*.log.[0-9]*"]),
    ("what desktops strew about", &[".DS_Store", "._*", "Thumbs.db", "desktop.ini", ".directory"]),
    ("waste baskets", &[".Trash/", ".Trash-*/", ".local/share/Trash/"]),
    (
        "caches of programs",
        &[".cache/", ".parcel-cache/", ".turbo/", ".eslintcache", ".stylelintcache", ".sass-cache/", ".nyc_output/", ".ccache/"],
    ),
    ("caches of Python", &["__pycache__/", "*.py[co]", ".pytest_cache/", ".mypy_cache/", ".ruff_cache/", ".tox/", ".nox/"]),
    (
        "archives that package managers have unpacked elsewhere",
        &[".npm/_cacache/", ".cargo/registry/cache/", "go/pkg/mod/cache/", ".gradle/caches/"],
    ),
];

/// What a running system makes by itself, or what is of no use in another one. Logs, databases, `/mnt` and the volumes of
/// containers are kept: there is data in them.
const SERVER: &[(&str, &[&str])] = &[
    ("made up by the kernel", &["/proc/*", "/sys/*", "/dev/*"]),
    ("of this boot only", &["/run/*"]),
    ("temporary files", &["/tmp/*", "/var/tmp/*"]),
    ("swap", &["/swapfile", "/swap.img", "/.swapfile", "/swap/*"]),
    ("removable media", &["/media/*"]),
    ("caches", &["/var/cache/*", "/home/*/.cache/", "/root/.cache/"]),
    ("lists of packages, which the next update makes", &["/var/lib/apt/lists/*"]),
    ("waste baskets", &["/home/*/.local/share/Trash/", "/root/.local/share/Trash/", ".Trash-*/"]),
    ("memory of crashed programs", &["/var/crash/*", "/var/lib/systemd/coredump/*", "/var/lib/apport/coredump/*"]),
    ("mounted packages, whose images are kept", &["/snap/*"]),
    (
        "layers of containers, which are pulled or built again",
        &[
            "/var/lib/docker/overlay2/*",
            "/var/lib/docker/buildkit/*",
            "/var/lib/docker/tmp/*",
            "/var/lib/containerd/*",
            "/var/lib/containers/storage/overlay/*",
        ],
    ),
];

impl Preset {
    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dev => "dev",
            Self::Server => "server",
        }
    }

    /// Its patterns, in order, by what they are.
    pub fn groups(self) -> &'static [(&'static str, &'static [&'static str])] {
        match self {
            Self::Dev => DEV,
            Self::Server => SERVER,
        }
    }

    /// Its patterns, in order.
    pub fn lines(self) -> impl Iterator<Item = &'static str> {
        self.groups().iter().flat_map(|(_, patterns)| patterns.iter().copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::patterns::Patterns;

    #[test]
    fn presets_are_patterns_and_every_line_is_documented() {
        let page = include_str!("../../../../docs/OPERATIONS.md");
        for preset in [Preset::Dev, Preset::Server] {
            for (what, patterns) in preset.groups() {
                let shown: Vec<String> = patterns.iter().map(|p| format!("`{p}`")).collect();
                let row = format!("| {what} | {} |", shown.join(" "));
                assert!(page.contains(&row), "--preset {}: OPERATIONS.md lacks the line\n{row}", preset.name());
                patterns.iter().for_each(|p| Patterns::check_typed(p.as_bytes()).unwrap());
            }
        }
    }
}
