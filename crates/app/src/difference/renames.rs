//! Files that are gone here and there again elsewhere.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use similar::{Algorithm, TextDiff};

use super::looks_binary;

/// Files with more of their lines the same are the same file (git's own default).
const MIN_SIMILARITY: f32 = 0.5;

/// So many pairs are compared line by line, for so long in all, none with more bytes than this.
const MAX_PAIRS: usize = 2_500;
const MAX_TIME: Duration = Duration::from_secs(1);
const MAX_COMPARED_BYTES: u64 = 256 * 1024;

/// So much is read to find files that are the same to the byte.
const MAX_READ_BYTES: u64 = 256 * 1024 * 1024;

/// A file that may have moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Movable {
    /// Its size.
    pub size_bytes: u64,
}

/// A file that did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moved {
    /// Which of the deleted ones.
    pub from: usize,
    /// Which of the created ones.
    pub to: usize,
    /// How much of it stayed the same, in hundredths.
    pub similarity: u8,
}

/// Finds out which created files are deleted ones: first those that are the same to the byte, then those that
/// are alike. Empty files are none. Bounded: of very many, only the first are looked at.
///
/// `read` gives the contents of a deleted or created file by its number, or nothing where it cannot.
pub fn renames(
    deleted: &[Movable],
    created: &[Movable],
    mut read: impl FnMut(Side, usize) -> Option<Vec<u8>>,
) -> Vec<Moved> {
    let mut moved = exact(deleted, created, &mut read);
    let is_left = |side: Side, number: usize| {
        !moved.iter().any(|moved| number == if side == Side::Old { moved.from } else { moved.to })
    };
    let small = |file: &Movable| (1..=MAX_COMPARED_BYTES).contains(&file.size_bytes);
    let left = |side, files: &[Movable]| -> Vec<usize> {
        let numbers = files.iter().enumerate().filter(|(_, file)| small(file));
        numbers.map(|(number, _)| number).filter(|number| is_left(side, *number)).collect()
    };
    let (old, new) = (left(Side::Old, deleted), left(Side::New, created));
    if old.len().saturating_mul(new.len()) <= MAX_PAIRS {
        let mut text = |side, numbers: &[usize]| -> Vec<(usize, Vec<u8>)> {
            let read = numbers.iter().filter_map(|number| Some((*number, read(side, *number)?)));
            read.filter(|(_, contents)| !looks_binary(contents)).collect()
        };
        let (old, new) = (text(Side::Old, &old), text(Side::New, &new));
        moved.extend(alike(&old, &new));
    }
    moved.sort_by_key(|moved| moved.to);
    moved
}

/// Which side a file is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Before.
    Old,
    /// After.
    New,
}

fn exact(
    deleted: &[Movable],
    created: &[Movable],
    read: &mut impl FnMut(Side, usize) -> Option<Vec<u8>>,
) -> Vec<Moved> {
    let mut sizes: HashMap<u64, Vec<usize>> = HashMap::new();
    for (number, file) in created.iter().enumerate().filter(|(_, file)| file.size_bytes > 0) {
        sizes.entry(file.size_bytes).or_default().push(number);
    }
    let mut contents: HashMap<usize, Vec<u8>> = HashMap::new();
    let (mut moved, mut budget) = (Vec::new(), MAX_READ_BYTES);
    for (from, file) in deleted.iter().enumerate() {
        let Some(candidates) = sizes.get_mut(&file.size_bytes) else { continue };
        let cost = file.size_bytes.saturating_mul(candidates.len() as u64 + 1);
        if candidates.is_empty() || cost > budget {
            continue;
        }
        budget -= cost;
        let Some(old) = read(Side::Old, from) else { continue };
        let found = candidates.iter().position(|to| {
            let new =
                contents.entry(*to).or_insert_with(|| read(Side::New, *to).unwrap_or_default());
            *new == old
        });
        if let Some(at) = found {
            moved.push(Moved { from, to: candidates.remove(at), similarity: 100 });
        }
    }
    moved
}

/// The pairs that are most alike, each file in one.
fn alike(old: &[(usize, Vec<u8>)], new: &[(usize, Vec<u8>)]) -> Vec<Moved> {
    let deadline = Instant::now() + MAX_TIME;
    let mut pairs = Vec::new();
    for (from, before) in old {
        for (to, after) in new {
            let (short, long) =
                (before.len().min(after.len()) as u64, before.len().max(after.len()) as u64);
            if short * 2 < long || Instant::now() > deadline {
                continue;
            }
            let ratio = similarity(before, after, deadline);
            if ratio >= MIN_SIMILARITY {
                pairs.push((ratio, *from, *to));
            }
        }
    }
    pairs.sort_by(|left, right| right.0.total_cmp(&left.0));
    let mut moved: Vec<Moved> = Vec::new();
    for (ratio, from, to) in pairs {
        if !moved.iter().any(|moved| moved.from == from || moved.to == to) {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "between 50 and 100"
            )]
            // What is not the same to the byte is not the same.
            let similarity = ((ratio * 100.0) as u8).min(99);
            moved.push(Moved { from, to, similarity });
        }
    }
    moved
}

/// How many of the bytes are in lines that both have.
fn similarity(old: &[u8], new: &[u8], deadline: Instant) -> f32 {
    let lines =
        |text| -> Vec<&[u8]> { <[u8]>::split_inclusive(text, |byte| *byte == b'\n').collect() };
    let (before, after) = (lines(old), lines(new));
    let diff = TextDiff::configure()
        .algorithm(Algorithm::Myers)
        .deadline(deadline)
        .diff_slices(&before, &after);
    let same: usize = diff
        .iter_all_changes()
        .filter(|change| change.tag() == similar::ChangeTag::Equal)
        .map(|change| change.value().len())
        .sum();
    #[expect(clippy::cast_precision_loss, reason = "a ratio")]
    let ratio = (same * 2) as f32 / (old.len() + new.len()) as f32;
    ratio
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;

    use super::*;

    fn found(deleted: &[&str], created: &[&str]) -> Vec<Moved> {
        let sizes = |files: &[&str]| -> Vec<Movable> {
            files.iter().map(|file| Movable { size_bytes: file.len() as u64 }).collect()
        };
        renames(&sizes(deleted), &sizes(created), |side, number| {
            let files = if side == Side::Old { deleted } else { created };
            Some(files[number].as_bytes().to_vec())
        })
    }

    #[test]
    fn a_file_that_moved_is_found_also_where_it_was_edited() {
        let long: String = (0..40).map(|number| format!("line {number}\n")).collect();
        let edited = long.replace("line 7\n", "line seven\n");
        let actual = found(&["same\n", &long, "other"], &["new", &edited, "same\n"]);
        let expected =
            [Moved { from: 1, to: 1, similarity: 97 }, Moved { from: 0, to: 2, similarity: 100 }];
        assert_eq!(actual, expected);
    }

    #[test]
    fn files_that_are_empty_or_have_little_in_common_stay_apart() {
        assert_eq!(found(&["", "a\nb\nc\n"], &["", "x\ny\nc\n"]), []);
    }

    #[test]
    fn of_two_that_are_the_same_each_is_one() {
        let actual = found(&["x\n", "x\n"], &["x\n"]);
        assert_eq!(actual, [Moved { from: 0, to: 0, similarity: 100 }]);
    }

    #[test]
    fn what_cannot_be_read_has_not_moved() {
        let one = [Movable { size_bytes: 5 }];
        assert_eq!(renames(&one, &one, |_, _| None), []);
    }
}
