//! What the project's ignore files leave out.

use std::ffi::OsStr;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::Path;

use ignore::gitignore::{Gitignore, GitignoreBuilder};
use rustix::fs::{FileType, Mode, OFlags};

use crate::beneath;
use crate::files::open_file;
use crate::paths::{file_type, stat_of};

/// More of an ignore file is not read: nobody writes so much, but a command may.
const MAX_IGNORE_FILE_BYTES: u64 = 1 << 20;

/// The rules of one directory.
#[derive(Debug)]
pub(super) struct Rules {
    ignore: Gitignore,
    git_ignore: Gitignore,
    git_exclude: Gitignore,
}

impl Rules {
    /// Reads the rules of a directory; `None` where it has none. A symlink is no ignore file, as for git.
    pub(super) fn read(directory: &OwnedFd, path: &Path) -> Option<Self> {
        let info = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let info = beneath::open(directory, ".git/info", info, Mode::empty());
        let rules = Self {
            ignore: read_file(directory, ".ignore", path),
            git_ignore: read_file(directory, ".gitignore", path),
            git_exclude: info
                .map_or_else(|_| Gitignore::empty(), |info| read_file(&info, "exclude", path)),
        };
        let is_empty = rules.kinds().into_iter().all(Gitignore::is_empty);
        (!is_empty).then_some(rules)
    }

    /// The strongest kind first.
    fn kinds(&self) -> [&Gitignore; 3] {
        [&self.ignore, &self.git_ignore, &self.git_exclude]
    }
}

/// Whether rules, the outermost first, leave a path out. A stronger kind beats a deeper directory, and
/// this one the order in a file.
pub(super) fn leave_out(rules: &[Rules], path: &Path, is_directory: bool) -> bool {
    for kind in 0..3 {
        for rules in rules.iter().rev() {
            let matched = rules.kinds()[kind].matched(path, is_directory);
            if !matched.is_none() {
                return matched.is_ignore();
            }
        }
    }
    false
}

/// A line that cannot be read is passed over.
fn read_file(directory: &OwnedFd, name: &str, root: &Path) -> Gitignore {
    let Some(text) = read_text(directory, name) else { return Gitignore::empty() };
    let mut builder = GitignoreBuilder::new(root);
    for line in text.strip_prefix('\u{feff}').unwrap_or(&text).lines() {
        let _ = builder.add_line(None, line).is_err();
    }
    builder.build().unwrap_or_else(|_| Gitignore::empty())
}

fn read_text(directory: &OwnedFd, name: &str) -> Option<String> {
    let file = open_file(directory, OsStr::new(name)).ok()?;
    if file_type(&stat_of(&file).ok()?) != FileType::RegularFile {
        return None;
    }
    let mut bytes = Vec::new();
    file.take(MAX_IGNORE_FILE_BYTES).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}
