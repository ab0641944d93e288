//! From the bytes of a stream to lines, as the interface carries output.

/// A line that is longer is given in pieces of this size: somebody has to hold it in memory.
pub(crate) const MAX_LINE_BYTES: usize = 8 * 1024 * 1024;

/// Splits one stream. Bytes go in, lines without their ends come out; a carriage return before the end of
/// a line belongs to it, any other stays.
#[derive(Debug, Default)]
pub(crate) struct LineSplitter {
    pending: Vec<u8>,
}

impl LineSplitter {
    /// Takes bytes, and gives each line that they complete.
    pub(crate) fn push(&mut self, bytes: &[u8], mut line: impl FnMut(&[u8])) {
        let mut rest = bytes;
        while let Some(end) = memchr::memchr(b'\n', rest) {
            let (head, tail) = (&rest[..end], &rest[end + 1..]);
            if self.pending.is_empty() {
                self.give(head, &mut line);
            } else {
                let mut whole = std::mem::take(&mut self.pending);
                whole.extend_from_slice(head);
                self.give(&whole, &mut line);
                whole.clear();
                self.pending = whole;
            }
            rest = tail;
        }
        self.pending.extend_from_slice(rest);
        while self.pending.len() > MAX_LINE_BYTES {
            let tail = self.pending.split_off(MAX_LINE_BYTES);
            line(&std::mem::replace(&mut self.pending, tail));
        }
    }

    /// Gives what no end of a line followed.
    pub(crate) fn finish(&mut self, mut line: impl FnMut(&[u8])) {
        let rest = std::mem::take(&mut self.pending);
        if !rest.is_empty() {
            self.give(&rest, &mut line);
        }
    }

    fn give(&self, whole: &[u8], line: &mut impl FnMut(&[u8])) {
        let mut whole = whole.strip_suffix(b"\r").unwrap_or(whole);
        while let Some((head, tail)) = whole.split_at_checked(MAX_LINE_BYTES)
            && !tail.is_empty()
        {
            line(head);
            whole = tail;
        }
        line(whole);
    }
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;
    use proptest::prelude::*;

    use super::*;

    fn split(pieces: &[&[u8]]) -> Vec<Vec<u8>> {
        let (mut splitter, mut lines) = (LineSplitter::default(), Vec::new());
        for piece in pieces {
            splitter.push(piece, |line| lines.push(line.to_vec()));
        }
        splitter.finish(|line| lines.push(line.to_vec()));
        lines
    }

    #[test]
    fn lines_are_as_the_interface_has_them() {
        let cases: [(&[u8], &[&[u8]]); 7] = [
            (b"a\n\n\nb\n\n", &[b"a", b"", b"", b"b", b""]),
            (b"a\nb", &[b"a", b"b"]),
            (b"\n", &[b""]),
            (b"", &[]),
            (b"a\r\nb\r\n", &[b"a", b"b"]),
            (b"10%\r20%\r30%\n", &[b"10%\r20%\r30%"]),
            (b"a\r", &[b"a"]),
        ];
        for (bytes, expected) in cases {
            assert_eq!(split(&[bytes]), expected);
        }
    }

    #[test]
    fn a_line_without_end_is_given_in_pieces() {
        let bytes = vec![b'x'; MAX_LINE_BYTES + 5];
        let lengths: Vec<usize> = split(&[&bytes]).iter().map(Vec::len).collect();
        assert_eq!(lengths, [MAX_LINE_BYTES, 5]);
        let lengths: Vec<usize> = split(&[&bytes, b"\n"]).iter().map(Vec::len).collect();
        assert_eq!(lengths, [MAX_LINE_BYTES, 5]);
    }

    proptest! {
        #[test]
        fn any_split_of_the_bytes_gives_the_same_lines(
            bytes in proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'\r'), any::<u8>()], 0..200),
            cuts in proptest::collection::vec(0usize..200, 0..6),
        ) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
            prop_assert_eq!(split(&pieces), split(&[&bytes]));
        }
    }
}
