//! Where a path leads, and the links on the way: these have to be there inside too, or a path that
//! works on the host leads nowhere.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs;
use std::path::{Component, Path, PathBuf};

/// As many links are followed as Linux follows in one path (path_resolution(7)).
const MAX_LINKS: usize = 40;

/// Directories of the root that are there inside whatever they are on the host: `/home` is a link on
/// some systems. What is in them is linked one by one.
const LAID_OUT: [&str; 8] = ["/home", "/media", "/mnt", "/root", "/run", "/srv", "/tmp", "/var"];

/// Links lead out of these by magic; nothing of theirs is followed.
const MAGIC: [&str; 3] = ["/dev", "/proc", "/sys"];

/// A walk to an existing file or directory.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Trail {
    /// Where it ends; no part of it is a link.
    pub(super) real: PathBuf,
    /// The links on the way, each at its real place, and what each holds.
    pub(super) links: Vec<(PathBuf, PathBuf)>,
}

/// Follows an absolute path. `None`: it is relative, or leads nowhere.
pub(super) fn follow(path: &Path) -> Option<Trail> {
    if !path.is_absolute() {
        return None;
    }
    let mut trail = Trail { real: PathBuf::from("/"), links: Vec::new() };
    let mut ahead: VecDeque<OsString> = parts(path).collect();
    let mut followed = 0;
    while let Some(part) = ahead.pop_front() {
        if part == ".." {
            trail.real.pop();
            continue;
        }
        let here = trail.real.join(&part);
        if MAGIC.iter().any(|magic| here.starts_with(magic)) {
            return None;
        }
        if !fs::symlink_metadata(&here).ok()?.is_symlink() {
            trail.real = here;
            continue;
        }
        followed += 1;
        if followed > MAX_LINKS {
            return None;
        }
        let target = fs::read_link(&here).ok()?;
        let next = ahead.front().filter(|next| *next != "..");
        match next.filter(|_| LAID_OUT.iter().any(|own| here == Path::new(own))) {
            Some(next) => {
                let full = trail.real.join(&target).join(next);
                trail.links.push((here.join(next), full));
            }
            None => trail.links.push((here, target.clone())),
        }
        if target.is_absolute() {
            trail.real = PathBuf::from("/");
        }
        for part in parts(&target).collect::<Vec<_>>().into_iter().rev() {
            ahead.push_front(part);
        }
    }
    Some(trail)
}

fn parts(path: &Path) -> impl Iterator<Item = OsString> {
    path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use pretty_assertions::assert_eq;

    use super::*;

    #[test]
    fn every_link_on_the_way_is_told_at_its_real_place() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("b/c")).unwrap();
        fs::create_dir_all(root.join("d/bin")).unwrap();
        symlink("b", root.join("a")).unwrap();
        symlink(root.join("d"), root.join("b/c/x")).unwrap();
        let actual = follow(&root.join("a/c/../c/x/bin")).unwrap();
        let links =
            vec![(root.join("a"), PathBuf::from("b")), (root.join("b/c/x"), root.join("d"))];
        assert_eq!(actual, Trail { real: root.join("d/bin"), links });
    }

    #[test]
    fn a_ring_a_missing_part_and_magic_lead_nowhere() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        symlink("y", root.join("x")).unwrap();
        symlink("x", root.join("y")).unwrap();
        symlink("/proc/self/cwd", root.join("z")).unwrap();
        for path in ["x", "missing", "missing/..", "z"] {
            assert_eq!(follow(&root.join(path)), None, "{path}");
        }
        assert_eq!(follow(Path::new("relative")), None);
        assert_eq!(follow(Path::new("/proc/self/root/usr")), None);
    }
}
