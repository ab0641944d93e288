//! The boundaries between rooms, as far as the dependency graph shows them.
//!
//! `ARCHITECTURE.md` says for each crate what is absent from it. Calls (`std::process::Command`,
//! `std::env::var`, …) are held by each crate's `clippy.toml`; dependencies are held here.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;
use thiserror::Error;

/// What a crate may not reach through its normal dependencies, directly or not.
struct Room {
    package: &'static str,
    never: &'static [&'static str],
}

const RUNTIMES: &[&str] = &["tokio", "async-std", "smol", "mio"];
const HTTP: &[&str] = &["reqwest", "hyper", "genai", "axum", "tungstenite", "h2"];
const ADAPTERS: &[&str] = &[
    "forge-infra-apply",
    "forge-infra-git",
    "forge-infra-local",
    "forge-infra-model",
    "forge-infra-sandbox",
    "forge-infra-store",
    "forge-infra-tensorlake",
    "forge-infra-workspace",
];
const TEST_ONLY: &[&str] = &[
    "forge-conformance",
    "forge-sandbox-escape",
    "forge-scripted-model",
    "forge-tensorlake-testserver",
    "forge-xtask",
];

const ROOMS: &[(Room, &[&[&str]])] = &[
    (
        Room { package: "forge-domain", never: &["serde", "schemars", "forge-app", "forge-api"] },
        &[RUNTIMES, HTTP, ADAPTERS, TEST_ONLY],
    ),
    (
        Room { package: "forge-app", never: &["forge-api", "rusqlite", "clap"] },
        &[HTTP, ADAPTERS, TEST_ONLY],
    ),
    (
        Room { package: "forge-command-io", never: &["forge-app", "forge-api"] },
        &[HTTP, ADAPTERS, TEST_ONLY],
    ),
    (
        Room { package: "forge-infra-apply", never: &["forge-app", "forge-api"] },
        &[RUNTIMES, HTTP, TEST_ONLY],
    ),
    (
        Room { package: "forge-infra-git", never: &["forge-app", "forge-api"] },
        &[RUNTIMES, HTTP, TEST_ONLY],
    ),
    (Room { package: "forge-infra-local", never: &["forge-app", "forge-api"] }, &[HTTP, TEST_ONLY]),
    (Room { package: "forge-infra-model", never: &["forge-app", "forge-api"] }, &[TEST_ONLY]),
    (
        Room { package: "forge-infra-sandbox", never: &["forge-app", "forge-api"] },
        &[HTTP, TEST_ONLY],
    ),
    (Room { package: "forge-infra-tensorlake", never: &["forge-app", "forge-api"] }, &[TEST_ONLY]),
    (
        Room { package: "forge-infra-workspace", never: &["forge-app", "forge-api"] },
        &[RUNTIMES, HTTP, TEST_ONLY],
    ),
    (
        Room {
            package: "forge-sandboxd",
            never: &["forge-app", "forge-api", "forge-infra-tensorlake", "reqwest", "clap"],
        },
        &[TEST_ONLY],
    ),
    (Room { package: "forge-api", never: &["clap", "reedline"] }, &[TEST_ONLY]),
    (Room { package: "forge-cli", never: &[] }, &[TEST_ONLY]),
];

/// What no crate of the workspace may bring in, in tests neither.
const NOWHERE: &[&str] = &["openssl", "openssl-sys", "native-tls", "aws-lc-rs", "aws-lc-sys"];

/// Why the check did not pass.
#[derive(Debug, Error)]
pub(crate) enum RoomsError {
    #[error("`cargo metadata` could not be started")]
    Start(#[source] std::io::Error),
    #[error("`cargo metadata` failed: {0}")]
    Metadata(String),
    #[error("`cargo metadata` printed what cannot be read")]
    Unreadable(#[source] serde_json::Error),
    #[error("{} boundaries are broken:\n{}", .0.len(), .0.join("\n"))]
    Broken(Vec<String>),
}

pub(crate) fn run() -> Result<(), RoomsError> {
    let graph = Graph::read()?;
    let broken = graph.broken();
    if !broken.is_empty() {
        return Err(RoomsError::Broken(broken));
    }
    println!("{} rooms hold their boundaries", graph.checked().count());
    Ok(())
}

/// Packages by their ids, since two versions of one package depend on different things.
struct Graph {
    /// The ids that each depends on outside of tests.
    normal: BTreeMap<String, BTreeSet<String>>,
    names: BTreeMap<String, String>,
    all: BTreeSet<String>,
}

impl Graph {
    fn read() -> Result<Self, RoomsError> {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let output = Command::new(cargo)
            .args(["metadata", "--format-version", "1", "--locked"])
            .args(["--filter-platform", "x86_64-unknown-linux-gnu"])
            .output()
            .map_err(RoomsError::Start)?;
        if !output.status.success() {
            let message = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(RoomsError::Metadata(message));
        }
        let metadata = serde_json::from_slice(&output.stdout).map_err(RoomsError::Unreadable)?;
        Ok(Self::from_metadata(&metadata))
    }

    fn from_metadata(metadata: &Value) -> Self {
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let names: BTreeMap<String, String> = list(&metadata["packages"])
            .iter()
            .map(|package| (text(&package["id"]), text(&package["name"])))
            .collect();
        let mut normal: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for node in list(&metadata["resolve"]["nodes"]) {
            let depends = normal.entry(text(&node["id"])).or_default();
            for dependency in list(&node["deps"]) {
                let is_normal = |kind: &Value| kind["kind"].is_null();
                if list(&dependency["dep_kinds"]).iter().any(is_normal) {
                    depends.insert(text(&dependency["pkg"]));
                }
            }
        }
        let all = normal.keys().filter_map(|id| names.get(id).cloned()).collect();
        Self { normal, names, all }
    }

    fn name(&self, id: &str) -> String {
        self.names.get(id).cloned().unwrap_or_default()
    }

    fn ids(&self, package: &str) -> impl Iterator<Item = &String> {
        self.names.iter().filter(move |(_, name)| *name == package).map(|(id, _)| id)
    }

    /// The names of all that it reaches.
    fn reached(&self, package: &str) -> BTreeSet<String> {
        let mut open: Vec<&String> = self.ids(package).collect();
        let mut reached = BTreeSet::new();
        while let Some(next) = open.pop() {
            for dependency in self.normal.get(next).into_iter().flatten() {
                if reached.insert(dependency) {
                    open.push(dependency);
                }
            }
        }
        reached.into_iter().map(|id| self.name(id)).collect()
    }

    fn checked(&self) -> impl Iterator<Item = &'static (Room, &'static [&'static [&'static str]])> {
        ROOMS.iter().filter(|(room, _)| self.all.contains(room.package))
    }

    fn broken(&self) -> Vec<String> {
        let mut broken = Vec::new();
        for (room, groups) in self.checked() {
            let reached = self.reached(room.package);
            let never = room.never.iter().chain(groups.iter().copied().flatten());
            for package in never.filter(|package| **package != room.package) {
                if reached.contains(*package) {
                    broken.push(format!("  {} reaches {package}", room.package));
                }
            }
        }
        // Adapters are leaves of each other: one that reaches another is a broken boundary too.
        for adapter in ADAPTERS {
            for other in self.reached(adapter).iter().filter(|name| ADAPTERS.contains(&&***name)) {
                broken.push(format!("  {adapter} reaches the adapter {other}"));
            }
        }
        for package in NOWHERE.iter().filter(|package| self.all.contains(**package)) {
            broken.push(format!("  {package} is in the dependency graph"));
        }
        broken
    }
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;
    use serde_json::json;

    use super::*;

    fn graph(edges: &[(&str, &str)]) -> Graph {
        let mut packages: BTreeSet<&str> = BTreeSet::new();
        for (from, to) in edges {
            packages.extend([*from, *to]);
        }
        let nodes: Vec<Value> = packages
            .iter()
            .map(|package| {
                let deps: Vec<Value> = edges
                    .iter()
                    .filter(|(from, _)| from == package)
                    .map(|(_, to)| json!({"pkg": to, "dep_kinds": [{"kind": null}]}))
                    .collect();
                json!({"id": package, "deps": deps})
            })
            .collect();
        let packages: Vec<Value> =
            packages.iter().map(|name| json!({"id": name, "name": name})).collect();
        Graph::from_metadata(&json!({"packages": packages, "resolve": {"nodes": nodes}}))
    }

    #[test]
    fn a_clean_graph_passes() {
        let actual = graph(&[("forge-domain", "bytes"), ("forge-app", "forge-domain")]).broken();
        assert_eq!(actual, Vec::<String>::new());
    }

    #[test]
    fn a_runtime_two_steps_away_from_the_domain_is_found() {
        let actual = graph(&[("forge-domain", "a"), ("a", "tokio")]).broken();
        assert_eq!(actual, ["  forge-domain reaches tokio"]);
    }

    #[test]
    fn an_adapter_that_knows_another_is_found() {
        let actual = graph(&[("forge-infra-model", "forge-infra-local")]).broken();
        assert_eq!(actual, ["  forge-infra-model reaches the adapter forge-infra-local"]);
    }

    #[test]
    fn openssl_is_found_anywhere() {
        let actual = graph(&[("some-test", "openssl-sys")]).broken();
        assert_eq!(actual, ["  openssl-sys is in the dependency graph"]);
    }

    #[test]
    fn development_dependencies_do_not_count_as_reached() {
        let metadata = json!({
            "packages": [{"id": "1", "name": "forge-domain"}, {"id": "2", "name": "tokio"}],
            "resolve": {"nodes": [
                {"id": "1", "deps": [{"pkg": "2", "dep_kinds": [{"kind": "dev"}]}]},
                {"id": "2", "deps": []},
            ]},
        });
        assert_eq!(Graph::from_metadata(&metadata).broken(), Vec::<String>::new());
    }
}
