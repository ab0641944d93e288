//! Where something is mounted on the host.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// The mount points of this process's mount namespace.
#[derive(Debug)]
pub(crate) struct MountPoints(Vec<PathBuf>);

impl MountPoints {
    /// Asks the kernel (proc_pid_mountinfo(5)).
    pub(crate) fn read() -> Self {
        Self::parse(&fs::read("/proc/self/mountinfo").unwrap_or_default())
    }

    fn parse(mountinfo: &[u8]) -> Self {
        let lines = mountinfo.split(|byte| *byte == b'\n');
        let points = lines.filter_map(|line| line.split(|byte| *byte == b' ').nth(4));
        Self(points.map(|point| PathBuf::from(OsString::from_vec(unescaped(point)))).collect())
    }

    /// One strictly beneath a directory.
    pub(crate) fn beneath(&self, directory: &Path) -> Option<&Path> {
        let mut points = self.0.iter().map(PathBuf::as_path);
        points.find(|point| *point != directory && point.starts_with(directory))
    }
}

/// Octal escapes of white space and backslashes.
fn unescaped(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        let digits = (*first == b'\\').then(|| after.get(..3)).flatten();
        let code = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;

    use super::*;

    #[test]
    fn a_mount_beneath_a_directory_is_found() {
        let line = |point: &str| format!("36 35 98:0 / {point} rw,noatime - ext3 /dev/root rw\n");
        let of = |points: &[&str]| {
            let lines: String = points.iter().map(|point| line(point)).collect();
            let points = MountPoints::parse(lines.as_bytes());
            points.beneath(Path::new("/work/a b")).map(Path::to_path_buf)
        };
        assert_eq!(of(&["/", "/work", "/work/a\\040b", "/work/a\\040bc"]), None);
        assert_eq!(of(&["/", "/work/a\\040b/data"]), Some(PathBuf::from("/work/a b/data")));
    }
}
