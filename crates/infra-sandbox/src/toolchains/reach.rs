//! What programs lead to: the targets of links, and the interpreters that scripts name.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// So many entries of a directory are looked at.
const MAX_ENTRIES: usize = 4096;

/// So many files of a directory are opened to see what interprets them.
const MAX_SCRIPTS: usize = 512;

/// The kernel takes 256 bytes of a script's first line (execve(2)); a second one that names the real
/// interpreter, see [`interpreter`], is as short.
const MAX_LINES_BYTES: u64 = 512;

/// So much of what a virtual environment notes is read; it takes a few lines.
const MAX_NOTE_BYTES: u64 = 16 * 1024;

/// What the programs of a directory lead to.
#[derive(Debug, Default)]
pub(super) struct Reached {
    /// Links that lead out of the directory.
    pub(super) links: Vec<PathBuf>,
    /// Interpreters that scripts name, each once.
    pub(super) interpreters: Vec<PathBuf>,
}

/// Looks through a directory of programs.
pub(super) fn reached(directory: &Path) -> Reached {
    let mut reached = Reached::default();
    let Ok(entries) = fs::read_dir(directory) else { return reached };
    // What a version manager makes there, one for each program, names its own shell and nothing else.
    let mut scripts = if directory.ends_with("shims") { MAX_SCRIPTS } else { 0 };
    for entry in entries.flatten().take(MAX_ENTRIES) {
        let Ok(kind) = entry.file_type() else { continue };
        let path = entry.path();
        if kind.is_symlink() {
            // One that names its neighbour leads nowhere else.
            if fs::read_link(&path).is_ok_and(|target| target.components().count() > 1) {
                reached.links.push(path);
            }
        } else if kind.is_file() && scripts < MAX_SCRIPTS {
            scripts += 1;
            reached.interpreters.extend(interpreter(&path));
        }
    }
    reached.interpreters.sort();
    reached.interpreters.dedup();
    reached
}

/// The interpreter that a script names in its first line, if that is none of the system's. Where that
/// line would be too long, installers of Python's have the shell start it: `'''exec' PATH "$0"`.
pub(super) fn interpreter(script: &Path) -> Option<PathBuf> {
    let text = beginning(script, MAX_LINES_BYTES)?;
    let text = text.strip_prefix(b"#!")?;
    let mut lines = text.split(|byte| *byte == b'\n');
    let first = lines.next()?;
    let second = lines.next().and_then(|line| line.strip_prefix(b"'''exec' "));
    let line = second.unwrap_or(first).trim_ascii();
    let word = match line.strip_prefix(b"\"") {
        Some(quoted) => quoted.split(|byte| *byte == b'"').next()?,
        None => line.split(u8::is_ascii_whitespace).next()?,
    };
    let path = Path::new(OsStr::from_bytes(word));
    let is_of_system = path.starts_with("/usr/bin") || path.starts_with("/bin");
    (path.is_absolute() && !is_of_system).then(|| path.to_path_buf())
}

/// The beginning of a regular file. Nothing waits here: what is a pipe by now is no file.
fn beginning(path: &Path, max_bytes: u64) -> Option<Vec<u8>> {
    let nonblock = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file: File = OpenOptions::new().read(true).custom_flags(nonblock).open(path).ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut bytes = Vec::with_capacity(usize::try_from(max_bytes).ok()?);
    file.take(max_bytes).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// Whether a directory is a virtual environment of Python's.
pub(super) fn is_environment(directory: &Path) -> bool {
    directory.join("pyvenv.cfg").is_file()
}

/// The interpreters that a virtual environment stands on: its own, which are links, and those where it
/// notes its home to be. Not looked at yet. Empty where it is no virtual environment.
pub(super) fn interpreters(environment: &Path) -> Vec<PathBuf> {
    let Some(noted) = beginning(&environment.join("pyvenv.cfg"), MAX_NOTE_BYTES) else {
        return Vec::new();
    };
    let home = noted.split(|byte| *byte == b'\n').find_map(|line| {
        let (key, value) = line.split_at_checked(line.iter().position(|byte| *byte == b'=')?)?;
        let value = value.strip_prefix(b"=")?.trim_ascii();
        (key.trim_ascii() == b"home").then(|| PathBuf::from(OsStr::from_bytes(value)))
    });
    [Some(environment.join("bin")), home]
        .into_iter()
        .flatten()
        .flat_map(|directory| ["python", "python3"].map(|name| directory.join(name)))
        .collect()
}

/// The installation that a Python interpreter belongs to. `None`: it is none, whatever its name is.
///
/// A project brings its virtual environment along and with it says what is to be shown; so a name is
/// not enough, the interpreter's own library has to be where the interpreter looks for it.
pub(super) fn python_installation(program: &Path) -> Option<PathBuf> {
    let name = program.file_name()?.to_str()?;
    let is_python = name.starts_with("python") || name.starts_with("pypy");
    let directory = program.parent().filter(|directory| directory.ends_with("bin"))?;
    let prefix = directory.parent().filter(|_| is_python && program.is_file())?;
    let holds_library = ["lib", "lib64"].iter().any(|library| {
        let Ok(entries) = fs::read_dir(prefix.join(library)) else { return false };
        entries.flatten().take(MAX_ENTRIES).any(|entry| {
            let name = entry.file_name();
            let is_python = name.as_bytes().starts_with(b"py");
            is_python && entry.path().join("os.py").is_file()
        })
    });
    holds_library.then(|| prefix.to_path_buf())
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;

    use super::*;

    #[test]
    fn the_interpreter_of_a_script_is_read_from_its_first_lines() {
        let directory = tempfile::tempdir().unwrap();
        let script = directory.path().join("script");
        let of = |text: &str| {
            fs::write(&script, text).unwrap();
            interpreter(&script)
        };
        let python = Some(PathBuf::from("/h/v/bin/python"));
        assert_eq!(of("#!/h/v/bin/python\nimport x"), python);
        assert_eq!(of("#! /h/v/bin/python -I\n"), python);
        assert_eq!(of("#!/bin/sh\n'''exec' /h/v/bin/python \"$0\" \"$@\"\n' '''\n"), python);
        let quoted = of("#!/bin/sh\n'''exec' \"/h/a b/bin/python\" \"$0\" \"$@\"\n' '''\n");
        assert_eq!(quoted, Some(PathBuf::from("/h/a b/bin/python")));
        for none in
            ["#!/usr/bin/env python\n", "#!/bin/sh\n", "#!relative\n", "\u{7f}ELF", "", "#!"]
        {
            assert_eq!(of(none), None, "{none}");
        }
    }

    #[test]
    fn a_pipe_is_no_script_and_nobody_waits_for_it() {
        let directory = tempfile::tempdir().unwrap();
        let pipe = directory.path().join("pyvenv.cfg");
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        assert_eq!(interpreter(&pipe), None);
        assert_eq!(interpreters(directory.path()), Vec::<PathBuf>::new());
    }
}
