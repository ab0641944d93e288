//! Attempts on what processes of the host share, and on parts of the kernel: rows 36 and own.

use crate::attempt::Attempt;
use crate::host::{lacks_bpf, lacks_fanotify, lacks_perf, lacks_uring, lacks_userfault};
use crate::objects::{
    MessageQueue, PosixQueue, Semaphores, SharedMemory, lacks_posix_queues, lacks_shared_memory,
};
use crate::trial::{has_open, says};

pub(crate) fn attempts() -> Vec<Attempt> {
    let mut attempts = shared();
    attempts.extend(surfaces());
    attempts
}

fn shared() -> Vec<Attempt> {
    vec![
        Attempt::new("receive_a_message", "own", |stage| {
            let queue = MessageQueue::with(&stage.secret);
            let secret = stage.secret.clone();
            stage.trial("receive-message", [queue.key.to_string()]).judged(move |scene| {
                let _queue = &queue;
                scene.output.contains(&secret)
            })
        })
        .unless(lacks_shared_memory),
        Attempt::new("send_a_message", "own", |stage| {
            let queue = MessageQueue::empty();
            let words = [queue.key.to_string(), stage.token.clone()];
            stage.trial("send-message", words).judged(move |_| queue.holds_anything())
        })
        .unless(lacks_shared_memory),
        Attempt::new("change_shared_memory", "own", |stage| {
            let memory = SharedMemory::new();
            stage
                .trial("read-shared-memory", [memory.key.to_string()])
                .judged(move |_| memory.mode() == 0o640)
        })
        .unless(lacks_shared_memory),
        Attempt::new("set_a_semaphore", "own", |stage| {
            let set = Semaphores::new();
            let words = [set.key.to_string()];
            stage.trial("count-semaphores", words).judged(move |_| set.value() == 77)
        })
        .unless(lacks_shared_memory),
        Attempt::new("receive_a_posix_message", "own", |stage| {
            let queue = PosixQueue::with(&stage.token, &stage.secret);
            let secret = stage.secret.clone();
            stage.trial("receive-posix-message", [stage.token.clone()]).judged(move |scene| {
                let _queue = &queue;
                scene.output.contains(&secret)
            })
        })
        .unless(lacks_posix_queues),
        Attempt::new("read_a_key_of_the_session", "36", |stage| {
            stage.trial("read-key", [crate::key_name()]).judged(says(&crate::own_secret()))
        })
        .unless(|| (!crate::has_session_key()).then_some("no keyrings on this kernel")),
    ]
}

fn surfaces() -> Vec<Attempt> {
    vec![
        Attempt::new("open_io_uring", "36", |stage| {
            stage.trial("io-uring", [""; 0]).judged(has_open("[io_uring]"))
        })
        .unless(lacks_uring),
        Attempt::new("make_a_bpf_map", "36", |stage| {
            stage.trial("bpf-map", [""; 0]).judged(has_open("bpf-map"))
        })
        .unless(lacks_bpf),
        Attempt::new("open_a_perf_event", "36", |stage| {
            stage.trial("perf-event", [""; 0]).judged(has_open("[perf_event]"))
        })
        .unless(lacks_perf),
        Attempt::new("open_userfaultfd", "36", |stage| {
            stage.trial("userfault", [""; 0]).judged(has_open("[userfaultfd]"))
        })
        .unless(lacks_userfault),
        Attempt::new("open_fanotify", "36", |stage| {
            stage.trial("fanotify", [""; 0]).judged(has_open("[fanotify]"))
        })
        .unless(lacks_fanotify),
    ]
}
