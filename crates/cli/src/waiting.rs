//! What the user sees while a microVM is waited for.
//!
//! The line that says so is the terminal's last one, and what else forge says goes there too, as the model's answer does
//! that the microVM is made beside. So whoever writes to the terminal calls [`make_room`] before, and the line comes back when
//! nothing was written for a while.

use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use forge_api::{OutputStream, Progress, ProgressListener};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::terminal::is_terminal;
use crate::writer;

/// What takes no longer is not shown, and so long nothing else must have been said.
const PATIENCE: Duration = Duration::from_millis(300);

/// What is waited for so soon after something else is the same wait.
const PAUSE: Duration = Duration::from_secs(2);

/// How often a line that waits shows that it does.
const TICK: Duration = Duration::from_millis(120);

/// The only one, as there is one terminal.
static LINE: LazyLock<Mutex<Line>> = LazyLock::new(|| Mutex::new(Line::new(Screen::Stderr)));

/// Shows on a terminal's last line, on stderr, what is waited for, and removes it at the end; `None` where stderr is no
/// terminal.
pub(crate) fn shown() -> Option<ProgressListener> {
    if !is_terminal(OutputStream::Stderr) {
        return None;
    }
    Some(ProgressListener::new(|progress| {
        let mut line = line();
        if line.take(progress) == Waiting::Begun {
            // Where there are no threads left, nothing is shown.
            let _unchecked = thread::Builder::new().name("waiting".to_owned()).spawn(keep_showing);
        }
    }))
}

/// Takes the line away, as something else is about to be written.
pub(crate) fn make_room() {
    line().make_room();
}

/// Notes whether the last line that was written to the terminal waits for more.
pub(crate) fn left_open(is_open: bool) {
    line().open = if is_open { LastLine::Open } else { LastLine::Complete };
}

/// Whether a line that was left open was completed, so that this could be shown below it. Said once.
pub(crate) fn has_completed() -> bool {
    let mut line = line();
    let completed = line.open == LastLine::Completed;
    line.open = LastLine::Complete;
    completed
}

fn line() -> MutexGuard<'static, Line> {
    LINE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn keep_showing() {
    loop {
        thread::sleep(TICK);
        if line().look() == Waiting::Over {
            return;
        }
    }
}

/// How a wait stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waiting {
    /// Just now.
    Begun,
    GoesOn,
    Over,
}

/// The last line of what else is on the terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LastLine {
    Complete,
    /// More of it may come.
    Open,
    /// It was open, and a newline was added to it here.
    Completed,
}

/// Where the line is shown.
#[derive(Debug)]
enum Screen {
    Stderr,
    #[cfg(test)]
    Memory(indicatif::InMemoryTerm),
}

impl Screen {
    fn target(&self) -> ProgressDrawTarget {
        match self {
            Self::Stderr => ProgressDrawTarget::stderr(),
            #[cfg(test)]
            Self::Memory(terminal) => ProgressDrawTarget::term_like(Box::new(terminal.clone())),
        }
    }

    fn end_line(&self) {
        match self {
            // A terminal that is gone shows nothing.
            Self::Stderr => drop(writer::write_all(OutputStream::Stderr, b"\n")),
            #[cfg(test)]
            Self::Memory(terminal) => indicatif::TermLike::write_line(terminal, "").unwrap(),
        }
    }
}

/// The line, and what would be on it.
#[derive(Debug)]
struct Line {
    screen: Screen,
    /// What is waited for, and since when that is.
    now: Option<(Progress, Instant)>,
    /// Since when anything has been, with hardly a pause.
    begun: Instant,
    ended: Option<Instant>,
    bar: Option<ProgressBar>,
    /// Since when nothing else was said.
    quiet: Instant,
    open: LastLine,
    /// Whether the thread that shows it runs.
    is_watched: bool,
}

impl Line {
    fn new(screen: Screen) -> Self {
        let begun = Instant::now();
        Self {
            screen,
            now: None,
            begun,
            ended: None,
            bar: None,
            quiet: begun,
            open: LastLine::Complete,
            is_watched: false,
        }
    }

    fn take(&mut self, progress: Progress) -> Waiting {
        if progress == Progress::Ended {
            self.now = None;
            self.ended = Some(Instant::now());
            self.clear();
            return Waiting::Over;
        }
        let goes_on = || self.ended.is_some_and(|ended| ended.elapsed() < PAUSE);
        if self.now.is_none() && !goes_on() {
            self.begun = Instant::now();
        }
        let is_same = |now: &Progress| is_counting(now) == is_counting(&progress);
        let since = match &self.now {
            Some((now, since)) if is_same(now) => *since,
            Some(_) | None => Instant::now(),
        };
        if let (Some(bar), Some((now, _))) = (&self.bar, &self.now) {
            if !is_same(now) {
                bar.set_style(style(&progress));
                bar.reset_elapsed();
            }
            show(bar, progress);
        }
        self.now = Some((progress, since));
        if std::mem::replace(&mut self.is_watched, true) { Waiting::GoesOn } else { Waiting::Begun }
    }

    /// Shows the line where it is due.
    fn look(&mut self) -> Waiting {
        let Some((progress, since)) = self.now else {
            self.is_watched = false;
            return Waiting::Over;
        };
        if self.bar.is_none()
            && self.begun.elapsed() >= PATIENCE
            && self.quiet.elapsed() >= PATIENCE
        {
            if self.open == LastLine::Open {
                self.screen.end_line();
                self.open = LastLine::Completed;
            }
            let bar = ProgressBar::with_draw_target(None, self.screen.target());
            let bar = bar.with_style(style(&progress)).with_elapsed(since.elapsed());
            show(&bar, progress);
            bar.enable_steady_tick(TICK);
            self.bar = Some(bar);
        }
        Waiting::GoesOn
    }

    fn make_room(&mut self) {
        self.quiet = Instant::now();
        self.clear();
    }

    fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

fn is_counting(progress: &Progress) -> bool {
    matches!(progress, Progress::Sending { .. })
}

fn show(bar: &ProgressBar, progress: Progress) {
    bar.set_message(match progress {
        Progress::Starting => "starting the microVM",
        Progress::Listing => "looking at the project",
        Progress::Sending { .. } => "sending",
        Progress::Unpacking => "unpacking the project there",
        Progress::Ended => "",
    });
    if let Progress::Sending { paths, all_paths, bytes, all_bytes } = progress {
        bar.set_length(all_bytes);
        bar.set_prefix(format!("{paths}/{all_paths}"));
        bar.set_position(bytes);
    }
}

fn style(progress: &Progress) -> ProgressStyle {
    let template = if is_counting(progress) {
        "{spinner} {msg} {prefix} files {bytes}/{total_bytes} {bytes_per_sec} {eta}"
    } else {
        "{spinner} {msg} ({elapsed})"
    };
    // It is one of the two above, and a test reads them.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}

#[cfg(test)]
mod tests {
    use indicatif::{InMemoryTerm, TermLike as _};
    use pretty_assertions::assert_eq;

    use super::*;

    /// A line that was waited for for long enough.
    fn waiting(terminal: &InMemoryTerm) -> Line {
        let mut line = Line::new(Screen::Memory(terminal.clone()));
        assert_eq!(line.take(Progress::Starting), Waiting::Begun);
        thread::sleep(PATIENCE);
        line
    }

    fn shown(line: &Line, terminal: &InMemoryTerm) -> String {
        if line.bar.is_some() {
            // It is drawn anew by itself.
            thread::sleep(TICK * 2);
        }
        terminal.contents()
    }

    #[test]
    fn what_is_waited_for_is_on_one_line_of_sixty_columns_and_gone_at_the_end() {
        let terminal = InMemoryTerm::new(3, 60);
        let mut line = waiting(&terminal);
        assert_eq!(line.look(), Waiting::GoesOn);
        assert!(shown(&line, &terminal).contains("starting the microVM (0s)"));
        assert_eq!(line.take(Progress::Listing), Waiting::GoesOn);
        assert!(shown(&line, &terminal).contains("looking at the project ("));
        let (bytes, all_bytes) = (2 << 20, 5 << 20);
        line.take(Progress::Sending { paths: 7, all_paths: 10_000, bytes, all_bytes });
        let actual = shown(&line, &terminal);
        assert!(actual.contains("sending 7/10000 files 2.00 MiB/5.00 MiB"), "{actual}");
        assert_eq!(actual.lines().count(), 1);
        line.take(Progress::Unpacking);
        assert!(shown(&line, &terminal).contains("unpacking the project there"));
        assert_eq!(line.take(Progress::Ended), Waiting::Over);
        assert_eq!((terminal.contents(), line.look()), (String::new(), Waiting::Over));
    }

    #[test]
    fn what_takes_no_longer_than_a_moment_is_not_shown() {
        let terminal = InMemoryTerm::new(3, 60);
        let mut line = Line::new(Screen::Memory(terminal.clone()));
        line.take(Progress::Starting);
        line.look();
        assert_eq!(shown(&line, &terminal), "");
    }

    #[test]
    fn it_makes_room_for_what_is_said_and_comes_back_below_it() {
        let terminal = InMemoryTerm::new(5, 60);
        let mut line = waiting(&terminal);
        line.look();
        assert!(shown(&line, &terminal).contains("starting"));
        line.make_room();
        assert_eq!(terminal.contents(), "");
        terminal.write_str("I begin").unwrap();
        line.open = LastLine::Open;
        line.look();
        assert_eq!(shown(&line, &terminal), "I begin", "more may come at once");
        thread::sleep(PATIENCE);
        line.look();
        let actual = shown(&line, &terminal);
        let [said, waits] = actual.lines().collect::<Vec<_>>()[..] else { panic!("{actual}") };
        assert_eq!((said, waits.contains("starting the microVM")), ("I begin", true));
        assert_eq!(line.open, LastLine::Completed);
        line.take(Progress::Ended);
        assert_eq!(terminal.contents(), "I begin");
    }
}
