//! Commits that a session made, and where they go in a repository of the host.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::SessionId;

/// The longest name of a ref in bytes, without what is put before it on the host.
const MAX_NAME_BYTES: usize = 900;

/// The longest part of one, with room for the `.lock` that git adds to it.
const MAX_PART_BYTES: usize = 240;

/// The name of an object of git: 40 hexadecimal digits, or 64 where the repository uses SHA-256.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GitObjectId(String);

impl GitObjectId {
    /// Takes 40 or 64 lower-case hexadecimal digits which are not all zero; `None` where it is anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        let is_name = matches!(text.len(), 40 | 64)
            && text.bytes().all(is_digit)
            && text.bytes().any(|byte| byte != b'0');
        is_name.then(|| Self(text.to_owned()))
    }

    /// All digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first ten digits, for people.
    #[must_use]
    pub fn short(&self) -> &str {
        &self.0[..10]
    }
}

impl fmt::Display for GitObjectId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Debug for GitObjectId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "GitObjectId({self})")
    }
}

/// Why a name is none that is taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Error)]
pub enum RefRefusal {
    /// It is no branch, tag or note, not the stash and not `HEAD`.
    #[error("it is no branch, tag, note or stash")]
    Kind,
    /// git-check-ref-format(1) says no, or a part of it begins with a hyphen.
    #[error("it is not a well-formed name")]
    Form,
    /// It is too long for a file's name.
    #[error("its name is too long")]
    TooLong,
    /// A ref of another name stands where it would have to be, as `a` where `a/b` was brought over before.
    #[error("another one was brought over that it cannot stand beside")]
    Taken,
    /// It names no commit.
    #[error("it names no commit")]
    NoCommit,
}

/// The name of a ref of a session, without the `refs/`: `HEAD`, `stash`, `heads/…`, `tags/…` or `notes/…`.
///
/// Well-formed as git-check-ref-format(1) has it, UTF-8, without control characters, no part begins with a hyphen,
/// and short enough for a file's name. Nothing else is taken over; in particular neither remote-tracking branches,
/// which are not the session's work, nor replacements of objects.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionRefName(String);

impl SessionRefName {
    /// Takes a name as the session's git has it: `HEAD` or `refs/…`.
    ///
    /// # Errors
    /// It is none that is taken over.
    pub fn parse(full: &str) -> Result<Self, RefRefusal> {
        let name = match full.strip_prefix("refs/") {
            None if full == "HEAD" => full,
            None => return Err(RefRefusal::Kind),
            Some("stash") => "stash",
            Some(name) => {
                let (kind, rest) = name.split_once('/').ok_or(RefRefusal::Kind)?;
                if !matches!(kind, "heads" | "tags" | "notes") {
                    return Err(RefRefusal::Kind);
                }
                check_form(rest)?;
                name
            }
        };
        Ok(Self(name.to_owned()))
    }

    /// The name without `refs/`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name as git has it in the session.
    #[must_use]
    pub fn in_session(&self) -> String {
        if self.0 == "HEAD" { self.0.clone() } else { format!("refs/{}", self.0) }
    }

    /// The name that it gets on the host.
    #[must_use]
    pub fn on_host(&self, session: &SessionId) -> String {
        format!("{}{}", session_refs(session), self.0)
    }

    /// Whether refs of both names cannot be there at once, since one would have to be a directory of the other.
    #[must_use]
    pub fn excludes(&self, other: &Self) -> bool {
        let is_above = |above: &Self, below: &Self| {
            below.0.strip_prefix(&above.0).is_some_and(|rest| rest.starts_with('/'))
        };
        is_above(self, other) || is_above(other, self)
    }
}

impl fmt::Display for SessionRefName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Debug for SessionRefName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "SessionRefName({self})")
    }
}

/// What the names of all refs of a session begin with on the host.
#[must_use]
pub fn session_refs(session: &SessionId) -> String {
    format!("refs/forge/{session}/")
}

/// The name of a branch, without `refs/heads/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BranchName(String);

impl BranchName {
    /// Takes a name that git would take for a new branch.
    ///
    /// # Errors
    /// It is not well-formed, or too long.
    pub fn parse(text: &str) -> Result<Self, RefRefusal> {
        check_form(text)?;
        // git itself makes no branch of these names (git-branch(1)).
        if text == "HEAD" || text.starts_with("refs/") {
            return Err(RefRefusal::Form);
        }
        Ok(Self(text.to_owned()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for BranchName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// The rules of git-check-ref-format(1), and a few of ours.
fn check_form(name: &str) -> Result<(), RefRefusal> {
    let is_odd = |character: char| {
        character.is_control()
            || matches!(character, ' ' | '~' | '^' | ':' | '?' | '*' | '[' | '\\')
            // What turns the direction of writing around shows a name as another.
            || matches!(character, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
    };
    let is_odd_part = |part: &str| {
        part.is_empty()
            || part.starts_with(['.', '-'])
            || part.ends_with(".lock")
            || part.ends_with('.')
    };
    if name == "@" || name.contains("..") || name.contains("@{") || name.contains(is_odd) {
        return Err(RefRefusal::Form);
    }
    if name.split('/').any(is_odd_part) {
        return Err(RefRefusal::Form);
    }
    if name.len() > MAX_NAME_BYTES || name.split('/').any(|part| part.len() > MAX_PART_BYTES) {
        return Err(RefRefusal::TooLong);
    }
    Ok(())
}

/// A ref of a session and what it names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SessionRef {
    /// Its name.
    pub name: SessionRefName,
    /// The commit, or the tag of one.
    pub id: GitObjectId,
}

/// The refs of a repository of the host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RepositoryRefs {
    /// The commit that `HEAD` names; `None` in a repository without commits.
    pub head: Option<GitObjectId>,
    /// Every ref by its full name, as far as that is UTF-8.
    pub refs: Vec<(String, GitObjectId)>,
}

/// What became of a session's refs on the host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BroughtRefs {
    /// Those that name what the session's do now.
    pub brought: Vec<SessionRef>,
    /// Those that were left, and why.
    pub left: Vec<(SessionRefName, RefRefusal)>,
}

/// Why commits did not come back. Nothing of the user's was changed, and no ref was.
#[derive(Debug, Error)]
pub enum CommitsError {
    /// There is no git on the host.
    #[error("git is not installed on this machine")]
    NoGit,
    /// There is no repository on the host.
    #[error("{} is no git repository", path.display())]
    NoRepository {
        /// The workspace.
        path: PathBuf,
    },
    /// There is a branch of this name.
    #[error("there is a branch {name} already")]
    BranchExists {
        /// Which.
        name: BranchName,
    },
    /// What came out of the session does not hold up.
    #[error("the session's commits were refused: {reason}")]
    Refused {
        /// What git said.
        reason: String,
    },
    /// A command of git on the host failed.
    #[error("git {command} failed: {reason}")]
    Git {
        /// Which.
        command: &'static str,
        /// What it said.
        reason: String,
    },
    /// A command of git on the host took too long and was ended.
    #[error("git {command} took too long")]
    TimedOut {
        /// Which.
        command: &'static str,
    },
    /// The operating system refused.
    #[error("{operation} {} failed", path.display())]
    Io {
        /// What was to be done.
        operation: &'static str,
        /// With what.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
}

/// A repository of the host that commits of sessions are brought to. Every call blocks, and each command of git that
/// it runs is ended after five minutes.
///
/// The user's branches, tags, `HEAD`, index, configuration, reflogs and work trees are never written, no hook runs, and
/// nothing that the repository's configuration names is executed.
pub trait CommitTarget {
    /// What refs there are.
    ///
    /// # Errors
    /// git failed.
    fn refs(&self) -> Result<RepositoryRefs, CommitsError>;

    /// Which of these objects are there, in their order.
    ///
    /// # Errors
    /// git failed.
    fn holds(&self, ids: &[GitObjectId]) -> Result<Vec<bool>, CommitsError>;

    /// Sets these refs beneath `refs/forge/<session>/`, all of them but those in
    /// [`left`](BroughtRefs::left), or none. Objects that are not there come from a bundle. It is checked
    /// as a whole before anything of it is in the repository, in a directory that nobody else can write to. A ref that was brought
    /// before is replaced, whatever it named.
    ///
    /// # Errors
    /// No ref was changed. Objects may be there that nothing names, for `git gc` to remove.
    fn bring(
        &self,
        session: &SessionId,
        refs: &[SessionRef],
        directory: &Path,
        bundle: Option<&Path>,
    ) -> Result<BroughtRefs, CommitsError>;

    /// Makes a branch of a commit that was brought. It is not checked out.
    ///
    /// # Errors
    /// [`CommitsError::BranchExists`], or git failed; then there is no such branch.
    fn branch(&self, name: &BranchName, commit: &GitObjectId) -> Result<(), CommitsError>;
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;

    use super::*;

    fn name(full: &str) -> Result<String, RefRefusal> {
        SessionRefName::parse(full).map(|name| name.as_str().to_owned())
    }

    #[test]
    fn branches_tags_notes_the_stash_and_head_are_taken_over_and_nothing_else() {
        for (full, expected) in [
            ("HEAD", "HEAD"),
            ("refs/stash", "stash"),
            ("refs/heads/main", "heads/main"),
            ("refs/heads/feature/ä-1", "heads/feature/ä-1"),
            ("refs/tags/v1.0", "tags/v1.0"),
            ("refs/notes/commits", "notes/commits"),
        ] {
            assert_eq!(name(full), Ok(expected.to_owned()), "{full}");
        }
        for full in [
            "",
            "main",
            "ORIG_HEAD",
            "refs/heads",
            "refs/remotes/origin/main",
            "refs/replace/0000",
            "refs/forge/x/heads/main",
            "refs/bisect/bad",
            "../refs/heads/x",
        ] {
            assert_eq!(name(full), Err(RefRefusal::Kind), "{full}");
        }
    }

    #[test]
    fn a_name_that_is_not_well_formed_is_refused() {
        for rest in [
            "../../x",
            "a/../b",
            "a..b",
            ".a",
            "a/.b",
            "a.lock",
            "a.lock/b",
            "a.",
            "a//b",
            "/a",
            "a/",
            "",
            "-x",
            "a/-rf",
            "a b",
            "a~1",
            "a^",
            "a:b",
            "a?",
            "a*",
            "a[b",
            "a\\b",
            "a@{1}",
            "@",
            "a\nb",
            "a\u{1b}[31m",
            "a\u{7f}",
            "a\u{85}",
            "a\u{202e}b",
            "a\0b",
        ] {
            assert_eq!(name(&format!("refs/heads/{rest}")), Err(RefRefusal::Form), "{rest:?}");
        }
        assert_eq!(name(&format!("refs/heads/{}", "x".repeat(241))), Err(RefRefusal::TooLong));
        assert_eq!(
            name(&format!("refs/heads/{}", "x/".repeat(500) + "x")),
            Err(RefRefusal::TooLong)
        );
        assert_eq!(BranchName::parse("HEAD"), Err(RefRefusal::Form));
        assert_eq!(BranchName::parse("refs/heads/x"), Err(RefRefusal::Form));
    }

    #[test]
    fn one_name_excludes_another_that_would_be_beneath_it() {
        let parse = |full| SessionRefName::parse(full).unwrap();
        let (a, ab, abc) = (parse("refs/heads/a"), parse("refs/heads/a/b"), parse("refs/heads/ab"));
        assert!(a.excludes(&ab) && ab.excludes(&a));
        assert!(!a.excludes(&a) && !a.excludes(&abc) && !ab.excludes(&abc));
    }

    #[test]
    fn an_object_has_forty_or_sixty_four_digits() {
        assert!(GitObjectId::parse(&"a1".repeat(20)).is_some());
        assert!(GitObjectId::parse(&"a1".repeat(32)).is_some());
        for text in ["", "a1", &"A1".repeat(20), &"00".repeat(20), &"a1".repeat(21)] {
            assert_eq!(GitObjectId::parse(text), None, "{text}");
        }
    }
}
