//! The line editor, in a thread of its own, so that the runtime goes on while the user types.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use forge_api::Signal;
use reedline::{
    DefaultPrompt, DefaultPromptSegment, FileBackedHistory, Reedline, Signal as LineSignal,
};
use tokio::sync::mpsc;

use crate::failure::{self, Failure};
use crate::terminal::Paint;

/// How many lines the history keeps.
const HISTORY_LINES: usize = 1000;

/// What the user did at the prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Input {
    /// Entered a line, or several.
    Line(String),
    /// Pressed Ctrl-C, which cleared the line.
    Interrupt,
    /// Pressed Ctrl-D at an empty line.
    End,
    /// Nothing: this signal came to forge.
    Ended(Signal),
}

/// The editor. The terminal is in raw mode between [`Editor::ask`] and the answer, and only then.
#[derive(Debug)]
pub(super) struct Editor {
    ask: std::sync::mpsc::Sender<()>,
    answers: mpsc::UnboundedReceiver<io::Result<Input>>,
    stop: Arc<AtomicBool>,
}

impl Editor {
    /// Starts it. A history that cannot be kept is told and done without.
    pub(super) fn start(state: Option<PathBuf>, paint: Paint) -> Result<Self, Failure> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut editor = Reedline::create()
            .with_ansi_colors(paint == Paint::Colored)
            .use_bracketed_paste(true)
            .with_break_signal(Arc::clone(&stop));
        match state.map(|state| history(&state)) {
            Some(Ok(history)) => editor = editor.with_history(Box::new(history)),
            Some(Err(error)) => {
                failure::warn(&format!("the history cannot be kept: {error}"), paint);
            }
            None => {}
        }
        let (ask, asked) = std::sync::mpsc::channel::<()>();
        let (answer, answers) = mpsc::unbounded_channel();
        let thread = std::thread::Builder::new().name("line-editor".to_owned());
        let spawned = thread.spawn(move || {
            let prompt = DefaultPrompt::new(
                DefaultPromptSegment::Basic("forge".to_owned()),
                DefaultPromptSegment::Empty,
            );
            while asked.recv().is_ok() {
                let input = editor.read_line(&prompt).map(read);
                // Now, since forge may be ended before the editor is dropped. A history that cannot
                // be written is no reason to lose the line.
                drop(editor.sync_history());
                if answer.send(input).is_err() {
                    break;
                }
            }
        });
        spawned.map_err(|source| Failure::System { what: "the editor cannot start", source })?;
        Ok(Self { ask, answers, stop })
    }

    /// Shows the prompt.
    pub(super) fn ask(&self) {
        // A thread that is gone shows in the answer.
        let _ = self.ask.send(());
    }

    /// Waits for what the user does.
    ///
    /// # Errors
    /// The terminal cannot be read.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub(super) async fn answer(&mut self) -> io::Result<Input> {
        let gone = || Err(io::Error::other("the line editor has ended"));
        self.answers.recv().await.unwrap_or_else(gone)
    }

    /// Ends the prompt soon, where one is shown.
    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn read(signal: LineSignal) -> Input {
    match signal {
        LineSignal::Success(line) | LineSignal::HostCommand(line) => Input::Line(line),
        LineSignal::CtrlC => Input::Interrupt,
        LineSignal::CtrlD | LineSignal::ExternalBreak(_) => Input::End,
        // The enum may grow; what is not known here asks for nothing.
        _ => Input::Line(String::new()),
    }
}

/// Opens the history, which nobody else may read: a prompt can hold anything.
fn history(state: &Path) -> io::Result<FileBackedHistory> {
    DirBuilder::new().recursive(true).mode(0o700).create(state)?;
    let path = state.join("history");
    drop(File::options().create(true).append(true).mode(0o600).open(&path)?);
    FileBackedHistory::with_file(HISTORY_LINES, path).map_err(io::Error::other)
}
