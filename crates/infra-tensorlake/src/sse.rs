//! The decoder of `text/event-stream`: bytes go in, the data of events comes out. No I/O, no time.
//!
//! The format is that of the HTML standard, section 9.2. Only `data` counts here: Tensorlake tells its
//! events apart by what is in them. Bytes are not required to be UTF-8; whoever reads the data decides.

use thiserror::Error;

/// What one event may hold at the most, unless a decoder is made with another limit: 64 MiB.
pub const DEFAULT_MAX_EVENT_BYTES: usize = 64 * 1024 * 1024;

/// The stream cannot be decoded any further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// An event is larger than the decoder holds.
    #[error("an event of the stream is larger than {limit_bytes} bytes")]
    TooLarge {
        /// The limit.
        limit_bytes: usize,
    },
}

/// Decodes a stream, however its bytes are split.
#[derive(Debug)]
pub struct Decoder {
    max_event_bytes: usize,
    line: Vec<u8>,
    data: Vec<u8>,
    has_data: bool,
    /// The last byte was a carriage return: a line feed now belongs to it.
    after_return: bool,
    /// Nothing of the stream was seen yet, so a byte order mark may come.
    at_start: bool,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new(DEFAULT_MAX_EVENT_BYTES)
    }
}

impl Decoder {
    /// A decoder at the start of a stream that holds at most so many bytes of one event.
    #[must_use]
    pub fn new(max_event_bytes: usize) -> Self {
        Self {
            max_event_bytes,
            line: Vec::new(),
            data: Vec::new(),
            has_data: false,
            after_return: false,
            at_start: true,
        }
    }

    /// Takes bytes and gives the data of the events that they complete, in order. An event that the
    /// end of the stream cuts off is none, as the standard has it.
    ///
    /// # Errors
    /// [`DecodeError::TooLarge`]; the stream is of no more use then.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, DecodeError> {
        let mut events = Vec::new();
        let mut rest = bytes;
        while let Some(at) = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
            let (part, ending) = (&rest[..at], rest[at]);
            let belongs_to_return = at == 0 && ending == b'\n' && self.after_return;
            rest = &rest[at + 1..];
            self.after_return = ending == b'\r';
            if belongs_to_return {
                continue;
            }
            self.extend(part)?;
            self.end_line(&mut events)?;
        }
        if !rest.is_empty() {
            self.after_return = false;
            self.extend(rest)?;
        }
        Ok(events)
    }

    fn extend(&mut self, part: &[u8]) -> Result<(), DecodeError> {
        if self.line.len() + self.data.len() + part.len() > self.max_event_bytes {
            return Err(DecodeError::TooLarge { limit_bytes: self.max_event_bytes });
        }
        self.line.extend_from_slice(part);
        Ok(())
    }

    fn end_line(&mut self, events: &mut Vec<Vec<u8>>) -> Result<(), DecodeError> {
        let mut line = std::mem::take(&mut self.line);
        if std::mem::take(&mut self.at_start) && line.starts_with(b"\xef\xbb\xbf") {
            line.drain(..3);
        }
        if line.is_empty() {
            let data = std::mem::take(&mut self.data);
            if std::mem::take(&mut self.has_data) {
                events.push(data);
            }
            return Ok(());
        }
        let (field, value) = match line.iter().position(|byte| *byte == b':') {
            Some(at) => (&line[..at], &line[at + 1..]),
            None => (&line[..], &line[..0]),
        };
        // An empty field name is a comment; other fields are not for us.
        if field != b"data" {
            return Ok(());
        }
        if self.has_data {
            self.data.push(b'\n');
        }
        self.has_data = true;
        self.data.extend_from_slice(value.strip_prefix(b" ").unwrap_or(value));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;
    use proptest::prelude::*;

    use super::*;

    fn decode(parts: &[&[u8]]) -> Vec<String> {
        let mut decoder = Decoder::default();
        let events = parts.iter().flat_map(|part| decoder.push(part).unwrap());
        events.map(|data| String::from_utf8_lossy(&data).into_owned()).collect()
    }

    #[test]
    fn every_ending_of_lines_ends_them() {
        for stream in
            ["data: a\n\ndata: b\n\n", "data: a\r\n\r\ndata: b\r\n\r\n", "data: a\r\rdata: b\r\r"]
        {
            assert_eq!(decode(&[stream.as_bytes()]), ["a", "b"], "{stream:?}");
        }
    }

    #[test]
    fn comments_and_other_fields_are_passed_over() {
        let stream = b"\xef\xbb\xbfdata: first\n\n: keep-alive\n\nevent: eof\nid: 7\nretry: 10\ndata: {}\n\n";
        assert_eq!(decode(&[stream]), ["first", "{}"]);
    }

    #[test]
    fn lines_of_one_event_are_joined() {
        assert_eq!(decode(&[b"data:a\ndata\ndata:  b\n\n"]), ["a\n\n b"]);
    }

    #[test]
    fn an_event_that_was_cut_off_is_none() {
        assert_eq!(decode(&[b"data: a\n\ndata: b\n"]), ["a"]);
    }

    #[test]
    fn a_return_and_its_line_feed_may_come_apart() {
        assert_eq!(decode(&[b"data: a\r", b"\n\r", b"\ndata: b\r", b"\r"]), ["a", "b"]);
    }

    #[test]
    fn bytes_that_are_no_utf8_do_not_stop_the_stream() {
        let mut decoder = Decoder::default();
        let events = decoder.push(b"data: \xff\n\ndata: b\n\n").unwrap();
        assert_eq!(events, [vec![0xff], b"b".to_vec()]);
    }

    #[test]
    fn an_endless_line_is_an_error_and_not_endless_memory() {
        let mut decoder = Decoder::new(1000);
        let result = (0..100).try_for_each(|_| decoder.push(&[b'x'; 100]).map(drop));
        assert_eq!(result, Err(DecodeError::TooLarge { limit_bytes: 1000 }));
    }

    /// Streams made of what streams are made of, so that every state is met.
    fn stream() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            Just(b"data: ".to_vec()),
            Just(b"data".to_vec()),
            Just(b":".to_vec()),
            Just(b"\n".to_vec()),
            Just(b"\r".to_vec()),
            Just(b"\r\n".to_vec()),
            Just(b"event: x".to_vec()),
            Just("é名".as_bytes().to_vec()),
            proptest::collection::vec(any::<u8>(), 0..6),
        ];
        proptest::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn any_split_of_the_bytes_gives_the_same_events(
            stream in stream(),
            cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..12),
        ) {
            let whole = Decoder::default().push(&stream).unwrap();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
            cuts.extend([0, stream.len()]);
            cuts.sort_unstable();
            let mut decoder = Decoder::default();
            let mut split = Vec::new();
            for pair in cuts.windows(2) {
                split.extend(decoder.push(&stream[pair[0]..pair[1]]).unwrap());
            }
            prop_assert_eq!(split, whole);
        }
    }
}
