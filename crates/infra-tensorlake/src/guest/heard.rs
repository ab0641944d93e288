//! What the text of a command says, line by line: a state machine without I/O.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use forge_domain::OutputStream;

use super::command::Delivery;

/// Why the text did not run the command. Nothing was started then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The workspace could not be made; the user's and the group's numbers.
    Workspace { user: u32, group: u32 },
    /// The working directory cannot be used.
    Directory(std::io::ErrorKind),
    /// There is no such program.
    Missing,
    /// The program cannot be executed.
    Denied,
    /// The text cannot make its own files.
    Scratch,
}

/// What a line means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Heard {
    /// The command begins; its process leads its group.
    Started {
        leader: u64,
    },
    Refused(Refusal),
    Output(OutputStream, Bytes),
    /// The command has taken this piece of its input, or will take none any more.
    Taken(u64),
    InputClosed,
    /// A piece of the output is missing: the stream has to be read again from its beginning.
    Gap,
}

/// Understands the lines of one command. A stream that is replayed from its beginning repeats nothing.
#[derive(Debug)]
pub(crate) struct Listener {
    delivery: Delivery,
    mark: String,
    started: bool,
    refused: bool,
    next_piece: [u64; 2],
    ended: [bool; 2],
    status: Option<u8>,
    taken: u64,
}

impl Listener {
    pub(crate) fn new(delivery: Delivery, token: &str) -> Self {
        Self {
            delivery,
            mark: format!("{token} "),
            started: false,
            refused: false,
            next_piece: [0; 2],
            ended: [false; 2],
            status: None,
            taken: 0,
        }
    }

    /// Whether the command began.
    pub(crate) fn has_started(&self) -> bool {
        self.started
    }

    /// Whether everything was heard that there is. Lines have no such mark; the server says it.
    pub(crate) fn is_complete(&self) -> bool {
        self.ended == [true; 2]
    }

    /// The status as the text saw it, which its server cannot know.
    pub(crate) fn status(&self) -> Option<u8> {
        self.status
    }

    /// Takes a line without its end.
    pub(crate) fn hear(&mut self, stream: OutputStream, line: &str) -> Option<Heard> {
        let may_be_ours = !self.started || self.delivery == Delivery::Exact;
        if may_be_ours && let Some(said) = line.strip_prefix(&self.mark) {
            return self.hear_mark(stream, said);
        }
        match self.delivery {
            Delivery::Exact => self.hear_piece(stream, line),
            Delivery::Lines => {
                let mut bytes = Vec::with_capacity(line.len() + 1);
                bytes.extend_from_slice(line.as_bytes());
                bytes.push(b'\n');
                Some(Heard::Output(stream, bytes.into()))
            }
        }
    }

    fn hear_mark(&mut self, stream: OutputStream, said: &str) -> Option<Heard> {
        let mut words = said.split(' ');
        let (verb, value) = (words.next().unwrap_or_default(), words.next());
        match verb {
            "start" if !self.started => {
                let leader = value?.parse().ok()?;
                self.started = true;
                Some(Heard::Started { leader })
            }
            "taken" | "closed" => {
                let piece: u64 = value?.parse().ok()?;
                let is_new = piece > self.taken;
                self.taken = self.taken.max(piece);
                let heard = if verb == "taken" { Heard::Taken(piece) } else { Heard::InputClosed };
                is_new.then_some(heard)
            }
            "end" => {
                self.ended[index(stream)] = true;
                self.status = value.and_then(|value| value.parse().ok()).or(self.status);
                None
            }
            _ if self.refused => None,
            _ => {
                let refusal = refusal(verb, value)?;
                self.refused = true;
                Some(Heard::Refused(refusal))
            }
        }
    }

    /// What is no piece is a remark of the guest's own shell.
    fn hear_piece(&mut self, stream: OutputStream, line: &str) -> Option<Heard> {
        let (number, data) = line.split_once(' ')?;
        let number: u64 = number.parse().ok()?;
        let next = &mut self.next_piece[index(stream)];
        match number.cmp(next) {
            std::cmp::Ordering::Less => None,
            std::cmp::Ordering::Greater => Some(Heard::Gap),
            std::cmp::Ordering::Equal => {
                // A piece that cannot be read was cut on its way, and is as good as missing.
                let Ok(bytes) = STANDARD.decode(data) else { return Some(Heard::Gap) };
                *next += 1;
                Some(Heard::Output(stream, bytes.into()))
            }
        }
    }
}

fn index(stream: OutputStream) -> usize {
    match stream {
        OutputStream::Stdout => 0,
        OutputStream::Stderr => 1,
    }
}

pub(crate) fn refusal(verb: &str, value: Option<&str>) -> Option<Refusal> {
    use std::io::ErrorKind;
    Some(match verb {
        "workspace" => {
            let (user, group) = value?.split_once(':')?;
            Refusal::Workspace { user: user.parse().ok()?, group: group.parse().ok()? }
        }
        "directory" => Refusal::Directory(match value? {
            "missing" => ErrorKind::NotFound,
            "file" => ErrorKind::NotADirectory,
            _ => ErrorKind::PermissionDenied,
        }),
        "missing" => Refusal::Missing,
        "denied" => Refusal::Denied,
        "scratch" => Refusal::Scratch,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;

    use super::*;

    const OUT: OutputStream = OutputStream::Stdout;
    const ERR: OutputStream = OutputStream::Stderr;

    fn output(text: &'static str) -> Option<Heard> {
        Some(Heard::Output(OUT, Bytes::from_static(text.as_bytes())))
    }

    #[test]
    fn lines_are_text_once_the_command_has_begun() {
        let mut listener = Listener::new(Delivery::Lines, "t0");
        assert_eq!(listener.hear(OUT, "t0 start 12"), Some(Heard::Started { leader: 12 }));
        assert_eq!(listener.hear(OUT, "t0 missing"), output("t0 missing\n"));
        assert_eq!(listener.hear(OUT, ""), output("\n"));
    }

    #[test]
    fn pieces_count_once_and_a_missing_one_is_noticed() {
        let mut listener = Listener::new(Delivery::Exact, "t0");
        assert_eq!(listener.hear(OUT, "0 YQ=="), output("a"));
        assert_eq!(listener.hear(OUT, "0 YQ=="), None);
        assert_eq!(listener.hear(OUT, "2 Yw=="), Some(Heard::Gap));
        assert_eq!(listener.hear(OUT, "1 Y"), Some(Heard::Gap));
        assert_eq!(listener.hear(OUT, "1 Yg=="), output("b"));
        assert_eq!(listener.hear(ERR, "sh: 1: Killed"), None);
    }

    #[test]
    fn it_is_complete_when_both_streams_have_ended() {
        let mut listener = Listener::new(Delivery::Exact, "t0");
        assert_eq!(listener.hear(OUT, "t0 end 137"), None);
        assert_eq!((listener.is_complete(), listener.status()), (false, Some(137)));
        assert_eq!(listener.hear(ERR, "t0 end"), None);
        assert_eq!((listener.is_complete(), listener.status()), (true, Some(137)));
    }

    #[test]
    fn what_stands_in_the_way_is_understood() {
        let heard = |line| Listener::new(Delivery::Exact, "t0").hear(OUT, line);
        let refused = |refusal| Some(Heard::Refused(refusal));
        assert_eq!(heard("t0 missing"), refused(Refusal::Missing));
        assert_eq!(
            heard("t0 directory file"),
            refused(Refusal::Directory(std::io::ErrorKind::NotADirectory))
        );
        assert_eq!(
            heard("t0 workspace 1000:100"),
            refused(Refusal::Workspace { user: 1000, group: 100 })
        );
        assert_eq!(heard("t1 missing"), None);
    }

    #[test]
    fn input_is_taken_once() {
        let mut listener = Listener::new(Delivery::Exact, "t0");
        assert_eq!(listener.hear(OUT, "t0 taken 1"), Some(Heard::Taken(1)));
        assert_eq!(listener.hear(OUT, "t0 taken 1"), None);
        assert_eq!(listener.hear(OUT, "t0 closed 2"), Some(Heard::InputClosed));
    }
}
