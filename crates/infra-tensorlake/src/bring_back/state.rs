//! What another process needs to tell what was changed in a sandbox, as bytes: where things are in the guest, and its tree right
//! after the project was brought in. Of one that is to be gone on with, also what was sent and what came back.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{self, BufRead as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use forge_domain::{Digest, SourceStamp};

use super::compare::{Kept, Known};
use super::listing::{GuestStat, GuestTree};
use crate::bring_in::SentPath;

const FORM: &[u8] = b"forge guest 2";

/// What the bytes say.
#[derive(Debug)]
pub(crate) struct GuestState {
    pub(crate) sandbox: String,
    pub(crate) scratch: PathBuf,
    begun: BTreeMap<PathBuf, GuestStat>,
    account: Option<Account>,
}

/// What was sent and what is kept, of each path.
#[derive(Debug)]
struct Account {
    sent: BTreeMap<PathBuf, SentPath>,
    kept: BTreeMap<PathBuf, Kept>,
}

impl GuestState {
    /// The bytes for whoever fetches what was changed; with what was sent, for whoever goes on.
    pub(crate) fn write(
        known: &Known,
        scratch: &Path,
        sent: Option<&BTreeMap<PathBuf, SentPath>>,
    ) -> Vec<u8> {
        let mut to = Writer(Vec::new());
        to.field(FORM);
        to.field(known.sandbox.as_bytes());
        to.field(scratch.as_os_str().as_bytes());
        to.tree(&known.begun);
        if let Some(sent) = sent {
            to.account(sent, &known.kept);
        }
        to.0
    }

    /// # Errors
    /// They are no such bytes.
    pub(crate) fn read(bytes: &[u8]) -> io::Result<Self> {
        let mut from = Reader(bytes);
        if from.field()? != FORM {
            return Err(invalid());
        }
        let sandbox = String::from_utf8(from.field()?).map_err(|_| invalid())?;
        let scratch = OsStr::from_bytes(&from.field()?).into();
        let begun = from.tree()?;
        let account = if from.0.is_empty() { None } else { Some(from.account()?) };
        Ok(Self { sandbox, scratch, begun, account })
    }

    /// What is known of the guest's tree. Where there is no account of it, these paths are kept on the host by now.
    pub(crate) fn into_known(self, kept: impl IntoIterator<Item = PathBuf>) -> Known {
        let Self { sandbox, begun, account, .. } = self;
        let kept = match account {
            Some(account) => account.kept,
            None => {
                // What was brought in is compared with what it was then.
                let is_the_sessions = |path: &PathBuf| !begun.contains_key(path);
                let kept = kept.into_iter().filter(is_the_sessions);
                kept.map(|path| (path, Kept::Unseen)).collect()
            }
        };
        Known { sandbox, begun, kept }
    }

    /// Whether it is enough to go on with.
    pub(crate) fn is_whole(&self) -> bool {
        self.account.is_some()
    }

    /// What is known of the guest's tree, and what was sent; `None` where there is no account.
    pub(crate) fn whole(&self) -> Option<(Known, BTreeMap<PathBuf, SentPath>)> {
        let Self { sandbox, begun, account, .. } = self;
        let Account { sent, kept } = account.as_ref()?;
        let known = Known { sandbox: sandbox.clone(), begun: begun.clone(), kept: kept.clone() };
        Some((known, sent.clone()))
    }
}

struct Writer(Vec<u8>);

impl Writer {
    fn field(&mut self, field: &[u8]) {
        self.0.extend_from_slice(field);
        self.0.push(0);
    }

    fn number(&mut self, number: usize) {
        self.field(number.to_string().as_bytes());
    }

    fn path(&mut self, path: &Path) {
        self.field(path.as_os_str().as_bytes());
    }

    fn digest(&mut self, digest: Option<Digest>) {
        self.field(digest.map(|digest| digest.to_string()).unwrap_or_default().as_bytes());
    }

    fn tree(&mut self, tree: &BTreeMap<PathBuf, GuestStat>) {
        let mut bytes = Vec::new();
        GuestTree::write(tree, &mut bytes);
        self.number(bytes.len());
        self.0.append(&mut bytes);
    }

    fn account(&mut self, sent: &BTreeMap<PathBuf, SentPath>, kept: &BTreeMap<PathBuf, Kept>) {
        self.number(sent.len());
        for (path, SentPath { stamp, digest }) in sent {
            self.path(path);
            self.field(format!("{:x}", stamp.number()).as_bytes());
            self.digest(*digest);
        }
        let there: BTreeMap<PathBuf, GuestStat> = kept
            .iter()
            .filter_map(|(path, kept)| Some((path.clone(), kept.stat()?.clone())))
            .collect();
        self.tree(&there);
        let digest = |kept: &Kept| match kept {
            Kept::There(_, digest) => *digest,
            Kept::Nothing | Kept::Unseen => None,
        };
        self.number(kept.len());
        for (path, kept) in kept {
            self.path(path);
            self.digest(digest(kept));
        }
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn field(&mut self) -> io::Result<Vec<u8>> {
        let mut field = Vec::new();
        self.0.read_until(0, &mut field)?;
        match field.pop() {
            Some(0) => Ok(field),
            _ => Err(invalid()),
        }
    }

    fn text(&mut self) -> io::Result<String> {
        String::from_utf8(self.field()?).map_err(|_| invalid())
    }

    fn number(&mut self) -> io::Result<usize> {
        self.text()?.parse().map_err(|_| invalid())
    }

    fn path(&mut self) -> io::Result<PathBuf> {
        Ok(OsStr::from_bytes(&self.field()?).into())
    }

    fn digest(&mut self) -> io::Result<Option<Digest>> {
        match &*self.text()? {
            "" => Ok(None),
            text => Digest::parse(text).map(Some).ok_or_else(invalid),
        }
    }

    fn tree(&mut self) -> io::Result<BTreeMap<PathBuf, GuestStat>> {
        let length = self.number()?;
        let (tree, rest) = self.0.split_at_checked(length).ok_or_else(invalid)?;
        self.0 = rest;
        Ok(GuestTree::read(tree)?.paths)
    }

    fn account(&mut self) -> io::Result<Account> {
        let mut sent = BTreeMap::new();
        for _ in 0..self.number()? {
            let path = self.path()?;
            let stamp = u128::from_str_radix(&self.text()?, 16).map_err(|_| invalid())?;
            let (stamp, digest) = (SourceStamp::new(stamp), self.digest()?);
            sent.insert(path, SentPath { stamp, digest });
        }
        let mut there = self.tree()?;
        let mut kept = BTreeMap::new();
        for _ in 0..self.number()? {
            let (path, digest) = (self.path()?, self.digest()?);
            let one = match there.remove(&path) {
                Some(stat) => Kept::There(stat, digest),
                None => Kept::Nothing,
            };
            kept.insert(path, one);
        }
        if self.0.is_empty() { Ok(Account { sent, kept }) } else { Err(invalid()) }
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

    fn known(begun: &str) -> Known {
        Known { sandbox: "sb1".to_owned(), begun: tree(begun).paths, kept: BTreeMap::new() }
    }

    /// What is found by a process that knows the tree from bytes alone.
    fn found(begun: &str, kept: &[&str], now: &str) -> (Vec<PathBuf>, Vec<PathBuf>) {
        let bytes = GuestState::write(&known(begun), Path::new("/tmp/forge-1"), None);
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
    fn what_goes_on_with_it_knows_what_was_sent_and_what_came_back() {
        let digest = |byte| Some(Digest::new([byte; 32]));
        let sent = |number, digest| SentPath { stamp: SourceStamp::new(number), digest };
        let all_sent: BTreeMap<PathBuf, SentPath> =
            [("a b".into(), sent(u128::MAX, digest(1))), ("d".into(), sent(7, None))].into();
        let mut before = known(&format!("{A}{LINK}"));
        let stat = before.begun[Path::new("a b")].clone();
        before.kept =
            [("a b".into(), Kept::There(stat, digest(2))), ("gone".into(), Kept::Nothing)].into();
        let bytes = GuestState::write(&before, Path::new("/s"), Some(&all_sent));
        let (after, sent) = GuestState::read(&bytes).unwrap().whole().unwrap();
        assert_eq!(sent, all_sent);
        assert_eq!(format!("{after:?}"), format!("{before:?}"));
        // For whoever only fetches, it is an account as well.
        let fetched = GuestState::read(&bytes).unwrap().into_known([PathBuf::from("other")]);
        assert_eq!(format!("{fetched:?}"), format!("{before:?}"));
        for length in 0..bytes.len() {
            let read = GuestState::read(&bytes[..length]);
            assert!(read.is_err() || read.unwrap().whole().is_none(), "{length}");
        }
        assert!(GuestState::read(&[&bytes[..], b"x"].concat()).is_err());
    }

    #[test]
    fn what_is_no_state_is_refused() {
        let whole = GuestState::write(&known(A), Path::new("/s"), None);
        for length in 0..whole.len() {
            assert!(GuestState::read(&whole[..length]).is_err(), "{length}");
        }
        assert!(GuestState::read(b"forge guest 3\0sb1\0/s\0").is_err());
    }
}
