//! Files that are too large for a server.

use std::path::Path;

use bytes::Bytes;
use forge_domain::{FileError, Files, Lifecycle, WriteOptions};
use pretty_assertions::assert_eq;

use crate::sandbox::{PATIENCE, RUN, environment, life};
use crate::server::{Reply, Seen, Server};

/// Takes files up to a size, and runs the adapter's own texts without looking.
async fn takes_up_to(most: usize) -> Server {
    Server::start(move |request| match request.shape.as_str() {
        "PUT /api/v1/files" if request.body.len() > most => {
            Reply::of(413, "text/plain", "", "length limit exceeded")
        }
        "PUT /api/v1/files" => Reply::empty(204),
        RUN if request.is_helper() => {
            Reply::stream().out("ok").out(&format!("{} 0", request.token())).exit(0)
        }
        _ => life(request),
    })
    .await
}

async fn write(server: &Server, contents: Bytes) -> Result<(), FileError> {
    let environment = environment(server);
    let path = Path::new("/w/large");
    let write = environment.write(path, contents, WriteOptions::default());
    let written = tokio::time::timeout(PATIENCE, write).await.unwrap();
    environment.close().await.unwrap();
    written
}

#[tokio::test]
async fn what_is_too_large_for_a_server_goes_in_smaller_pieces() {
    let contents: Vec<u8> = (0..3_000_000_u32).map(|number| (number % 251) as u8).collect();
    let server = takes_up_to(100_000).await;
    write(&server, contents.clone().into()).await.unwrap();

    let sent = server.seen().into_iter().filter(|seen| seen.shape == "PUT /api/v1/files");
    let (refused, mut taken): (Vec<Seen>, Vec<Seen>) =
        sent.partition(|piece| piece.body.len() > 100_000);
    assert!(refused.len() <= 4 * 4, "{} times too much was sent", refused.len());
    let path = |piece: &Seen| piece.head.split(' ').nth(1).unwrap().to_owned();
    // Several are under way at once, and they are joined in the order of their names.
    taken.sort_by_key(path);
    let joined: Vec<u8> = taken.iter().flat_map(|piece| piece.body.clone()).collect();
    assert!(joined == contents, "every byte is sent once, in order");
    let mut paths: Vec<String> = taken.iter().map(path).collect();
    paths.dedup();
    assert_eq!(paths.len(), taken.len());
}

#[tokio::test]
async fn a_server_that_takes_nothing_is_not_asked_for_ever() {
    let server = takes_up_to(0).await;
    let error = write(&server, vec![0; 100_000].into()).await.unwrap_err();
    assert!(matches!(error, FileError::Environment(_)), "{error:?}");
    assert!((1..=8).contains(&server.count("PUT /api/v1/files")));
}
