//! `forge` at a terminal: a conversation.

mod editor;
mod slash;

use std::time::Duration;

use forge_api::{Conversation, ForgeAPI, OutputStream, Signal};
use tokio::time::timeout;

use crate::arguments::AskWhich;
use crate::banner;
use crate::closing::{self, Closing, End};
use crate::exit::Conclusion;
use crate::failure::{self, Failure};
use crate::model;
#[cfg(target_os = "linux")]
use crate::pending::{Occasion, Pending};
use crate::questions::{Desk, Terminal};
use crate::rendering::{Glyphs, Progress, Transcript, describe};
use crate::settings::{Settings, state_directory};
use crate::setup;
use crate::signals::{Arrival, Signals};
use crate::terminal::{self, Paint, Role, clean};
use crate::turn::{Driven, Driver, View};
use crate::writer::{self, WriteError};

use editor::{Editor, Input};
use slash::Slash;

/// How long the line editor may take to let go of the terminal when forge is told to end.
const EDITOR_LIMIT: Duration = Duration::from_secs(2);

/// Holds the conversation until the user ends it.
///
/// # Errors
/// It could not be begun, or the terminal is gone.
pub(crate) async fn run(settings: Settings) -> Result<Conclusion, Failure> {
    let paint = Paint::choose(settings.color, OutputStream::Stdout);
    let signals = Signals::listen()
        .map_err(|source| Failure::System { what: "signals cannot be handled", source })?;
    let ask = settings.task.ask.unwrap_or(settings.choice.asks_by_default());
    let asked_on = Terminal::open(paint)
        .map_err(|source| Failure::System { what: "the terminal cannot be opened", source })?;
    let (desk, questions) = Desk::new();
    let model = model::configure(settings.task.model.as_deref())?;
    let config = settings.forge()?.model(model).agent(settings.agent(ask)).approver(desk);
    let api = ForgeAPI::init(config).await?;

    terminal::remember();
    let environment = banner::environment(&api, &settings.choice).await?;
    say_banner(&api, environment, ask, paint)?;
    let glyphs = Glyphs::choose();
    let transcript = Transcript::new(Progress::WithAnswer, paint, glyphs, settings.verbose);
    let mut session = Session {
        conversation: api.conversation(),
        driver: Driver { signals, questions, terminal: Some(asked_on) },
        view: View::Transcript(transcript),
        editor: Editor::start(state_directory(), paint)?,
        #[cfg(target_os = "linux")]
        end: End::of(&settings, false),
        #[cfg(target_os = "linux")]
        pending: Pending::default(),
        paint,
    };
    let agreed = setup::before_tools(&api, &settings, &mut session.driver.signals, paint).await;
    let result = match agreed {
        Ok(Some(signal)) => Ok(Conclusion::Ended(signal)),
        Ok(None) => session.converse(&api).await,
        Err(failure) => Err(failure),
    };
    session.editor.stop();
    let is_interrupted = matches!(result, Ok(Conclusion::Ended(_)));
    let closing = Closing {
        choice: &settings.choice,
        end: End::of(&settings, is_interrupted),
        verbose: settings.verbose,
        #[cfg(target_os = "linux")]
        pending: session.pending,
        paint,
    };
    let closed = closing::close(&api, closing, &mut session.driver.signals).await;
    match (result, closed.ended_by) {
        (Ok(Conclusion::Done), Some(signal)) => Ok(Conclusion::Ended(signal)),
        (result, _) => result,
    }
}

struct Session {
    conversation: Conversation,
    driver: Driver,
    view: View,
    editor: Editor,
    /// What becomes of changes after each turn.
    #[cfg(target_os = "linux")]
    end: End,
    #[cfg(target_os = "linux")]
    pending: Pending,
    paint: Paint,
}

impl Session {
    async fn converse(&mut self, api: &ForgeAPI) -> Result<Conclusion, Failure> {
        let mut interrupted = false;
        loop {
            let input = self.input().await?;
            if input != Input::Interrupt {
                interrupted = false;
            }
            let line = match input {
                Input::Line(line) => line,
                Input::Interrupt if interrupted => return Ok(Conclusion::Done),
                Input::Interrupt => {
                    interrupted = true;
                    self.say("Ctrl-C again, Ctrl-D or /quit ends forge.")?;
                    continue;
                }
                Input::End => return Ok(Conclusion::Done),
                Input::Ended(signal) => return Ok(Conclusion::Ended(signal)),
            };
            match slash::parse(&line) {
                None if line.trim().is_empty() => {}
                None => {
                    let ended_by = match self.turn(api, line).await? {
                        None => self.look_at_changes(api).await?,
                        ended_by => ended_by,
                    };
                    if let Some(signal) = ended_by {
                        return Ok(Conclusion::Ended(signal));
                    }
                }
                Some(Ok(Slash::Quit)) => return Ok(Conclusion::Done),
                Some(Ok(Slash::Help)) => self.say(slash::HELP)?,
                #[cfg(target_os = "linux")]
                Some(Ok(slash @ (Slash::Diff | Slash::Apply | Slash::Undo))) => {
                    if let Some(signal) = self.changes(api, slash).await? {
                        return Ok(Conclusion::Ended(signal));
                    }
                }
                Some(Ok(Slash::New)) => {
                    self.conversation = api.conversation();
                    self.say("A new conversation begins.")?;
                }
                Some(Err(unknown)) => self.say(&unknown.to_string())?,
            }
        }
    }

    async fn input(&mut self) -> Result<Input, Failure> {
        self.editor.ask();
        loop {
            tokio::select! {
                input = self.editor.answer() => return input.map_err(|source| {
                    Failure::System { what: "the terminal cannot be read", source }
                }),
                arrival = self.driver.signals.next() => match arrival {
                    // Sent by somebody else: at the prompt, Ctrl-C is a key.
                    Arrival::Interrupt => {}
                    Arrival::Terminate(signal) => {
                        self.editor.stop();
                        // Where it does not let go in time, the modes are set back all the same.
                        drop(timeout(EDITOR_LIMIT, self.editor.answer()).await);
                        say("\n")?;
                        return Ok(Input::Ended(signal));
                    }
                }
            }
        }
    }

    /// One turn. Returns the signal that ends forge, if one came.
    async fn turn(&mut self, api: &ForgeAPI, text: String) -> Result<Option<Signal>, Failure> {
        let before = self.conversation.clone();
        let mut turn = api.prompt(std::mem::take(&mut self.conversation), text);
        let driven = self.driver.drive(&mut turn, &mut self.view).await;
        let View::Transcript(transcript) = &mut self.view else { return Ok(None) };
        let signal = match driven? {
            Driven::ToItsEnd(signal) => signal,
            Driven::DropNow(signal) => {
                drop(turn);
                self.conversation = before;
                transcript.end(None).await?;
                if signal == Signal::INT {
                    transcript
                        .remark("the turn was dropped; the conversation is as before it")
                        .await?;
                    transcript.flush().await?;
                    return Ok(None);
                }
                return Ok(Some(signal));
            }
        };
        let (conversation, result) = turn.finish().await;
        self.conversation = conversation;
        match result {
            Ok(report) => {
                transcript.end(Some(&report)).await?;
                if let Some(text) = describe(&report.outcome) {
                    transcript.remark(&text).await?;
                    transcript.flush().await?;
                }
            }
            Err(error) => {
                transcript.end(None).await?;
                failure::print(&error.into(), self.paint);
            }
        }
        Ok(signal.filter(|signal| *signal != Signal::INT))
    }

    /// What waits after a turn: it is applied, asked about or named. A failure is no reason to end.
    #[cfg(target_os = "linux")]
    async fn look_at_changes(&mut self, api: &ForgeAPI) -> Result<Option<Signal>, Failure> {
        self.between_turns(api, Occasion::TurnEnded, self.end).await
    }

    #[cfg(not(target_os = "linux"))]
    async fn look_at_changes(&mut self, _api: &ForgeAPI) -> Result<Option<Signal>, Failure> {
        Ok(None)
    }

    #[cfg(target_os = "linux")]
    async fn between_turns(
        &mut self,
        api: &ForgeAPI,
        occasion: Occasion,
        end: End,
    ) -> Result<Option<Signal>, Failure> {
        let signals = &mut self.driver.signals;
        match self.pending.between_turns(api, occasion, end, signals, self.paint).await {
            // A Ctrl-C at the question is a no, and the conversation goes on.
            Ok(ended_by) => Ok(ended_by.filter(|signal| *signal != Signal::INT)),
            Err(failure) => {
                failure::print(&failure, self.paint);
                Ok(None)
            }
        }
    }

    /// What the user asks of the session's changes.
    #[cfg(target_os = "linux")]
    async fn changes(&mut self, api: &ForgeAPI, slash: Slash) -> Result<Option<Signal>, Failure> {
        let done = match slash {
            Slash::Apply => return self.between_turns(api, Occasion::Asked, End::Ask).await,
            Slash::Undo => self.pending.undo(api, self.paint).await,
            Slash::Diff | Slash::Help | Slash::New | Slash::Quit => {
                crate::diff::of_session_in_use(api, self.paint).await
            }
        };
        if let Err(failure) = done {
            failure::print(&failure, self.paint);
        }
        Ok(None)
    }

    fn say(&self, text: &str) -> Result<(), WriteError> {
        let lines: String =
            text.lines().map(|line| self.paint.paint(Role::Dim, &clean(line)) + "\n").collect();
        say(&lines)
    }
}

fn say_banner(
    api: &ForgeAPI,
    environment: Vec<(&'static str, String)>,
    ask: AskWhich,
    paint: Paint,
) -> Result<(), WriteError> {
    let model = api.model_id().map_or_else(|| "none".to_owned(), ToString::to_string);
    let asked = match ask {
        AskWhich::Always => "you are asked before each command",
        AskWhich::Risky => "you are asked before risky commands",
        AskWhich::Never => "you are not asked before commands",
    };
    let mut lines = environment;
    lines.extend([
        ("", asked.to_owned()),
        ("model", model),
        ("workspace", api.workspace().root.display().to_string()),
    ]);
    let mut text =
        format!("{} {}\n", paint.paint(Role::Strong, "forge"), env!("CARGO_PKG_VERSION"));
    for (name, value) in lines {
        text.push_str(&paint.paint(Role::Dim, &format!("{name:>11}  ")));
        text.push_str(&clean(&value));
        text.push('\n');
    }
    text.push_str(&paint.paint(Role::Dim, "/help says what there is; Ctrl-D ends."));
    text.push('\n');
    say(&text)
}

/// Writes to the terminal while nothing else is under way.
fn say(text: &str) -> Result<(), WriteError> {
    writer::write_all(OutputStream::Stdout, text.as_bytes())
        .map_err(|source| WriteError::Failed { stream: OutputStream::Stdout, source })
}
