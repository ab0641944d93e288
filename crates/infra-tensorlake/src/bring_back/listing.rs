//! What the guest's tree is: a list that GNU find prints.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{self, BufRead};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

/// Lists the tree and the rules, as [`PRINT_LIST`] prints it, compressed where that can be. `$1` is `whole` where it is to be
/// listed only as long as the project is whole in it, `settle` where what was written just now has to
/// be told apart from what is written next: the clock for inodes goes in steps of a few milliseconds. A list that is longer than
/// is read ends there.
pub(crate) const LIST_TREE: &str = r#"mkdir -p -- "$K"
find "$K" -maxdepth 0 -printf '' 2>/dev/null || { echo "lacks GNU find"; exit; }
cd -P -- "$W" || exit
[ "$1" != whole ] || [ -e "$K/project" ] || { echo hollow; exit; }
[ "$1" != settle ] || sleep 0.03
refs() {
  [ -e .git ] && command -v git >/dev/null || return 0
  git() { command git -c safe.directory='*' -c core.fsmonitor=false "$@"; }
  if [ -e "$K/refs" ]; then printf 'refs\0known\0'; known=$K/refs
  else printf 'refs\0own\0'; known=/dev/null; fi
  printf '%s\0' "$(git symbolic-ref -q HEAD)"
  { ! id=$(git rev-parse -q --verify 'HEAD^{commit}') || echo "$id HEAD"
    git for-each-ref --format='%(objectname) %(refname)' refs/heads refs/tags refs/notes refs/stash || echo failed
  } | grep -vxFf "$known" | tr '\n' '\0'
}
list() {
  : >"$K/now"
  find "$K/now" -maxdepth 0 -printf '%C@\0'
  find . -mindepth 1 -name .git -prune -o -type d \( ! -readable -o ! -executable \) -printf 'u 0 0 0 0\0%P\0\0' -prune \
    -o -printf '%y %m %s %C@ %i\0%P\0%l\0'
  refs
  printf 'rules\0'
  find . -name .git -prune -o -type f -name .gitignore -size -256k -exec grep -aHnZ '' -- {} + 2>/dev/null
  [ ! -f .git/info/exclude ] || grep -asHnZ '' -- .git/info/exclude
  printf 'end\0'
}
"#;

/// Prints what `list` prints, which is given `$list_of`.
pub(crate) const PRINT_LIST: &str = r#"
if command -v gzip >/dev/null; then echo "ok gzip"; list "$list_of" | head -c 1073741824 | gzip -1 | base64 -w 8192
else echo "ok plain"; list "$list_of" | head -c 1073741824 | base64 -w 8192; fi
"#;

/// No guest has more than so many paths, as far as this goes.
const MAX_ENTRIES: usize = 2_000_000;
/// Nobody brings more refs over at once.
const MAX_REFS: usize = 10_000;
/// Rules of a project are shorter than this together.
const MAX_RULES_BYTES: usize = 16 * 1024 * 1024;
/// `PATH_MAX` of Linux, as also symlinks' targets have it.
const MAX_TEXT_BYTES: usize = 4096;
/// By so much the times of two writes may seem the same.
const CLOCK_STEP_NANOSECONDS: u128 = 20_000_000;

/// What kind of thing a path is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GuestKind {
    File,
    Directory,
    Symlink,
    /// A directory that may not be read; what is in it is unknown.
    Closed,
    /// A socket, a device or a fifo.
    Special,
}

/// What is listed of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GuestStat {
    pub(crate) kind: GuestKind,
    pub(crate) mode: u32,
    pub(crate) size_bytes: u64,
    /// When the inode was last changed, in nanoseconds since 1970.
    changed: u128,
    inode: u64,
    /// Of a symlink.
    pub(crate) target: PathBuf,
    /// It may have been written again within the same step of the clock.
    is_fresh: bool,
}

impl GuestStat {
    /// Whether a path is what it was, as far as a list can tell.
    pub(crate) fn is_still(&self, before: &Self) -> bool {
        match (self.kind, before.kind) {
            // What is in it is listed itself.
            (GuestKind::Directory, GuestKind::Directory) => self.mode == before.mode,
            (GuestKind::Closed, GuestKind::Closed) => true,
            _ => !before.is_fresh && Self { is_fresh: false, ..self.clone() } == *before,
        }
    }
}

/// What the guest's git names that is not as it was brought in. Nothing of it is to be trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestRefs {
    /// Where they come from.
    pub origin: RepositoryOrigin,
    /// What is checked out, a branch's whole name, or nothing.
    pub checked_out: String,
    /// An id and a name each, parted by a space; `HEAD` first.
    pub lines: Vec<String>,
}

/// Where a guest's repository comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RepositoryOrigin {
    /// It was brought in.
    Host,
    /// It was made there.
    Guest,
    /// There is one that cannot be read there, or that names more than anybody takes over.
    Unreadable,
}

/// The guest's tree, and the rules for what is ignored in it.
#[derive(Debug, Default)]
pub(crate) struct GuestTree {
    pub(crate) paths: BTreeMap<PathBuf, GuestStat>,
    /// `None` where there is no repository, or no git.
    pub(crate) refs: Option<GuestRefs>,
    /// The lines of each file with rules.
    pub(crate) rules: BTreeMap<PathBuf, Vec<String>>,
}

impl GuestTree {
    /// Reads what [`LIST_TREE`] prints.
    ///
    /// # Errors
    /// It is cut short, is longer than any tree, or is no such list.
    pub(crate) fn read(from: impl io::Read) -> io::Result<Self> {
        let mut fields = Fields(io::BufReader::with_capacity(64 * 1024, from));
        let now = nanoseconds(&fields.next()?).ok_or_else(|| invalid("it has no time"))?;
        let fresh_since = now.saturating_sub(CLOCK_STEP_NANOSECONDS);
        let mut tree = Self::default();
        let mut entries = 0;
        loop {
            let head = fields.next()?;
            if head == b"refs" {
                tree.refs = Some(read_refs(&mut fields)?);
                break;
            }
            if head == b"rules" {
                break;
            }
            let (path, target) = (fields.next()?, fields.next()?);
            let path = plain(&path).ok_or_else(|| invalid("a path in it leaves the workspace"))?;
            let mut stat = stat(&head).ok_or_else(|| invalid("an entry in it cannot be read"))?;
            stat.is_fresh = stat.changed >= fresh_since;
            if stat.kind == GuestKind::Symlink {
                stat.target = OsStr::from_bytes(&target).into();
            }
            entries += 1;
            if entries > MAX_ENTRIES {
                return Err(invalid("it has more than two million entries"));
            }
            tree.paths.insert(path, stat);
        }
        tree.read_rules(&mut fields)?;
        Ok(tree)
    }

    /// Writes paths as [`read`](Self::read) takes them. What may have been written again within the same step of the clock is
    /// written as something that nothing is the same as.
    pub(crate) fn write(paths: &BTreeMap<PathBuf, GuestStat>, to: &mut Vec<u8>) {
        // After everything that is listed.
        to.extend_from_slice(b"99999999999\0");
        for (path, stat) in paths {
            let kind = match stat.kind {
                _ if stat.is_fresh => 's',
                GuestKind::File => 'f',
                GuestKind::Directory => 'd',
                GuestKind::Symlink => 'l',
                GuestKind::Closed => 'u',
                GuestKind::Special => 's',
            };
            let (seconds, rest) = (stat.changed / 1_000_000_000, stat.changed % 1_000_000_000);
            let GuestStat { mode, size_bytes, inode, .. } = stat;
            let head = format!("{kind} {mode:o} {size_bytes} {seconds}.{rest:09} {inode}");
            for field in
                [head.as_bytes(), path.as_os_str().as_bytes(), stat.target.as_os_str().as_bytes()]
            {
                to.extend_from_slice(field);
                to.push(0);
            }
        }
        to.extend_from_slice(b"rules\0end\0");
    }

    /// A name, NUL, and then `NUMBER:LINE` with a line break, as `grep -HnZ` prints it.
    fn read_rules(&mut self, fields: &mut Fields<impl BufRead>) -> io::Result<()> {
        let mut total = 0;
        let mut name = fields.next()?;
        while name != b"end" {
            let line = fields.line()?;
            total += line.len();
            if total > MAX_RULES_BYTES {
                return Err(invalid("the rules in it are too long"));
            }
            let text = String::from_utf8_lossy(&line);
            if let (Some(path), Some((_, rule))) = (plain(&name), text.split_once(':')) {
                self.rules.entry(path).or_default().push(rule.to_owned());
            }
            name = fields.next()?;
        }
        Ok(())
    }
}

/// `known` or `own`, what is checked out, and the refs up to the rules.
fn read_refs(fields: &mut Fields<impl BufRead>) -> io::Result<GuestRefs> {
    let mut text = || Ok::<_, io::Error>(String::from_utf8_lossy(&fields.next()?).into_owned());
    let origin = match &*text()? {
        "known" => RepositoryOrigin::Host,
        "own" => RepositoryOrigin::Guest,
        _ => return Err(invalid("its refs cannot be read")),
    };
    let mut refs = GuestRefs { origin, checked_out: text()?, lines: Vec::new() };
    loop {
        match text()? {
            line if line == "rules" => return Ok(refs),
            line if line == "failed" => refs.origin = RepositoryOrigin::Unreadable,
            _ if refs.lines.len() >= MAX_REFS => refs.origin = RepositoryOrigin::Unreadable,
            line => refs.lines.push(line),
        }
    }
}

struct Fields<R>(R);

impl<R: BufRead> Fields<R> {
    fn next(&mut self) -> io::Result<Vec<u8>> {
        self.until(0, MAX_TEXT_BYTES + 1)
    }

    fn line(&mut self) -> io::Result<Vec<u8>> {
        self.until(b'\n', MAX_RULES_BYTES)
    }

    fn until(&mut self, end: u8, max_bytes: usize) -> io::Result<Vec<u8>> {
        let mut field = Vec::new();
        io::Read::take(&mut self.0, max_bytes as u64 + 1).read_until(end, &mut field)?;
        match field.pop() {
            Some(last) if last == end => Ok(field),
            Some(_) if field.len() >= max_bytes => Err(invalid("a name in it is too long")),
            _ => Err(invalid("it is cut short")),
        }
    }
}

/// A path beneath the workspace, without the `./` that it may begin with; `None` where it is anything else.
fn plain(bytes: &[u8]) -> Option<PathBuf> {
    let path = Path::new(OsStr::from_bytes(bytes.strip_prefix(b"./").unwrap_or(bytes)));
    let is_plain = path.components().all(|part| matches!(part, Component::Normal(_)));
    // Components leave out what changes nothing: a slash at the end, say.
    let is_exact = path.components().collect::<PathBuf>().as_os_str() == path.as_os_str();
    (!path.as_os_str().is_empty() && is_plain && is_exact).then(|| path.to_path_buf())
}

/// `TYPE MODE SIZE CHANGED INODE`.
fn stat(head: &[u8]) -> Option<GuestStat> {
    let mut words = std::str::from_utf8(head).ok()?.split(' ');
    let kind = match words.next()? {
        "f" => GuestKind::File,
        "d" => GuestKind::Directory,
        "l" => GuestKind::Symlink,
        "u" => GuestKind::Closed,
        _ => GuestKind::Special,
    };
    Some(GuestStat {
        kind,
        mode: u32::from_str_radix(words.next()?, 8).ok()? & 0o7777,
        size_bytes: words.next()?.parse().ok()?,
        changed: nanoseconds(words.next()?.as_bytes())?,
        inode: words.next()?.parse().ok()?,
        target: PathBuf::new(),
        is_fresh: false,
    })
}

/// Seconds with a fraction, as `%C@` of GNU find prints them.
fn nanoseconds(text: &[u8]) -> Option<u128> {
    let text = std::str::from_utf8(text).ok()?;
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let seconds: u64 = seconds.trim_start_matches('-').parse().ok()?;
    Some(u128::from(seconds) * 1_000_000_000 + digits.parse::<u128>().ok()?)
}

fn invalid(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the list of the guest's files: {reason}"))
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;

    use super::*;

    fn read(text: &str) -> io::Result<GuestTree> {
        GuestTree::read(text.replace('|', "\0").as_bytes())
    }

    #[test]
    fn what_find_and_grep_print_is_read_with_any_names() {
        let tree = read(
            "1700.5|f 644 3 1600.25 7|a b|d 755 0 1699.9999999990 8|d||l 777 4 1.0 9|link|../x|\
             u 0 0 0 0|closed||p 600 0 1.0 1|fifo|rules|./.gitignore|1:/target\n\
             ./.gitignore|2:*.log:x\nend|"
                .replace("a b|", "a b||")
                .replace("fifo|", "fifo||")
                .as_str(),
        )
        .unwrap();
        let kinds: Vec<_> =
            tree.paths.iter().map(|(path, stat)| (path.to_str().unwrap(), stat.kind)).collect();
        let expected = [
            ("a b", GuestKind::File),
            ("closed", GuestKind::Closed),
            ("d", GuestKind::Directory),
            ("fifo", GuestKind::Special),
            ("link", GuestKind::Symlink),
        ];
        assert_eq!(kinds, expected);
        assert_eq!(tree.paths[Path::new("a b")].mode, 0o644);
        assert_eq!(tree.paths[Path::new("link")].target, Path::new("../x"));
        assert_eq!(tree.rules[Path::new(".gitignore")], ["/target", "*.log:x"]);
    }

    #[test]
    fn what_git_names_is_read() {
        let refs = |text: &str| read(text).unwrap().refs;
        assert_eq!(refs("1|rules|end|"), None);
        let expected = GuestRefs {
            origin: RepositoryOrigin::Host,
            checked_out: "refs/heads/x".to_owned(),
            lines: vec!["1 HEAD".to_owned(), "1 refs/heads/x".to_owned()],
        };
        let text = "1|refs|known|refs/heads/x|1 HEAD|1 refs/heads/x|rules|end|";
        assert_eq!(refs(text), Some(expected));
        let origin = |text: &str| refs(text).unwrap().origin;
        assert_eq!(origin("1|refs|known||failed|rules|end|"), RepositoryOrigin::Unreadable);
        let many = format!("1|refs|known||{}rules|end|", "1 refs/tags/x|".repeat(MAX_REFS + 1));
        assert_eq!(origin(&many), RepositoryOrigin::Unreadable);
        let expected = GuestRefs {
            origin: RepositoryOrigin::Guest,
            checked_out: String::new(),
            lines: Vec::new(),
        };
        assert_eq!(refs("1|refs|own||rules|end|"), Some(expected));
    }

    #[test]
    fn what_was_written_within_the_clocks_last_step_is_never_taken_for_the_same() {
        let of = |changed: &str| {
            let text = format!("1700.5|f 644 3 {changed} 7|a||rules|end|");
            read(&text).unwrap().paths[Path::new("a")].clone()
        };
        assert!(of("1700.40").is_still(&of("1700.40")));
        assert!(!of("1700.49").is_still(&of("1700.49")));
        assert!(!of("1700.41").is_still(&of("1700.40")));
    }

    #[test]
    fn a_list_that_lies_is_refused() {
        read("1700.5|f 644 3 1600.25 7|a||rules|end|").unwrap();
        let long = format!("1|f 644 3 1 7|{}||rules|end|", "x".repeat(5000));
        let cases = [
            "",
            "1700.5|",
            "x|",
            "1|f 644 3 1 7|a|",
            "1|f 644 3 1 7|../a||rules|end|",
            "1|f 644 3 1 7|/a||rules|end|",
            "1|f 644 3 1 7|a/./b||rules|end|",
            "1|f 644 3 1 7|||rules|end|",
            "1|f 999 3 1 7|a||rules|end|",
            "1|f 644||a||rules|end|",
            "1|f 644 3 1 7|a||rules|",
            "1|rules|x|1:no line break|end|",
            "1|refs|",
            "1|refs|mine|refs/heads/x|rules|end|",
            "1|refs|own|refs/heads/x|1 HEAD|",
            &long,
        ];
        for case in cases {
            assert!(read(case).is_err(), "{:.60}", case);
        }
    }
}
