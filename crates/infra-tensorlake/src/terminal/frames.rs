//! The frames of a terminal's socket: one byte that says what it is, then what it holds.

use bytes::{BufMut as _, Bytes, BytesMut};
use forge_domain::TerminalSize;

const DATA: u8 = 0x00;
const RESIZE: u8 = 0x01;
const READY: u8 = 0x02;
const EXIT: u8 = 0x03;

/// What the server says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ServerFrame {
    /// Bytes to be shown.
    Data(Bytes),
    /// The command has ended with this code; below zero, the server does not know which. The open daemon
    /// never says it.
    Exit(i32),
    /// Something newer.
    Other,
}

impl ServerFrame {
    /// Reads a frame. One that is cut off is none that is known.
    pub(crate) fn decode(frame: &Bytes) -> Self {
        match (frame.first(), frame.get(1..)) {
            (Some(&DATA), Some(_)) => Self::Data(frame.slice(1..)),
            (Some(&EXIT), Some(&[a, b, c, d])) => Self::Exit(i32::from_be_bytes([a, b, c, d])),
            _ => Self::Other,
        }
    }
}

/// Output may come from now on.
pub(crate) fn ready() -> Bytes {
    Bytes::from_static(&[READY])
}

/// What was typed.
pub(crate) fn data(bytes: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(bytes.len() + 1);
    frame.put_u8(DATA);
    frame.put_slice(bytes);
    frame.freeze()
}

/// The terminal has this size now.
pub(crate) fn resize(size: TerminalSize) -> Bytes {
    let mut frame = BytesMut::with_capacity(5);
    frame.put_u8(RESIZE);
    frame.put_u16(size.columns());
    frame.put_u16(size.rows());
    frame.freeze()
}

/// The code in the reason that a server closes a socket with.
pub(crate) fn code_of(reason: &str) -> Option<i32> {
    reason.strip_prefix("exit:")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn frames_are_as_the_interface_has_them() {
        assert_eq!(&resize(TerminalSize::new(300, 24))[..], [1, 1, 44, 0, 24]);
        assert_eq!(&data(b"\xff\0")[..], [0, 0xff, 0]);
        assert_eq!(&ready()[..], [2]);
    }

    #[test]
    fn an_exit_has_a_code_and_a_cut_one_is_none() {
        let cases: [(&'static [u8], ServerFrame); 6] = [
            (&[3, 0, 0, 0, 7], ServerFrame::Exit(7)),
            (&[3, 0xff, 0xff, 0xff, 0xff], ServerFrame::Exit(-1)),
            (&[3, 0, 0], ServerFrame::Other),
            (&[], ServerFrame::Other),
            (&[9, 1], ServerFrame::Other),
            (&[0], ServerFrame::Data(Bytes::new())),
        ];
        for (frame, expected) in cases {
            assert_eq!(ServerFrame::decode(&Bytes::from_static(frame)), expected);
        }
    }

    #[test]
    fn the_reason_of_a_close_holds_a_code() {
        let codes = ["exit:3", "exit:-1", "session terminated", "exit:"].map(code_of);
        assert_eq!(codes, [Some(3), Some(-1), None, None]);
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_much(frame: Vec<u8>) {
            let decoded = ServerFrame::decode(&Bytes::from(frame.clone()));
            if let ServerFrame::Data(bytes) = decoded {
                prop_assert_eq!(&bytes[..], &frame[1..]);
            }
        }
    }
}
