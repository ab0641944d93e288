//! Bringing a session's refs to a repository of the host.

use std::path::Path;

use forge_domain::{
    BranchName, BroughtRefs, CommitTarget, CommitsError, GitObjectId, RefRefusal, RepositoryRefs,
    SessionId, SessionRef, SessionRefName, session_refs,
};

use crate::quarantine::Quarantine;
use crate::repository::HostRepository;
use crate::run::Input;

impl CommitTarget for HostRepository {
    fn refs(&self) -> Result<RepositoryRefs, CommitsError> {
        self.all_refs()
    }

    fn holds(&self, ids: &[GitObjectId]) -> Result<Vec<bool>, CommitsError> {
        let lines: String = ids.iter().map(|id| format!("{id}\n")).collect();
        let input = Input::Bytes(lines.into_bytes());
        let said = self.run("cat-file", &["--batch-check"], input)?.success("cat-file")?;
        let said = String::from_utf8_lossy(&said).into_owned();
        let holds: Vec<bool> = said.lines().map(|line| !line.ends_with(" missing")).collect();
        match holds.len() == ids.len() {
            true => Ok(holds),
            false => Err(CommitsError::Git {
                command: "cat-file",
                reason: "its answer cannot be read".to_owned(),
            }),
        }
    }

    fn bring(
        &self,
        session: &SessionId,
        refs: &[SessionRef],
        directory: &Path,
        bundle: Option<&Path>,
    ) -> Result<BroughtRefs, CommitsError> {
        let before = self.all_refs()?;
        let mut result = BroughtRefs::default();
        let mut refs = free(session, refs, &before, &mut result);
        if refs.is_empty() {
            return Ok(result);
        }
        let ids: Vec<GitObjectId> = refs.iter().map(|one| one.id.clone()).collect();
        let holds = self.holds(&ids)?;
        let of = |held: bool| {
            let refs = refs.iter().zip(&holds).filter(move |(_, is)| **is == held);
            refs.map(|(one, _)| one.clone()).collect::<Vec<_>>()
        };
        let (there, new) = (of(true), of(false));
        let quarantine = Quarantine::new(self, &before, directory.join("quarantine"))?;
        match (bundle, new.first()) {
            (Some(bundle), Some(_)) => quarantine.fetch(bundle, &new)?,
            (None, Some(one)) => {
                let reason = format!("{} is missing", one.name);
                return Err(CommitsError::Refused { reason });
            }
            (_, None) => {}
        }
        quarantine.point(&there)?;
        let is_commit = quarantine.commits(&refs)?;
        let mut is_commit = is_commit.into_iter();
        refs.retain(|one| {
            let is_commit = is_commit.next().unwrap_or(false);
            if !is_commit {
                result.left.push((one.name.clone(), RefRefusal::NoCommit));
            }
            is_commit
        });
        if let Some(pack) = quarantine.pack(&refs)? {
            // Checked above, and written by our own git; the copy in the user's repository is made from it by theirs.
            self.run("index-pack", &["--stdin"], Input::File(pack))?.success("index-pack")?;
        }
        drop(quarantine);
        self.name(session, &refs, &before, result)
    }

    fn branch(&self, name: &BranchName, commit: &GitObjectId) -> Result<(), CommitsError> {
        let full = format!("refs/heads/{name}");
        let found = self.run("rev-parse", &["--verify", "--quiet", &full], Input::Nothing)?;
        if found.status.success() {
            return Err(CommitsError::BranchExists { name: name.clone() });
        }
        let line = format!("create {full} {commit}\n").into_bytes();
        self.run("update-ref", &["--no-deref", "--stdin"], Input::Bytes(line))?
            .success("update-ref")?;
        Ok(())
    }
}

impl HostRepository {
    /// Sets the refs, all of them or none.
    fn name(
        &self,
        session: &SessionId,
        refs: &[SessionRef],
        before: &RepositoryRefs,
        mut result: BroughtRefs,
    ) -> Result<BroughtRefs, CommitsError> {
        let mut lines = String::new();
        for one in refs {
            let name = one.name.on_host(session);
            let old = before.refs.iter().find(|(known, _)| *known == name);
            let old = match old {
                Some((_, id)) => id.as_str().to_owned(),
                None => "0".repeat(one.id.as_str().len()),
            };
            lines.push_str(&format!("update {name} {} {old}\n", one.id));
        }
        let input = Input::Bytes(lines.into_bytes());
        self.run("update-ref", &["--no-deref", "--stdin"], input)?.success("update-ref")?;
        result.brought = refs.to_vec();
        Ok(result)
    }
}

/// Those for whose names there is room.
fn free(
    session: &SessionId,
    refs: &[SessionRef],
    before: &RepositoryRefs,
    result: &mut BroughtRefs,
) -> Vec<SessionRef> {
    let prefix = session_refs(session);
    let known: Vec<SessionRefName> = before
        .refs
        .iter()
        .filter_map(|(name, _)| name.strip_prefix(&prefix))
        .filter_map(|name| match name {
            "HEAD" => SessionRefName::parse(name).ok(),
            _ => SessionRefName::parse(&format!("refs/{name}")).ok(),
        })
        .collect();
    let mut taken: Vec<SessionRef> = Vec::new();
    for one in refs {
        let mut others = known.iter().chain(taken.iter().map(|one| &one.name));
        match others.any(|other| one.name.excludes(other)) {
            true => result.left.push((one.name.clone(), RefRefusal::Taken)),
            false => taken.push(one.clone()),
        }
    }
    taken
}
