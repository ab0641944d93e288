//! A query's way through the trees.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use forge_domain::{
    CaseSensitivity, FileError, IgnoreRules, SearchError, SearchOutcome, SearchQuery,
};
use grep_regex::{RegexMatcher, RegexMatcherBuilder};
use ignore::overrides::{Override, OverrideBuilder};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use super::lines::Lines;
use super::rules::{Rules, leave_out};
use crate::beneath;
use crate::descent::Descent;
use crate::files::{open_file, read_directory};
use crate::paths::{LastLink, Place, Trees, file_type, is_cover, stat_entry, stat_of};

/// What lies deeper has no path that a command could use (`PATH_MAX`, less the NUL).
const MAX_PATH_BYTES: usize = 4095;

impl Trees {
    /// Carries out a query. `stopped` ends it soon after it is set; what was found until then is
    /// returned.
    pub(crate) fn search(
        &self,
        query: &SearchQuery,
        stopped: &AtomicBool,
    ) -> Result<SearchOutcome, SearchError> {
        let matcher =
            query.pattern.as_deref().map(|pattern| matcher(pattern, query.case)).transpose()?;
        let place = self.resolve(&query.root, "list", LastLink::Follow)?;
        let Some(found) = &place.found else {
            return Err(FileError::NotFound { path: query.root.clone() }.into());
        };
        let is_directory = found.file_type() == FileType::Directory;
        let base = if is_directory { Some(&*place.path) } else { place.path.parent() };
        let globs = globs(base.unwrap_or(&place.path), &query.globs)?;
        let mut walk = Walk {
            trees: self,
            query,
            matcher: matcher.as_ref(),
            globs,
            stopped,
            outcome: SearchOutcome::default(),
            rules: Vec::new(),
        };
        if is_directory {
            if is_cover(&found.stat) {
                walk.outcome.unreadable_files += 1;
            } else {
                walk.read_rules_above(&place);
                walk.directory(Arc::clone(&found.descriptor), place.path);
            }
        } else if let (FileType::RegularFile, Some(name)) = (found.file_type(), &place.name) {
            walk.file(&place.parent, name, &place.path);
        }
        Ok(walk.outcome)
    }
}

fn matcher(pattern: &str, case: CaseSensitivity) -> Result<RegexMatcher, SearchError> {
    RegexMatcherBuilder::new()
        .case_insensitive(case == CaseSensitivity::Insensitive)
        .line_terminator(Some(b'\n'))
        .build(pattern)
        .map_err(|error| SearchError::Pattern { reason: error.to_string() })
}

fn globs(directory: &Path, globs: &[String]) -> Result<Override, SearchError> {
    let unreadable = |glob: &str, error: &ignore::Error| SearchError::Glob {
        glob: glob.to_owned(),
        reason: error.to_string(),
    };
    let mut builder = OverrideBuilder::new(directory);
    for glob in globs {
        builder.add(glob).map_err(|error| unreadable(glob, &error))?;
    }
    builder.build().map_err(|error| unreadable(&globs.join(" "), &error))
}

/// A directory on the way, with what is still to be looked at in it.
#[derive(Debug)]
struct Level {
    /// Sorted by name, the next one at the end.
    entries: Vec<(OsString, FileType)>,
    /// How many rules were known above it.
    rules_above: usize,
}

struct Walk<'a> {
    trees: &'a Trees,
    query: &'a SearchQuery,
    matcher: Option<&'a RegexMatcher>,
    globs: Override,
    stopped: &'a AtomicBool,
    outcome: SearchOutcome,
    /// The rules that hold where we are, the outermost first.
    rules: Vec<Rules>,
}

impl Walk<'_> {
    /// Rules above the root of the search count where it is inside of the workspace, else there are none.
    fn read_rules_above(&mut self, place: &Place<'_>) {
        let tree = place.tree;
        if self.query.ignore_rules == IgnoreRules::Disregard
            || tree.path != self.trees.workspace.path
            || place.path == tree.path
        {
            return;
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let below = place.path.strip_prefix(&tree.path).unwrap_or(Path::new(""));
        let mut path = tree.path.clone();
        let mut directory = None;
        for name in below {
            let above: &OwnedFd = directory.as_ref().unwrap_or(&tree.directory);
            self.rules.extend(Rules::read(above, &path));
            match beneath::open(above, name, flags, Mode::empty()) {
                Ok(next) => directory = Some(next),
                // Moved away meanwhile.
                Err(_) => return,
            }
            path.push(name);
        }
    }

    fn directory(&mut self, top: Arc<OwnedFd>, mut path: PathBuf) {
        let Some(level) = self.enter(&top, &path) else {
            self.outcome.unreadable_files += 1;
            return;
        };
        let mut levels = vec![level];
        let mut descent = Descent::new(top);
        while let Some(level) = levels.last_mut() {
            if self.stopped.load(Ordering::Relaxed) || self.outcome.truncated {
                return;
            }
            let Some((name, file_type)) = level.entries.pop() else {
                self.rules.truncate(level.rules_above);
                levels.pop();
                descent.up();
                path.pop();
                continue;
            };
            if name == ".git" {
                continue;
            }
            let is_directory = file_type == FileType::Directory;
            path.push(&name);
            if !self.is_left_out(&path, is_directory) {
                match (is_directory, descent.current()) {
                    (_, Err(_)) => self.outcome.unreadable_files += 1,
                    (false, Ok(directory)) if file_type == FileType::RegularFile => {
                        self.file(directory, &name, &path);
                    }
                    (false, Ok(_)) => {}
                    (true, Ok(directory)) => match self.open_directory(directory, &name, &path) {
                        Ok((below, level)) => {
                            levels.push(level);
                            descent.down(name, below);
                            continue;
                        }
                        Err(_) => self.outcome.unreadable_files += 1,
                    },
                }
            }
            path.pop();
        }
    }

    fn open_directory(
        &mut self,
        parent: &OwnedFd,
        name: &OsStr,
        path: &Path,
    ) -> io::Result<(OwnedFd, Level)> {
        if path.as_os_str().len() > MAX_PATH_BYTES {
            return Err(Errno::NAMETOOLONG.into());
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let directory = beneath::open(parent, name, flags, Mode::empty())?;
        if is_cover(&stat_of(&directory)?) {
            return Err(Errno::ACCESS.into());
        }
        let level = self.enter(&directory, path).ok_or(Errno::IO)?;
        Ok((directory, level))
    }

    /// Reads what a directory holds, its rules included.
    fn enter(&mut self, directory: &OwnedFd, path: &Path) -> Option<Level> {
        let mut entries = read_directory(directory).ok()?;
        for (name, file_type) in &mut entries {
            if *file_type == FileType::Unknown {
                // Not every file system tells in the listing.
                *file_type = stat_entry(directory, name)
                    .map_or(FileType::Unknown, |stat| self::file_type(&stat));
            }
        }
        entries.sort_by(|(left, _), (right, _)| right.cmp(left));
        let rules_above = self.rules.len();
        if self.query.ignore_rules == IgnoreRules::Respect {
            self.rules.extend(Rules::read(directory, path));
        }
        Some(Level { entries, rules_above })
    }

    fn is_left_out(&self, path: &Path, is_directory: bool) -> bool {
        // What the caller asked for beats the project's rules.
        let asked = self.globs.matched(path, is_directory);
        if asked.is_none() { leave_out(&self.rules, path, is_directory) } else { asked.is_ignore() }
    }

    fn file(&mut self, directory: &OwnedFd, name: &OsStr, path: &Path) {
        let shown = path.strip_prefix(&self.trees.workspace.path).unwrap_or(path).to_path_buf();
        match self.matcher {
            Some(matcher) => self.grep(directory, name, shown, matcher),
            None if self.outcome.files.len() == self.query.max_results => {
                self.outcome.truncated = true;
            }
            None => self.outcome.files.push(shown),
        }
    }

    fn grep(&mut self, directory: &OwnedFd, name: &OsStr, shown: PathBuf, matcher: &RegexMatcher) {
        let opened = open_file(directory, name).and_then(|file| Ok((stat_of(&file)?, file)));
        let file = match opened {
            Ok((stat, _)) if is_cover(&stat) => None,
            // It has become something else meanwhile.
            Ok((stat, _)) if file_type(&stat) != FileType::RegularFile => return,
            Ok((_, file)) => Some(file),
            Err(_) => None,
        };
        let mut lines = Lines {
            matcher,
            path: shown,
            room: self.query.max_results - self.outcome.matches.len(),
            max_line_bytes: self.query.max_line_bytes,
            matches: Vec::new(),
            truncated: false,
            binary: false,
        };
        if file.is_none_or(|file| lines.search(file, self.stopped).is_err()) {
            self.outcome.unreadable_files += 1;
        } else if !lines.binary {
            self.outcome.matches.append(&mut lines.matches);
            self.outcome.truncated |= lines.truncated;
        }
    }
}
