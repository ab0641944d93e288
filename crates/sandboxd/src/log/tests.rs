use std::time::Duration;

use pretty_assertions::assert_eq;

use super::*;

const OUT: OutputStream = OutputStream::Stdout;
const ERR: OutputStream = OutputStream::Stderr;

fn log(kept_bytes: u64) -> Arc<Log> {
    Log::new(Keep::Both, std::env::temp_dir(), kept_bytes)
}

async fn all(mut reader: LogReader) -> Vec<(OutputStream, String)> {
    let mut found = Vec::new();
    while let Some(lines) = reader.next().await {
        found.extend(
            lines
                .into_iter()
                .map(|line| (line.stream, String::from_utf8_lossy(&line.bytes).into_owned())),
        );
    }
    found
}

#[tokio::test]
async fn a_follower_gets_every_line_once_whenever_it_comes() {
    let log = log(1 << 20);
    let early = tokio::spawn(all(log.follow()));
    let mut sink = log.sink();
    sink.take(OUT, b"one\ntw").await;
    sink.take(ERR, b"error\n").await;
    sink.take(OUT, b"o\nthree").await;
    let between = tokio::spawn(all(log.follow()));
    let so_far = all(log.read()).await;
    sink.finish().await;
    log.close();
    let text = |(stream, text): (OutputStream, &str)| (stream, text.to_owned());
    let first = [(OUT, "one"), (ERR, "error"), (OUT, "two")].map(text);
    assert_eq!(so_far, first);
    let expected: Vec<_> = first.into_iter().chain([text((OUT, "three"))]).collect();
    for reader in [early, between, tokio::spawn(all(log.follow()))] {
        assert_eq!(reader.await.unwrap(), expected);
    }
}

#[tokio::test]
async fn much_output_and_long_lines_come_back_from_the_file() {
    let log = log(1 << 30);
    let mut sink = log.sink();
    let long = "x".repeat(READ_BYTES * 3);
    let mut expected = Vec::new();
    for number in 0..2000 {
        let line = if number == 900 { long.clone() } else { format!("line {number:0>100}") };
        sink.take(OUT, format!("{line}\n").as_bytes()).await;
        expected.push((OUT, line));
    }
    sink.finish().await;
    log.close();
    assert_eq!(all(log.follow()).await, expected);
}

#[tokio::test]
async fn a_follower_that_does_not_read_holds_the_process_back_until_it_is_gone() {
    let log = log(1 << 30);
    let reader = log.follow();
    let mut sink = log.sink();
    let line = [vec![b'x'; 100_000], b"\n".to_vec()].concat();
    let mut written = 0;
    let fill = async {
        loop {
            sink.take(OUT, &line).await;
            written += line.len() as u64;
        }
    };
    assert!(tokio::time::timeout(Duration::from_millis(500), fill).await.is_err());
    assert!(written <= WINDOW_BYTES + 200_000, "{written}");
    drop(reader);
    // The write that was given up above has been appended; only its wait was.
    tokio::time::timeout(Duration::from_secs(5), sink.take(OUT, &line)).await.unwrap();
}

#[tokio::test]
async fn a_log_that_is_released_waits_for_nobody_and_loses_nothing() {
    let log = log(1 << 30);
    let reader = log.follow();
    log.release();
    let mut sink = log.sink();
    for number in 0..150 {
        let line = format!("{number:0>60000}\n");
        let taking = sink.take(OUT, line.as_bytes());
        tokio::time::timeout(Duration::from_secs(5), taking).await.unwrap();
    }
    sink.finish().await;
    log.close();
    let numbers: Vec<usize> =
        all(reader).await.iter().map(|(_, line)| line.parse().unwrap()).collect();
    assert_eq!(numbers, (0..150).collect::<Vec<_>>());
}

#[tokio::test]
async fn what_nobody_follows_is_kept_up_to_its_bound() {
    let log = log(2 << 20);
    let mut sink = log.sink();
    for hundred in 0..1000 {
        let lines = (0..100).map(|one| format!("{:0>99}\n", hundred * 100 + one));
        sink.take(OUT, lines.collect::<String>().as_bytes()).await;
    }
    sink.finish().await;
    log.close();
    let kept = all(log.read()).await;
    assert_eq!(kept.last().unwrap().1, format!("{:0>99}", 99_999));
    let first: usize = kept[0].1.parse().unwrap();
    assert_eq!(kept.len(), 100_000 - first);
    let bytes = kept.len() * 112;
    assert!((2 << 20..4 << 20).contains(&bytes), "{bytes}");
}

#[tokio::test]
async fn what_is_not_kept_is_not_there() {
    let log = Log::new(Keep::Stderr, std::env::temp_dir(), 1 << 20);
    let mut sink = log.sink();
    sink.take(OUT, b"gone\n").await;
    sink.take(ERR, b"here\n").await;
    sink.finish().await;
    log.close();
    assert_eq!(all(log.follow()).await, [(ERR, "here".to_owned())]);
}
