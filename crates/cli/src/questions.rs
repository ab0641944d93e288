//! Asking the user before a command: the agent's side, and the terminal's.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use async_trait::async_trait;
use forge_api::{Approval, ApprovalRequest, Approver, Risk};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::termios::QueueSelector;
use tokio::sync::{mpsc, oneshot};

use crate::terminal::{Paint, Role, clean, clean_line};

/// How often the thread that waits for an answer looks whether the question still stands.
const LOOK_EVERY: Timespec = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };

/// A question on its way to whoever owns the terminal.
#[derive(Debug)]
pub(crate) struct Question {
    /// What is asked.
    pub(crate) request: ApprovalRequest,
    /// Where the answer goes.
    pub(crate) answer: oneshot::Sender<Approval>,
}

/// The questions that came and were not asked yet.
pub(crate) type Questions = mpsc::UnboundedReceiver<Question>;

/// The agent's side: hands questions to the terminal, which shows first what came before them.
#[derive(Debug)]
pub(crate) struct Desk(mpsc::UnboundedSender<Question>);

impl Desk {
    /// A desk and the questions that are brought to it.
    pub(crate) fn new() -> (Arc<Self>, Questions) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Arc::new(Self(sender)), receiver)
    }
}

#[async_trait]
impl Approver for Desk {
    async fn ask(&self, request: &ApprovalRequest) -> Approval {
        let (answer, answered) = oneshot::channel();
        let question = Question { request: request.clone(), answer };
        if self.0.send(question).is_err() {
            return Approval::Abort;
        }
        answered.await.unwrap_or(Approval::Abort)
    }
}

/// The user's terminal, whatever stdin and stdout are.
#[derive(Debug)]
pub(crate) struct Terminal {
    file: Arc<File>,
    paint: Paint,
}

impl Terminal {
    /// Opens it.
    ///
    /// # Errors
    /// The process has none.
    pub(crate) fn open(paint: Paint) -> io::Result<Self> {
        let file = File::options().read(true).write(true).open("/dev/tty")?;
        Ok(Self { file: Arc::new(file), paint })
    }

    /// Asks. What was typed before the question is no answer to it and is thrown away. The end of
    /// input is [`Approval::Abort`].
    ///
    /// # Cancel safety
    /// Dropping the future withdraws the question.
    pub(crate) async fn ask(&self, request: &ApprovalRequest) -> Approval {
        match self.try_ask(request).await {
            Ok(approval) => approval,
            Err(_) => Approval::Abort,
        }
    }

    async fn try_ask(&self, request: &ApprovalRequest) -> io::Result<Approval> {
        self.say(&self.question(request))?;
        rustix::termios::tcflush(&*self.file, QueueSelector::IFlush)?;
        loop {
            let Some(line) = self.line().await? else {
                self.say("\n")?;
                return Ok(Approval::Abort);
            };
            match parse(&line) {
                Reply::Approval(Approval::Denied { reason: None }) => {
                    self.say("Why not? (for the model; Enter for no reason) ")?;
                    let reason = self.line().await?;
                    let reason = reason.map(|line| clean_line(line.trim()));
                    return Ok(Approval::Denied { reason: reason.filter(|text| !text.is_empty()) });
                }
                Reply::Approval(approval) => return Ok(approval),
                Reply::Unclear => self.say("Please answer y, a or n: ")?,
            }
        }
    }

    /// Asks for a yes or a no; the end of input is neither.
    ///
    /// # Errors
    /// The terminal cannot be used.
    ///
    /// # Cancel safety
    /// Dropping the future withdraws the question.
    pub(crate) async fn confirm(&self, question: &str) -> io::Result<Option<bool>> {
        self.say(question)?;
        rustix::termios::tcflush(&*self.file, QueueSelector::IFlush)?;
        loop {
            let Some(line) = self.line().await? else {
                self.say("\n")?;
                return Ok(None);
            };
            match parse(&line) {
                Reply::Approval(Approval::Once) => return Ok(Some(true)),
                Reply::Approval(Approval::Denied { .. }) => return Ok(Some(false)),
                _ => self.say("Please answer y or n: ")?,
            }
        }
    }

    fn question(&self, request: &ApprovalRequest) -> String {
        let mut text = String::from("\n");
        for line in clean(&request.action).lines() {
            text.push_str(&format!("  {}\n", self.paint.paint(Role::Strong, line)));
        }
        if let Some(purpose) = &request.purpose {
            let purpose = format!("  # {}", clean_line(purpose));
            text.push_str(&format!("{}\n", self.paint.paint(Role::Dim, &purpose)));
        }
        match &request.risk {
            Risk::Ordinary => {}
            Risk::Risky { because } => {
                let warning = format!("  careful: it {because}");
                text.push_str(&format!("{}\n", self.paint.paint(Role::Warning, &warning)));
            }
        }
        text.push_str("Run this? [y]es, [a]ll this session, [n]o: ");
        text
    }

    fn say(&self, text: &str) -> io::Result<()> {
        io::Write::write_all(&mut &*self.file, text.as_bytes())
    }

    /// Reads a line in a thread, which has ended when the future is dropped: what is typed after that is for whoever
    /// reads next.
    async fn line(&self) -> io::Result<Option<String>> {
        let (tell, line) = oneshot::channel();
        let is_withdrawn = Arc::new(AtomicBool::new(false));
        let (file, stop) = (Arc::clone(&self.file), Arc::clone(&is_withdrawn));
        let reader = std::thread::Builder::new().name("question".to_owned()).spawn(move || {
            // Nobody listens where the question was withdrawn.
            drop(tell.send(read_line(&file, &stop)));
        })?;
        let _reader = Reader { is_withdrawn, thread: Some(reader) };
        line.await.unwrap_or(Ok(None))
    }
}

/// The thread that waits for an answer. Dropping it tells it that the question no longer stands, and waits until it has
/// seen that: it would take the first key of whatever reads the terminal next.
struct Reader {
    is_withdrawn: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.is_withdrawn.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It tells what went wrong, and does not panic.
            drop(thread.join());
        }
    }
}

/// Reads a line of a terminal, until it is told to stop: `None` then, as at the end.
///
/// # Errors
/// It cannot be read.
pub(crate) fn read_line(file: &File, stop: &AtomicBool) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    let mut byte = [0];
    while !stop.load(Ordering::Relaxed) {
        match poll(&mut [PollFd::new(file, PollFlags::IN)], Some(&LOOK_EVERY)) {
            Ok(0) | Err(Errno::INTR) => continue,
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        match rustix::io::read(file, &mut byte) {
            Ok(0) if line.is_empty() => return Ok(None),
            Ok(1) if byte != [b'\n'] => line.push(byte[0]),
            Ok(_) => return Ok(Some(String::from_utf8_lossy(&line).into_owned())),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(None)
}

/// What a line says.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Reply {
    Approval(Approval),
    Unclear,
}

/// Reads an answer. Only a clear yes is one. What follows a `no` is its reason.
fn parse(line: &str) -> Reply {
    let line = line.trim();
    let (word, rest) = line.split_once([' ', ',', ':']).unwrap_or((line, ""));
    let reason = clean_line(rest.trim_start_matches([' ', ',', ':']));
    match word.to_ascii_lowercase().as_str() {
        "y" | "yes" if reason.is_empty() => Reply::Approval(Approval::Once),
        "a" | "all" if reason.is_empty() => Reply::Approval(Approval::Session),
        "n" | "no" => {
            let reason = Some(reason).filter(|reason| !reason.is_empty());
            Reply::Approval(Approval::Denied { reason })
        }
        _ => Reply::Unclear,
    }
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;

    use super::*;

    #[test]
    fn only_a_clear_yes_is_one() {
        assert_eq!(parse("y"), Reply::Approval(Approval::Once));
        assert_eq!(parse(" YES "), Reply::Approval(Approval::Once));
        assert_eq!(parse("a"), Reply::Approval(Approval::Session));
        for line in ["", "ye", "yn", "ok", "yes but not now", "\u{1b}[A"] {
            assert_eq!(parse(line), Reply::Unclear, "{line:?}");
        }
    }

    #[tokio::test]
    async fn what_is_typed_after_a_question_was_withdrawn_is_for_the_next_reader() {
        let (terminal, mut keyboard) = std::os::unix::net::UnixStream::pair().unwrap();
        let mut next = terminal.try_clone().unwrap();
        next.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
        let file = Arc::new(File::from(std::os::fd::OwnedFd::from(terminal)));
        let asked = Terminal { file, paint: Paint::Plain };
        for key in 0..10 {
            let waited =
                tokio::time::timeout(std::time::Duration::from_millis(30), asked.line()).await;
            assert!(waited.is_err());
            io::Write::write_all(&mut keyboard, &[key]).unwrap();
            let mut read = [255];
            io::Read::read_exact(&mut next, &mut read).unwrap();
            assert_eq!(read, [key]);
        }
    }

    #[test]
    fn what_follows_a_no_is_its_reason() {
        for line in ["no, use git rm", "n use git rm", "N: use git rm"] {
            let reason = Some("use git rm".to_owned());
            assert_eq!(parse(line), Reply::Approval(Approval::Denied { reason }), "{line:?}");
        }
        assert_eq!(parse("n"), Reply::Approval(Approval::Denied { reason: None }));
    }
}
