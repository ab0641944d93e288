//! What becomes of a command on a terminal: frames, wishes and time go in; what to show, to send and to
//! conclude comes out. No I/O.

use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use forge_domain::{Ending, Signal, StopMethod};
use tokio::time::Instant;

use super::frames::{ServerFrame, code_of};
use crate::follow::{FAR_FUTURE, of_shell};
use crate::guest::{Refusal, refusal};

/// How long, after SIGKILL, the end may take to be told.
const END_LIMIT: Duration = Duration::from_secs(10);
/// What comes before the command's beginning is told by its text; nothing of it is this long.
const MAX_OPENING_BYTES: usize = 64 * 1024;

/// Why a command is being ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    TimeLimit(Duration),
    Cancelled,
    /// Nobody waits for it any more.
    Abandoned,
}

#[derive(Debug, Clone, Copy)]
struct Stopping {
    reason: Reason,
    kill_at: Instant,
    killed: bool,
}

/// How long it may run and take to end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    pub(crate) time_limit: Option<Duration>,
    pub(crate) grace: Duration,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Life {
    mark: Vec<u8>,
    patience: Patience,
    /// What came before the text said that the command begins; `None` from then on.
    opening: Option<BytesMut>,
    refused: Option<Refusal>,
    began: Instant,
    code: Option<i32>,
    closed: bool,
    lost: Option<String>,
    stopping: Option<Stopping>,
}

impl Life {
    pub(crate) fn new(token: &str, patience: Patience, now: Instant) -> Self {
        Self {
            mark: format!("{token} ").into_bytes(),
            patience,
            opening: Some(BytesMut::new()),
            refused: None,
            began: now,
            code: None,
            closed: false,
            lost: None,
            stopping: None,
        }
    }

    pub(crate) fn has_begun(&self) -> bool {
        self.opening.is_none()
    }

    /// Why the command was not run, where the text has said so.
    pub(crate) fn refused(&self) -> Option<Refusal> {
        self.refused
    }

    /// Takes a frame, and gives what is to be shown.
    pub(crate) fn hear(&mut self, frame: ServerFrame, now: Instant) -> Option<Bytes> {
        match frame {
            ServerFrame::Data(bytes) if self.has_begun() => Some(bytes),
            ServerFrame::Data(bytes) => self.open(&bytes, now),
            ServerFrame::Exit(code) => {
                self.code = Some(code);
                None
            }
            ServerFrame::Other => None,
        }
        .filter(|bytes| !bytes.is_empty())
    }

    /// The text's own lines, until it says that the command begins; what follows is the command's.
    fn open(&mut self, bytes: &[u8], now: Instant) -> Option<Bytes> {
        let mut opening = self.opening.take()?;
        opening.extend_from_slice(bytes);
        while let Some(end) = opening.iter().position(|byte| *byte == b'\n') {
            let line = opening.split_to(end);
            opening.advance(1);
            let line = line.strip_suffix(b"\r").unwrap_or(&line);
            let Some(said) = line.strip_prefix(&self.mark[..]) else { continue };
            let said = String::from_utf8_lossy(said);
            let mut words = said.split(' ');
            let (verb, value) = (words.next().unwrap_or_default(), words.next());
            if verb == "start" {
                self.began = now;
                return Some(opening.freeze());
            }
            self.refused = self.refused.or_else(|| refusal(verb, value));
        }
        if opening.len() > MAX_OPENING_BYTES {
            self.lost = Some("the sandbox's shell said too much".to_owned());
        }
        self.opening = Some(opening);
        None
    }

    /// The server has closed the socket.
    pub(crate) fn closed(&mut self, reason: &str) {
        self.closed = true;
        self.code = self.code.or_else(|| code_of(reason));
    }

    /// The socket is of no use any more.
    pub(crate) fn lost(&mut self, cause: String) {
        self.lost.get_or_insert(cause);
    }

    pub(crate) fn is_lost(&self) -> bool {
        self.lost.is_some()
    }

    /// Whether there is nothing more to wait for.
    pub(crate) fn is_over(&self) -> bool {
        self.code.is_some() || self.closed || self.lost.is_some() || self.refused.is_some()
    }

    /// Whether the server has to be asked how the command ended.
    pub(crate) fn is_unclear(&self) -> bool {
        self.lost.is_none() && self.refused.is_none() && self.code.is_none_or(|code| code < 0)
    }

    /// What the server has answered to that.
    pub(crate) fn cleared(&mut self, code: Option<i64>) {
        let code = code.and_then(|code| i32::try_from(code).ok());
        self.code = code.or(self.code);
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.is_some()
    }

    pub(crate) fn is_abandoned(&self) -> bool {
        self.stopping.is_some_and(|stopping| stopping.reason == Reason::Abandoned)
    }

    /// Ends the command, and gives the signal to send. One that nobody waits for has no grace.
    pub(crate) fn stop(&mut self, reason: Reason, now: Instant) -> Signal {
        let killed = reason == Reason::Abandoned;
        let grace = if killed { Duration::ZERO } else { self.patience.grace };
        self.stopping = Some(Stopping { reason, kill_at: now + grace, killed });
        if killed { Signal::KILL } else { Signal::HUP }
    }

    /// When [`Life::on_deadline`] is to be called.
    pub(crate) fn deadline(&self) -> Instant {
        match (self.stopping, self.patience.time_limit) {
            (Some(stopping), _) if stopping.killed => stopping.kill_at + END_LIMIT,
            (Some(stopping), _) => stopping.kill_at,
            (None, limit) => self.began + limit.unwrap_or(FAR_FUTURE).min(FAR_FUTURE),
        }
    }

    /// Does what is due, and gives the signal to send.
    pub(crate) fn on_deadline(&mut self, now: Instant) -> Option<Signal> {
        match (self.stopping, self.patience.time_limit) {
            (Some(stopping), _) if stopping.killed => {
                self.lost("it was killed, and its end was not told".to_owned());
                None
            }
            (Some(stopping), _) => {
                self.stopping = Some(Stopping { kill_at: now, killed: true, ..stopping });
                Some(Signal::KILL)
            }
            (None, Some(limit)) => Some(self.stop(Reason::TimeLimit(limit), now)),
            (None, None) => None,
        }
    }

    pub(crate) fn began(&self) -> Instant {
        self.began
    }

    /// How it ended, and what that took.
    pub(crate) fn ending(&self, terminal: &str) -> (Ending, Option<StopMethod>) {
        if let Some(cause) = &self.lost {
            let command = Some(format!("terminal {terminal}"));
            return (Ending::ContactLost { command, cause: cause.clone() }, None);
        }
        if let Some(Stopping { reason, killed, .. }) = self.stopping {
            let by = if killed { StopMethod::Kill } else { StopMethod::Terminate };
            return match reason {
                Reason::TimeLimit(limit) => (Ending::TimedOut { limit }, Some(by)),
                Reason::Cancelled | Reason::Abandoned => (Ending::Cancelled, Some(by)),
            };
        }
        let code = self.code.and_then(|code| u8::try_from(code).ok());
        (code.map_or(Ending::Unknown, of_shell), None)
    }
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn life(time_limit: Option<Duration>) -> (Life, Instant) {
        let now = Instant::now();
        (Life::new("f1", Patience { time_limit, grace: 2 * SECOND }, now), now)
    }

    fn data(text: &str) -> ServerFrame {
        ServerFrame::Data(Bytes::copy_from_slice(text.as_bytes()))
    }

    fn begun(time_limit: Option<Duration>) -> (Life, Instant) {
        let (mut life, now) = life(time_limit);
        assert_eq!(life.hear(data("f1 start 7\r\n"), now), None);
        assert!(life.has_begun());
        (life, now)
    }

    #[test]
    fn what_comes_before_the_beginning_is_not_shown() {
        let (mut life, now) = life(None);
        assert_eq!(life.hear(data("motd\r\nf1 sta"), now), None);
        assert_eq!(life.hear(data("rt 7\r\n$ "), now), Some(Bytes::from_static(b"$ ")));
        assert_eq!(life.hear(data("f1 start 8\r\n"), now).unwrap(), "f1 start 8\r\n");
    }

    #[test]
    fn a_refusal_is_told() {
        let (mut life, now) = life(None);
        life.hear(data("f1 missing\r\n"), now);
        assert_eq!((life.refused(), life.is_over()), (Some(Refusal::Missing), true));
    }

    #[test]
    fn a_code_is_its_ending_wherever_it_comes_from() {
        let endings = [Some(3), Some(137), None].map(|code| {
            let (mut life, now) = begun(None);
            match code {
                Some(code) => drop(life.hear(ServerFrame::Exit(code), now)),
                None => life.closed("exit:5"),
            }
            assert!(life.is_over() && !life.is_unclear());
            life.ending("t").0
        });
        let expected = [Ending::Exited(3), Ending::Signalled(Signal::KILL), Ending::Exited(5)];
        assert_eq!(endings, expected);
    }

    #[test]
    fn a_code_of_minus_one_has_to_be_asked_for_and_is_never_success() {
        let (mut life, _) = begun(None);
        life.closed("exit:-1");
        assert!(life.is_unclear());
        assert_eq!(life.ending("t").0, Ending::Unknown);
        life.cleared(None);
        assert_eq!(life.ending("t").0, Ending::Unknown);
        life.cleared(Some(0));
        assert_eq!(life.ending("t").0, Ending::Exited(0));
    }

    #[test]
    fn a_time_limit_hangs_up_then_kills_then_gives_up() {
        let (mut life, now) = begun(Some(SECOND));
        assert_eq!(life.deadline(), now + SECOND);
        assert_eq!(life.on_deadline(now + SECOND), Some(Signal::HUP));
        assert_eq!(life.deadline(), now + 3 * SECOND);
        assert_eq!(life.on_deadline(now + 3 * SECOND), Some(Signal::KILL));
        assert_eq!(life.deadline(), now + 3 * SECOND + END_LIMIT);
        assert!(!life.is_over());
        assert_eq!(life.on_deadline(now + 3 * SECOND + END_LIMIT), None);
        assert!(matches!(life.ending("t").0, Ending::ContactLost { .. }));
    }

    #[test]
    fn what_is_stopped_says_by_what() {
        let (mut life, now) = begun(None);
        assert_eq!(life.stop(Reason::Cancelled, now), Signal::HUP);
        life.hear(ServerFrame::Exit(0), now);
        assert_eq!(life.ending("t"), (Ending::Cancelled, Some(StopMethod::Terminate)));
        let (mut life, now) = begun(None);
        assert_eq!(life.stop(Reason::Abandoned, now), Signal::KILL);
    }

    proptest! {
        #[test]
        fn any_split_shows_the_same(cuts in proptest::collection::vec(0_usize..40, 0..6)) {
            let text = "noise\r\nf1 start 12\r\nshown \u{1b}[1mall\r\n";
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let (mut life, now) = life(None);
            let mut shown = Vec::new();
            for pair in cuts.windows(2) {
                if let Some(bytes) = life.hear(data(&text[pair[0]..pair[1]]), now) {
                    shown.extend_from_slice(&bytes);
                }
            }
            prop_assert_eq!(shown, b"shown \x1b[1mall\r\n");
        }
    }
}
