//! What another process needs to tell what was changed in a sandbox, as bytes: where things are in the guest, and its tree right
//! after the project was brought in.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{self, BufRead as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::compare::{Kept, Known};
use super::listing::{GuestStat, GuestTree};

const FORM: &[u8] = b"forge guest 1";

/// What the bytes say.
#[derive(Debug)]
pub(crate) struct GuestState {
    pub(crate) sandbox: String,
    pub(crate) scratch: PathBuf,
    begun: BTreeMap<PathBuf, GuestStat>,
}

impl GuestState {
    pub(crate) fn write(
        sandbox: &str,
        scratch: &Path,
        begun: &BTreeMap<PathBuf, GuestStat>,
    ) -> Vec<u8> {
        let mut bytes = Vec::new();
        for field in [FORM, sandbox.as_bytes(), scratch.as_os_str().as_bytes()] {
            bytes.extend_from_slice(field);
            bytes.push(0);
        }
        GuestTree::write(begun, &mut bytes);
        bytes
    }

    /// # Errors
    /// They are no such bytes.
    pub(crate) fn read(bytes: &[u8]) -> io::Result<Self> {
        let mut rest = bytes;
        let mut field = || {
            let mut field = Vec::new();
            rest.read_until(0, &mut field)?;
            match field.pop() {
                Some(0) => Ok(field),
                _ => Err(invalid()),
            }
        };
        if field()? != FORM {
            return Err(invalid());
        }
        let sandbox = String::from_utf8(field()?).map_err(|_| invalid())?;
        let scratch = OsStr::from_bytes(&field()?).into();
        Ok(Self { sandbox, scratch, begun: GuestTree::read(rest)?.paths })
    }

    /// What is known of the guest's tree, where these paths are kept on the host by now.
    pub(crate) fn into_known(self, kept: impl IntoIterator<Item = PathBuf>) -> Known {
        let Self { sandbox, begun, .. } = self;
        // What was brought in is compared with what it was then.
        let is_the_sessions = |path: &PathBuf| !begun.contains_key(path);
        let kept = kept.into_iter().filter(is_the_sessions).map(|path| (path, Kept::Unseen));
        let kept = kept.collect();
        Known { sandbox, begun, kept }
    }
}

fn invalid() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "the record of what is in the sandbox makes no sense",
    )
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;

    use super::super::compare::Difference;
    use super::*;

    fn tree(text: &str) -> GuestTree {
        GuestTree::read(format!("1700.5|{text}rules|end|").replace('|', "\0").as_bytes()).unwrap()
    }

    /// What is found by a process that knows the tree from bytes alone.
    fn found(begun: &str, kept: &[&str], now: &str) -> (Vec<PathBuf>, Vec<PathBuf>) {
        let bytes = GuestState::write("sb1", Path::new("/tmp/forge-1"), &tree(begun).paths);
        let state = GuestState::read(&bytes).unwrap();
        assert_eq!((&*state.sandbox, &*state.scratch), ("sb1", Path::new("/tmp/forge-1")));
        let known = state.into_known(kept.iter().map(PathBuf::from));
        let found = Difference::of(&known, &tree(now));
        (found.there.into_iter().map(|(path, ..)| path).collect(), found.gone)
    }

    fn paths(names: &[&str]) -> Vec<PathBuf> {
        names.iter().map(PathBuf::from).collect()
    }

    const A: &str = "f 644 3 1600.25 7|a b||";
    const LINK: &str = "l 777 4 1600.5 9|link|../x|";

    #[test]
    fn what_is_as_it_was_brought_in_is_no_change() {
        let begun = format!("{A}d 755 0 1600.5 8|d||u 0 0 0 0|closed||{LINK}");
        assert_eq!(found(&begun, &["a b"], &begun), (vec![], vec![]));
    }

    #[test]
    fn what_is_other_new_or_gone_is_found() {
        let now = format!("f 644 3 1601.25 7|a b||{A}").replace(A, "f 644 1 1602.0 9|new||");
        assert_eq!(
            found(&format!("{A}{LINK}"), &[], &now),
            (paths(&["a b", "new"]), paths(&["link"]))
        );
    }

    #[test]
    fn what_the_session_has_is_fetched_again_or_found_to_be_gone() {
        assert_eq!(found("", &["a b", "other"], A), (paths(&["a b"]), paths(&["other"])));
    }

    #[test]
    fn what_may_have_been_written_in_the_same_step_of_the_clock_is_fetched() {
        let fresh = "f 644 3 1700.49 7|a||";
        assert_eq!(found(fresh, &[], fresh), (paths(&["a"]), vec![]));
    }

    #[test]
    fn what_is_no_state_is_refused() {
        let whole = GuestState::write("sb1", Path::new("/s"), &tree(A).paths);
        for length in 0..whole.len() {
            assert!(GuestState::read(&whole[..length]).is_err(), "{length}");
        }
        assert!(GuestState::read(b"forge guest 2\0sb1\0/s\0").is_err());
    }
}
