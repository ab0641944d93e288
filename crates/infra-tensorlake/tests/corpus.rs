//! Streams that were met or thought of, decoded whole and in every two parts. What a fuzzer or a user finds
//! is added as a pair of files: `NAME.sse`, and `NAME.json` with the data of its events.

#![expect(clippy::unwrap_used, reason = "a file that cannot be read fails the test")]

use std::path::Path;

use forge_infra_tensorlake::sse::Decoder;
use pretty_assertions::assert_eq;

fn decode(parts: [&[u8]; 2]) -> Vec<String> {
    let mut decoder = Decoder::default();
    let events = parts.iter().flat_map(|part| decoder.push(part).unwrap());
    events.map(|data| String::from_utf8(data).unwrap()).collect()
}

#[test]
fn every_stream_of_the_corpus_gives_its_events_however_it_is_cut() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let mut replayed = 0;
    for entry in std::fs::read_dir(corpus).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "sse") {
            continue;
        }
        let stream = std::fs::read(&path).unwrap();
        let text = std::fs::read_to_string(path.with_extension("json")).unwrap();
        let expected: Vec<String> = serde_json::from_str(&text).unwrap();
        for at in 0..=stream.len() {
            let (first, second) = stream.split_at(at);
            assert_eq!(decode([first, second]), expected, "{path:?}, cut at {at}");
        }
        replayed += 1;
    }
    assert!(replayed >= 5, "{replayed}");
}
