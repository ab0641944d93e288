use std::ffi::OsString;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use pretty_assertions::assert_eq;

use super::plan::ToolchainAccess;
use super::sample::Home;

#[test]
fn a_rust_toolchain_comes_with_both_of_its_directories() {
    let home = Home::new();
    home.program(".cargo/bin/cargo", "");
    home.program(".rustup/toolchains/stable/bin/cargo", "");
    home.file(".cargo/credentials.toml", "token");
    home.file(".cargo/config.toml", "[net]\nretry = 1\n");
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
    home.file(".cargo/config.toml", "[registry]\ntoken = 'x'\n");
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
    home.python("apps/py");
    home.link("apps/py/bin/python3.12", "project/.venv/bin/python");
    home.file("project/.venv/pyvenv.cfg", "home = /usr/bin\n");
    assert_eq!(home.trees(&home.plan(&[], &[])), ["apps/py"]);
}

#[test]
fn an_environment_reaches_its_interpreter_through_every_link_on_the_way() {
    let home = Home::new();
    home.python(".local/share/uv/python/cpython-3.12.7");
    home.link(".local/share/uv/python/cpython-3.12.7/bin/python3.12", ".local/bin/python3.12");
    home.link(".local/bin/python3.12", "project/venv/bin/python");
    let noted = format!("home = {}\n", home.path(".local/bin").display());
    home.file("project/venv/pyvenv.cfg", &noted);
    let view = home.plan(&[], &[]);
    assert_eq!(home.trees(&view), [".local/share/uv"]);
    let target = home.path(".local/share/uv/python/cpython-3.12.7/bin/python3.12");
    assert_eq!(view.links, [(home.path(".local/bin/python3.12"), target)]);
}

#[test]
fn what_is_missing_relative_or_said_twice_is_left_out() {
    let home = Home::new();
    home.program("own/bin/x", "");
    let entry = home.path("own/bin");
    let path = format!("{0}::relative:/missing/bin:{0}", entry.display());
    let view = home.plan_of(&[("PATH".into(), path.into())], Some(&home.path("")));
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

#[test]
fn programs_that_pipx_and_uv_put_into_a_directory_bring_their_environments() {
    let home = Home::new();
    home.python("apps/py");
    for (venv, python) in [(".local/share/pipx/venvs/a", "python"), ("venvs/b", "python3")] {
        home.link("apps/py/bin/python3.12", &format!("{venv}/bin/{python}"));
        home.file(&format!("{venv}/pyvenv.cfg"), "version = 3.12\n");
        let script = format!("#!{}\n", home.path(venv).join("bin").join(python).display());
        home.program(&format!("{venv}/bin/tool"), &script);
    }
    home.link(".local/share/pipx/venvs/a/bin/tool", ".local/bin/a");
    let script = format!("#!{} -I\n", home.path("venvs/b/bin/python3").display());
    home.program(".local/bin/b", &script);
    let view = home.plan(&[".local/bin"], &[]);
    assert_eq!(home.trees(&view), [".local/bin", ".local/share/pipx", "apps/py", "venvs/b"]);
}

#[test]
fn packages_of_node_are_shown_with_those_beside_them() {
    let home = Home::new();
    home.program(".npm-global/lib/node_modules/tool/dist/cli.js", "#!/usr/bin/env node\n");
    home.link(".npm-global/lib/node_modules/tool/dist/cli.js", "bin/tool");
    let view = home.plan(&["bin"], &[]);
    assert_eq!(home.trees(&view), [".npm-global/lib/node_modules", "bin"]);
}

#[test]
fn an_installation_on_the_path_is_shown_with_its_libraries() {
    let home = Home::new();
    home.program("apps/jdk/bin/java", "");
    home.file("apps/jdk/lib/modules", "");
    home.program("code/site/bin/serve", "");
    home.file("code/site/lib/site.rb", "");
    home.file("code/site/.git/HEAD", "");
    let view = home.plan(&["apps/jdk/bin", "code/site/bin"], &[]);
    assert_eq!(home.trees(&view), ["apps/jdk", "code/site/bin"]);
}

#[test]
fn managers_of_versions_are_shown_whole_and_told_where_they_are() {
    let home = Home::new();
    for (tool, program) in [
        (".nvm", "versions/node/v20/bin/node"),
        (".pyenv", "shims/python"),
        (".rbenv", "shims/ruby"),
        (".volta", "bin/node"),
        (".asdf", "shims/erl"),
    ] {
        home.program(&format!("{tool}/{program}"), "");
    }
    home.file(".tool-versions", "erlang 27\n");
    let view = home.plan(&[".nvm/versions/node/v20/bin", ".pyenv/shims", ".asdf/shims"], &[]);
    let expected = [".asdf", ".nvm", ".pyenv", ".rbenv", ".tool-versions", ".volta"];
    assert_eq!(home.trees(&view), expected);
    let written = view.trees.iter().filter(|tree| tree.access == ToolchainAccess::ThrowAway);
    let written: Vec<&Path> = written.map(|tree| tree.path.as_path()).collect();
    assert_eq!(written, [home.path(".pyenv"), home.path(".rbenv")]);
    let names: Vec<&str> = view.variables.iter().map(|(name, _)| name.to_str().unwrap()).collect();
    assert_eq!(names, ["ASDF_DATA_DIR", "NVM_DIR", "PYENV_ROOT", "RBENV_ROOT", "VOLTA_HOME"]);
    let inside = PathBuf::from("/home/forge/.tool-versions");
    assert_eq!(view.links, [(inside, home.path(".tool-versions"))]);
}

#[test]
fn a_toolchain_that_was_linked_to_a_name_is_shown() {
    let home = Home::new();
    home.program(".rustup/toolchains/stable/bin/rustc", "");
    home.program("code/rust/build/stage1/bin/rustc", "");
    home.link("code/rust/build/stage1", ".rustup/toolchains/mine");
    let view = home.plan(&[], &[]);
    assert_eq!(home.trees(&view), [".rustup", "code/rust/build/stage1"]);
}

#[test]
fn cargo_may_write_wherever_its_home_is() {
    let home = Home::new();
    home.program("sdk/bin/tool", "");
    home.program("sdk/rust/cargo/bin/cargo", "");
    let view = home.plan(&[], &[("JAVA_HOME", "sdk"), ("CARGO_HOME", "sdk/rust/cargo")]);
    let trees: Vec<_> = view.trees.iter().map(|tree| (tree.path.clone(), tree.access)).collect();
    let expected = [
        (home.path("sdk"), ToolchainAccess::ReadOnly),
        (home.path("sdk/rust/cargo"), ToolchainAccess::ThrowAway),
    ];
    assert_eq!(trees, expected);
}

#[test]
fn a_directory_called_go_counts_only_where_go_installs() {
    let home = Home::new();
    home.file("go/board.sgf", "");
    assert_eq!(home.trees(&home.plan(&[], &[])), Vec::<String>::new());
    home.program("go/bin/gopls", "");
    home.file("go/pkg/mod/cache/x", "");
    home.file("go/src/private/main.go", "");
    let view = home.plan(&["go/bin"], &[]);
    assert_eq!(home.trees(&view), ["go"]);
    assert_eq!(view.trees[0].access, ToolchainAccess::ThrowAway);
    assert_eq!(view.trees[0].masks, [home.path("go/src")]);
}

#[test]
fn a_home_that_is_reached_by_a_link_is_there_by_both_names() {
    let home = Home::new();
    home.program(".cargo/bin/cargo", "");
    let other = home.path("../me");
    symlink("ome", &other).unwrap();
    let other = home.path("").with_file_name("me");
    let entry = other.join(".cargo/bin");
    let view = home.plan_of(&[("PATH".into(), entry.clone().into())], Some(&other));
    assert_eq!(home.trees(&view), [".cargo"]);
    assert_eq!(view.links, [(other, PathBuf::from("ome"))]);
    assert_eq!(std::env::split_paths(&view.path).next(), Some(entry));
}

#[test]
fn directories_of_the_workspace_stay_on_the_path_though_they_come_later() {
    let home = Home::new();
    let view = home.plan(&["project/node_modules/.bin"], &[]);
    assert!(home.has_on_path(&view, "project/node_modules/.bin"));
    assert_eq!(home.trees(&view), Vec::<String>::new());
}

#[test]
fn a_program_in_a_directory_that_is_too_wide_is_shown_alone() {
    let home = Home::new();
    home.program("Documents/tool.sh", "#!/bin/sh\n");
    home.file("Documents/letter.txt", "");
    home.link("Documents/tool.sh", "bin/tool");
    home.link("Documents/letter.txt", "bin/letter");
    let view = home.plan(&["bin"], &[]);
    assert_eq!(home.trees(&view), ["Documents/tool.sh", "bin"]);
}
