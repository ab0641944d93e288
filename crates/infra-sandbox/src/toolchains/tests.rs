use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use pretty_assertions::assert_eq;
use tempfile::TempDir;

use super::plan::ToolchainView;
use super::*;

/// A home directory, and a workspace in it.
struct Home(TempDir);

impl Home {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir_all(directory.path().join("h/ome/project")).unwrap();
        Self(directory)
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().canonicalize().unwrap().join("h/ome").join(path)
    }

    fn program(&self, path: &str, contents: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, contents).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn link(&self, target: &str, path: &str) {
        fs::create_dir_all(self.path(path).parent().unwrap()).unwrap();
        symlink(self.path(target), self.path(path)).unwrap();
    }

    fn plan(&self, path: &[&str], variables: &[(&str, &str)]) -> ToolchainView {
        let path: Vec<PathBuf> = path.iter().map(|entry| self.path(entry)).collect();
        let mut all = vec![(OsString::from("PATH"), std::env::join_paths(path).unwrap())];
        let variable =
            |(name, value): &(&str, &str)| (OsString::from(name), self.path(value).into());
        all.extend(variables.iter().map(variable));
        let home = self.path("");
        let input = ToolchainInput {
            variables: &all,
            home: Some(&home),
            workspace: &self.path("project"),
            system: &[PathBuf::from("/usr"), PathBuf::from("/bin")],
        };
        plan(&input)
    }

    fn trees(&self, view: &ToolchainView) -> Vec<String> {
        let home = self.path("");
        let shown = |path: &Path| path.strip_prefix(&home).unwrap_or(path).display().to_string();
        view.trees.iter().map(|tree| shown(&tree.path)).collect()
    }
}

#[test]
fn a_rust_toolchain_comes_with_both_of_its_directories() {
    let home = Home::new();
    home.program(".cargo/bin/cargo", "");
    home.program(".rustup/toolchains/stable/bin/cargo", "");
    fs::write(home.path(".cargo/credentials.toml"), "token").unwrap();
    fs::write(home.path(".cargo/config.toml"), "[net]\nretry = 1\n").unwrap();
    let view = home.plan(&[".cargo/bin"], &[]);
    assert_eq!(home.trees(&view), [".cargo", ".rustup"]);
    let access: Vec<ToolchainAccess> = view.trees.iter().map(|tree| tree.access).collect();
    assert_eq!(access, [ToolchainAccess::ThrowAway, ToolchainAccess::ReadOnly]);
    assert_eq!(view.trees[0].masks, [home.path(".cargo/credentials.toml")]);
    let names: Vec<&str> = view.variables.iter().map(|(name, _)| name.to_str().unwrap()).collect();
    assert_eq!(names, ["CARGO_HOME", "RUSTUP_HOME"]);
    assert!(view.path.to_str().unwrap().starts_with(home.path(".cargo/bin").to_str().unwrap()));
    assert!(view.path.to_str().unwrap().contains("/usr/bin"));
}

#[test]
fn a_configuration_with_a_token_is_hidden() {
    let home = Home::new();
    home.program(".cargo/bin/cargo", "");
    fs::write(home.path(".cargo/config.toml"), "[registry]\ntoken = 'x'\n").unwrap();
    let view = home.plan(&[".cargo/bin"], &[]);
    assert_eq!(view.trees[0].masks, [home.path(".cargo/config.toml")]);
}

#[test]
fn a_plain_directory_of_programs_shows_itself_and_what_its_links_lead_to() {
    let home = Home::new();
    home.program("tools/thing-1.2/bin/thing", "");
    home.link("tools/thing-1.2/bin/thing", ".local/bin/thing");
    home.program(".local/share/pipx/venvs/a/bin/python", "");
    let shebang = format!("#!{}\n", home.path(".local/share/pipx/venvs/a/bin/python").display());
    home.program(".local/bin/a", &shebang);
    let view = home.plan(&[".local/bin"], &[]);
    assert_eq!(home.trees(&view), [".local/bin", ".local/share/pipx", "tools/thing-1.2"]);
}

#[test]
fn the_interpreter_behind_an_environment_of_the_workspace_is_shown() {
    let home = Home::new();
    home.program(".local/share/uv/python/3.12/bin/python3.12", "");
    home.link(".local/share/uv/python/3.12/bin/python3.12", "project/.venv/bin/python");
    fs::write(home.path("project/.venv/pyvenv.cfg"), "home = /usr/bin\n").unwrap();
    let view = home.plan(&[], &[]);
    assert_eq!(home.trees(&view), [".local/share/uv"]);
}

#[test]
fn the_home_and_what_is_secret_in_it_are_never_shown() {
    let home = Home::new();
    for path in [".ssh/bin/x", ".config/tool/bin/x", "bin-in-home", ".aws/x"] {
        home.program(path, "");
    }
    let view = home.plan(&["", ".ssh/bin", ".config/tool/bin", ".aws", "..", "../.."], &[]);
    assert_eq!(home.trees(&view), Vec::<String>::new());
    assert_eq!(view.path, "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin");
    let view = home.plan(&[], &[("JAVA_HOME", ""), ("NVM_DIR", ".ssh")]);
    assert_eq!((home.trees(&view), view.variables), (Vec::new(), Vec::new()));
}

#[test]
fn what_is_missing_relative_or_said_twice_is_left_out() {
    let home = Home::new();
    home.program("own/bin/x", "");
    let entry = home.path("own/bin");
    let path = format!("{0}::relative:/missing/bin:{0}", entry.display());
    let variables = [(OsString::from("PATH"), OsString::from(path))];
    let home_path = home.path("");
    let input = ToolchainInput {
        variables: &variables,
        home: Some(&home_path),
        workspace: &home.path("project"),
        system: &[PathBuf::from("/usr"), PathBuf::from("/bin")],
    };
    let view = plan(&input);
    let expected = format!("{}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", entry.display());
    assert_eq!(view.path.to_str().unwrap(), expected);
}

#[test]
fn a_path_through_a_link_is_there_by_that_name() {
    let home = Home::new();
    home.program("versions/node-20/bin/node", "");
    home.link("versions/node-20", "current");
    let view = home.plan(&["current/bin"], &[]);
    assert_eq!(home.trees(&view), ["versions/node-20/bin"]);
    assert_eq!(view.links, [(home.path("current"), home.path("versions/node-20"))]);
    assert!(view.path.to_str().unwrap().starts_with(home.path("current/bin").to_str().unwrap()));
}

#[test]
fn a_tool_that_was_given_by_a_variable_is_shown_whole() {
    let home = Home::new();
    home.program("sdk/jdk-21/bin/java", "");
    let view = home.plan(&[], &[("JAVA_HOME", "sdk/jdk-21")]);
    assert_eq!(home.trees(&view), ["sdk/jdk-21"]);
    assert_eq!(view.variables, [(OsString::from("JAVA_HOME"), home.path("sdk/jdk-21").into())]);
}
