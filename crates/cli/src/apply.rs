//! `forge apply`: what a session has changed, brought to the project, and back.

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use forge_api::planning::{Choices, Conflict, Left, Plan, Reason, Resolution};
use forge_api::{
    Applied, AppliedPath, ApplyError, ApplyReport, ApplyTarget, BranchName, Entry, HostTree,
    OutputStream, Placed, Review, ReviewError, ReviewedPath, SessionSummary, Step, Undo,
};

use crate::arguments::ApplyArguments;
use crate::commits::{self, Listed};
use crate::diff::{chosen, targets};
use crate::executor::store_directory;
use crate::exit::Conclusion;
use crate::failure::{self, Failure};
use crate::questions::read_line;
use crate::sessions::{Place, plural, print, shown};
use crate::stdin;
use crate::terminal::{Paint, Role, is_terminal};
use crate::writer;

/// So many paths of what was left are listed before the rest is counted.
const MAX_LISTED: usize = 100;

/// `forge apply`.
///
/// # Errors
/// There is no such session, it is in use, or nothing could be applied.
pub(crate) async fn apply(arguments: ApplyArguments) -> Result<Conclusion, Failure> {
    let place = Place::of(&arguments.common).await?;
    let (named, paths) = targets(&place, arguments.session.as_deref(), &arguments.paths);
    let session = match arguments.undo {
        true => applied_last(&place, named.as_deref())?,
        false => place.session(named.as_deref())?,
    };
    let said =
        Said::new(Paint::choose(arguments.common.color.unwrap_or_default(), OutputStream::Stderr));
    let Some(session) = session else {
        failure::note("there is nothing to apply", said.paint);
        return Ok(Conclusion::Done);
    };
    if let Some(name) = &arguments.branch {
        return commits::branch(&place.store, &session, branch_name(name)?, said.paint).await;
    }
    let choices = Choices {
        paths: chosen(&session, &arguments.common, &paths)?,
        conflicts: match (arguments.ours, arguments.theirs, arguments.merge) {
            (true, ..) => Resolution::Ours,
            (_, true, _) => Resolution::Theirs,
            (.., true) => Resolution::Markers,
            _ => Resolution::Leave,
        },
        executable: chosen(&session, &arguments.common, &arguments.allow_exec)?,
        symlinks: chosen(&session, &arguments.common, &arguments.allow_symlink)?,
        many_deletions: arguments.allow_deletions,
        ..Choices::default()
    };
    let state = store_directory()?;
    let open = place.store.lock(&session.id)?;
    let all = (choices.paths.is_empty() && !arguments.undo).then(|| session.clone());
    let (is_dry, paint) = (arguments.dry_run, said.paint);
    // Files are read and written: not on a thread that has others to serve.
    let work = move || {
        let review = Review::new(open, &session.workspace, &state)?;
        let conclusion = if arguments.undo {
            undo(&review, &choices, arguments.force, &said).map(Some)
        } else {
            carry_out(&review, &arguments, choices, &said)
        };
        review.close()?;
        conclusion
    };
    let files = match tokio::task::spawn_blocking(work).await {
        Ok(conclusion) => conclusion?,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(error) => {
            return Err(Failure::System {
                what: "the changes cannot be applied",
                source: std::io::Error::other(error),
            });
        }
    };
    // Who has said no to the files has said no.
    let Some(files) = files else { return Ok(Conclusion::NotDone) };
    let Some(session) = all else { return Ok(files) };
    if is_dry {
        commits::note_waiting(&place.store, &session.id, paint);
        return Ok(files);
    }
    match commits::bring_waiting(&place.store, &session, Listed::OnStdout, paint).await? {
        Conclusion::Done => Ok(files),
        left => Ok(left),
    }
}

fn branch_name(text: &str) -> Result<BranchName, Failure> {
    BranchName::parse(text).map_err(|refusal| {
        Failure::Usage(format!("{text:?} cannot be the name of a branch: {refusal}"))
    })
}

/// Takes an apply back, or finishes it, that was killed in the middle. What cannot be done is said.
pub(crate) fn recover(workspace: &Path, state_directory: &Path) {
    // One name is looked at where nothing is pending.
    let Ok(tree) = HostTree::open(workspace, state_directory) else { return };
    if !tree.is_pending() {
        return;
    }
    let paint = Paint::choose(crate::arguments::ColorWhen::Auto, OutputStream::Stderr);
    match tree.recover() {
        Ok(true) => failure::note(
            "an apply that was interrupted was recovered from: forge diff shows what waits",
            paint,
        ),
        // Somebody has done it just now, or does.
        Ok(false) | Err(ApplyError::Busy) => {}
        Err(error) => {
            let failure = Failure::from(ReviewError::from(error));
            failure::warn(&failure.message(), paint);
        }
    }
}

/// The session whose apply is meant: one that is named, or the newest of the workspace.
fn applied_last(place: &Place, named: Option<&str>) -> Result<Option<SessionSummary>, Failure> {
    match (place.session(named)?, &place.workspace) {
        (Some(session), _) => Ok(Some(session)),
        (None, Some(workspace)) => {
            let sessions = place.store.list()?.sessions;
            Ok(sessions.into_iter().find(|session| session.workspace == *workspace))
        }
        (None, None) => Ok(None),
    }
}

/// How things are said on stderr, and asked.
#[derive(Debug, Clone)]
pub(crate) struct Said {
    paint: Paint,
    /// Whether what is asked is to be answered with a no at once.
    is_withdrawn: Arc<AtomicBool>,
}

/// Applies, or says what would be done; `None` where the user says no to all of it.
fn carry_out(
    review: &Review<'_>,
    arguments: &ApplyArguments,
    mut choices: Choices,
    said: &Said,
) -> Result<Option<Conclusion>, Failure> {
    if arguments.dry_run {
        let plan = review.plan(&choices);
        print(&listed(&plan.steps))?;
        said.left(&plan.left);
        let count = plan.steps.iter().filter(|step| !is_directory(step)).count() as u64;
        let text = format!("{count} {} would be changed", plural(count, "path", "paths"));
        failure::note(&text, said.paint);
        return Ok(Some(concluded(&plan)));
    }
    let can_ask = stdin::kind() == stdin::Kind::Terminal && is_terminal(OutputStream::Stderr);
    if can_ask && !arguments.yes && !said.choose(&review.plan(&choices), &mut choices)? {
        return Ok(None);
    }
    let report = review.apply(&choices)?;
    if let Some(applied) = &report.applied {
        print(&done(&applied.paths))?;
    }
    said.report(&report);
    Ok(Some(concluded(&report.plan)))
}

fn concluded(plan: &Plan) -> Conclusion {
    if plan.left.is_empty() { Conclusion::Done } else { Conclusion::NotDone }
}

/// Takes the newest apply back, or these paths of it.
///
/// # Errors
/// There is none, or it could not be taken back: nothing was.
pub(crate) fn undo(
    review: &Review<'_>,
    choices: &Choices,
    force: bool,
    said: &Said,
) -> Result<Conclusion, Failure> {
    if force && choices.paths.is_empty() {
        let message = "--force is for paths that are named: forge apply --undo --force PATH";
        return Err(Failure::Usage(message.to_owned()));
    }
    let is_chosen = |path: &ReviewedPath| {
        let path = path.as_path();
        choices.paths.is_empty() || choices.paths.iter().any(|above| path.starts_with(above))
    };
    let Undo { restored, changed, of: _ } = review.undo(&is_chosen, &|_| force)?;
    print(&done(&restored))?;
    for path in &changed {
        let path = shown(path.as_path());
        failure::warn(
            &format!(
                "{path} was changed since and stays as it is; with --force and its name it is taken back, too"
            ),
            said.paint,
        );
    }
    let count = files(&restored);
    let paths = plural(count, "path is", "paths are");
    failure::note(&format!("{count} {paths} as before; the session keeps its changes"), said.paint);
    Ok(if changed.is_empty() { Conclusion::Done } else { Conclusion::NotDone })
}

/// A line a path: what is done to it, as `git status` abbreviates it.
fn listed(steps: &[Step]) -> Vec<u8> {
    let mut text = Vec::new();
    for step in steps {
        if is_directory(step) {
            continue;
        }
        let mark = match (&step.before, &step.after) {
            (_, Placed::Nothing | Placed::NothingIfEmpty) => 'D',
            (None, _) => 'A',
            (Some(_), _) => 'M',
        };
        writeln!(text, "{mark} {}", shown(step.path.as_path())).unwrap_or_default();
    }
    text
}

/// The same of what was done.
fn done(paths: &[AppliedPath]) -> Vec<u8> {
    let mut text = Vec::new();
    for one in paths.iter().filter(|one| !one.is_directory()) {
        let mark = match (&one.before, &one.after) {
            (_, None) => 'D',
            (None, Some(_)) => 'A',
            (Some(_), Some(_)) => 'M',
        };
        writeln!(text, "{mark} {}", shown(one.path.as_path())).unwrap_or_default();
    }
    text
}

fn files(paths: &[AppliedPath]) -> u64 {
    paths.iter().filter(|one| !one.is_directory()).count() as u64
}

fn is_directory(step: &Step) -> bool {
    matches!(
        (&step.before, &step.after),
        (None | Some(Entry::Directory { .. }), Placed::Directory { .. })
            | (_, Placed::NothingIfEmpty)
    )
}

impl Said {
    pub(crate) fn new(paint: Paint) -> Self {
        Self { paint, is_withdrawn: Arc::default() }
    }

    pub(crate) fn paint(&self) -> Paint {
        self.paint
    }

    /// Answers what is asked, and what will be, with a no.
    pub(crate) fn withdraw(&self) {
        self.is_withdrawn.store(true, Ordering::Relaxed);
    }

    /// Says what an apply did and what it left.
    pub(crate) fn report(&self, report: &ApplyReport) {
        let ApplyReport { plan, applied } = report;
        self.marked(plan);
        self.left(&plan.left);
        self.sum(applied.as_ref(), plan);
    }

    /// Asks what of a plan is to be done; no is a no to all of it.
    ///
    /// # Errors
    /// The terminal cannot be used.
    pub(crate) fn choose(&self, plan: &Plan, choices: &mut Choices) -> Result<bool, Failure> {
        if plan.steps.is_empty() && plan.left.is_empty() {
            return Ok(true);
        }
        self.say(&String::from_utf8_lossy(&listed(&plan.steps)))?;
        self.marked(plan);
        let count = plan.steps.iter().filter(|step| !is_directory(step)).count() as u64;
        if count > 0 {
            let question = format!("Apply {count} {}?", plural(count, "change", "changes"));
            match self.ask(&question, "[y]es, [n]o, [e]ach")? {
                'y' => {}
                'e' => {
                    let mut taken = Vec::new();
                    for step in plan.steps.iter().filter(|step| !is_directory(step)) {
                        let question = format!("Apply {}?", shown(step.path.as_path()));
                        if self.ask(&question, "[y]es, [n]o")? == 'y' {
                            taken.push(step.path.as_path().to_path_buf());
                        }
                    }
                    taken.extend(plan.left.iter().map(|left| left.path.clone()));
                    choices.paths = taken;
                }
                _ => return Ok(false),
            }
        }
        for left in &plan.left {
            self.choose_left(left, choices)?;
        }
        // Nothing was chosen, which is not the same as everything.
        Ok(!choices.paths.is_empty() || count > 0 || !plan.left.is_empty())
    }

    fn choose_left(&self, left: &Left, choices: &mut Choices) -> Result<(), Failure> {
        let path = shown(&left.path);
        match left.reason {
            Reason::Executes(reason) => {
                let question = format!("{path}: {reason}. Apply it all the same?");
                if self.ask(&question, "[y]es, [n]o")? == 'y' {
                    choices.executable.push(left.path.clone());
                }
            }
            Reason::LeavesWorkspace => {
                let question =
                    format!("{path} is a symlink that leads out of the project. Make it?");
                if self.ask(&question, "[y]es, [n]o")? == 'y' {
                    choices.symlinks.push(left.path.clone());
                }
            }
            Reason::Conflict(conflict) => {
                let question = format!("{path}: {}.", described(conflict));
                let answers = match conflict {
                    Conflict::Lines => "[o]urs, [t]heirs, [m]erge with markers, [l]eave",
                    _ => "[o]urs, [t]heirs, [l]eave",
                };
                let resolution = match (self.ask(&question, answers)?, conflict) {
                    ('o', _) => Resolution::Ours,
                    ('t', _) => Resolution::Theirs,
                    ('m', Conflict::Lines) => Resolution::Markers,
                    _ => Resolution::Leave,
                };
                choices.decided.insert(left.path.clone(), resolution);
            }
            Reason::ManyDeletions if !choices.many_deletions => {
                let question = "Many files would be deleted. Is that meant?";
                choices.many_deletions = self.ask(question, "[y]es, [n]o")? == 'y';
            }
            Reason::ManyDeletions
            | Reason::Path(_)
            | Reason::Special
            | Reason::Parent
            | Reason::TooMuch
            | Reason::Unreadable => {}
        }
        Ok(())
    }

    /// The first letter of an answer; the end of the input is a no.
    fn ask(&self, question: &str, answers: &str) -> Result<char, Failure> {
        self.say(&format!("{} {answers} ", self.paint.paint(Role::Strong, question)))?;
        let failed = |source| Failure::System { what: "the terminal cannot be used", source };
        let stdin = rustix::stdio::stdin().try_clone_to_owned().map_err(failed)?;
        let line = read_line(&stdin.into(), &self.is_withdrawn).map_err(failed)?;
        let line = match line {
            Some(line) => line,
            None => {
                self.say("\n")?;
                String::new()
            }
        };
        Ok(line.trim().chars().next().map_or('n', |answer| answer.to_ascii_lowercase()))
    }

    fn say(&self, text: &str) -> Result<(), Failure> {
        writer::write_all(OutputStream::Stderr, text.as_bytes())
            .map_err(|source| Failure::System { what: "the terminal cannot be used", source })
    }

    fn marked(&self, plan: &Plan) {
        for (path, reason) in plan.marked.iter().take(MAX_LISTED) {
            failure::note(&format!("{}: {reason}", shown(path.as_path())), self.paint);
        }
    }

    /// What was not applied, and the ways out.
    fn left(&self, left: &[Left]) {
        for one in left.iter().take(MAX_LISTED) {
            failure::warn(&format!("{}: {}", shown(&one.path), self.reason(one)), self.paint);
        }
        if left.len() > MAX_LISTED {
            let more = left.len() - MAX_LISTED;
            failure::warn(&format!("and {more} more are left"), self.paint);
        }
        let mut ways = Vec::new();
        let has = |is: fn(&Reason) -> bool| left.iter().any(|one| is(&one.reason));
        if has(|reason| matches!(reason, Reason::Conflict(_))) {
            ways.push("--ours keeps the project's version, --theirs takes the session's");
        }
        if has(|reason| matches!(reason, Reason::Conflict(Conflict::Lines))) {
            ways.push("--merge writes both into the file");
        }
        if has(|reason| matches!(reason, Reason::Executes(_))) {
            ways.push("--allow-exec PATH applies it all the same");
        }
        if has(|reason| matches!(reason, Reason::LeavesWorkspace)) {
            ways.push("--allow-symlink PATH makes it all the same");
        }
        if has(|reason| matches!(reason, Reason::ManyDeletions)) {
            ways.push("--allow-deletions says that they are meant");
        }
        if !ways.is_empty() {
            failure::note(&ways.join("; "), self.paint);
        }
    }

    fn reason(&self, left: &Left) -> String {
        match left.reason {
            Reason::Path(refusal) => format!("not applied: {refusal}"),
            Reason::Special => "not applied: it is a device, a socket or a pipe".to_owned(),
            Reason::Executes(reason) => format!("not applied: {reason}"),
            Reason::LeavesWorkspace => {
                "not applied: a symlink that leads out of the project".to_owned()
            }
            Reason::Conflict(conflict) => format!("left as it is: {}", described(conflict)),
            Reason::Parent => {
                "not applied: something above it is no directory in the project".to_owned()
            }
            Reason::ManyDeletions => "not deleted: many files would be".to_owned(),
            Reason::TooMuch => {
                "not applied: that is more than is applied at once; name some paths".to_owned()
            }
            Reason::Unreadable => "not applied: it cannot be read".to_owned(),
        }
    }

    fn sum(&self, applied: Option<&Applied>, plan: &Plan) {
        let count = applied.map_or(0, |applied| files(&applied.paths));
        let settled = plan.settled.len() as u64;
        let mut text = match count {
            0 if settled > 0 => {
                let paths = plural(settled, "path stays", "paths stay");
                format!("{settled} {paths} as the project has it")
            }
            0 => "nothing was applied".to_owned(),
            _ => format!("{count} {} applied", plural(count, "change was", "changes were")),
        };
        if !plan.merged.is_empty() {
            text.push_str(&format!(", {} of them merged", plan.merged.len()));
        }
        if !plan.left.is_empty() {
            text.push_str(&format!(", {} left in the session", plan.left.len()));
        }
        if count > 0 {
            text.push_str("; forge apply --undo takes it back");
        }
        failure::note(&text, self.paint);
    }
}

fn described(conflict: Conflict) -> &'static str {
    match conflict {
        Conflict::Lines => "both sides changed the same lines",
        Conflict::Contents => "both sides changed it, and it cannot be merged",
        Conflict::NoBase => {
            "it was made or changed in the project meanwhile, and what it was before is not known"
        }
        Conflict::DeletedOnHost => "it was deleted in the project",
        Conflict::ChangedOnHost => "the session deleted it, and it was changed in the project",
        Conflict::BothNew => "both sides made it, with different contents",
        Conflict::Kind => "it is another kind of thing on one side",
        Conflict::Meanwhile => "it was changed in the project just now",
    }
}
