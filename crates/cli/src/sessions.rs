//! `forge discard` and `forge session`: what is kept of sessions, looked at and cleared
//! away. Nothing is started here.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use forge_api::{
    Host, Listing, LocalHost, OutputStream, PruneOptions, SessionError, SessionId, SessionState,
    SessionStore, SessionSummary,
};
use rustix::process::{Pid, Signal, kill_process};

use crate::arguments::{DiscardArguments, PlaceOptions, SessionArguments, SessionVerb};
use crate::commits;
use crate::executor::store_directory;
use crate::exit::Conclusion;
use crate::failure::{self, Failure};
use crate::settings::state_directory;
use crate::stdin;
use crate::terminal::{Paint, Role, clean, is_terminal};
use crate::variables;
use crate::writer;

/// How long a session that is told to stop is waited for.
const STOP_LIMIT: Duration = Duration::from_secs(15);
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
        Some(text) if !text.chars().any(char::is_control) => clean(text),
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
    let count = place
        .store
        .layers(&session.id)?
        .changes()
        .map_err(|source| Failure::System { what: "the changes cannot be read", source })?;
    let (changed, ignored) = (count.changes.len() as u64, count.ignored_files);
    let held = commits::held(changed, ignored, commits::waiting(&place.store, &session.id));
    let what = format!("{held} of session {}", session.id);
    if !arguments.force && !asked(&format!("Discard {what}?"), paint)? {
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
    match arguments.verb {
        SessionVerb::List { json } => list(&place, json),
        SessionVerb::Show { session, json } => show(&place, &session, json),
        SessionVerb::Stop { session } => stop(&place, &session).await,
        SessionVerb::Prune { force } => prune(&place, force),
    }
}

fn list(place: &Place, json: bool) -> Result<Conclusion, Failure> {
    let Listing { sessions, newer, damaged } = place.store.list()?;
    let mut text = Vec::new();
    if json {
        let all: Vec<_> = sessions.iter().map(as_json).collect();
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

fn show(place: &Place, text: &str, json: bool) -> Result<Conclusion, Failure> {
    let Some(session) = place.session(Some(text))? else { return Ok(Conclusion::Done) };
    let changes = place.store.layers(&session.id).ok().and_then(|layers| layers.changes().ok());
    let mut out = Vec::new();
    if json {
        let mut value = as_json(&session);
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
    }
    print(&out)?;
    Ok(Conclusion::Done)
}

fn as_json(session: &SessionSummary) -> serde_json::Value {
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

async fn stop(place: &Place, text: &str) -> Result<Conclusion, Failure> {
    let id = place.store.resolve(text)?;
    let paint = Paint::choose(crate::arguments::ColorWhen::Auto, OutputStream::Stderr);
    let pid = match place.store.find(&id)?.state {
        SessionState::Idle => {
            failure::note(&format!("session {id} is not running"), paint);
            return Ok(Conclusion::Done);
        }
        SessionState::Running(pid) => pid,
    };
    let Some(pid) = pid.and_then(Pid::from_raw) else {
        return Err(SessionError::Busy { id, pid: None }.into());
    };
    kill_process(pid, Signal::TERM).map_err(|source| Failure::System {
        what: "the process that uses the session cannot be told to end",
        source: source.into(),
    })?;
    let deadline = tokio::time::Instant::now() + STOP_LIMIT;
    while is_running(&place.store, &id) {
        if tokio::time::Instant::now() >= deadline {
            return Err(SessionError::Busy { id, pid: Some(pid.as_raw_nonzero().get()) }.into());
        }
        tokio::time::sleep(STOP_INTERVAL).await;
    }
    failure::note(&format!("session {id} was stopped"), paint);
    Ok(Conclusion::Done)
}

/// One that held nothing is gone when it has stopped.
fn is_running(store: &SessionStore, id: &SessionId) -> bool {
    matches!(store.find(id), Ok(session) if session.state != SessionState::Idle)
}

fn prune(place: &Place, force: bool) -> Result<Conclusion, Failure> {
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
    Ok(if failed { Conclusion::NotDone } else { Conclusion::Done })
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
    }
}
