//! Where a symlink leads.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

/// So many links are followed (`MAXSYMLINKS` of Linux).
const MAX_LINKS: usize = 40;

/// Whether a symlink leads to somewhere within the workspace, itself and every link on the way followed. One whose
/// target is not there yet leads where it would be. An absolute target is within where it begins with the
/// workspace's own path.
///
/// `link_at` says where the symlink at a path points; `None` where there is no symlink.
pub(super) fn stays_inside(
    workspace: &Path,
    link: &Path,
    target: &Path,
    link_at: &mut dyn FnMut(&Path) -> Option<PathBuf>,
) -> bool {
    let mut at = link.parent().map(Path::to_path_buf).unwrap_or_default();
    let mut ahead: VecDeque<OsString> = VecDeque::new();
    if !push(workspace, target, &mut at, &mut ahead) {
        return false;
    }
    let mut followed = 0;
    while let Some(name) = ahead.pop_front() {
        if name == ".." {
            if !at.pop() {
                return false;
            }
            continue;
        }
        at.push(&name);
        let Some(target) = link_at(&at) else { continue };
        followed += 1;
        at.pop();
        if followed > MAX_LINKS || !push(workspace, &target, &mut at, &mut ahead) {
            return false;
        }
    }
    true
}

/// Puts the names of a target ahead of what is still to be walked; says no where it is outside at once.
fn push(workspace: &Path, target: &Path, at: &mut PathBuf, ahead: &mut VecDeque<OsString>) -> bool {
    let relative = if target.is_absolute() {
        let Ok(relative) = target.strip_prefix(workspace) else { return false };
        at.clear();
        relative
    } else {
        target
    };
    let names: Vec<OsString> = relative
        .components()
        .filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir))
        .map(|part| part.as_os_str().to_owned())
        .collect();
    for name in names.into_iter().rev() {
        ahead.push_front(name);
    }
    true
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use pretty_assertions::assert_eq;

    use super::*;

    fn inside(links: &[(&str, &str)], link: &str) -> bool {
        let links: BTreeMap<_, _> =
            links.iter().map(|(from, to)| (PathBuf::from(from), PathBuf::from(to))).collect();
        let target = links[Path::new(link)].clone();
        stays_inside(Path::new("/w"), Path::new(link), &target, &mut |path| {
            links.get(path).cloned()
        })
    }

    #[test]
    fn a_link_is_followed_through_others() {
        for (links, link, expected) in [
            (&[("a", "b")][..], "a", true),
            (&[("a", "missing/x")], "a", true),
            (&[("d/a", "../b")], "d/a", true),
            (&[("a", "../b")], "a", false),
            (&[("d/a", "../../b")], "d/a", false),
            (&[("a", "/etc/passwd")], "a", false),
            (&[("a", "/w/b")], "a", true),
            (&[("a", "/w/../etc")], "a", false),
            (&[("a", "/wider/b")], "a", false),
            (&[("a", "d/x"), ("d", "..")], "a", false),
            (&[("a", "d/../../x"), ("d", "e/f")], "a", true),
            (&[("a", "d/../x"), ("d", "sub")], "a", true),
            (&[("a", "d/../../x"), ("d", "sub")], "a", false),
            (&[("a", "b"), ("b", "a")], "a", false),
            (&[("a", "b/x"), ("b", "/")], "a", false),
            (&[("a", ".")], "a", true),
            (&[("a", "..")], "a", false),
        ] {
            assert_eq!(inside(links, link), expected, "{links:?}");
        }
    }
}
