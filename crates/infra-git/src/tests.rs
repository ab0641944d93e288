//! Bundles that are what they should be, bundles that are not, and repositories that would run programs. Each of the
//! latter goes with a control: without the switches the program does run.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use forge_domain::{
    BranchName, BroughtRefs, CommitTarget, CommitsError, GitObjectId, RefRefusal, SessionId,
    SessionRef, SessionRefName,
};
use pretty_assertions::assert_eq;
use tempfile::TempDir;

use crate::HostRepository;
use crate::run::Input;

const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// A host's repository, what a session has made of it, and a private directory.
struct Place {
    directory: TempDir,
}

/// git as anybody would call it: with hooks, and with what the configuration says.
fn git_with(directory: &Path, arguments: &[&str], stdin: &[u8]) -> (bool, Vec<u8>) {
    #[expect(clippy::disallowed_methods, reason = "what a user does is done with the user's git")]
    let mut command = Command::new("git");
    let identity = ["-c", "user.name=n", "-c", "user.email=e@x", "-c", "init.defaultBranch=main"];
    command.args(identity).args(arguments).current_dir(directory).env_clear().env("PATH", PATH);
    command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), stdin).unwrap();
    let output = child.wait_with_output().unwrap();
    (output.status.success(), output.stdout)
}

fn git(directory: &Path, arguments: &[&str]) -> String {
    let (is_done, stdout) = git_with(directory, arguments, b"");
    assert!(is_done, "git {arguments:?}");
    String::from_utf8(stdout).unwrap().trim().to_owned()
}

impl Place {
    fn new() -> Self {
        Self::with(&[])
    }

    /// With these options of `git init`.
    fn with(init: &[&str]) -> Self {
        let place = Self { directory: tempfile::tempdir().unwrap() };
        fs::create_dir(place.host()).unwrap();
        fs::create_dir(place.private()).unwrap();
        git(&place.host(), &[&["init", "-q"], init].concat());
        fs::write(place.host().join("file"), "1\n").unwrap();
        git(&place.host(), &["add", "."]);
        git(&place.host(), &["commit", "-q", "-m", "first"]);
        git(place.root().as_path(), &["clone", "-q", "--no-hardlinks", "host", "session"]);
        place
    }

    fn root(&self) -> PathBuf {
        self.directory.path().canonicalize().unwrap()
    }

    fn host(&self) -> PathBuf {
        self.root().join("host")
    }

    fn session(&self) -> PathBuf {
        self.root().join("session")
    }

    fn private(&self) -> PathBuf {
        self.root().join("private")
    }

    fn repository(&self) -> HostRepository {
        HostRepository::open(&self.host(), OsStr::new(PATH)).unwrap()
    }

    /// Commits something in the session.
    fn commit(&self, text: &str) {
        fs::write(self.session().join("file"), text).unwrap();
        git(&self.session(), &["commit", "-q", "-a", "-m", "more"]);
    }

    fn named(&self, name: &str) -> SessionRef {
        let id = git(&self.session(), &["rev-parse", name]);
        SessionRef {
            name: SessionRefName::parse(name).unwrap(),
            id: GitObjectId::parse(&id).unwrap(),
        }
    }

    /// A bundle of the session, without what the host's main has.
    fn bundle(&self, names: &[&str]) -> PathBuf {
        let path = self.private().join("bundle");
        let base = format!("^{}", git(&self.host(), &["rev-parse", "main"]));
        let path_text = path.display().to_string();
        git(&self.session(), &[&["bundle", "create", "-q", &path_text, &base], names].concat());
        path
    }

    fn bring(
        &self,
        refs: &[SessionRef],
        bundle: Option<&Path>,
    ) -> Result<BroughtRefs, CommitsError> {
        self.repository().bring(&id(), refs, &self.private(), bundle)
    }

    /// The ref as it is on the host.
    fn brought(&self, name: &str) -> Option<String> {
        let name = format!("refs/forge/s1/{name}");
        let (is_there, id) =
            git_with(&self.host(), &["rev-parse", "--verify", "--quiet", &name], b"");
        is_there.then(|| String::from_utf8(id).unwrap().trim().to_owned())
    }

    /// All that is the user's: everything but objects and our refs.
    fn users(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut all = BTreeMap::new();
        let mut open = vec![self.host()];
        while let Some(directory) = open.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                let is_ours = path.ends_with(".git/objects") || path.ends_with(".git/refs/forge");
                match path.is_dir() {
                    _ if is_ours => {}
                    true => {
                        all.insert(path.clone(), Vec::new());
                        open.push(path);
                    }
                    false => {
                        all.insert(path.clone(), fs::read(&path).unwrap());
                    }
                }
            }
        }
        all
    }

    /// A program that leaves a mark, and whether it did.
    fn canary(&self, name: &str) -> (PathBuf, impl Fn() -> bool) {
        let (program, mark) = (self.root().join(name), self.root().join(format!("{name}-ran")));
        fs::write(&program, format!("#!/bin/sh\ntouch {}\n", mark.display())).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let has_run = move || fs::remove_file(&mark).is_ok();
        (program, has_run)
    }
}

fn id() -> SessionId {
    SessionId::parse("s1").unwrap()
}

fn refusal(result: Result<BroughtRefs, CommitsError>) -> String {
    match result {
        Err(CommitsError::Refused { reason }) => reason,
        other => panic!("it was not refused: {other:?}"),
    }
}

#[test]
fn branches_tags_the_stash_and_a_detached_head_arrive_and_nothing_of_the_users_is_written() {
    for init in [&[][..], &["--object-format=sha256"][..]] {
        let place = Place::with(init);
        git(&place.host(), &["branch", "mine"]);
        git(&place.host(), &["pack-refs", "--all"]);
        git(&place.host(), &["config", "core.logAllRefUpdates", "always"]);
        place.commit("2\n");
        git(&place.session(), &["tag", "-a", "-m", "t", "v1"]);
        git(&place.session(), &["branch", "feature/a"]);
        fs::write(place.session().join("file"), "stashed\n").unwrap();
        git(&place.session(), &["stash", "-q"]);
        git(&place.session(), &["checkout", "-q", "--detach"]);
        place.commit("3\n");
        let before = place.users();
        let names =
            ["HEAD", "refs/heads/main", "refs/heads/feature/a", "refs/tags/v1", "refs/stash"];
        let refs = names.map(|name| place.named(name));
        let bundle = place.bundle(&names);
        let result = place.bring(&refs, Some(&bundle)).unwrap();
        assert_eq!(result, BroughtRefs { brought: refs.to_vec(), left: Vec::new() });
        for one in &refs {
            assert_eq!(place.brought(one.name.as_str()).as_deref(), Some(one.id.as_str()));
        }
        assert_eq!(place.users(), before);
        assert_eq!(git(&place.host(), &["show", "refs/forge/s1/HEAD:file"]), "3");
        git(&place.host(), &["fsck", "--strict"]);
        // Only the bundle is left of the private directory.
        assert_eq!(fs::read_dir(place.private()).unwrap().count(), 1);
    }
}

#[test]
fn a_rebased_branch_replaces_the_one_before_and_what_is_there_needs_no_bundle() {
    let place = Place::new();
    place.commit("2\n");
    let first = place.named("refs/heads/main");
    place.bring(std::slice::from_ref(&first), Some(&place.bundle(&["main"]))).unwrap();
    git(&place.session(), &["commit", "-q", "--amend", "-m", "other"]);
    let second = place.named("refs/heads/main");
    place.bring(std::slice::from_ref(&second), Some(&place.bundle(&["main"]))).unwrap();
    assert_eq!(place.brought("heads/main").as_deref(), Some(second.id.as_str()));
    place.bring(std::slice::from_ref(&first), None).unwrap();
    assert_eq!(place.brought("heads/main").as_deref(), Some(first.id.as_str()));
    // One that would have to be beneath it is left.
    let beneath =
        SessionRef { name: SessionRefName::parse("refs/heads/main/x").unwrap(), ..second };
    let result = place.bring(std::slice::from_ref(&beneath), None).unwrap();
    assert_eq!(result.left, [(beneath.name, RefRefusal::Taken)]);
}

#[test]
fn a_branch_is_made_of_a_commit_and_an_existing_one_is_left() {
    let place = Place::new();
    place.commit("2\n");
    let head = place.named("HEAD");
    place.bring(std::slice::from_ref(&head), Some(&place.bundle(&["HEAD"]))).unwrap();
    let before = place.users();
    let name = BranchName::parse("topic/new").unwrap();
    place.repository().branch(&name, &head.id).unwrap();
    assert_eq!(git(&place.host(), &["rev-parse", "topic/new"]), head.id.as_str());
    let added: Vec<PathBuf> =
        place.users().into_keys().filter(|path| !before.contains_key(path)).collect();
    let heads = place.host().join(".git/refs/heads");
    assert_eq!(added, [heads.join("topic"), heads.join("topic/new")]);
    let again = place.repository().branch(&name, &head.id);
    assert!(matches!(again, Err(CommitsError::BranchExists { .. })), "{again:?}");
    let above = place.repository().branch(&BranchName::parse("topic").unwrap(), &head.id);
    assert!(matches!(above, Err(CommitsError::Git { .. })), "{above:?}");
}

#[test]
fn a_thin_bundle_whose_prerequisites_the_host_lacks_is_refused() {
    let place = Place::new();
    place.commit("2\n");
    place.commit("3\n");
    let path = place.private().join("bundle");
    let create = ["bundle", "create", "-q", path.to_str().unwrap(), "HEAD~1..main"];
    git(&place.session(), &create);
    let before = place.users();
    refusal(place.bring(&[place.named("refs/heads/main")], Some(&path)));
    assert_eq!((place.brought("heads/main"), place.users()), (None, before));
}

#[test]
fn a_bundle_that_says_of_itself_that_objects_are_missing_is_refused() {
    let place = Place::new();
    place.commit("2\n");
    let path = place.private().join("bundle");
    let create = ["bundle", "create", "-q", path.to_str().unwrap(), "--filter=blob:none", "main"];
    git(&place.session(), &create);
    refusal(place.bring(&[place.named("refs/heads/main")], Some(&path)));
    assert_eq!(place.brought("heads/main"), None);
}

/// A pack of less than two hundred bytes: a blob of 64 KiB of zeros, and a delta that repeats it up to 512.5 MiB.
const BOMB: &str = concat!(
    "5041434b0000000200000002b08020789cedc101010000008090feafee080a00000000000000000000000000",
    "0000000000000000000000000000000000000000000000000000000000000000000000000000000000000000",
    "0000000000006a000f0001f08104c97c12f9b0a24bfc19c74a2b265a97c924137775789cedc1010900300cc0",
    "3038135e29933a1f27494d6d2f00000000000000e01b0728fe08174bbec2cd2a9e6b0ec7e8607b0a02fa20a7",
    "19aa51",
);

#[test]
fn a_pack_that_unfolds_beyond_any_measure_is_refused_before_it_takes_the_memory() {
    let place = Place::new();
    let digit = |at: usize| u8::from_str_radix(&BOMB[at..at + 2], 16).unwrap();
    let pack: Vec<u8> = (0..BOMB.len()).step_by(2).map(digit).collect();
    // The control: any other git takes it.
    assert!(git_with(&place.session(), &["index-pack", "--stdin"], &pack).0);
    let id = "a".repeat(40);
    let header = format!("# v2 git bundle\n{id} refs/heads/main\n\n");
    let path = place.private().join("bundle");
    fs::write(&path, [header.as_bytes(), &pack].concat()).unwrap();
    let main = SessionRef {
        name: SessionRefName::parse("refs/heads/main").unwrap(),
        id: GitObjectId::parse(&id).unwrap(),
    };
    let reason = refusal(place.bring(&[main], Some(&path)));
    assert!(reason.contains("over limit"), "{reason}");
}

#[test]
fn a_damaged_pack_a_cut_one_and_no_bundle_at_all_are_refused() {
    let place = Place::new();
    place.commit("2\n");
    let path = place.bundle(&["main"]);
    let whole = fs::read(&path).unwrap();
    let refs = [place.named("refs/heads/main")];
    let mut flipped = whole.clone();
    let middle = whole.len() - 40;
    flipped[middle] ^= 0x55;
    let objects = || git(&place.host(), &["count-objects", "-v"]);
    let before = objects();
    for bytes in
        [&flipped[..], &whole[..whole.len() - 30], b"# v2 git bundle\n", b"", b"gitdir: /etc"]
    {
        fs::write(&path, bytes).unwrap();
        refusal(place.bring(&refs, Some(&path)));
        assert_eq!((place.brought("heads/main"), objects()), (None, before.clone()));
    }
    fs::write(&path, whole).unwrap();
    place.bring(&refs, Some(&path)).unwrap();
}

#[test]
fn names_of_a_bundle_are_not_looked_at_but_for_those_that_were_asked_for() {
    for name in ["refs/heads/../../x", "-x", "refs/heads/--upload-pack=touch x", "refs/heads/ok"] {
        let place = Place::new();
        place.commit("2\n");
        let path = place.bundle(&["main"]);
        let whole = fs::read(&path).unwrap();
        let refs = [place.named("refs/heads/main")];
        let before = place.users();
        let id = refs[0].id.as_str();
        let text = format!("{id} refs/heads/main\n");
        let at = whole.windows(text.len()).position(|part| part == text.as_bytes()).unwrap();
        let line = format!("{id} {name}\n");
        // Instead of the one that was asked for: refused. Beside it: no more than noise.
        let instead = [&whole[..at], line.as_bytes(), &whole[at + text.len()..]].concat();
        fs::write(&path, instead).unwrap();
        refusal(place.bring(&refs, Some(&path)));
        assert_eq!(place.brought("heads/main"), None);
        let beside = [&whole[..at], line.as_bytes(), &whole[at..]].concat();
        fs::write(&path, beside).unwrap();
        drop(place.bring(&refs, Some(&path)));
        let all = git(&place.host(), &["for-each-ref", "--format=%(refname)", "refs/forge"]);
        assert!(["", "refs/forge/s1/heads/main"].contains(&&*all), "{all}");
        assert_eq!(place.users(), before);
    }
}

/// A commit of the session whose tree holds this one entry.
fn odd_commit(place: &Place, entry: &str, contents: &[u8]) -> SessionRef {
    let (_, blob) =
        git_with(&place.session(), &["hash-object", "-w", "--stdin", "--literally"], contents);
    let blob = String::from_utf8(blob).unwrap().trim().to_owned();
    let (mode, name) = entry.split_once(' ').unwrap();
    let kind = if mode == "040000" { "tree" } else { "blob" };
    let object = match kind {
        "tree" => {
            let line = format!("100644 blob {blob}\tconfig\n");
            let (_, tree) = git_with(&place.session(), &["mktree"], line.as_bytes());
            String::from_utf8(tree).unwrap().trim().to_owned()
        }
        _ => blob,
    };
    let line = format!("{mode} {kind} {object}\t{name}\n");
    let (_, tree) = git_with(&place.session(), &["mktree"], line.as_bytes());
    let tree = String::from_utf8(tree).unwrap().trim().to_owned();
    let commit = git(&place.session(), &["commit-tree", "-p", "HEAD", "-m", "odd", &tree]);
    git(&place.session(), &["update-ref", "refs/heads/odd", &commit]);
    place.named("refs/heads/odd")
}

#[test]
fn trees_that_a_checkout_would_be_harmed_by_are_refused() {
    let place = Place::new();
    for (entry, contents, expected) in [
        ("040000 .GIT", &b"[core]\n\tfsmonitor = x\n"[..], "hasDotgit"),
        ("040000 .git", b"[core]\n", "hasDotgit"),
        ("040000 git~1", b"[core]\n", "hasDotgit"),
        ("040000 ..", b"x", "hasDotdot"),
        ("120000 .gitmodules", b"/etc/passwd", "gitmodulesSymlink"),
        (
            "100644 .gitmodules",
            b"[submodule \"x\"]\n\tpath = x\n\turl = -u./payload\n",
            "gitmodulesUrl",
        ),
        ("100644 .gitmodules", b"[submodule \"../x\"]\n\tpath = x\n\turl = x\n", "gitmodulesName"),
    ] {
        let odd = odd_commit(&place, entry, contents);
        let reason = refusal(place.bring(&[odd], Some(&place.bundle(&["odd"]))));
        assert!(reason.contains(expected), "{entry}: {reason}");
        assert_eq!(place.brought("heads/odd"), None);
    }
    let fine = odd_commit(&place, "100644 gitmodules", b"x");
    place.bring(&[fine], Some(&place.bundle(&["odd"]))).unwrap();
}

#[test]
fn a_ref_to_no_commit_is_left_and_one_that_is_not_what_was_said_is_refused() {
    let place = Place::new();
    let blob = git(&place.host(), &["rev-parse", "main:file"]);
    let named = |name: &str, id: &str| SessionRef {
        name: SessionRefName::parse(name).unwrap(),
        id: GitObjectId::parse(id).unwrap(),
    };
    let result = place.bring(&[named("refs/tags/blob", &blob)], None).unwrap();
    assert_eq!(
        result.left,
        [(SessionRefName::parse("refs/tags/blob").unwrap(), RefRefusal::NoCommit)]
    );
    assert_eq!(place.brought("tags/blob"), None);
    place.commit("2\n");
    let missing = "1".repeat(40);
    refusal(place.bring(&[named("refs/heads/main", &missing)], None));
    refusal(place.bring(&[named("refs/heads/main", &missing)], Some(&place.bundle(&["main"]))));
}

#[test]
fn no_program_of_the_hosts_configuration_runs() {
    let place = Place::new();
    let (program, has_run) = place.canary("canary");
    let program = program.display().to_string();
    let hooks = place.host().join(".git/hooks");
    fs::create_dir_all(&hooks).unwrap();
    for hook in ["reference-transaction", "post-checkout", "pre-auto-gc", "post-rewrite", "update"]
    {
        fs::copy(&program, hooks.join(hook)).unwrap();
    }
    let more = place.root().join("more-hooks");
    fs::create_dir(&more).unwrap();
    fs::copy(&program, more.join("reference-transaction")).unwrap();
    for (key, value) in [
        ("core.fsmonitor", &*program),
        ("core.sshCommand", &program),
        ("core.gitProxy", &program),
        ("core.alternateRefsCommand", &program),
        ("core.askPass", &program),
        ("core.pager", &program),
        ("pager.for-each-ref", &program),
        ("credential.helper", &program),
        ("gpg.program", &program),
        ("diff.external", &program),
        ("protocol.allow", "always"),
        ("protocol.ext.allow", "always"),
        ("remote.origin.url", "ext::canary"),
        ("remote.origin.promisor", "true"),
        ("remote.origin.uploadpack", &program),
        ("url.ext::canary .insteadOf", "/"),
        ("hook.mine.command", &program),
        ("hook.mine.event", "reference-transaction"),
        ("alias.update-ref", &format!("!{program}")),
        ("alias.for-each-ref", &format!("!{program}")),
    ] {
        git(&place.host(), &["config", key, value]);
    }
    assert!(!has_run());
    for directory in [None, Some(more)] {
        if let Some(directory) = directory {
            git(&place.host(), &["config", "core.hooksPath", directory.to_str().unwrap()]);
        }
        // The control: the user's own git runs a hook for a ref, and the file system monitor for the status.
        git(&place.host(), &["update-ref", "refs/forge/control", "main"]);
        assert!(has_run());
        git(&place.host(), &["status"]);
        assert!(has_run());
        git(&place.host(), &["update-ref", "-d", "refs/forge/control"]);
        assert!(has_run());
        let file = format!("{}\n", place.users().len());
        place.commit(&file);
        let refs = [place.named("refs/heads/main")];
        place.bring(&refs, Some(&place.bundle(&["main"]))).unwrap();
        let name = BranchName::parse(&format!("b{}", file.trim())).unwrap();
        place.repository().branch(&name, &refs[0].id).unwrap();
        assert_eq!(place.brought("heads/main").as_deref(), Some(refs[0].id.as_str()));
        assert!(!has_run());
    }
}

#[test]
fn each_hook_that_the_configuration_names_is_switched_off() {
    let place = Place::new();
    for (key, value) in
        [("hook.a b=c.d.command", "x"), ("hook.a b=c.d.event", "update"), ("hook.jobs", "2")]
    {
        git(&place.host(), &["config", key, value]);
    }
    let hooks = place.repository().hooks;
    assert_eq!(hooks, [("hook.a b=c.d.enabled".into(), "false".into())]);
}

#[test]
fn a_git_that_lies_in_the_workspace_or_at_a_relative_path_is_not_taken() {
    let place = Place::new();
    let (program, has_run) = place.canary("git-of-the-project");
    fs::copy(program, place.host().join("git")).unwrap();
    let path = format!(".::{}:{PATH}", place.host().display());
    let repository = HostRepository::open(&place.host(), OsStr::new(&path)).unwrap();
    repository.refs().unwrap();
    assert!(!has_run());
    let only = HostRepository::open(&place.host(), place.host().as_os_str());
    assert!(matches!(only, Err(CommitsError::NoGit)), "{only:?}");
}

#[test]
fn worktrees_shallow_clones_empty_repositories_and_odd_work_trees_are_repositories_too() {
    let place = Place::new();
    place.commit("2\n");
    let refs = [place.named("refs/heads/main")];
    let bundle = place.bundle(&["main"]);
    let bring = |directory: &Path| {
        let repository = HostRepository::open(directory, OsStr::new(PATH)).unwrap();
        repository.bring(&id(), &refs, &place.private(), Some(&bundle)).unwrap();
        git(directory, &["rev-parse", "refs/forge/s1/heads/main"])
    };
    let expected = refs[0].id.as_str();
    git(&place.host(), &["worktree", "add", "-q", "-b", "side", "../tree"]);
    assert_eq!(bring(&place.root().join("tree")), expected);
    assert_eq!(place.brought("heads/main").as_deref(), Some(expected));
    let url = format!("file://{}", place.host().display());
    git(&place.root(), &["clone", "-q", "--depth=1", &url, "shallow"]);
    assert_eq!(bring(&place.root().join("shallow")), expected);
    git(&place.host(), &["config", "uploadpack.allowFilter", "true"]);
    git(&place.root(), &["clone", "-q", "--filter=blob:none", &url, "partial"]);
    assert_eq!(bring(&place.root().join("partial")), expected);
    git(&place.root(), &["clone", "-q", "host", "odd"]);
    git(&place.root().join("odd"), &["config", "core.worktree", "/nowhere"]);
    git(&place.root(), &["clone", "-q", "--ref-format=reftable", "host", "tables"]);
    assert_eq!(bring(&place.root().join("tables")), expected);
    let odd = HostRepository::open(&place.root().join("odd"), OsStr::new(PATH)).unwrap();
    assert_eq!(odd.bring(&id(), &refs, &place.private(), Some(&bundle)).unwrap().brought, refs);
    // One without commits gets all of them.
    let empty = place.root().join("empty");
    fs::create_dir(&empty).unwrap();
    git(&empty, &["init", "-q"]);
    let all = place.private().join("all");
    git(&place.session(), &["bundle", "create", "-q", all.to_str().unwrap(), "main"]);
    let repository = HostRepository::open(&empty, OsStr::new(PATH)).unwrap();
    assert_eq!(repository.refs().unwrap(), Default::default());
    repository.bring(&id(), &refs, &place.private(), Some(&all)).unwrap();
    assert_eq!(git(&empty, &["rev-parse", "refs/forge/s1/heads/main"]), expected);
}

#[test]
#[ignore = "needs root"]
fn a_repository_of_another_user_is_served() {
    let place = Place::new();
    place.commit("2\n");
    let (refs, bundle) = ([place.named("refs/heads/main")], place.bundle(&["main"]));
    for path in [place.host(), place.host().join(".git")] {
        std::os::unix::fs::chown(path, Some(4711), None).unwrap();
    }
    // The control: any other git refuses it.
    assert!(!git_with(&place.host(), &["status"], b"").0);
    assert_eq!(place.bring(&refs, Some(&bundle)).unwrap().brought, refs);
}

#[test]
fn what_is_no_repository_is_said_though_one_is_around_it() {
    let place = Place::new();
    let inside = place.host().join("inside");
    fs::create_dir(&inside).unwrap();
    let open = HostRepository::open(&inside, OsStr::new(PATH));
    assert!(matches!(open, Err(CommitsError::NoRepository { .. })), "{open:?}");
    fs::create_dir(inside.join(".git")).unwrap();
    let open = HostRepository::open(&inside, OsStr::new(PATH));
    assert!(matches!(open, Err(CommitsError::Git { .. })), "{open:?}");
}

#[test]
fn each_setting_that_runs_a_program_is_switched_off() {
    let (no_input, ask): (&[u8], &[u8]) = (b"", b"protocol=https\nhost=example.org\n\n");
    for (key, arguments, stdin) in [
        ("core.fsmonitor", &["status"][..], no_input),
        ("core.sshCommand", &["ls-remote", "ssh://nowhere.invalid/x"], no_input),
        ("core.gitProxy", &["ls-remote", "git://nowhere.invalid/x"], no_input),
        ("core.askPass", &["credential", "fill"], ask),
        ("credential.helper", &["credential", "fill"], ask),
        ("core.editor", &["commit", "--allow-empty"], no_input),
        ("gpg.program", &["tag", "-s", "-m", "x", "x"], no_input),
        ("diff.external", &["diff"], no_input),
        ("core.alternateRefsCommand", &["rev-list", "--alternate-refs"], no_input),
        ("remote.other.uploadpack", &["fetch", "other"], no_input),
        ("hook", &["update-ref", "refs/heads/x", "main"], no_input),
    ] {
        let place = Place::new();
        let (program, has_run) = place.canary("canary");
        let hook = place.host().join(".git/hooks/reference-transaction");
        match key {
            "hook" => drop(fs::copy(&program, hook).unwrap()),
            _ => drop(git(&place.host(), &["config", key, program.to_str().unwrap()])),
        }
        git(&place.host(), &["config", "remote.other.url", place.session().to_str().unwrap()]);
        git(&place.host(), &["config", "remote.other.fetch", "+refs/heads/*:refs/other/*"]);
        fs::write(place.host().join("file"), "changed\n").unwrap();
        let alternates = place.host().join(".git/objects/info/alternates");
        fs::write(alternates, format!("{}\n", place.session().join(".git/objects").display()))
            .unwrap();
        // The control.
        git_with(&place.host(), arguments, stdin);
        assert!(has_run(), "{key}: the control did not run");
        git_with(&place.host(), &["update-ref", "-d", "refs/heads/x"], b"");
        has_run();
        let repository = place.repository();
        let (name, rest) = arguments.split_first().unwrap();
        repository.run(name, rest, Input::Bytes(stdin.to_vec())).unwrap();
        assert!(!has_run(), "{key}");
    }
}

#[test]
fn an_address_that_is_rewritten_to_a_program_runs_none() {
    let place = Place::new();
    let (program, has_run) = place.canary("canary");
    let key = format!("url.ext::{} .insteadOf", program.display());
    git(&place.host(), &["config", &key, "/"]);
    git(&place.host(), &["config", "protocol.ext.allow", "always"]);
    git_with(&place.host(), &["ls-remote", "/x"], b"");
    assert!(has_run(), "the control did not run");
    place.repository().run("ls-remote", &["/x"], Input::Nothing).unwrap();
    assert!(!has_run());
}

fn history(place: &Place, max_bytes: u64) -> forge_domain::History {
    use forge_domain::HistorySource as _;
    let directory = place.private();
    crate::HostHistory::new(&place.host(), OsStr::new(PATH), &directory, max_bytes)
        .take(&[])
        .unwrap()
}

/// What a guest makes of a bundle: the subjects of the commits that are checked out.
fn unbundled(place: &Place, history: &mut forge_domain::History) -> String {
    let directory = place.root().join("guest");
    fs::create_dir(&directory).unwrap();
    git(&directory, &["init", "-q"]);
    fs::write(directory.join(".git/shallow"), &history.shallow).unwrap();
    let mut bytes = Vec::new();
    let (bundle, length) = history.bundle.as_mut().unwrap();
    std::io::Read::read_to_end(bundle, &mut bytes).unwrap();
    assert_eq!(bytes.len() as u64, *length);
    fs::write(directory.join("bundle"), bytes).unwrap();
    git(&directory, &["bundle", "unbundle", "bundle"]);
    let head = history.head.as_ref().unwrap().as_str();
    git(&directory, &["log", "--format=%s", head])
}

#[test]
fn a_history_is_whole_or_its_newest_commit_alone() {
    let place = Place::new();
    let host = place.host();
    fs::write(host.join("file"), "2\n").unwrap();
    git(&host, &["commit", "-q", "-a", "-m", "second"]);
    git(&host, &["config", "user.name", "Ada"]);
    git(&host, &["config", "http.extraheader", "Authorization: secret"]);
    git(&host, &["remote", "add", "origin", "https://user:secret@example.org/x"]);
    let mut whole = history(&place, 1 << 20);
    assert_eq!(whole.branch.as_deref(), Some("main"));
    assert_eq!(whole.tracked, [PathBuf::from("file")]);
    assert_eq!(
        whole.settings.iter().map(|(key, _)| &**key).collect::<Vec<_>>(),
        ["core.filemode", "user.name"]
    );
    assert_eq!(
        (unbundled(&place, &mut whole).as_str(), whole.cut_at_bytes),
        ("second\nfirst", None)
    );
    assert_eq!(fs::read_dir(place.private()).unwrap().count(), 0, "nothing is left");

    // The older commit holds what makes it too large.
    let noise: Vec<u8> =
        (0..100_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    fs::write(host.join("large"), &noise).unwrap();
    git(&host, &["add", "."]);
    git(&host, &["commit", "-q", "-m", "large"]);
    git(&host, &["rm", "-q", "large"]);
    git(&host, &["commit", "-q", "-m", "last"]);
    fs::remove_dir_all(place.root().join("guest")).unwrap();
    let mut cut = history(&place, 20_000);
    assert_eq!((unbundled(&place, &mut cut).as_str(), cut.cut_at_bytes), ("last", Some(20_000)));
    assert_eq!(fs::read_dir(place.private()).unwrap().count(), 0, "nothing is left");
}

#[test]
fn what_has_no_history_says_why() {
    use forge_domain::{HistoryError, HistorySource as _};
    let place = Place::new();
    let take = |workspace: &Path, path: &str| {
        crate::HostHistory::new(workspace, OsStr::new(path), &place.private(), 1 << 20).take(&[])
    };
    assert!(take(&place.host(), PATH).is_ok());
    assert!(matches!(take(&place.root(), PATH), Err(HistoryError::NoRepository)));
    let inner = place.host().join("inner");
    fs::create_dir(&inner).unwrap();
    assert!(
        matches!(take(&inner, PATH), Err(HistoryError::Within { root }) if root == place.host())
    );
    let missing = take(&place.host(), "/missing");
    assert!(matches!(missing, Err(HistoryError::Git(CommitsError::NoGit))));
    // Without commits there is a branch and nothing else.
    git(&inner, &["init", "-q"]);
    let empty = take(&inner, PATH).unwrap();
    assert_eq!(
        (empty.branch.as_deref(), empty.head, empty.bundle.is_none()),
        (Some("main"), None, true)
    );
}
