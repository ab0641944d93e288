//! Guests that lie about what was changed in them, through the whole program: nothing of it reaches this machine, neither when
//! it is fetched nor when it is applied.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use forge_tensorlake_testserver::ServerOptions;
use pretty_assertions::assert_eq;

use crate::harness::{Ended, run};
use crate::relay::{Fate, Relay};
use crate::tensorlake::Cloud;

/// A project whose own tools come before the guest's, once it is in the guest. They lie once a command has made the file
/// `lies`.
struct Liar {
    cloud: Cloud,
    relay: Relay,
    outside: PathBuf,
}

impl Liar {
    /// In the texts, `outside` is a directory on this machine that is no business of the project's.
    fn new(find: &str, tar: &str) -> Self {
        let cloud = Cloud::with(ServerOptions::default());
        let tools = cloud.world.project().join("tools");
        let path = format!("{}:/usr/local/bin:/usr/bin:/bin", tools.display());
        let relay = Relay::start(&cloud.server.url(), Duration::ZERO, move |request| {
            if !request.shape.ends_with("/processes/run") {
                return Fate::Pass;
            }
            let mut body: serde_json::Value = serde_json::from_slice(&request.body).unwrap();
            body["env"]["PATH"] = path.clone().into();
            Fate::With(body.to_string().into_bytes())
        });
        let outside = cloud.world.home().join("outside");
        fs::create_dir(&outside).unwrap();
        for (name, is_asked, text) in
            [("find", "'%y %m %s'", find), ("tar", "--hard-dereference", tar)]
        {
            let lies = tools.with_file_name("lies");
            let text = format!(
                "#!/bin/sh\noutside='{}'\ncase $*:$([ ! -e '{}' ] || echo lies) in *{is_asked}*:lies) ;; \
                 *) exec /usr/bin/{name} \"$@\" ;; esac\n{text}\n",
                outside.display(),
                lies.display()
            );
            cloud.world.write(&format!("project/tools/{name}"), &text);
            fs::set_permissions(tools.join(name), fs::Permissions::from_mode(0o755)).unwrap();
        }
        Self { cloud, relay, outside }
    }

    fn exec(&self, text: &str) -> Ended {
        let mut command = self.cloud.world.forge(&["exec", "--fresh", "-c", text]);
        self.cloud.tell(&mut command);
        run(command.env("TENSORLAKE_API_URL", &self.relay.url))
    }

    /// What an honest guest has changed arrives; what a lying one says is an error, and nothing is written anywhere.
    fn is_held_off(&self, expected: &str) {
        let lied = self.exec("echo two >file; touch lies");
        assert_eq!(lied.code, Some(0), "the command's own: {lied:?}");
        assert!(lied.stderr.contains("could not be brought back"), "{lied:?}");
        assert!(lied.stderr.contains(expected), "{lied:?}");
        run(&mut self.cloud.world.forge(&["apply", "--yes", "--allow-symlink", "--allow-exec"]));
        assert_eq!(fs::read_dir(&self.outside).unwrap().count(), 0);
        assert!(!self.outside.with_file_name("out").exists());
        assert!(!self.cloud.world.project().with_file_name("out").exists());
        let honest = self.exec("echo two >file");
        assert!(honest.stderr.contains(" holds 1 changed file: "), "{honest:?}");
        assert_eq!(run(&mut self.cloud.world.forge(&["apply", "--yes"])).code, Some(0));
        let applied = fs::read_to_string(self.cloud.world.project().join("file")).unwrap();
        assert_eq!(applied, "two\n");
    }
}

#[test]
fn a_symlink_and_then_a_file_through_it_reach_nothing() {
    let find = r#"printf 'l 777 9 1600.5 7\0link\0%s\0f 644 5 1600.5 8\0link/through\0\0rules\0end\0' "$outside""#;
    let tar = r#"d=$(mktemp -d) && mkdir "$d/link" && echo evil >"$d/link/through" && cd "$d" && exec /usr/bin/tar -c --format=gnu -f - ./link/through"#;
    Liar::new(find, tar).is_held_off("what was changed there cannot be kept on this machine");
}

#[test]
fn a_path_that_leads_out_reaches_nothing() {
    let find = r"printf 'f 644 5 1600.5 8\0../out\0\0'";
    Liar::new(find, "exit 1").is_held_off("a path in it leaves the workspace");
}

#[test]
fn gits_own_directory_is_nothing_that_a_guest_changes() {
    let find = r"printf 'd 755 0 1600.5 7\0.git\0\0f 755 5 1600.5 8\0.git/hooks/pre-commit\0\0'";
    let tar = r#"d=$(mktemp -d) && mkdir -p "$d/.git/hooks" && echo evil >"$d/.git/hooks/pre-commit" && cd "$d" && exec /usr/bin/tar -c --format=gnu -f - ./.git/hooks/pre-commit"#;
    let liar = Liar::new(find, tar);
    liar.is_held_off("what was changed there cannot be kept on this machine");
    assert!(!liar.cloud.world.project().join(".git").exists());
}

#[test]
fn an_archive_of_what_was_not_asked_for_reaches_nothing() {
    let find = r#"exec /usr/bin/find "$@""#;
    let tar = r#"cd "$outside/.." 2>/dev/null || cd /; echo evil >/tmp/out; exec /usr/bin/tar -c -P --format=gnu -f - /tmp/out"#;
    Liar::new(find, tar).is_held_off("a file that was not asked for");
}
