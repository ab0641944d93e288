//! What is open with all layers, is known to be, and is said so in the documents. Each is pinned: were
//! one of these to be held some day, its test fails, and the documents are to be changed.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::attempt::Attempt;

pub(crate) fn gaps() -> Vec<Attempt> {
    vec![
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
