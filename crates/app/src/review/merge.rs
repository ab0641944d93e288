//! The three-way merge of a text.

use diffy::MergeOptions;

/// What comes out of a merge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Merged {
    /// Both sides' changes, together.
    Clean(Vec<u8>),
    /// They overlap: the whole file with both versions between markers, as git writes them.
    Conflict(Vec<u8>),
    /// One of them is no text.
    NotText,
}

/// Merges what two sides have made of a file. Lines end as they end on the side that they come from.
#[must_use]
pub fn merge(base: &[u8], host: &[u8], session: &[u8]) -> Merged {
    if [base, host, session].into_iter().any(|text| memchr::memchr(0, text).is_some()) {
        return Merged::NotText;
    }
    match MergeOptions::new().merge_bytes(base, host, session) {
        Ok(merged) => Merged::Clean(merged),
        Err(marked) => Merged::Conflict(marked),
    }
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn changes_in_different_places_come_together() {
        let base = b"one\r\ntwo\nthree\nfour\nfive";
        let host = b"ONE\r\ntwo\nthree\nfour\nfive";
        let session = b"one\r\ntwo\nthree\nfour\nFIVE";
        assert_eq!(
            merge(base, host, session),
            Merged::Clean(b"ONE\r\ntwo\nthree\nfour\nFIVE".to_vec())
        );
    }

    #[test]
    fn changes_in_one_place_are_a_conflict_that_holds_both() {
        let Merged::Conflict(marked) = merge(b"a\nb\nc\n", b"a\nX\nc\n", b"a\nY\nc\n") else {
            panic!("no conflict")
        };
        let marked = String::from_utf8(marked).unwrap();
        for part in ["<<<<<<<", "X\n", "=======", "Y\n", ">>>>>>>"] {
            assert!(marked.contains(part), "{marked}");
        }
    }

    #[test]
    fn what_is_no_text_is_not_merged() {
        assert_eq!(merge(b"a\0", b"a\0b", b"c\0"), Merged::NotText);
    }

    fn text() -> impl Strategy<Value = Vec<u8>> {
        let line = prop_oneof![Just("a"), Just("b"), Just("c"), Just("é")];
        let end = prop_oneof![Just("\n"), Just("\r\n"), Just("")];
        prop::collection::vec((line, end), 0..8).prop_map(|lines| {
            lines.into_iter().flat_map(|(line, end)| [line, end]).collect::<String>().into_bytes()
        })
    }

    proptest! {
        #[test]
        fn where_one_side_changed_nothing_the_other_wins(base in text(), other in text()) {
            prop_assert_eq!(merge(&base, &base, &other), Merged::Clean(other.clone()));
            prop_assert_eq!(merge(&base, &other, &base), Merged::Clean(other));
        }
    }
}
