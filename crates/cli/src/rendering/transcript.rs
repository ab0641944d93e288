//! A turn as a person reads it: the answer as it comes, a line for each tool call, and the first
//! lines of its output under it.

use forge_api::{AgentEvent, OutputStream, ToolCallId, ToolOutcome, TurnReport};

use super::lines::{LiveLines, fit};
use crate::terminal::{self, Cleaner, Paint, Role, clean, clean_line};
use crate::variables;
use crate::waiting;
use crate::writer::{WriteError, Writer};

/// Where tool calls and their output are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Nowhere.
    Hidden,
    /// On stderr, apart from the answer.
    Stderr,
    /// On stdout, with the answer: a conversation at a terminal.
    WithAnswer,
}

/// The characters that structure a transcript.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Glyphs {
    bullet: &'static str,
    bar: &'static str,
    corner: &'static str,
}

impl Glyphs {
    /// Unicode where the locale says that it can be shown, ASCII elsewhere.
    pub(crate) fn choose() -> Self {
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(variables::path);
        let locale = locale.unwrap_or_default().to_string_lossy().to_ascii_lowercase();
        if locale.contains("utf-8") || locale.contains("utf8") {
            Self { bullet: "●", bar: "│", corner: "└" }
        } else {
            Self { bullet: "*", bar: "|", corner: "=" }
        }
    }
}

/// Writes a turn to stdout, and to stderr where that was asked for.
#[derive(Debug)]
pub(crate) struct Transcript {
    stdout: Writer,
    stderr: Writer,
    progress: Progress,
    paint: Paint,
    glyphs: Glyphs,
    verbose: u8,
    cleaner: Cleaner,
    /// Whether the last line of the answer is not complete.
    open: bool,
    /// Whether the last thing shown was a tool call's.
    after_call: bool,
    calls: Vec<Call>,
    /// The call whose lines were shown last.
    current: Option<ToolCallId>,
}

#[derive(Debug)]
struct Call {
    id: ToolCallId,
    title: String,
    live: LiveLines,
}

impl Transcript {
    /// Begins a transcript.
    pub(crate) fn new(progress: Progress, paint: Paint, glyphs: Glyphs, verbose: u8) -> Self {
        Self {
            stdout: Writer::stdout(),
            stderr: Writer::stderr(),
            progress,
            paint,
            glyphs,
            verbose,
            cleaner: Cleaner::default(),
            open: false,
            after_call: false,
            calls: Vec::new(),
            current: None,
        }
    }

    /// Shows an event.
    pub(crate) async fn event(&mut self, event: &AgentEvent) -> Result<(), WriteError> {
        match event {
            AgentEvent::Text(text) => self.text(text).await,
            AgentEvent::Reasoning(text) if self.verbose > 0 => self.aside(&clean(text)).await,
            AgentEvent::ToolStarted { call_id, tool, summary, purpose } => {
                self.started(call_id, tool, summary, purpose.as_deref()).await
            }
            AgentEvent::ToolOutput { call_id, stream, bytes } => {
                self.output(call_id, *stream, bytes).await
            }
            AgentEvent::ToolFinished { call_id, tool, outcome, detail, elapsed } => {
                let mut text = clean_line(detail);
                if elapsed.as_millis() >= 100 {
                    text.push_str(&format!(", {:.1} s", elapsed.as_secs_f64()));
                }
                self.finished(call_id, tool, *outcome, text).await
            }
            AgentEvent::Reasoning(_) | AgentEvent::Usage(_) => Ok(()),
            AgentEvent::Notice(text) => self.remark(&format!("note: {}", clean_line(text))).await,
        }
    }

    /// Says something that is not the model's, on a line of its own; on stderr, unless this is a
    /// conversation.
    pub(crate) async fn remark(&mut self, text: &str) -> Result<(), WriteError> {
        self.close_line().await?;
        let line = format!("{}\n", self.paint.paint(Role::Warning, text));
        match self.progress {
            Progress::WithAnswer => self.stdout.write(line).await,
            Progress::Hidden | Progress::Stderr => {
                // What was said before must stand before.
                self.stdout.flush().await?;
                self.stderr.write(line).await
            }
        }
    }

    /// Completes the last line, and says what it cost where `-v` asked.
    pub(crate) async fn end(&mut self, report: Option<&TurnReport>) -> Result<(), WriteError> {
        self.close_line().await?;
        self.calls.clear();
        self.cleaner = Cleaner::default();
        self.after_call = false;
        if let (Some(report), 1..) = (report, self.verbose) {
            let tokens = |count: Option<u64>| {
                count.map_or_else(|| "unknown".to_owned(), |count| count.to_string())
            };
            let text = format!(
                "{} answers, {} tool calls, tokens: {} in, {} out",
                report.model_calls,
                report.tool_calls,
                tokens(report.usage.input_tokens),
                tokens(report.usage.output_tokens),
            );
            self.aside(&text).await?;
        }
        self.flush().await
    }

    /// Waits until everything is written.
    pub(crate) async fn flush(&mut self) -> Result<(), WriteError> {
        self.stdout.flush().await?;
        self.stderr.flush().await
    }

    async fn text(&mut self, text: &str) -> Result<(), WriteError> {
        let mut text = self.cleaner.clean(text);
        if text.is_empty() {
            return Ok(());
        }
        if self.after_call && self.progress == Progress::WithAnswer {
            text.insert(0, '\n');
        }
        self.after_call = false;
        self.current = None;
        self.open = !text.ends_with('\n');
        waiting::make_room();
        self.stdout.write(text).await?;
        waiting::left_open(self.open && terminal::is_terminal(OutputStream::Stdout));
        Ok(())
    }

    async fn started(
        &mut self,
        id: &ToolCallId,
        tool: &str,
        summary: &str,
        purpose: Option<&str>,
    ) -> Result<(), WriteError> {
        self.close_line().await?;
        let title = format!("{} {}", clean_line(tool), clean_line(summary));
        let purpose = purpose.map(|text| format!("  # {}", clean_line(text))).unwrap_or_default();
        let room = self.columns().saturating_sub(3);
        let shown = fit(&title, room);
        // A purpose of which hardly anything fits says nothing.
        let purpose = match room.saturating_sub(title.chars().count()) {
            0..12 => String::new(),
            left => fit(&purpose, left),
        };
        let bullet = self.paint.paint(Role::Strong, self.glyphs.bullet);
        let line = format!("{bullet} {shown}{}\n", self.paint.paint(Role::Dim, &purpose));
        self.calls.push(Call { id: id.clone(), title, live: LiveLines::default() });
        self.current = Some(id.clone());
        self.show(line).await
    }

    async fn output(
        &mut self,
        id: &ToolCallId,
        stream: OutputStream,
        bytes: &[u8],
    ) -> Result<(), WriteError> {
        let Some(call) = self.calls.iter_mut().find(|call| call.id == *id) else { return Ok(()) };
        let lines = call.live.push(stream, bytes);
        if lines.is_empty() {
            return Ok(());
        }
        let title = call.title.clone();
        self.continue_call(id, &title).await?;
        self.show_lines(&lines).await
    }

    async fn finished(
        &mut self,
        id: &ToolCallId,
        tool: &str,
        outcome: ToolOutcome,
        detail: String,
    ) -> Result<(), WriteError> {
        let at = self.calls.iter().position(|call| call.id == *id);
        let mut title = clean_line(tool);
        if let Some(at) = at {
            let mut call = self.calls.swap_remove(at);
            let (lines, hidden) = call.live.finish();
            if !lines.is_empty() {
                self.continue_call(id, &call.title).await?;
                self.show_lines(&lines).await?;
            }
            if hidden > 0 {
                let lines = if hidden == 1 { "line" } else { "lines" };
                self.continue_call(id, &call.title).await?;
                self.show_lines(&[format!("({hidden} more {lines})")]).await?;
            }
            title = call.title;
        }
        let (role, word) = match outcome {
            ToolOutcome::Succeeded => (Role::Dim, ""),
            ToolOutcome::Failed => (Role::Bad, "failed: "),
            ToolOutcome::Denied => (Role::Warning, "not allowed: "),
            ToolOutcome::Cancelled if detail.starts_with("cancelled") => (Role::Warning, ""),
            ToolOutcome::Cancelled => (Role::Warning, "cancelled: "),
        };
        let mut text = format!("{word}{detail}");
        if self.current.as_ref() != Some(id) {
            text = format!("{title}: {text}");
        }
        let text = fit(&text, self.columns().saturating_sub(5));
        let line = format!(
            "  {} {}\n",
            self.paint.paint(Role::Dim, self.glyphs.corner),
            self.paint.paint(role, &text)
        );
        self.current = None;
        self.show(line).await
    }

    /// Says whose lines follow, where another call's were shown in between.
    async fn continue_call(&mut self, id: &ToolCallId, title: &str) -> Result<(), WriteError> {
        if self.current.as_ref() == Some(id) {
            return Ok(());
        }
        self.current = Some(id.clone());
        let title = fit(title, self.columns().saturating_sub(3));
        let line = format!("{} {title}\n", self.paint.paint(Role::Dim, self.glyphs.bullet));
        self.show(line).await
    }

    async fn show_lines(&mut self, lines: &[String]) -> Result<(), WriteError> {
        let room = self.columns().saturating_sub(5);
        let bar = self.glyphs.bar;
        let text: String = lines
            .iter()
            .map(|line| self.paint.paint(Role::Dim, &format!("  {bar} {}", fit(line, room))) + "\n")
            .collect();
        self.show(text).await
    }

    /// Shows text of less importance, each line on its own.
    async fn aside(&mut self, text: &str) -> Result<(), WriteError> {
        let lines: String =
            text.lines().map(|line| self.paint.paint(Role::Dim, line) + "\n").collect();
        self.close_line().await?;
        self.show(lines).await
    }

    async fn show(&mut self, text: String) -> Result<(), WriteError> {
        self.after_call = true;
        waiting::make_room();
        match self.progress {
            Progress::Hidden => Ok(()),
            Progress::Stderr => {
                // What was said before must stand before.
                self.stdout.flush().await?;
                self.stderr.write(text).await
            }
            Progress::WithAnswer => {
                self.close_line().await?;
                self.stdout.write(text).await
            }
        }
    }

    async fn close_line(&mut self) -> Result<(), WriteError> {
        waiting::make_room();
        if std::mem::take(&mut self.open) && !waiting::has_completed() {
            self.stdout.write("\n").await?;
        }
        Ok(())
    }

    fn columns(&self) -> usize {
        terminal::columns(match self.progress {
            Progress::Hidden | Progress::Stderr => OutputStream::Stderr,
            Progress::WithAnswer => OutputStream::Stdout,
        })
    }
}
