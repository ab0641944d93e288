//! The life of an environment.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use forge_domain::{
    BackgroundError, BackgroundId, ByteRange, ChangesError, CommandError, CommandIo, Ending,
    EnvironmentError, FileError, OutputOffset, Removal, SearchError, SearchQuery, WriteOptions,
};
use pretty_assertions::assert_eq;

use super::probe::{Environment, begun_and_waiting, grows, observed, request, run, text};
use crate::{Scenario, Step};

/// Preparing is a hint, and can be given twice.
pub async fn preparing_twice_is_one(environment: Environment) {
    let (first, second) = tokio::join!(environment.prepare(), environment.prepare());
    first.unwrap();
    second.unwrap();
    assert_eq!(text(&run(&environment, &Scenario::print("works")).await), "works");
}

/// What was never made is closed without being made.
pub async fn closing_before_the_first_use_works(environment: Environment) {
    environment.close().await.unwrap();
}

/// The second close says what the first said.
pub async fn closing_twice_works(environment: Environment) {
    run(&environment, &Scenario::default()).await;
    environment.close().await.unwrap();
    environment.close().await.unwrap();
}

/// Also at the same moment.
pub async fn closing_at_the_same_time_works(environment: Environment) {
    run(&environment, &Scenario::default()).await;
    let (first, second) = tokio::join!(environment.close(), environment.close());
    first.unwrap();
    second.unwrap();
}

fn is_closed(error: &EnvironmentError) -> bool {
    matches!(error, EnvironmentError::Closed { .. })
}

/// Nothing works any more, and everything says why.
pub async fn every_call_after_the_close_is_refused(environment: Environment) {
    run(&environment, &Scenario::default()).await;
    environment.close().await.unwrap();
    let path = Path::new("file");
    let id = BackgroundId::parse("any").unwrap();
    let (since, zero) = (OutputOffset(0), Duration::ZERO);

    let scenario = Scenario::default();
    let error = environment.run(request(&scenario), CommandIo::detached()).await.unwrap_err();
    assert!(matches!(&error, CommandError::Environment(e) if is_closed(e)), "{error:?}");
    let error = environment.start(request(&scenario)).await.unwrap_err();
    assert!(matches!(&error, CommandError::Environment(e) if is_closed(e)), "{error:?}");

    let polls = [environment.poll(&id, since, zero).await, environment.stop(&id, since).await];
    for poll in polls {
        let error = poll.unwrap_err();
        assert!(matches!(&error, BackgroundError::Environment(e) if is_closed(e)), "{error:?}");
    }

    let error = environment.checkpoint().await.unwrap_err();
    assert!(is_closed(&error), "{error:?}");

    let files = [
        environment.read(path, ByteRange::first(1)).await.map(drop),
        environment.write(path, Bytes::new(), WriteOptions::default()).await,
        environment.remove(path, Removal::Single).await,
        environment.list(path).await.map(drop),
        environment.stat(path).await.map(drop),
    ];
    for file in files {
        let error = file.unwrap_err();
        assert!(matches!(&error, FileError::Environment(e) if is_closed(e)), "{error:?}");
    }

    let error = environment.search(SearchQuery::default()).await.unwrap_err();
    assert!(matches!(&error, SearchError::Environment(e) if is_closed(e)), "{error:?}");
    for error in [
        environment.changes().await.map(drop).unwrap_err(),
        environment.discard_changes().await.unwrap_err(),
    ] {
        assert!(matches!(&error, ChangesError::Environment(e) if is_closed(e)), "{error:?}");
    }
    for error in [
        environment.prepare().await.unwrap_err(),
        environment.describe().await.unwrap_err(),
        environment.list_background().await.map(drop).unwrap_err(),
    ] {
        assert!(is_closed(&error), "{error:?}");
    }
}

/// A command that runs is ended, and whoever waits for it is told how.
pub async fn closing_ends_running_commands(environment: Environment) {
    let (io, recording, _controller) = observed();
    let closing = async {
        recording.has("begun").await;
        environment.close().await.unwrap();
    };
    let request = request(&begun_and_waiting());
    let (exit, ()) = tokio::join!(environment.run(request, io), closing);
    match exit {
        Ok(exit) => {
            assert_eq!((exit.ending.clone(), text(&exit)), (Ending::Cancelled, "begun".to_owned()));
        }
        Err(error) => panic!("a command that was started has an ending: {error:?}"),
    }
}

/// Background commands end with the environment; the close waits for that.
pub async fn closing_ends_background_commands(environment: Environment) {
    let scenario = Scenario::new([Step::TickForever("ticks".into())]);
    environment.start(request(&scenario)).await.unwrap();
    grows(&environment, "ticks").await;
    tokio::time::timeout(Duration::from_secs(20), environment.close()).await.unwrap().unwrap();
}
