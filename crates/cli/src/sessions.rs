//! `forge discard` and `forge session`: what is kept of sessions, looked at and cleared
//! away. Nothing is started here. What of it is about microVMs is in `microvms`.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use forge_api::{
    Host, Listing, LocalHost, OutputStream, PruneOptions, SessionError, SessionId, SessionState,
    SessionStore, SessionSummary,
};
use rustix::process::{Pid, Signal, kill_process};

use crate::arguments::{DiscardArguments, PlaceOptions, SessionArguments, SessionVerb};
use crate::closing::Left;
use crate::commits;
use crate::executor::store_directory;
use crate::exit::Conclusion;
use crate::failure::{self, Failure};
use crate::microvms::{Microvms, Standings};
use crate::rendering::steers;
use crate::settings::state_directory;
use crate::stdin;
use crate::terminal::{Paint, Role, clean, is_terminal};
use crate::variables;
use crate::writer;

/// How long a session that is told to stop is waited for.
const STOP_LIMIT: Duration = Duration::from_secs(15);
const MICROVM_STOP_LIMIT: Duration = Duration::from_secs(100);
const STOP_INTERVAL: Duration = Duration::from_millis(50);

/// The sessions, and where the command was called.
pub(crate) struct Place {
    pub(crate) store: SessionStore,
    pub(crate) workspace: Option<PathBuf>,
    pub(crate) paint: Paint,
}

impl Place {
    pub(crate) async fn of(options: &PlaceOptions) -> Result<Self, Failure> {
        let state = store_directory()?;
        let host = LocalHost {
            home: variables::absolute_path("HOME"),
            state_directory: state_directory(),
        };
        let start = options.directory.clone().unwrap_or_else(|| PathBuf::from("."));
        let located = host.locate_workspace(&start).await;
        // A directory that was named has to be there; that of the process may be anything.
        let workspace = match located {
            Ok(location) => Some(location.root),
            Err(error) if options.directory.is_some() => {
                return Err(forge_api::InitError::from(error).into());
            }
            Err(_) => None,
        };
        let paint = Paint::choose(options.color.unwrap_or_default(), OutputStream::Stdout);
        if let Some(workspace) = &workspace {
            crate::apply::recover(workspace, &state);
        }
        Ok(Self { store: SessionStore::new(state), workspace, paint })
    }

    /// The session that is meant: the one that is named, or the newest of the workspace that holds
    /// anything.
    pub(crate) fn session(&self, named: Option<&str>) -> Result<Option<SessionSummary>, Failure> {
        if let Some(text) = named {
            let id = self.store.resolve(text)?;
            return Ok(Some(self.store.find(&id)?));
        }
        match &self.workspace {
            Some(workspace) => Ok(self.store.newest(workspace)?),
            None => Err(Failure::Usage(
                "this directory is no workspace; name a session, or a directory with -C".to_owned(),
            )),
        }
    }
}

/// A path as it is printed: what could steer a terminal is escaped.
pub(crate) fn shown(path: &Path) -> String {
    match path.to_str() {
        Some(text) if !text.chars().any(steers) => clean(text),
        _ => format!("{:?}", path.display().to_string()),
    }
}

pub(crate) fn plural(count: u64, one: &'static str, many: &'static str) -> &'static str {
    if count == 1 { one } else { many }
}

/// `forge discard`.
///
/// # Errors
/// There is no such session, it is in use, or the user has to say more.
pub(crate) async fn discard(arguments: DiscardArguments) -> Result<Conclusion, Failure> {
    let place = Place::of(&arguments.common).await?;
    let paint = Paint::choose(arguments.common.color.unwrap_or_default(), OutputStream::Stderr);
    let Some(session) = place.session(arguments.session.as_deref())? else {
        failure::note("there is nothing to discard", paint);
        return Ok(Conclusion::Done);
    };
    let count = place.store.layers(&session.id).and_then(|layers| {
        layers.changes().map_err(|source| SessionError::Io {
            operation: "reading the changes in",
            path: session.workspace.clone(),
            source,
        })
    });
    let (what, is_lost) = match count {
        Ok(count) => {
            let (changed, ignored) = (count.changes.len() as u64, count.ignored_files);
            let waiting = commits::waiting(&place.store, &session.id);
            let is_lost = (changed, ignored) != (0, 0) || waiting.is_some();
            (
                format!("{} of session {}", commits::held(changed, ignored, waiting), session.id),
                is_lost,
            )
        }
        // Its workspace has moved or is gone, say: who knows what is in it drops it all the same.
        Err(error) if arguments.force => {
            failure::warn(&Failure::from(error).message(), paint);
            (format!("all changes of session {}", session.id), true)
        }
        Err(error) => {
            failure::note("--force discards it without a look at what it holds", paint);
            return Err(error.into());
        }
    };
    // What was applied is in the project, and nothing else is lost.
    if is_lost && !arguments.force && !asked(&format!("Discard {what}?"), paint)? {
        return Ok(Conclusion::NotDone);
    }
    let open = place.store.lock(&session.id)?;
    open.discard()?;
    open.end()?;
    failure::note(&format!("{what} were discarded"), paint);
    Ok(Conclusion::Done)
}

/// Asks for a yes on the terminal.
pub(crate) fn asked(question: &str, paint: Paint) -> Result<bool, Failure> {
    if stdin::kind() != stdin::Kind::Terminal || !is_terminal(OutputStream::Stderr) {
        let message = "without a terminal to ask on, --force says that it is meant";
        return Err(Failure::Usage(message.to_owned()));
    }
    let text = format!("{} [y/N] ", paint.paint(Role::Strong, question));
    let failed = |source| Failure::System { what: "the terminal cannot be used", source };
    writer::write_all(OutputStream::Stderr, text.as_bytes()).map_err(failed)?;
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).map_err(failed)?;
    Ok(matches!(line.trim(), "y" | "Y" | "yes"))
}

/// `3 changed files and 2 ignored ones`.
pub(crate) fn counted(changed: u64, ignored: u64) -> String {
    let files = format!("{changed} changed {}", plural(changed, "file", "files"));
    match (changed, ignored) {
        (_, 0) => files,
        (0, _) => format!("{ignored} ignored {}", plural(ignored, "file", "files")),
        _ => format!("{files} and {ignored} ignored {}", plural(ignored, "one", "ones")),
    }
}

/// `forge session`.
///
/// # Errors
/// There is no such session, or it cannot be read, stopped or removed.
pub(crate) async fn session(arguments: SessionArguments) -> Result<Conclusion, Failure> {
    let place = Place::of(&arguments.common).await?;
    let microvms = Microvms::of(arguments.microvms, &place.store)?;
    match arguments.verb {
        SessionVerb::List { json } => list(&place, &microvms, json).await,
        SessionVerb::Show { session, json } => show(&place, &microvms, &session, json).await,
        SessionVerb::Stop { session } => stop(&place, &microvms, &session).await,
        SessionVerb::Prune { force } => prune(&place, &microvms, force).await,
    }
}

async fn list(place: &Place, microvms: &Microvms, json: bool) -> Result<Conclusion, Failure> {
    let Listing { sessions, newer, damaged } = place.store.list()?;
    let standings = microvms.standings(&sessions).await;
    let mut text = Vec::new();
    if json {
        let all: Vec<_> = sessions.iter().map(|session| as_json(session, &standings)).collect();
        writeln!(text, "{}", serde_json::Value::from(all)).unwrap_or_default();
    } else {
        for session in &sessions {
            let state = match session.state {
                SessionState::Idle => "idle",
                SessionState::Running(_) => "running",
            };
            let held = session.summary.map_or_else(
                || "not counted yet".to_owned(),
                |summary| counted(summary.changed_files, summary.ignored_files),
            );
            let id = place.paint.paint(Role::Strong, session.id.as_str());
            let line = format!(
                "{id}  {state:7}  {held}, {}  {}",
                ago(session.last_used),
                shown(&session.workspace)
            );
            writeln!(text, "{line}").unwrap_or_default();
            for line in standings.lines(session) {
                writeln!(text, "    {line}").unwrap_or_default();
            }
        }
    }
    print(&text)?;
    let paint = Paint::choose(crate::arguments::ColorWhen::Auto, OutputStream::Stderr);
    for id in newer {
        failure::note(&format!("session {id} was made by a newer forge"), paint);
    }
    for one in damaged {
        failure::warn(&format!("a damaged session was set aside: {}", one.path.display()), paint);
    }
    Ok(Conclusion::Done)
}

async fn show(
    place: &Place,
    microvms: &Microvms,
    text: &str,
    json: bool,
) -> Result<Conclusion, Failure> {
    let Some(session) = place.session(Some(text))? else { return Ok(Conclusion::Done) };
    let standings = microvms.standings(std::slice::from_ref(&session)).await;
    let changes = place.store.layers(&session.id).ok().and_then(|layers| layers.changes().ok());
    let mut out = Vec::new();
    if json {
        let mut value = as_json(&session, &standings);
        if let Some(changes) = &changes {
            let files = changes.changes.iter().map(|change| {
                serde_json::json!({ "path": change.path.to_string_lossy(), "kind": crate::diff::described(change.kind) })
            });
            value["files"] = files.collect();
            value["changed_files"] = changes.changes.len().into();
            value["ignored_files"] = changes.ignored_files.into();
        }
        writeln!(out, "{value}").unwrap_or_default();
    } else {
        let state = match session.state {
            SessionState::Idle => "idle".to_owned(),
            SessionState::Running(None) => "running".to_owned(),
            SessionState::Running(Some(pid)) => format!("running (process {pid})"),
        };
        let held = match &changes {
            Some(changes) => {
                let changed = changes.changes.len() as u64;
                let commits = commits::waiting(&place.store, &session.id);
                commits::held(changed, changes.ignored_files, commits)
            }
            None => "its workspace cannot be read".to_owned(),
        };
        for (name, value) in [
            ("session", session.id.to_string()),
            ("workspace", shown(&session.workspace)),
            ("state", state),
            ("made", ago(session.created)),
            ("used", ago(session.last_used)),
            ("holds", held),
        ] {
            writeln!(out, "{name:10}{value}").unwrap_or_default();
        }
        for line in standings.lines(&session) {
            writeln!(out, "{line}").unwrap_or_default();
        }
    }
    print(&out)?;
    Ok(Conclusion::Done)
}

fn as_json(session: &SessionSummary, standings: &Standings) -> serde_json::Value {
    let seconds = |time: SystemTime| {
        time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_secs())
    };
    let (state, pid) = match session.state {
        SessionState::Idle => ("idle", None),
        SessionState::Running(pid) => ("running", pid),
    };
    serde_json::json!({
        "id": session.id.as_str(),
        "workspace": session.workspace.to_string_lossy(),
        "state": state,
        "pid": pid,
        "created": seconds(session.created),
        "last_used": seconds(session.last_used),
        "changed_files": session.summary.map(|summary| summary.changed_files),
        "ignored_files": session.summary.map(|summary| summary.ignored_files),
        "microvms": standings.json(session),
    })
}

/// `5 minutes ago`.
fn ago(time: SystemTime) -> String {
    let seconds = SystemTime::now().duration_since(time).unwrap_or_default().as_secs();
    let (count, one, many) = match seconds {
        0..60 => return "just now".to_owned(),
        60..3600 => (seconds / 60, "minute", "minutes"),
        3600..86_400 => (seconds / 3600, "hour", "hours"),
        _ => (seconds / 86_400, "day", "days"),
    };
    format!("{count} {} ago", plural(count, one, many))
}

async fn stop(place: &Place, microvms: &Microvms, text: &str) -> Result<Conclusion, Failure> {
    let id = place.store.resolve(text)?;
    let paint = Paint::choose(crate::arguments::ColorWhen::Auto, OutputStream::Stderr);
    let session = place.store.find(&id)?;
    let pid = match session.state {
        SessionState::Idle if session.microvms.is_empty() => {
            failure::note(&format!("session {id} is not running"), paint);
            return Ok(Conclusion::Done);
        }
        SessionState::Idle => return microvms.end(&session).await,
        SessionState::Running(pid) => pid,
    };
    let Some(pid) = pid.and_then(Pid::from_raw) else {
        return Err(SessionError::Busy { id, pid: None }.into());
    };
    kill_process(pid, Signal::TERM).map_err(|source| Failure::System {
        what: "the process that uses the session cannot be told to end",
        source: source.into(),
    })?;
    // What was changed in a microVM is fetched before its forge ends.
    let limit = if session.microvms.is_empty() { STOP_LIMIT } else { MICROVM_STOP_LIMIT };
    let deadline = tokio::time::Instant::now() + limit;
    while is_running(&place.store, &id) {
        if tokio::time::Instant::now() >= deadline {
            return Err(SessionError::Busy { id, pid: Some(pid.as_raw_nonzero().get()) }.into());
        }
        tokio::time::sleep(STOP_INTERVAL).await;
    }
    failure::note(&format!("session {id} was stopped"), paint);
    match place.store.find(&id) {
        Ok(session) if !session.microvms.is_empty() => microvms.end(&session).await,
        Ok(_) | Err(_) => Ok(Conclusion::Done),
    }
}

/// One that held nothing is gone when it has stopped.
fn is_running(store: &SessionStore, id: &SessionId) -> bool {
    matches!(store.find(id), Ok(session) if session.state != SessionState::Idle)
}

async fn prune(place: &Place, microvms: &Microvms, force: bool) -> Result<Conclusion, Failure> {
    let left = microvms.prune(&place.store).await?;
    let paint = Paint::choose(crate::arguments::ColorWhen::Auto, OutputStream::Stderr);
    let with_changes_of = if force { place.workspace.clone() } else { None };
    let report = place.store.prune(&PruneOptions { with_changes_of }, SystemTime::now())?;
    let mut text = Vec::new();
    for pruned in &report.removed {
        writeln!(text, "{}  {}", pruned.session.id, pruned.reason).unwrap_or_default();
    }
    print(&text)?;
    if !report.with_changes.is_empty() {
        let count = report.with_changes.len() as u64;
        let message = format!(
            "{count} {} changes and {} kept; forge discard SESSION drops them",
            plural(count, "session holds", "sessions hold"),
            plural(count, "is", "are")
        );
        failure::note(&message, paint);
    }
    let failed = !report.failed.is_empty();
    for (_, error) in report.failed {
        failure::warn(&Failure::from(error).message(), paint);
    }
    Ok(if failed || left == Left::Something { Conclusion::NotDone } else { Conclusion::Done })
}

pub(crate) fn print(text: &[u8]) -> Result<(), Failure> {
    writer::write_all(OutputStream::Stdout, text).map_err(|source| {
        let error = match source.kind() {
            std::io::ErrorKind::BrokenPipe => writer::WriteError::ReaderGone,
            _ => writer::WriteError::Failed { stream: OutputStream::Stdout, source },
        };
        error.into()
    })
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;

    use super::*;

    #[test]
    fn counts_are_said_in_words() {
        assert_eq!(counted(1, 0), "1 changed file");
        assert_eq!(counted(2, 1), "2 changed files and 1 ignored one");
        assert_eq!(counted(0, 7), "7 ignored files");
    }

    #[test]
    fn a_path_cannot_steer_the_terminal() {
        assert_eq!(shown(Path::new("a/b c")), "a/b c");
        assert_eq!(shown(Path::new("a\u{1b}[31m\n")), r#""a\u{1b}[31m\n""#);
        assert_eq!(shown(Path::new("a\u{202e}txt")), r#""a\u{202e}txt""#);
    }
}
