//! Attempts on the host's files: rows 1, 2, 9, 10, 13, 33, 35, 38, 41, 45.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

use crate::attempt::Attempt;
use crate::stage::Stage;
use crate::trial::{Scene, Trial, file_holds, says};

/// Reads the secret, from a file of the home directory of this name.
fn read(stage: &mut Stage, name: &str) -> Trial {
    let path = stage.secret_file(name);
    stage.trial("read", [path]).judged(says(&stage.secret))
}

/// Writes the token by an attempt that takes the text and the path, over a file that is there.
fn overwrite(stage: &mut Stage, attempt: &str, path: &Path) -> Trial {
    let path = stage.file(path, "as it was\n");
    let judge = file_holds(&path, &stage.token);
    stage.trial(attempt, [stage.token.clone(), path]).judged(judge)
}

/// Whether any file of this name, in the workspace or in the upper layer, has one of these mode bits.
fn has_mode(stage: &Stage, name: &'static str, bits: u32) -> impl FnMut(&Scene) -> bool + use<> {
    let host = stage.project().join(name);
    move |scene| {
        let mut places = scene.in_state(name);
        places.push(host.clone());
        places.iter().any(|path| {
            path.symlink_metadata().is_ok_and(|found| found.permissions().mode() & bits != 0)
        })
    }
}

pub(crate) fn attempts() -> Vec<Attempt> {
    let mut attempts = reading();
    attempts.extend(writing());
    attempts.extend(marking());
    attempts
}

fn reading() -> Vec<Attempt> {
    vec![
        Attempt::new("read_ssh_key", "1", |stage| read(stage, ".ssh/id_ed25519")),
        Attempt::new("read_cloud_key", "1", |stage| read(stage, ".aws/credentials")),
        Attempt::new("read_browser_profile", "1", |stage| {
            read(stage, ".config/chromium/Default/Cookies")
        }),
        Attempt::new("read_private_file", "2", |stage| {
            // What /etc/shadow is to root: a file that its owner alone may read.
            read(stage, "shadow")
        }),
        Attempt::new("read_shadow", "2", |stage| {
            let lines = fs::read_to_string("/etc/shadow").unwrap();
            let first = lines.lines().next().unwrap().to_owned();
            stage.trial("read", ["/etc/shadow"]).judged(says(&first))
        })
        .root_only(),
        Attempt::new("read_temporary_file", "23", |stage| {
            let file = tempfile::NamedTempFile::new_in("/var/tmp").unwrap();
            fs::write(file.path(), &stage.secret).unwrap();
            let path = file.path().to_str().unwrap().to_owned();
            let secret = stage.secret.clone();
            stage.trial("read", [path]).judged(move |scene| {
                let _kept = &file;
                scene.output.contains(&secret)
            })
        }),
        Attempt::new("read_shared_memory_file", "own", |stage| {
            let file = tempfile::NamedTempFile::new_in("/dev/shm").unwrap();
            fs::write(file.path(), &stage.secret).unwrap();
            let path = file.path().to_str().unwrap().to_owned();
            let secret = stage.secret.clone();
            stage.trial("read", [path]).judged(move |scene| {
                let _kept = &file;
                scene.output.contains(&secret)
            })
        })
        .unless(|| (!Path::new("/dev/shm").is_dir()).then_some("no /dev/shm")),
        Attempt::new("read_above_the_root", "13", |stage| {
            let path = stage.secret_file("secret");
            stage.trial("read-above", [path]).judged(says(&stage.secret))
        }),
        Attempt::new("read_through_a_link", "1", |stage| {
            let path = stage.secret_file("secret");
            stage.trial("read-through-link", [path]).judged(says(&stage.secret))
        }),
        Attempt::new("read_by_handle", "38", |stage| {
            let path = stage.secret_file("secret");
            let home = stage.home().to_str().unwrap().to_owned();
            let handle = crate::host::handle_of(Path::new(&path));
            // Any directory of the same file system serves: inside, that of the lower layer is one.
            stage
                .trial("read-by-handle", [handle, home, "/usr".into(), ".".into()])
                .judged(says(&stage.secret))
        })
        .root_only(),
        Attempt::new("watch_the_home", "own", |stage| {
            let home = stage.home().to_str().unwrap().to_owned();
            stage.trial("watch", [home.clone()]).judged(move |scene| {
                let inode = format!("ino:{:x} ", Path::new(&home).metadata().unwrap().ino());
                scene.descriptors().iter().any(|(path, _)| {
                    let information = path.to_str().unwrap().replace("/fd/", "/fdinfo/");
                    fs::read_to_string(information).is_ok_and(|text| text.contains(&inode))
                })
            })
        }),
        Attempt::new("lock_a_file_of_the_home", "own", |stage| {
            let path = stage.secret_file("lock");
            stage.trial("lock", [path.clone()]).judged(crate::host::cannot_lock(path))
        }),
    ]
}

fn writing() -> Vec<Attempt> {
    vec![
        Attempt::new("write_home", "9", |stage| {
            let path = stage.home().join(".bashrc");
            overwrite(stage, "write", &path)
        })
        .two_locks(),
        Attempt::new("make_a_file_in_the_home", "9", |stage| {
            let path = stage.home().join("new").to_str().unwrap().to_owned();
            let judge = file_holds(&path, &stage.token);
            stage.trial("write", [stage.token.clone(), path]).judged(judge)
        })
        .two_locks(),
        Attempt::new("remove_a_file_of_the_home", "9", |stage| {
            let path = stage.secret_file("kept");
            let host = path.clone();
            stage.trial("remove", [path]).judged(move |_| !fs::exists(&host).unwrap())
        })
        .two_locks(),
        Attempt::new("write_the_system", "9", |stage| {
            let path = format!("/etc/{}", stage.token);
            let removed = crate::host::RemovedAtEnd(path.clone().into());
            stage.trial("write", [stage.token.clone(), path.clone()]).judged(move |_| {
                let _removed = &removed;
                fs::exists(&path).unwrap()
            })
        })
        .root_only()
        .two_locks(),
        Attempt::new("write_workspace", "10", |stage| {
            let path = stage.project().join("file");
            overwrite(stage, "write", &path)
        })
        .allowed_inside(),
        Attempt::new("remove_workspace", "10", |stage| {
            let path = stage.file(&stage.project().join("file"), "as it was\n");
            let host = path.clone();
            stage.trial("remove", [path]).judged(move |_| !fs::exists(&host).unwrap())
        })
        .allowed_inside(),
        Attempt::new("write_the_lower_layer", "10", |stage| {
            let path = stage.file(&stage.project().join("file"), "as it was\n");
            let judge = file_holds(&path, &stage.token);
            stage.trial("write-lower", [stage.token.clone(), "file".to_owned()]).judged(judge)
        })
        .allowed_inside(),
        Attempt::new("write_a_shared_file", "9", |stage| {
            let path = stage.shared().join("file");
            overwrite(stage, "write", &path).with_shared(stage)
        })
        .two_locks(),
        Attempt::new("reopen_a_shared_file_for_writing", "own", |stage| {
            let path = stage.shared().join("file");
            overwrite(stage, "write-reopened", &path).with_shared(stage)
        })
        .two_locks(),
        Attempt::new("remount_a_shared_directory", "11", |stage| {
            let directory = stage.shared().to_str().unwrap().to_owned();
            let judge = file_holds(&format!("{directory}/file"), &stage.token);
            let words = [directory, stage.token.clone(), "file".to_owned()];
            stage.trial("remount", words).judged(judge).with_shared(stage)
        })
        .two_locks(),
        Attempt::new("link_an_unnamed_file_out", "own", |stage| {
            let home = stage.home().to_str().unwrap().to_owned();
            let judge = file_holds(&format!("{home}/named"), &stage.token);
            let words = [stage.token.clone(), home, "named".to_owned()];
            stage.trial("write-unnamed", words).judged(judge)
        })
        .two_locks(),
        Attempt::new("write_through_a_link", "9", |stage| {
            let path = stage.home().join("target");
            overwrite(stage, "write-through-link", &path)
        })
        .two_locks(),
        Attempt::new("move_a_file_out", "own", |stage| {
            let own = stage.file(&stage.project().join("file"), &stage.token);
            let path = stage.home().join("moved").to_str().unwrap().to_owned();
            let judge = file_holds(&path, &stage.token);
            stage.trial("rename", [own, path]).judged(judge)
        })
        .two_locks(),
        Attempt::new("hard_link_a_file_of_the_home", "41", |stage| {
            let path = stage.secret_file("secret");
            let host = path.clone();
            stage
                .trial("hard-link", [path, "linked".to_owned()])
                .judged(move |_| fs::metadata(&host).unwrap().nlink() > 1)
        })
        .two_locks(),
        Attempt::new("hard_link_a_shared_file", "41", |stage| {
            let path = stage.file(&stage.shared().join("file"), "shared");
            let host = path.clone();
            stage
                .trial("hard-link", [path, "linked".to_owned()])
                .judged(move |_| fs::metadata(&host).unwrap().nlink() > 1)
                .with_shared(stage)
        })
        .two_locks(),
    ]
}

/// What is done within the workspace, and would mean something to the host.
fn marking() -> Vec<Attempt> {
    vec![
        Attempt::new("set_user_id_bit", "35", |stage| {
            let judge = has_mode(stage, "planted", 0o6000);
            stage.trial("change-mode", ["4755", "planted"]).judged(judge)
        }),
        Attempt::new("set_user_id_bit_i386", "35, 37", |stage| {
            let judge = has_mode(stage, "planted", 0o6000);
            stage.trial("set-mode-i386", ["planted"]).judged(judge)
        })
        .unless(crate::host::lacks_i386),
        Attempt::new("forge_an_opaque_marker", "45", |stage| {
            let host = stage.project().join("marked");
            fs::create_dir(&host).unwrap();
            stage.trial("set-attribute", ["marked", "user.overlay.opaque"]).judged(move |scene| {
                let mut places = scene.in_state("marked");
                places.push(host.clone());
                places.iter().any(|path| crate::host::has_attribute(path, "user.overlay.opaque"))
            })
        })
        .allowed_inside(),
        Attempt::new("forge_a_redirect_marker", "45", |stage| {
            let host = stage.project().join("marked");
            fs::create_dir(&host).unwrap();
            stage.trial("set-attribute", ["marked", "user.overlay.redirect"]).judged(move |scene| {
                let mut places = scene.in_state("marked");
                places.push(host.clone());
                places.iter().any(|path| crate::host::has_attribute(path, "user.overlay.redirect"))
            })
        })
        .allowed_inside(),
        Attempt::new("forge_a_whiteout", "45", |stage| {
            let host = stage.project().join("whiteout");
            stage.trial("make-node", ["whiteout", "0", "0"]).judged(move |scene| {
                let mut places = scene.in_state("whiteout");
                places.push(host.clone());
                places.iter().any(|path| {
                    path.symlink_metadata().is_ok_and(|found| found.file_type().is_char_device())
                })
            })
        }),
    ]
}
