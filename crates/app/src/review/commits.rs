//! Which of a session's refs are brought to the host: decided over what git lists in the session and on the host.

use std::collections::BTreeSet;

use forge_domain::{
    GitObjectId, RefRefusal, RepositoryRefs, SessionId, SessionRef, SessionRefName,
};
use thiserror::Error;

/// No more refs are brought over at once.
pub const MAX_REFS: usize = 1000;

/// A text for the session's shell that lists what [`Listing::parse`] reads.
pub const LISTING_SCRIPT: &str = "\
    printf 'HEAD %s\\n' \"$(git rev-parse --verify --quiet 'HEAD^{commit}')\"\n\
    exec git for-each-ref --format='%(objectname) %(refname)' \
    refs/heads refs/tags refs/notes refs/stash\n";

/// The refs of a session, as its git lists them. Nothing of it is to be trusted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// The commit that is checked out; `None` where there is none.
    pub head: Option<GitObjectId>,
    /// What could be brought over, `HEAD` first.
    pub refs: Vec<SessionRef>,
    /// The names that could not, with what is wrong with them.
    pub refused: Vec<(String, RefRefusal)>,
}

/// Why a listing cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ListingError {
    /// It is not what git would have said.
    #[error("the list of the session's refs makes no sense")]
    Unreadable,
    /// There are more than [`MAX_REFS`] refs to bring.
    #[error("the session has {count} refs to bring over, more than {MAX_REFS}")]
    TooMany {
        /// How many.
        count: usize,
    },
}

impl Listing {
    /// Reads what [`LISTING_SCRIPT`] prints.
    ///
    /// # Errors
    /// [`ListingError::Unreadable`].
    pub fn parse(text: &[u8]) -> Result<Self, ListingError> {
        let text = String::from_utf8_lossy(text);
        let mut lines = text.lines();
        let head = lines.next().and_then(|line| line.strip_prefix("HEAD "));
        let head = match head.ok_or(ListingError::Unreadable)? {
            "" => None,
            id => Some(GitObjectId::parse(id).ok_or(ListingError::Unreadable)?),
        };
        let head = head.map(|id| format!("{id} HEAD"));
        Self::of(head.as_deref().into_iter().chain(lines))
    }

    /// Takes lines of an id and a name, among which `HEAD` may be.
    ///
    /// # Errors
    /// [`ListingError::Unreadable`].
    pub fn of<'a>(lines: impl IntoIterator<Item = &'a str>) -> Result<Self, ListingError> {
        let mut listing = Self::default();
        let mut seen = BTreeSet::new();
        for line in lines {
            let (id, name) = line.split_once(' ').ok_or(ListingError::Unreadable)?;
            let id = GitObjectId::parse(id).ok_or(ListingError::Unreadable)?;
            match SessionRefName::parse(name) {
                Ok(name) if seen.insert(name.clone()) => {
                    if name.as_str() == "HEAD" {
                        listing.head = Some(id.clone());
                    }
                    listing.refs.push(SessionRef { name, id });
                }
                Ok(_) => return Err(ListingError::Unreadable),
                Err(refusal) => listing.refused.push((name.to_owned(), refusal)),
            }
        }
        Ok(listing)
    }

    /// The same of refs that were listed before.
    #[must_use]
    pub fn of_refs(refs: Vec<SessionRef>) -> Self {
        let head = refs.iter().find(|one| one.name.as_str() == "HEAD").map(|one| one.id.clone());
        Self { head, refs, refused: Vec::new() }
    }

    /// Those that are not on the host yet: neither the host's own ref of that name nor the one that was brought before
    /// names the same.
    ///
    /// # Errors
    /// [`ListingError::TooMany`].
    pub fn wanted(
        &self,
        session: &SessionId,
        host: &RepositoryRefs,
    ) -> Result<Vec<SessionRef>, ListingError> {
        let there: BTreeSet<(&str, &GitObjectId)> = host
            .refs
            .iter()
            .map(|(name, id)| (&**name, id))
            .chain(host.head.iter().map(|id| ("HEAD", id)))
            .collect();
        let is_there = |one: &SessionRef| {
            there.contains(&(&*one.name.in_session(), &one.id))
                || there.contains(&(&*one.name.on_host(session), &one.id))
        };
        let wanted: Vec<SessionRef> =
            self.refs.iter().filter(|one| !is_there(one)).cloned().collect();
        match wanted.len() {
            count if count > MAX_REFS => Err(ListingError::TooMany { count }),
            _ => Ok(wanted),
        }
    }
}

/// What `git bundle create --ignore-missing --stdin` reads, for a bundle of these refs without what the host has.
#[must_use]
pub fn bundle_revisions(refs: &[SessionRef], host: &RepositoryRefs) -> String {
    let mut text = String::new();
    for one in refs {
        text.push_str(&one.name.in_session());
        text.push('\n');
    }
    let known: BTreeSet<&GitObjectId> =
        host.refs.iter().map(|(_, id)| id).chain(&host.head).collect();
    for id in known {
        text.push_str(&format!("^{id}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;

    use super::*;

    fn id(digit: &str) -> GitObjectId {
        GitObjectId::parse(&digit.repeat(40)).unwrap()
    }

    fn named(name: &str, digit: &str) -> SessionRef {
        SessionRef { name: SessionRefName::parse(name).unwrap(), id: id(digit) }
    }

    fn listing(lines: &[(&str, &str)]) -> Listing {
        let mut text = format!("HEAD {}\n", id("a"));
        for (digit, name) in lines {
            text.push_str(&format!("{} {name}\n", id(digit)));
        }
        Listing::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn a_listing_is_read_and_odd_names_are_set_aside() {
        let actual =
            listing(&[("a", "refs/heads/main"), ("b", "refs/heads/a..b"), ("c", "refs/stash")]);
        let expected = Listing {
            head: Some(id("a")),
            refs: vec![named("HEAD", "a"), named("refs/heads/main", "a"), named("refs/stash", "c")],
            refused: vec![("refs/heads/a..b".to_owned(), RefRefusal::Form)],
        };
        assert_eq!(actual, expected);
        assert_eq!(Listing::parse(b"HEAD \n"), Ok(Listing::default()));
    }

    #[test]
    fn what_git_would_not_have_said_is_no_listing() {
        let a = id("a");
        for text in [
            String::new(),
            "HEAD x\n".to_owned(),
            format!("HEAD {a}\nnothing\n"),
            format!("HEAD {a}\n{a}\n"),
            format!("HEAD {a}\n{a} refs/heads/x\n{a} refs/heads/x\n"),
            format!("{a} refs/heads/main\n"),
        ] {
            assert_eq!(Listing::parse(text.as_bytes()), Err(ListingError::Unreadable), "{text}");
        }
    }

    #[test]
    fn what_the_host_names_already_is_not_brought_again() {
        let session = SessionId::parse("s").unwrap();
        let listing = listing(&[
            ("a", "refs/heads/main"),
            ("b", "refs/heads/brought"),
            ("c", "refs/heads/moved"),
            ("d", "refs/tags/same"),
        ]);
        let host = RepositoryRefs {
            head: Some(id("f")),
            refs: [
                ("refs/heads/main", "f"),
                ("refs/forge/s/heads/brought", "b"),
                ("refs/forge/s/heads/moved", "b"),
                ("refs/forge/other/heads/main", "a"),
                ("refs/tags/same", "d"),
            ]
            .map(|(name, digit)| (name.to_owned(), id(digit)))
            .to_vec(),
        };
        let wanted = listing.wanted(&session, &host).unwrap();
        let expected =
            [named("HEAD", "a"), named("refs/heads/main", "a"), named("refs/heads/moved", "c")];
        assert_eq!(wanted, expected);
        let text = bundle_revisions(&expected[..2], &host);
        let ids = ["a", "b", "d", "f"].map(|digit| format!("^{}\n", id(digit))).concat();
        assert_eq!(text, format!("HEAD\nrefs/heads/main\n{ids}"));
    }

    #[test]
    fn too_many_are_refused_as_a_whole() {
        let names: Vec<String> =
            (0..=MAX_REFS).map(|number| format!("refs/tags/{number}")).collect();
        let lines: Vec<(&str, &str)> = names.iter().map(|name| ("b", &**name)).collect();
        let session = SessionId::parse("s").unwrap();
        let error = listing(&lines).wanted(&session, &RepositoryRefs::default()).unwrap_err();
        assert_eq!(error, ListingError::TooMany { count: MAX_REFS + 2 });
    }
}
