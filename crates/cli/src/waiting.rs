//! What the user sees while a microVM is waited for.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use forge_api::{OutputStream, Progress, ProgressListener};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::terminal::is_terminal;

/// What takes no longer is not shown.
const PATIENCE: Duration = Duration::from_millis(300);

/// How often a line that waits shows that it does.
const TICK: Duration = Duration::from_millis(120);

/// Shows on a terminal's last line, on stderr, what is waited for, and removes it at the end; `None` where stderr is no
/// terminal.
pub(crate) fn shown() -> Option<ProgressListener> {
    if !is_terminal(OutputStream::Stderr) {
        return None;
    }
    let line = Arc::new(Mutex::new(Line::default()));
    Some(ProgressListener::new(move |progress| {
        line.lock().unwrap_or_else(PoisonError::into_inner).take(progress);
    }))
}

/// The line, once there is one.
#[derive(Debug, Default)]
struct Line {
    bar: Option<ProgressBar>,
    is_counting: bool,
}

impl Line {
    fn take(&mut self, progress: Progress) {
        let said = match progress {
            Progress::Starting => "starting the microVM",
            Progress::Listing => "looking at the project",
            Progress::Sending { .. } => "sending",
            Progress::Unpacking => "unpacking the project there",
            Progress::Ended => {
                if let Some(bar) = self.bar.take() {
                    bar.finish_and_clear();
                }
                self.is_counting = false;
                return;
            }
        };
        let bar = self.bar.get_or_insert_with(begin);
        if let Progress::Sending { paths, all_paths, bytes, all_bytes } = progress {
            if !self.is_counting {
                self.is_counting = true;
                bar.set_message(said);
                bar.reset_elapsed();
                bar.set_length(all_bytes);
                bar.set_style(counting());
            }
            bar.set_prefix(format!("{paths}/{all_paths}"));
            bar.set_position(bytes);
        } else {
            if self.is_counting {
                self.is_counting = false;
                bar.set_style(waiting());
            }
            bar.set_message(said);
        }
    }
}

/// A line that shows itself after a while.
fn begin() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
    bar.set_style(waiting());
    let shown = bar.clone();
    // Where there are no threads left, nothing is shown.
    let _unchecked = thread::Builder::new().name("waiting".to_owned()).spawn(move || {
        thread::sleep(PATIENCE);
        if !shown.is_finished() {
            shown.set_draw_target(ProgressDrawTarget::stderr());
            shown.enable_steady_tick(TICK);
        }
    });
    bar
}

fn waiting() -> ProgressStyle {
    style("{spinner} {msg} ({elapsed})")
}

fn counting() -> ProgressStyle {
    style("{spinner} {msg} {prefix} files {bytes}/{total_bytes} {bytes_per_sec} {eta}")
}

fn style(template: &str) -> ProgressStyle {
    // It is one of the two above, and a test reads them.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}

#[cfg(test)]
mod tests {
    use indicatif::InMemoryTerm;
    use pretty_assertions::assert_eq;

    use super::*;

    #[test]
    fn what_is_waited_for_is_on_one_line_of_sixty_columns_and_gone_at_the_end() {
        let terminal = InMemoryTerm::new(3, 60);
        let bar = ProgressBar::with_draw_target(
            None,
            ProgressDrawTarget::term_like(Box::new(terminal.clone())),
        );
        bar.set_style(waiting());
        let mut line = Line { bar: Some(bar), is_counting: false };
        let shown = |line: &Line| {
            line.bar.as_ref().unwrap().tick();
            terminal.contents()
        };
        line.take(Progress::Starting);
        assert!(shown(&line).contains("starting the microVM (0s)"), "{}", shown(&line));
        line.take(Progress::Listing);
        assert!(shown(&line).contains("looking at the project (0s)"), "{}", shown(&line));
        let (bytes, all_bytes) = (2 << 20, 5 << 20);
        line.take(Progress::Sending { paths: 7, all_paths: 10_000, bytes, all_bytes });
        let actual = shown(&line);
        assert!(actual.contains("sending 7/10000 files 2.00 MiB/5.00 MiB"), "{actual}");
        assert_eq!(actual.lines().count(), 1);
        line.take(Progress::Unpacking);
        assert!(shown(&line).contains("unpacking the project there"), "{}", shown(&line));
        line.take(Progress::Ended);
        assert_eq!(terminal.contents(), "");
    }
}
