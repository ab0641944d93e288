//! What programs lead to: the targets of links, and the interpreters that scripts name.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// So many entries of a directory are looked at.
const MAX_ENTRIES: usize = 4096;

/// So many files are opened to see what interprets them.
const MAX_SCRIPTS: usize = 512;

/// The longest first line of a script that the kernel takes (execve(2)).
const MAX_LINE_BYTES: u64 = 256;

/// The real files behind the links of a directory, and the interpreters of its scripts.
pub(super) fn targets(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut targets = Vec::new();
    let mut scripts = 0;
    for entry in entries.flatten().take(MAX_ENTRIES) {
        let path = entry.path();
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_symlink() {
            targets.extend(path.canonicalize().ok().filter(|target| target.is_file()));
        } else if kind.is_file() && scripts < MAX_SCRIPTS {
            scripts += 1;
            targets.extend(interpreter(&path).and_then(|path| path.canonicalize().ok()));
        }
    }
    targets.retain(|target| !target.starts_with(directory));
    targets.sort();
    targets.dedup();
    targets
}

/// The interpreter that a script names in its first line.
fn interpreter(script: &Path) -> Option<PathBuf> {
    let mut line = Vec::new();
    File::open(script).ok()?.take(MAX_LINE_BYTES).read_to_end(&mut line).ok()?;
    let line = line.strip_prefix(b"#!")?;
    let line = line.split(|byte| *byte == b'\n').next()?;
    let word = line.split(|byte| byte.is_ascii_whitespace()).find(|word| !word.is_empty())?;
    let path = Path::new(std::ffi::OsStr::from_bytes(word));
    (path.is_absolute() && !path.starts_with("/usr") && !path.starts_with("/bin"))
        .then(|| path.to_path_buf())
}

/// The interpreters that a virtual environment stands on: where its `python` leads to, link by link,
/// and the home that it notes.
pub(super) fn interpreters(environment: &Path) -> Vec<PathBuf> {
    let noted = fs::read_to_string(environment.join("pyvenv.cfg"));
    let Ok(noted) = noted else { return Vec::new() };
    let mut found = Vec::new();
    let home = noted.lines().filter_map(|line| line.split_once('='));
    for (key, value) in home {
        if key.trim() == "home" {
            found.push(Path::new(value.trim()).join("python"));
        }
    }
    for name in ["python", "python3"] {
        if let Ok(real) = environment.join("bin").join(name).canonicalize() {
            found.push(real);
        }
    }
    found
}
