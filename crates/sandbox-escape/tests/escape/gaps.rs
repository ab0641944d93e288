//! What is open with all layers, is known to be, and is said so in the documents. Each is pinned: were
//! one of these to be held some day, its test fails, and the documents are to be changed.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::attempt::Attempt;
use crate::network::by_path;

pub(crate) fn gaps() -> Vec<Attempt> {
    vec![
        // A lock takes no more than reading: what the user shares can be kept from its writers.
        Attempt::new("lock_a_shared_file", "own", |stage| {
            let path = stage.file(&stage.shared().join("lock"), "");
            let judge = crate::host::cannot_lock(path.clone());
            stage.trial("lock", [path]).judged(judge).with_shared(stage)
        }),
        // A mount that is read-only does not stop a connection (`sandbox.md`, design, 5).
        Attempt::new("connect_to_a_shared_socket", "23", |stage| {
            let path = stage.shared().join("service.sock");
            by_path(stage, path).with_shared(stage)
        })
        // From this version on, Landlock refuses the connection.
        .unless(|| (crate::host::landlock_version() >= 9).then_some("this kernel closes it")),
        // The upper layer is in a directory that nobody else may enter, and applying strips it.
        Attempt::new("make_a_set_user_id_file", "35", |stage| {
            let host = stage.project().join("planted");
            stage.trial("make-with-mode", ["4755", "planted"]).judged(move |scene| {
                let mut places = scene.in_state("planted");
                places.push(host.clone());
                places.iter().any(|path| {
                    fs::metadata(path).is_ok_and(|found| found.permissions().mode() & 0o4000 != 0)
                })
            })
        }),
    ]
}
