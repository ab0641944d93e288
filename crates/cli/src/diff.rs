//! `forge diff`: what a session has changed, to be looked at.

use std::ffi::{OsStr, OsString};
use std::io::{self, Write as _};
use std::path::{Component, Path, PathBuf};

use forge_api::difference::{Movable, Moved, Side, renames};
use forge_api::{
    ChangeKind, DetailedChange, FileFacts, ForgeAPI, IgnoredFiles, LineChanges, OutputStream,
    SessionLayers, SessionRef, SessionSummary, WaitingCommits,
};
use serde::Serialize;

use crate::arguments::{DiffArguments, PlaceOptions};
use crate::commits;
use crate::exit::Conclusion;
use crate::failure::{self, Failure};
use crate::pager::{Output, Reader};
use crate::rendering::{ChangedFile, FileSide, PatchStyle, Screen};
use crate::sessions::{Place, plural, print, shown};
use crate::signals::Signals;
use crate::terminal::{Paint, Role, columns, is_terminal};

/// A larger file is summed up.
const MAX_SHOWN_BYTES: u64 = 8 * 1024 * 1024;

/// `forge diff`.
///
/// # Errors
/// There is no such session, or it cannot be read.
pub(crate) async fn diff(arguments: DiffArguments) -> Result<Conclusion, Failure> {
    let place = Place::of(&arguments.common).await?;
    let (named, paths) = targets(&place, arguments.session.as_deref(), &arguments.paths);
    let Some(session) = place.session(named.as_deref())? else {
        return Ok(Conclusion::Done);
    };
    let chosen = chosen(&session, &arguments.common, &paths)?;
    let layers = place.store.layers(&session.id)?;
    let ignored = match arguments.ignored {
        true => IgnoredFiles::Listed,
        false => IgnoredFiles::Counted,
    };
    let mut changes = layers
        .changes_with(ignored)
        .map_err(|source| Failure::System { what: "the changes cannot be read", source })?;
    if !chosen.is_empty() {
        changes.changes.retain(|change| chosen.iter().any(|path| change.path.starts_with(path)));
    }
    let paint = Paint::choose(arguments.common.color.unwrap_or_default(), OutputStream::Stderr);
    if arguments.json {
        let commits = place.store.waiting_commits(&session.id)?;
        json(&session, &layers, &changes.changes, changes.ignored_files, &commits)?;
        return Ok(Conclusion::Done);
    } else if arguments.name_only {
        let mut text = Vec::new();
        for change in &changes.changes {
            writeln!(text, "{}", shown(&change.path)).unwrap_or_default();
        }
        print(&text)?;
    } else if arguments.stat {
        let rows = changes.changes.iter().map(|change| (change, layers.line_changes(change)));
        let mut text = Vec::new();
        stat(&rows.collect::<Vec<_>>(), place.paint, &mut text);
        print(&text)?;
    } else {
        patch(&layers, &changes.changes, place.paint)?;
    }
    if changes.ignored_files > 0
        && (is_terminal(OutputStream::Stderr) || arguments.common.verbose > 0)
    {
        let message = format!(
            "{} ignored {} changed as well: --ignored shows them",
            changes.ignored_files,
            plural(changes.ignored_files, "file", "files")
        );
        failure::note(&message, paint);
    }
    if chosen.is_empty() {
        commits::note_waiting(&place.store, &session.id, paint);
    }
    Ok(Conclusion::Done)
}

/// Shows what waits in the session of an environment that is used. What runs in it goes on meanwhile.
///
/// # Errors
/// It cannot be read.
pub(crate) async fn of_session_in_use(api: &ForgeAPI, paint: Paint) -> Result<(), Failure> {
    let layers = api.review(|review| review.layers().try_clone()).await?;
    let failed = |source| Failure::System { what: "the changes cannot be read", source };
    let Some(layers) = layers.transpose().map_err(failed)? else {
        failure::note("nothing waits", paint);
        return Ok(());
    };
    // The pager may be read for as long as one likes, and commands are served meanwhile.
    let shown = tokio::task::spawn_blocking(move || {
        let changes = layers.changes().map_err(failed)?;
        if changes.changes.is_empty() {
            failure::note("nothing waits", paint);
        }
        patch(&layers, &changes.changes, paint)
    });
    match shown.await {
        Ok(shown) => shown,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(error) => Err(failed(io::Error::other(error))),
    }
}

/// The session that is named, and the paths. A first word that names no session is a path.
pub(crate) fn targets(
    place: &Place,
    first: Option<&OsStr>,
    paths: &[OsString],
) -> (Option<String>, Vec<PathBuf>) {
    let mut paths: Vec<PathBuf> = paths.iter().map(PathBuf::from).collect();
    let Some(first) = first else { return (None, paths) };
    if let Some(text) = first.to_str()
        && (place.store.resolve(text).is_ok() || looks_like_an_id(text))
    {
        return (Some(text.to_owned()), paths);
    }
    paths.insert(0, first.into());
    (None, paths)
}

/// Ids begin with a day.
fn looks_like_an_id(text: &str) -> bool {
    let day = text.split('-').next().unwrap_or_default();
    day.len() >= 4 && day.bytes().all(|byte| byte.is_ascii_digit())
}

/// The paths, relative to the session's workspace.
pub(crate) fn chosen(
    session: &SessionSummary,
    options: &PlaceOptions,
    paths: &[PathBuf],
) -> Result<Vec<PathBuf>, Failure> {
    if paths.is_empty() {
        return Ok(Vec::new());
    }
    let start = options.directory.clone().unwrap_or_else(|| PathBuf::from("."));
    let start = start.canonicalize().map_err(|source| Failure::System {
        what: "the working directory cannot be found",
        source,
    })?;
    let relative = |path: &PathBuf| {
        let absolute = normalized(&start.join(path));
        absolute.strip_prefix(&session.workspace).map(Path::to_path_buf).map_err(|_| {
            let workspace = session.workspace.display();
            Failure::Usage(format!(
                "{} is not in the workspace of this session, {workspace}",
                shown(path)
            ))
        })
    };
    paths.iter().map(relative).collect()
}

/// Without `.` and `..`; no symlink is followed, since what is meant may be gone.
fn normalized(path: &Path) -> PathBuf {
    let mut normalized = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => drop(normalized.pop()),
            Component::RootDir | Component::Normal(_) | Component::Prefix(_) => {
                normalized.push(component);
            }
        }
    }
    normalized
}

/// All differences, file by file: the next is not looked at before somebody wants to read it.
pub(crate) fn patch(
    layers: &SessionLayers,
    changes: &[DetailedChange],
    paint: Paint,
) -> Result<(), Failure> {
    // While the pager runs, an interrupt is the pager's.
    let _signals = Signals::listen()
        .map_err(|source| Failure::System { what: "signals cannot be handled", source })?;
    let screen = match is_terminal(OutputStream::Stdout) || paint == Paint::Colored {
        true => Screen::Terminal,
        false => Screen::Exact,
    };
    let style = PatchStyle { paint, screen };
    let moved = moved(layers, changes);
    let mut output = Output::open();
    for (number, change) in changes.iter().enumerate() {
        // One that moved is shown where it is now.
        if moved.iter().any(|(from, ..)| *from == number) {
            continue;
        }
        let from = moved.iter().find(|(_, to, _)| *to == number);
        let before = from.map_or(change, |(from, ..)| &changes[*from]);
        let mut text = Vec::new();
        style.write(
            ChangedFile {
                old_path: &before.path,
                new_path: &change.path,
                old: side(before.before, |max| layers.before(&before.path, max)),
                new: side(change.after, |max| layers.after(&change.path, max)),
                similarity: from.map(|(.., similarity)| *similarity),
            },
            &mut text,
        );
        if output.write(&text)? == Reader::Gone {
            break;
        }
    }
    output.close();
    Ok(())
}

fn side(
    facts: Option<FileFacts>,
    read: impl FnOnce(u64) -> io::Result<Vec<u8>>,
) -> Option<FileSide> {
    let FileFacts { mode, size_bytes } = facts?;
    Some(FileSide { mode, size_bytes, contents: read(MAX_SHOWN_BYTES) })
}

/// Which deleted change is which created one, by their numbers, and how much of it stayed the same.
fn moved(layers: &SessionLayers, changes: &[DetailedChange]) -> Vec<(usize, usize, u8)> {
    let files = |kind, facts: fn(&DetailedChange) -> Option<FileFacts>| -> Vec<(usize, Movable)> {
        let changes = changes.iter().enumerate().filter(|(_, change)| change.kind == kind);
        let facts = changes.filter_map(|(number, change)| Some((number, facts(change)?)));
        let files = facts.filter(|(_, facts)| facts.mode & 0o170_000 == 0o100_000);
        files.map(|(number, facts)| (number, Movable { size_bytes: facts.size_bytes })).collect()
    };
    let deleted = files(ChangeKind::Deleted, |change| change.before);
    let created = files(ChangeKind::Created, |change| change.after);
    let only = |files: &[(usize, Movable)]| -> Vec<Movable> {
        files.iter().map(|(_, file)| *file).collect()
    };
    let found = renames(&only(&deleted), &only(&created), |side, number| match side {
        Side::Old => layers.before(&changes[deleted[number].0].path, MAX_SHOWN_BYTES).ok(),
        Side::New => layers.after(&changes[created[number].0].path, MAX_SHOWN_BYTES).ok(),
    });
    let numbers = |moved: Moved| (deleted[moved.from].0, created[moved.to].0, moved.similarity);
    found.into_iter().map(numbers).collect()
}

/// What `--json` prints.
#[derive(Serialize)]
struct JsonDiff<'a> {
    session: &'a str,
    workspace: String,
    changes: Vec<JsonChange<'a>>,
    ignored_files: u64,
    /// The refs of commits that wait; null where there may be any that only git can name.
    commits: Option<Vec<JsonRef<'a>>>,
}

/// A ref of the session, without the `refs/`.
#[derive(Serialize)]
struct JsonRef<'a> {
    name: &'a str,
    id: &'a str,
}

/// One path. A field that does not apply is null.
#[derive(Serialize)]
struct JsonChange<'a> {
    /// What is no UTF-8 is replaced in it; then the bytes are in `path_bytes`.
    path: std::borrow::Cow<'a, str>,
    path_bytes: Option<&'a [u8]>,
    kind: &'static str,
    old_mode: Option<String>,
    new_mode: Option<String>,
    old_size_bytes: Option<u64>,
    new_size_bytes: Option<u64>,
    is_binary: bool,
    added_lines: Option<u64>,
    removed_lines: Option<u64>,
    renamed_from: Option<std::borrow::Cow<'a, str>>,
}

fn json<'a>(
    session: &SessionSummary,
    layers: &SessionLayers,
    changes: &[DetailedChange],
    ignored_files: u64,
    commits: &'a WaitingCommits,
) -> Result<(), Failure> {
    use std::os::unix::ffi::OsStrExt;
    let moved = moved(layers, changes);
    let mode = |facts: Option<FileFacts>| facts.map(|facts| format!("{:06o}", facts.mode));
    let size = |facts: Option<FileFacts>| facts.map(|facts| facts.size_bytes);
    let change = |(number, change): (usize, &'_ DetailedChange)| {
        let lines = layers.line_changes(change);
        let (added, removed) = match lines {
            LineChanges::Lines { added, removed } => (Some(added), Some(removed)),
            LineChanges::Binary | LineChanges::NoFile => (None, None),
        };
        (number, lines, added, removed)
    };
    let rows: Vec<_> = changes.iter().enumerate().map(change).collect();
    let changes = changes.iter().zip(&rows).map(|(change, (number, lines, added, removed))| {
        let from = moved.iter().find(|(_, to, _)| to == number);
        JsonChange {
            path: change.path.to_string_lossy(),
            path_bytes: change.path.to_str().is_none().then(|| change.path.as_os_str().as_bytes()),
            kind: match change.kind {
                ChangeKind::Created => "created",
                ChangeKind::Modified => "modified",
                ChangeKind::Deleted => "deleted",
                ChangeKind::ModeChanged => "mode_changed",
                ChangeKind::TypeChanged => "type_changed",
            },
            old_mode: mode(change.before),
            new_mode: mode(change.after),
            old_size_bytes: size(change.before),
            new_size_bytes: size(change.after),
            is_binary: *lines == LineChanges::Binary,
            added_lines: *added,
            removed_lines: *removed,
            renamed_from: from.map(|(from, ..)| changes[*from].path.to_string_lossy()),
        }
    });
    let whole = JsonDiff {
        session: session.id.as_str(),
        workspace: session.workspace.display().to_string(),
        changes: changes.collect(),
        ignored_files,
        commits: match commits {
            WaitingCommits::None => Some(Vec::new()),
            WaitingCommits::Refs(refs) => {
                let row =
                    |one: &'a SessionRef| JsonRef { name: one.name.as_str(), id: one.id.as_str() };
                Some(refs.iter().map(row).collect())
            }
            WaitingCommits::Unknown => None,
        },
    };
    let mut text = serde_json::to_vec_pretty(&whole).map_err(|error| Failure::System {
        what: "the changes cannot be written as JSON",
        source: error.into(),
    })?;
    text.push(b'\n');
    print(&text)
}

/// As `git diff --stat` has it: a line a file, and a sum.
fn stat(rows: &[(&DetailedChange, LineChanges)], paint: Paint, text: &mut Vec<u8>) {
    if rows.is_empty() {
        return;
    }
    let names: Vec<String> = rows.iter().map(|(change, _)| shown(&change.path)).collect();
    let widest = names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
    let most = rows.iter().map(|(_, lines)| total(*lines)).max().unwrap_or(0);
    let digits = most.to_string().len().max(3);
    let room = columns(OutputStream::Stdout).saturating_sub(digits + 6);
    let name_room = widest.min(room.saturating_sub(10).max(20));
    let bar_room = room.saturating_sub(name_room).clamp(4, 40) as u64;
    let (mut added, mut removed) = (0, 0);
    for ((change, lines), name) in rows.iter().zip(names) {
        let name = shortened(&name, name_room);
        let what = match (change.kind, lines) {
            (ChangeKind::ModeChanged, _) => match (change.before, change.after) {
                (Some(before), Some(after)) => {
                    format!("mode {:o} → {:o}", before.mode & 0o7777, after.mode & 0o7777)
                }
                _ => "mode".to_owned(),
            },
            (ChangeKind::TypeChanged, LineChanges::NoFile) => "type".to_owned(),
            (kind, LineChanges::NoFile) => described(kind).to_owned(),
            (_, LineChanges::Binary) => {
                let size = |facts: Option<forge_api::FileFacts>| facts.map_or(0, |f| f.size_bytes);
                format!("{:>digits$} {} → {} bytes", "Bin", size(change.before), size(change.after))
            }
            (_, LineChanges::Lines { added: more, removed: fewer }) => {
                added += more;
                removed += fewer;
                let sum = more + fewer;
                let scale = |count: &u64| match most {
                    0 => 0,
                    most if most <= bar_room => *count,
                    most => (count * bar_room).div_ceil(most),
                };
                let bar = |role, sign: &str, count: &u64| {
                    paint.paint(role, &sign.repeat(usize::try_from(scale(count)).unwrap_or(0)))
                };
                let mark = match change.kind {
                    ChangeKind::Created => " (new)",
                    ChangeKind::Deleted => " (gone)",
                    ChangeKind::TypeChanged => " (type)",
                    ChangeKind::Modified | ChangeKind::ModeChanged => "",
                };
                let (plus, minus) = (bar(Role::Good, "+", more), bar(Role::Bad, "-", fewer));
                format!("{sum:>digits$} {plus}{minus}{mark}")
            }
        };
        let pad = " ".repeat(name_room.saturating_sub(name.chars().count()));
        writeln!(text, " {name}{pad} | {}", what.trim_end()).unwrap_or_default();
    }
    let files = rows.len() as u64;
    let mut sum = format!(" {files} {} changed", plural(files, "file", "files"));
    if added > 0 || removed == 0 {
        sum.push_str(&format!(", {added} {}(+)", plural(added, "insertion", "insertions")));
    }
    if removed > 0 {
        sum.push_str(&format!(", {removed} {}(-)", plural(removed, "deletion", "deletions")));
    }
    writeln!(text, "{sum}").unwrap_or_default();
}

fn total(lines: LineChanges) -> u64 {
    match lines {
        LineChanges::Lines { added, removed } => added + removed,
        LineChanges::Binary | LineChanges::NoFile => 0,
    }
}

pub(crate) fn described(kind: ChangeKind) -> &'static str {
    match kind {
        ChangeKind::Created => "new",
        ChangeKind::Modified => "other",
        ChangeKind::Deleted => "gone",
        ChangeKind::ModeChanged => "mode",
        ChangeKind::TypeChanged => "type",
    }
}

/// The end of a name that is too long says more than its beginning.
fn shortened(name: &str, room: usize) -> String {
    let length = name.chars().count();
    if length <= room {
        return name.to_owned();
    }
    let kept: String = name.chars().skip(length - room.saturating_sub(1)).collect();
    format!("…{kept}")
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;

    use super::*;

    #[test]
    fn the_stat_has_a_line_a_file_and_a_sum() {
        let facts = |mode| Some(FileFacts { mode, size_bytes: 5 });
        let change = |path: &str, kind, before, after| DetailedChange {
            path: path.into(),
            kind,
            before,
            after,
        };
        let new = change("src/new.rs", ChangeKind::Created, None, facts(0o100_644));
        let gone = change("old", ChangeKind::Deleted, facts(0o100_644), None);
        let mode = change("run", ChangeKind::ModeChanged, facts(0o100_644), facts(0o100_755));
        let binary = change("bin", ChangeKind::Modified, facts(0o100_644), facts(0o100_644));
        let mut text = Vec::new();
        stat(
            &[
                (&new, LineChanges::Lines { added: 3, removed: 0 }),
                (&gone, LineChanges::Lines { added: 0, removed: 2 }),
                (&mode, LineChanges::Lines { added: 0, removed: 0 }),
                (&binary, LineChanges::Binary),
            ],
            Paint::Plain,
            &mut text,
        );
        let expected = " src/new.rs |   3 +++ (new)\n \
                        old        |   2 -- (gone)\n \
                        run        | mode 644 → 755\n \
                        bin        | Bin 5 → 5 bytes\n \
                        4 files changed, 3 insertions(+), 2 deletions(-)\n";
        assert_eq!(String::from_utf8(text).unwrap(), expected);
    }

    #[test]
    fn what_begins_with_a_day_is_an_id_and_not_a_path() {
        for (text, expected) in [
            ("20261124-1", true),
            ("2026", true),
            ("src", false),
            ("12", false),
            ("2026.md", false),
        ] {
            assert_eq!(looks_like_an_id(text), expected, "{text}");
        }
    }

    #[test]
    fn a_path_is_taken_from_where_the_user_stands() {
        assert_eq!(normalized(Path::new("/a/b/../c/./d")), Path::new("/a/c/d"));
    }
}
