//! The table of attempts and columns.

use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::attempt::{Attempt, Column};
use crate::run::run;

/// So many attempts are made at the same time.
const WORKERS: usize = 4;

/// Makes every attempt in every column and prints what became of it. Fails where an attempt could not
/// be made at all.
pub(crate) fn print(attempts: &[Attempt]) -> Result<(), String> {
    let mut rows: Vec<(String, Vec<String>)> = Vec::new();
    let made = Mutex::new(Vec::new());
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                while let Some(attempt) = attempts.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let row = row(attempt);
                    made.lock().unwrap().push((attempt.name, row));
                }
            });
        }
    });
    let made = made.into_inner().unwrap();
    for attempt in attempts {
        rows.extend(
            made.iter().filter(|(name, _)| *name == attempt.name).map(|(_, row)| row.clone()),
        );
    }
    let mut table = String::from("| attempt | row |");
    for column in Column::ALL {
        write!(table, " {} |", column.name()).unwrap();
    }
    table.push_str("\n|---|---|---|---|---|---|---|---|\n");
    for (line, _) in &rows {
        table.push_str(line);
    }
    match std::env::var_os("FORGE_ESCAPE_MATRIX") {
        Some(path) => std::fs::write(path, &table),
        None => std::io::stdout().write_all(table.as_bytes()),
    }
    .map_err(|error| error.to_string())?;
    let failures: Vec<String> = rows.into_iter().flat_map(|(_, failures)| failures).collect();
    if failures.is_empty() { Ok(()) } else { Err(failures.join("\n")) }
}

/// A line of the table, and what could not be made.
fn row(attempt: &Attempt) -> (String, Vec<String>) {
    let mut line = format!("| {} | {} |", attempt.name, attempt.rows);
    let mut failures = Vec::new();
    let hindrance = attempt.hindrance();
    for column in Column::ALL {
        let cell = match hindrance.map_or_else(|| run(attempt, column).map(Some), |_| Ok(None)) {
            Ok(Some(finding)) if finding.seen => "open",
            // Nothing on the host shows it.
            Ok(Some(finding)) if finding.is_open(attempt) => "open by its word",
            Ok(Some(_)) => "held",
            Ok(None) => "n/a",
            Err(error) => {
                failures.push(format!("{} {}: {error}", attempt.name, column.name()));
                "failed"
            }
        };
        write!(line, " {cell} |").unwrap();
    }
    line.push_str(&hindrance.map(|why| format!(" {why}")).unwrap_or_default());
    line.push('\n');
    (line, failures)
}
