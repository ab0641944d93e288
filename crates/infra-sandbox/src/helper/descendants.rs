//! The processes that come from one, where they share a pid namespace with others.

use std::collections::BTreeMap;
use std::fs;

/// Its children, their children and so on, as far as they are there while it is looked; not itself.
pub(super) fn of(ancestor: i32) -> Vec<i32> {
    let mut children = families();
    let mut found = Vec::new();
    let mut open = vec![ancestor];
    while let Some(next) = open.pop() {
        let own = children.remove(&next).unwrap_or_default();
        found.extend(&own);
        open.extend(own);
    }
    found
}

/// Its children alone.
pub(super) fn children_of(parent: i32) -> Vec<i32> {
    families().remove(&parent).unwrap_or_default()
}

/// The children of each process that has any.
fn families() -> BTreeMap<i32, Vec<i32>> {
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    // Not `/proc/PID/task/TID/children`, which not every kernel has.
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let Ok(stat) = fs::read(entry.path().join("stat")) else { continue };
        if let Some(parent) = parent(&stat) {
            children.entry(parent).or_default().push(pid);
        }
    }
    children
}

/// The parent in the line of `/proc/PID/stat`. The name before it is in parentheses and may hold anything
/// (proc_pid_stat(5)). A zombie counts: one whose other threads live on has to be killed, too.
fn parent(stat: &[u8]) -> Option<i32> {
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    let mut rest = stat[end + 1..].split(|byte| *byte == b' ').filter(|word| !word.is_empty());
    let _state = rest.next()?;
    std::str::from_utf8(rest.next()?).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn the_parent_is_found_behind_any_name() {
        assert_eq!(parent(b"12 (a) 3 (b) S 7 12 12 0"), Some(7));
        assert_eq!(parent(b"nonsense"), None);
    }

    #[test]
    fn grandchildren_are_found() {
        let mut shell = Command::new("sh")
            .args(["-c", "sleep 60 & echo $!; wait"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let stdout = shell.stdout.take().unwrap();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line).unwrap();
        let grandchild: i32 = line.trim().parse().unwrap();
        let found = of(std::process::id().cast_signed());
        let child = shell.id().cast_signed();
        super::super::kernel::kill(grandchild, libc::SIGKILL);
        shell.wait().unwrap();
        assert!(found.contains(&child) && found.contains(&grandchild), "{found:?}");
    }
}
