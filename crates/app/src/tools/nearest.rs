//! Names and lines that are nearly what was asked for.

/// Words longer than this are nothing like each other: what they cost to compare is bounded.
const MAX_COMPARED_CHARACTERS: usize = 64;

/// How many characters have to be added, removed or replaced to make one word of the other
/// (Levenshtein).
pub(crate) fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().take(MAX_COMPARED_CHARACTERS + 1).collect();
    let one: Vec<char> = one.chars().take(MAX_COMPARED_CHARACTERS + 1).collect();
    if one.len().max(other.len()) > MAX_COMPARED_CHARACTERS {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (line, a) in one.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = line + 1;
        for (column, b) in other.iter().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(row[column] + 1).min(diagonal + 1);
        }
    }
    row[other.len()]
}

/// The one of the names that is most like what was asked for, if any is.
pub(crate) fn nearest_name<'a>(
    asked: &str,
    names: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let asked = asked.to_lowercase();
    names
        .into_iter()
        .map(|name| (distance(&asked, &name.to_lowercase()), name))
        .min()
        .filter(|(distance, name)| *distance <= name.chars().count() / 3)
        .map(|(_, name)| name)
}

/// Where in a text a piece stands almost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NearMatch {
    /// The first line, from 0.
    pub(crate) line: usize,
    /// How many lines.
    pub(crate) lines: usize,
    /// How it differs.
    pub(crate) difference: Difference,
}

/// How a piece of text differs from what stands there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Difference {
    /// In white space only.
    WhiteSpace,
    /// In some lines.
    Lines,
}

/// How many lines are compared at the most before the search for a near match gives up.
const MAX_COMPARISONS: usize = 4_000_000;

/// A single line is compared letter by letter with so many lines at the most.
const MAX_COMPARED_LINES: usize = 20_000;

/// Finds the lines of `text` that are most like `piece`: all of them but for white space, or at
/// least half of them.
pub(crate) fn nearest_lines(text: &str, piece: &str) -> Option<NearMatch> {
    let squeeze = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let piece: Vec<String> = piece.trim_matches(['\n', '\r']).lines().map(squeeze).collect();
    let text: Vec<String> = text.lines().map(squeeze).collect();
    if piece.iter().all(String::is_empty)
        || piece.len() > text.len()
        || text.len().saturating_mul(piece.len()) > MAX_COMPARISONS
    {
        return None;
    }
    let same = |window: &[String]| {
        let full = |(a, b): &(&String, &String)| a == b && !a.is_empty();
        window.iter().zip(&piece).filter(full).count()
    };
    let wanted = piece.iter().filter(|line| !line.is_empty()).count();
    let (line, best) = text
        .windows(piece.len())
        .map(same)
        .enumerate()
        .max_by_key(|(line, same)| (*same, usize::MAX - line))?;
    let near = |line, difference| Some(NearMatch { line, lines: piece.len(), difference });
    if best == wanted && text[line..line + piece.len()] == piece[..] {
        return near(line, Difference::WhiteSpace);
    }
    if best * 2 >= wanted && best > 0 {
        return near(line, Difference::Lines);
    }
    let [only] = &piece[..] else { return None };
    // A single line: the nearest in its letters, or one that holds it but for white space.
    if let Some(line) = text.iter().position(|line| line.contains(only.as_str())) {
        return near(line, Difference::WhiteSpace);
    }
    text.iter()
        .take(MAX_COMPARED_LINES)
        .enumerate()
        .map(|(line, candidate)| (distance(only, candidate), line))
        .min()
        .filter(|(distance, _)| *distance <= only.chars().count() / 3)
        .and_then(|(_, line)| near(line, Difference::Lines))
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;

    use super::*;

    #[test]
    fn the_distance_counts_changed_characters() {
        let actual =
            [("", ""), ("read", "raed"), ("kitten", "sitting")].map(|(a, b)| distance(a, b));
        assert_eq!(actual, [0, 2, 3]);
        assert_eq!(distance(&"x".repeat(100_000), "read"), usize::MAX);
    }

    #[test]
    fn the_nearest_name_is_one_with_a_slip_of_the_pen() {
        let names = ["main.rs", "lib.rs", "README.md"];
        assert_eq!(nearest_name("mian.rs", names), Some("main.rs"));
        assert_eq!(nearest_name("readme.md", names), Some("README.md"));
        assert_eq!(nearest_name("something_else.py", names), None);
    }

    #[test]
    fn other_white_space_is_recognised() {
        let text = "fn a() {\n\tone();\n\ttwo();\n}\n";
        let expected = NearMatch { line: 1, lines: 2, difference: Difference::WhiteSpace };
        assert_eq!(nearest_lines(text, "    one();\n    two();\n"), Some(expected));
    }

    #[test]
    fn a_piece_with_one_wrong_line_is_found_and_a_foreign_one_is_not() {
        let text = "a\nb\nlet x = 1;\nlet y = 2;\nc\n";
        let expected = NearMatch { line: 2, lines: 2, difference: Difference::Lines };
        assert_eq!(nearest_lines(text, "let x = 1;\nlet y = 3;"), Some(expected));
        assert_eq!(nearest_lines(text, "nothing\nlike it"), None);
        assert_eq!(nearest_lines(text, ""), None);
    }
}
