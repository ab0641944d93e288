//! The microVMs of sessions, as `forge session` shows and ends them, and what is said of those that a run has ended.

use std::collections::BTreeMap;
use std::time::Duration;

use forge_api::{
    EndedMicrovm, InitError, LeftoverMicrovms, MicrovmEnd, MicrovmStanding, MicrovmUse,
    OutputStream, SessionId, SessionState, SessionStore, SessionSummary, StoredMicrovm,
    WhichMicrovms,
};

use crate::arguments::{ColorWhen, MicrovmOptions};
use crate::choice::{self, UNENCRYPTED};
use crate::closing::Left;
use crate::exit::Conclusion;
use crate::failure::{self, Failure};
use crate::sessions::counted;
use crate::settings::{SettingsError, tensorlake_variables};
use crate::terminal::{Paint, clean};

/// How long a list waits for the server.
const LOOK_LIMIT: Duration = Duration::from_secs(5);

/// What to do without a key.
const NEEDS_KEY: &str = "a key is needed to ask for microVMs: set TENSORLAKE_API_KEY, or name a file with \
                         --tensorlake-key-file";

/// The server that microVMs are asked for, where there is a key.
#[derive(Debug)]
pub(crate) struct Microvms {
    leftovers: Option<LeftoverMicrovms>,
    is_unencrypted: bool,
    paint: Paint,
}

/// How microVMs stand, by their names.
#[derive(Debug, Default)]
pub(crate) struct Standings(BTreeMap<String, MicrovmStanding>);

impl Microvms {
    /// # Errors
    /// The key or the address cannot be used.
    pub(crate) fn of(options: MicrovmOptions, store: &SessionStore) -> Result<Self, Failure> {
        let paint = Paint::choose(ColorWhen::Auto, OutputStream::Stderr);
        let server = choice::microvm_server(options, tensorlake_variables()?);
        let server = server.map_err(SettingsError::from)?;
        let is_unencrypted = server.as_ref().is_some_and(|config| config.is_unencrypted());
        let leftovers = server.map(|config| LeftoverMicrovms::new(store.clone(), &config));
        let leftovers = leftovers.transpose().map_err(InitError::from)?;
        Ok(Self { leftovers, is_unencrypted, paint })
    }

    /// The same, to ask the server with.
    fn asked(&self) -> Option<&LeftoverMicrovms> {
        if self.is_unencrypted && self.leftovers.is_some() {
            failure::warn(UNENCRYPTED, self.paint);
        }
        self.leftovers.as_ref()
    }

    /// How the microVMs of these sessions stand; all are asked for at once.
    pub(crate) async fn standings(&self, sessions: &[SessionSummary]) -> Standings {
        let all = || sessions.iter().flat_map(|session| &session.microvms);
        if all().next().is_none() {
            return Standings::default();
        }
        let leftovers = self.asked();
        let looks = all().map(|microvm| async move {
            let standing = match leftovers {
                Some(leftovers) => leftovers.standing(microvm, LOOK_LIMIT).await,
                None => MicrovmStanding::Unknown("no key was given".to_owned()),
            };
            (microvm.name.clone(), standing)
        });
        Standings(futures_util::future::join_all(looks).await.into_iter().collect())
    }

    /// Fetches from all microVMs of a session that nobody uses, and deletes them.
    ///
    /// # Errors
    /// There is no key, or the session is in use.
    pub(crate) async fn end(&self, session: &SessionSummary) -> Result<Conclusion, Failure> {
        let Some(leftovers) = self.asked() else {
            for microvm in &session.microvms {
                self.warn_of(&session.id, microvm);
            }
            return Err(Failure::Usage(NEEDS_KEY.to_owned()));
        };
        let all = leftovers.end(&session.id, WhichMicrovms::All).await?;
        Ok(match self.say_all(&all) {
            Left::Nothing => Conclusion::Done,
            Left::Something => Conclusion::NotDone,
        })
    }

    /// Fetches from the microVMs of all runs that were killed, and deletes them.
    ///
    /// # Errors
    /// The state directory cannot be read.
    pub(crate) async fn prune(&self, store: &SessionStore) -> Result<Left, Failure> {
        let mut sessions = store.list()?.sessions;
        sessions
            .retain(|session| session.state == SessionState::Idle && !session.microvms.is_empty());
        for session in &sessions {
            for kept in session.microvms.iter().filter(|one| one.r#use == MicrovmUse::Kept) {
                let (id, name) = (&session.id, kept.id_or_name());
                let text = format!(
                    "session {id}: its microVM {name} was kept on purpose; forge session stop {id} \
                     deletes it"
                );
                failure::note(&text, self.paint);
            }
        }
        sessions.retain(SessionSummary::awaits_a_microvm);
        if sessions.is_empty() {
            return Ok(Left::Nothing);
        }
        let Some(leftovers) = self.asked() else {
            for session in &sessions {
                let abandoned = |one: &&StoredMicrovm| one.r#use == MicrovmUse::Session;
                for microvm in session.microvms.iter().filter(abandoned) {
                    self.warn_of(&session.id, microvm);
                }
            }
            failure::note(NEEDS_KEY, self.paint);
            return Ok(Left::Something);
        };
        Ok(self.say_all(&leftovers.end_all().await?))
    }

    fn warn_of(&self, session: &SessionId, microvm: &StoredMicrovm) {
        let (name, server) = (microvm.id_or_name(), &microvm.server);
        failure::warn(
            &format!("session {session}: its microVM {name} may still be at {server}"),
            self.paint,
        );
    }

    fn say_all(&self, all: &[EndedMicrovm]) -> Left {
        let mut left = Left::Nothing;
        for one in all {
            say(one, self.paint);
            if matches!(one.end, MicrovmEnd::Left(_)) {
                left = Left::Something;
            }
        }
        left
    }
}

/// Says what became of a microVM.
pub(crate) fn say(ended: &EndedMicrovm, paint: Paint) {
    let EndedMicrovm { session, microvm, end } = ended;
    let name = microvm.id_or_name();
    match end {
        MicrovmEnd::Deleted(None) => {
            let text = format!(
                "session {session}: its microVM {name} was deleted; there was nothing to fetch"
            );
            failure::note(&text, paint);
        }
        MicrovmEnd::Deleted(Some(summary)) => {
            let held = counted(summary.changed_files, summary.ignored_files);
            let text = format!(
                "session {session}: its microVM {name} was fetched from and deleted; the session holds {held}"
            );
            failure::note(&text, paint);
        }
        MicrovmEnd::WasGone => {
            failure::note(&format!("session {session}: its microVM {name} was gone"), paint);
        }
        MicrovmEnd::Left(reason) => {
            let server = &microvm.server;
            let text = format!(
                "session {session}: its microVM {name} at {server} was left alone and stays on record: {reason}"
            );
            failure::warn(&text, paint);
        }
    }
}

impl Standings {
    fn of(&self, microvm: &StoredMicrovm) -> MicrovmStanding {
        let unknown = || MicrovmStanding::Unknown("it was not asked for".to_owned());
        self.0.get(&microvm.name).cloned().unwrap_or_else(unknown)
    }

    /// A line for each microVM of a session.
    pub(crate) fn lines(&self, session: &SessionSummary) -> Vec<String> {
        let line = |microvm: &StoredMicrovm| {
            let kept = match microvm.r#use {
                MicrovmUse::Session => "",
                MicrovmUse::Kept => ", kept on purpose",
            };
            let standing = match self.of(microvm) {
                MicrovmStanding::Unknown(reason) => format!("unknown ({reason})"),
                known => word(&known).to_owned(),
            };
            let (name, server) = (microvm.id_or_name(), &microvm.server);
            clean(&format!("{:10}{name} at {server}: {standing}{kept}", "microVM"))
        };
        session.microvms.iter().map(line).collect()
    }

    /// The same for programs.
    pub(crate) fn json(&self, session: &SessionSummary) -> serde_json::Value {
        let one = |microvm: &StoredMicrovm| {
            serde_json::json!({
                "name": microvm.name,
                "id": microvm.id,
                "server": microvm.server,
                "state": word(&self.of(microvm)),
                "use": microvm.r#use,
            })
        };
        session.microvms.iter().map(one).collect()
    }
}

fn word(standing: &MicrovmStanding) -> &'static str {
    match standing {
        MicrovmStanding::Running => "running",
        MicrovmStanding::Suspended => "suspended",
        MicrovmStanding::Gone => "gone",
        MicrovmStanding::Unknown(_) => "unknown",
    }
}
