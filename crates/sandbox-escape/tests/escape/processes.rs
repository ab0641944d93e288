//! Attempts on processes of the host, and on rights: rows 3 to 8, 14, 15, 33, 34, 40, 50, 55.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::attempt::Attempt;
use crate::stage::{Canary, Stage};
use crate::trial::{Scene, Trial, says};

/// An attempt on a canary: what it needs of it, and how the canary shows it.
fn on_canary<S: Into<String>>(
    stage: &mut Stage,
    attempt: &str,
    words: impl FnOnce(&Canary, &Stage) -> Vec<S>,
    mut judge: impl FnMut(&mut Canary, &Scene) -> bool + 'static,
) -> Trial {
    let mut canary = stage.canary();
    let words = words(&canary, stage);
    stage.trial(attempt, words).judged(move |scene| judge(&mut canary, scene))
}

fn pid(canary: &Canary, _: &Stage) -> Vec<String> {
    vec![canary.pid()]
}

fn memory(canary: &Canary, stage: &Stage) -> Vec<String> {
    vec![canary.pid(), canary.place.to_string(), canary.length.to_string(), text_of(stage)]
}

/// As long as the secret, and another.
fn text_of(stage: &Stage) -> String {
    stage.secret.replace("secret", "CHANGE")
}

/// After the end of the attempt: lets the canary say what its memory holds.
fn memory_is_changed(canary: &mut Canary, scene: &Scene) -> bool {
    !scene.output.is_empty() && canary.last_words().contains("forge-CHANGE")
}

pub(crate) fn attempts() -> Vec<Attempt> {
    let mut attempts = looking();
    attempts.extend(harming());
    attempts.extend(inheriting());
    attempts.extend(gaining());
    attempts
}

fn looking() -> Vec<Attempt> {
    vec![
        Attempt::new("read_environments", "3, 55", |stage| {
            let secret = stage.secret.clone();
            on_canary(stage, "read-environments", pid, move |_, scene| {
                scene.output.contains(&secret)
            })
        })
        .allowed_inside(),
        Attempt::new("list_processes", "5", |stage| {
            on_canary(stage, "list-processes", pid, |canary, scene| {
                scene.output.contains(&canary.mark)
            })
        })
        .allowed_inside(),
        Attempt::new("read_through_roots_of_processes", "55", |stage| {
            let (secret, path) = (stage.secret.clone(), stage.secret_file("secret"));
            let words = |_: &Canary, _: &Stage| vec![path];
            on_canary(stage, "read-through-processes", words, move |_, scene| {
                scene.output.contains(&secret)
            })
        }),
        Attempt::new("read_memory", "8", |stage| {
            let secret = stage.secret.clone();
            on_canary(stage, "read-memory", memory, move |_, scene| scene.output.contains(&secret))
        }),
        Attempt::new("read_memory_file", "55", |stage| {
            let secret = stage.secret.clone();
            let judge = move |_: &mut Canary, scene: &Scene| scene.output.contains(&secret);
            on_canary(stage, "read-memory-file", memory, judge)
        }),
        Attempt::new("take_a_descriptor", "8", |stage| {
            let secret = stage.secret.clone();
            let words =
                |canary: &Canary, _: &Stage| vec![canary.pid(), canary.descriptors[0].to_string()];
            let judge = move |_: &mut Canary, scene: &Scene| scene.output.contains(&secret);
            on_canary(stage, "take-descriptor", words, judge)
        }),
        Attempt::new("compare_descriptors", "8", |stage| {
            let words = |canary: &Canary, _: &Stage| {
                let [first, second] = canary.descriptors;
                vec![canary.pid(), first.to_string(), second.to_string()]
            };
            // What only the kernel's comparison tells: the two are one file, and stdin is another.
            on_canary(stage, "compare-descriptors", words, |_, scene| {
                scene.output.contains("kcmp 0 1") || scene.output.contains("kcmp 0 2")
            })
        }),
    ]
}

fn harming() -> Vec<Attempt> {
    vec![
        Attempt::new("kill", "6", |stage| {
            on_canary(stage, "kill", pid, |canary, _| canary.is_dead())
        }),
        Attempt::new("kill_by_descriptor", "own", |stage| {
            on_canary(stage, "kill-by-descriptor", pid, |canary, _| canary.is_dead())
        }),
        Attempt::new("trace", "7", |stage| {
            on_canary(stage, "trace", pid, |canary, _| {
                let status = canary.told("status");
                status.contains("TracerPid:") && !status.contains("TracerPid:\t0\n")
            })
        }),
        Attempt::new("write_memory", "8", |stage| {
            on_canary(stage, "write-memory", memory, memory_is_changed)
        }),
        Attempt::new("write_memory_file", "55", |stage| {
            on_canary(stage, "write-memory-file", memory, memory_is_changed)
        }),
        Attempt::new("lower_a_priority", "own", |stage| {
            on_canary(stage, "lower-priority", pid, |canary, _| {
                let stat = canary.told("stat");
                let fields = stat.rsplit(") ").next().unwrap();
                fields.split(' ').nth(16) == Some("19")
            })
        }),
        Attempt::new("set_a_limit", "own", |stage| {
            on_canary(stage, "set-limit", pid, |canary, _| {
                canary
                    .told("limits")
                    .lines()
                    .any(|line| line.split_whitespace().take(4).eq(["Max", "open", "files", "64"]))
            })
        }),
        Attempt::new("raise_an_oom_score", "16", |stage| {
            // What the files beneath /proc/sys are to root.
            on_canary(stage, "raise-oom-score", pid, |canary, _| {
                canary.told("oom_score_adj").trim() == "777"
            })
        })
        .two_locks(),
        Attempt::new("replace_a_program", "40", |stage| {
            let token = stage.token.clone();
            let words = |canary: &Canary, stage: &Stage| vec![stage.token.clone(), canary.pid()];
            on_canary(stage, "replace-program", words, move |canary, _| {
                fs::read(&canary.program).unwrap().ends_with(token.as_bytes())
            })
        })
        .two_locks(),
        Attempt::new("outlive_the_command", "50", |stage| {
            stage.trial("outlive", [""; 0]).judged(|scene| {
                if scene.output.is_empty() {
                    return false;
                }
                // The kernel takes a moment to reap.
                let begun = Instant::now();
                let lives = || scene.pids.iter().any(|pid| is_alive(*pid));
                while lives() && begun.elapsed() < Duration::from_secs(2) {
                    std::thread::sleep(Duration::from_millis(20));
                }
                let survived = lives();
                for pid in scene.pids.iter().filter(|pid| is_alive(**pid)) {
                    crate::host::kill(*pid);
                }
                survived
            })
        })
        .allowed_inside(),
    ]
}

fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|fields| !fields.is_empty() && !fields.starts_with('Z'))
}

/// What comes to a command by its being executed.
fn inheriting() -> Vec<Attempt> {
    vec![
        Attempt::new("read_own_environment", "4", |stage| {
            // Set in this process, where the user's own variables would be.
            stage.trial("read-own-environment", [""; 0]).judged(says(&crate::own_secret()))
        })
        .control_bare()
        .allowed_inside(),
        Attempt::new("read_a_leaked_descriptor", "33", |stage| {
            let path = stage.secret_file("leaked");
            let leaked = crate::host::inheritable(&fs::File::open(path).unwrap());
            let secret = stage.secret.clone();
            stage.trial("read-descriptors", [""; 0]).judged(move |scene| {
                let _open = &leaked;
                scene.output.contains(&secret)
            })
        })
        .control_bare(),
        Attempt::new("read_by_a_leaked_directory", "33", |stage| {
            stage.secret_file("secret");
            let leaked = crate::host::inheritable(&fs::File::open(stage.home()).unwrap());
            let secret = stage.secret.clone();
            stage.trial("read-through-descriptor", ["secret"]).judged(move |scene| {
                let _open = &leaked;
                scene.output.contains(&secret)
            })
        })
        .control_bare(),
    ]
}

fn gaining() -> Vec<Attempt> {
    vec![
        Attempt::new("gain_capabilities", "7, 14", |stage| {
            stage.trial("gain-capabilities", [""; 0]).judged(has_capabilities)
        })
        .unless(crate::host::lacks_user_namespaces),
        Attempt::new("keep_capabilities", "7, 14", |stage| {
            stage.trial("regain-capabilities", [""; 0]).judged(has_capabilities)
        })
        // Whoever is not root loses them by being executed.
        .root_only()
        .control(forge_infra_sandbox::Layers::ALL.without_privileges()),
        Attempt::new("execute_su", "34", |stage| {
            // It waits for the password, and gets none.
            stage
                .trial("execute-for-rights", ["/usr/bin/su", "root", "-c", &stage.token])
                .judged(|scene| has_user(scene, "0"))
                .time_limit(Duration::from_secs(5))
        })
        .user_only()
        .unless(|| {
            let su = fs::metadata("/usr/bin/su");
            let special =
                su.is_ok_and(|su| std::os::unix::fs::MetadataExt::mode(&su) & 0o4000 != 0);
            (!special).then_some("su is not set-user-id here")
        }),
        Attempt::new("execute_a_set_user_id_program", "34", |stage| {
            let copy: PathBuf = stage.shared().join("special");
            fs::copy(stage.program(), &copy).unwrap();
            std::os::unix::fs::chown(&copy, Some(65_534), None).unwrap();
            let special = <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o4755);
            fs::set_permissions(&copy, special).unwrap();
            stage
                .trial("execute-for-rights", [copy.to_str().unwrap(), "spin", &stage.token])
                .judged(|scene| has_user(scene, "65534"))
                .with_shared(stage)
                .time_limit(Duration::from_secs(2))
        })
        .root_only()
        .allowed_inside(),
    ]
}

fn has_capabilities(scene: &Scene) -> bool {
    scene.told("status").iter().any(|status| {
        let set = status.lines().find_map(|line| line.strip_prefix("CapEff:\t"));
        set.is_some_and(|set| set.bytes().any(|digit| digit != b'0'))
    })
}

/// A process of the attempt acts for this user.
fn has_user(scene: &Scene, user: &str) -> bool {
    scene.told("status").iter().any(|status| {
        let line = status.lines().find_map(|line| line.strip_prefix("Uid:\t"));
        line.and_then(|ids| ids.split('\t').nth(1)) == Some(user)
    })
}
