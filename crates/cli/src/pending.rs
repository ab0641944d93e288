//! What waits in a session at the end of a turn or of a run: it is applied, asked about, or named.

use std::pin::pin;

use forge_api::planning::{Choices, Plan};
use forge_api::{
    ApplyReport, ChangesError, ForgeAPI, Review, ReviewError, SessionId, SessionStore,
    SessionSummary, Signal,
};

use crate::apply::{Said, undo};
use crate::closing::{Closed, End, Left};
use crate::commits;
use crate::executor::store_directory;
use crate::exit::Conclusion;
use crate::failure::{self, Failure};
use crate::sessions::plural;
use crate::signals::{Arrival, Signals};
use crate::terminal::Paint;

/// What is looked at anew where commands went on while the user was asked.
const MAX_ATTEMPTS: usize = 3;

/// What was said of a session's changes already.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    /// What the user knows to wait, and wants to.
    known: Option<Plan>,
}

/// Why what waits is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Occasion {
    /// A turn has ended: what the user knows already is not said again.
    TurnEnded,
    /// The user wants it.
    Asked,
}

/// What applying did, if it was done.
enum Tried {
    Applied(Result<ApplyReport, ReviewError>),
    /// It is not any more what the user has seen.
    Changed,
}

impl Pending {
    /// Looks at what waits in a session that is used, between two turns.
    ///
    /// # Errors
    /// What waits cannot be read, or could not be applied: nothing was.
    pub(crate) async fn between_turns(
        &mut self,
        api: &ForgeAPI,
        occasion: Occasion,
        end: End,
        signals: &mut Signals,
        paint: Paint,
    ) -> Result<Option<Signal>, Failure> {
        let said = Said::new(paint);
        let look = self.look(api, occasion, end, &said);
        let (result, ended_by) = with_signals(&said, signals, look).await;
        result.map(|()| ended_by)
    }

    async fn look(
        &mut self,
        api: &ForgeAPI,
        occasion: Occasion,
        end: End,
        said: &Said,
    ) -> Result<(), Failure> {
        for _ in 0..MAX_ATTEMPTS {
            let plan = planned(api).await?.filter(|plan| !is_empty(plan));
            let plan = match (plan, occasion) {
                (None, Occasion::Asked) => {
                    if !commits::bring_live(api, said.paint()).await {
                        failure::note("nothing waits", said.paint());
                    }
                    return Ok(());
                }
                (None, Occasion::TurnEnded) => {
                    if end == End::Apply {
                        commits::bring_live(api, said.paint()).await;
                    }
                    return Ok(());
                }
                (Some(plan), Occasion::TurnEnded) if self.known.as_ref() == Some(&plan) => {
                    return Ok(());
                }
                (Some(plan), _) => plan,
            };
            let choices = match end {
                End::Wait => {
                    let count = (plan.steps.len() + plan.left.len()) as u64;
                    let text = format!(
                        "{count} {} in the session: /diff shows, /apply brings to the project",
                        plural(count, "change waits", "changes wait")
                    );
                    failure::note(&text, said.paint());
                    self.known = Some(plan);
                    return Ok(());
                }
                End::Apply => Choices::default(),
                End::Ask => match chosen(&plan, said).await? {
                    Some(choices) => choices,
                    None => {
                        self.known = Some(plan);
                        return Ok(());
                    }
                },
            };
            let again = move |review: &Review<'_>| match review.plan(&Choices::default()) == plan {
                true => Tried::Applied(review.apply(&choices)),
                false => Tried::Changed,
            };
            match api.review(again).await? {
                None => return Ok(()),
                Some(Tried::Changed) => {}
                Some(Tried::Applied(report)) => {
                    said.report(&report?);
                    self.known = planned(api).await?;
                    commits::bring_live(api, said.paint()).await;
                    return Ok(());
                }
            }
        }
        failure::warn(
            "commands change the project all the time: nothing was applied",
            said.paint(),
        );
        Ok(())
    }

    /// Takes the newest apply of a session back that is used.
    ///
    /// # Errors
    /// There is none, or it could not be taken back: nothing was.
    pub(crate) async fn undo(&mut self, api: &ForgeAPI, paint: Paint) -> Result<(), Failure> {
        let said = Said::new(paint);
        let undone = api.review(move |review| undo(review, &Choices::default(), false, &said));
        match undone.await? {
            Some(undone) => undone.map(drop)?,
            None => failure::note("nothing was applied in this session", paint),
        }
        self.known = planned(api).await?;
        Ok(())
    }

    /// Looks at what waits in a session whose use has ended. All that is said goes to stderr, failures too.
    pub(crate) async fn at_the_end(
        self,
        id: &SessionId,
        end: End,
        signals: &mut Signals,
        paint: Paint,
    ) -> Closed {
        let said = Said::new(paint);
        let work = {
            let (id, said) = (id.clone(), said.clone());
            tokio::task::spawn_blocking(move || self.conclude(&id, end, &said))
        };
        let (done, mut ended_by) = with_signals(&said, signals, work).await;
        let left = match done {
            Ok(Ok((files, None))) => Left::of(&files),
            Ok(Ok((files, Some(session)))) => {
                let bring = commits::bring_at_the_end(&session, paint);
                // What was begun on the host is all or nothing.
                tokio::select! {
                    commits = bring => match Left::of(&commits) {
                        Left::Nothing => Left::of(&files),
                        Left::Something => Left::Something,
                    },
                    arrival = signals.next() => {
                        ended_by = Some(signal(arrival));
                        Left::Something
                    }
                }
            }
            Ok(Err(failure)) => {
                failure::print(&failure, paint);
                Left::Something
            }
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => Left::Something,
        };
        Closed { left, ended_by }
    }

    /// What became of the files, and the session where that was done to them which is to be done.
    fn conclude(
        self,
        id: &SessionId,
        end: End,
        said: &Said,
    ) -> Result<(Conclusion, Option<SessionSummary>), Failure> {
        let state = store_directory()?;
        let store = SessionStore::new(&state);
        let session = store.find(id)?;
        let review = Review::new(store.lock(id)?, &session.workspace, &state)?;
        let plan = review.plan(&Choices::default());
        let mut choices = Choices::default();
        let is_meant = match end {
            End::Wait => false,
            End::Ask if self.known.as_ref() == Some(&plan) => false,
            End::Ask => !is_empty(&plan) && said.choose(&plan, &mut choices)?,
            End::Apply => true,
        };
        let mut conclusion = Conclusion::Done;
        if is_meant {
            let report = review.apply(&choices)?;
            said.report(&report);
            if !report.plan.left.is_empty() {
                conclusion = Conclusion::NotDone;
            }
        }
        review.close()?;
        Ok((conclusion, is_meant.then_some(session)))
    }
}

fn is_empty(plan: &Plan) -> bool {
    plan.steps.is_empty() && plan.left.is_empty()
}

/// What could be applied; `None` where nothing was changed, or nothing is kept apart.
async fn planned(api: &ForgeAPI) -> Result<Option<Plan>, Failure> {
    match api.review(|review| review.plan(&Choices::default())).await {
        Err(ReviewError::Changes(ChangesError::NotTracked { .. })) => Ok(None),
        other => Ok(other?),
    }
}

/// Asks what of a plan is meant, on a thread that may wait for it.
async fn chosen(plan: &Plan, said: &Said) -> Result<Option<Choices>, Failure> {
    let (plan, said) = (plan.clone(), said.clone());
    let asked = tokio::task::spawn_blocking(move || {
        let mut choices = Choices::default();
        Ok(said.choose(&plan, &mut choices)?.then_some(choices))
    });
    match asked.await {
        Ok(chosen) => chosen,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Ok(None),
    }
}

/// Waits for work; a signal meanwhile withdraws what it asks, and it goes on to its end.
async fn with_signals<T>(
    said: &Said,
    signals: &mut Signals,
    work: impl Future<Output = T>,
) -> (T, Option<Signal>) {
    let mut work = pin!(work);
    let mut ended_by = None;
    loop {
        tokio::select! {
            done = &mut work => return (done, ended_by),
            arrival = signals.next() => {
                said.withdraw();
                ended_by = Some(signal(arrival));
            }
        }
    }
}

fn signal(arrival: Arrival) -> Signal {
    match arrival {
        Arrival::Interrupt => Signal::INT,
        Arrival::Terminate(signal) => signal,
    }
}
