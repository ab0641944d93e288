//! What must stay out of sight, whoever points at it.

use std::ffi::OsString;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use pretty_assertions::assert_eq;

use super::sample::Home;

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
fn the_base_of_a_home_is_not_shown_for_a_program_in_its_bin() {
    let home = Home::new();
    home.program(".local/bin/tool", "");
    home.program(".local/share/keyrings/login", "");
    home.link(".local/bin/tool", "bin/tool");
    let view = home.plan(&["bin", ".local"], &[("VIRTUAL_ENV", ".local")]);
    assert_eq!(home.trees(&view), [".local/bin", "bin"]);
    assert!(!home.has_on_path(&view, ".local"));
}

#[test]
fn a_project_cannot_have_a_private_directory_shown_by_its_environment() {
    let home = Home::new();
    home.program("private/bin/python", "");
    home.file("private/diary", "");
    home.python(".ssh/py");
    home.link("private/bin/python", "project/.venv/bin/python");
    home.link(".ssh/py/bin/python3.12", "project/.venv/bin/python3");
    let noted = format!("home = {}\n", home.path("private/bin").display());
    home.file("project/.venv/pyvenv.cfg", &noted);
    home.link("private/bin/python", "project/.venv/bin/tool");
    let variables = [("VIRTUAL_ENV", "project/.venv")];
    let view = home.plan(&["project/.venv/bin"], &variables);
    assert_eq!((home.trees(&view), view.links), (Vec::new(), Vec::new()));
}

#[test]
fn an_environment_of_the_project_that_is_a_link_out_of_it_shows_nothing() {
    let home = Home::new();
    home.file("other/pyvenv.cfg", "home = /usr/bin\n");
    home.file("other/secret", "");
    home.link("other", "project/.venv");
    assert_eq!(home.trees(&home.plan(&[], &[])), Vec::<String>::new());
}

#[test]
fn without_a_home_no_other_is_taken_for_a_toolchain() {
    let home = Home::new();
    let path = "/root:/home/somebody:/home/somebody/.ssh/bin:/root/.local:/proc/self/root/root";
    let view = home.plan_of(&[("PATH".into(), path.into())], None);
    assert_eq!((home.trees(&view), view.links), (Vec::new(), Vec::new()));
    assert_eq!(view.path, "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin");
}

#[test]
fn sessions_and_what_holds_them_are_not_shown() {
    let home = Home::new();
    home.program("kept/state/bin/x", "");
    home.program("kept/bin/x", "");
    home.file("kept/lib/x", "");
    let view = home.plan(&["kept", "kept/state/bin", "kept/bin"], &[("JAVA_HOME", "kept")]);
    assert_eq!(home.trees(&view), ["kept/bin"]);
    assert_eq!(view.variables, []);
}

#[test]
fn what_holds_the_workspace_is_not_shown() {
    let home = Home::new();
    let variables = [("PATH", home.path("..")), ("GOPATH", home.path(".."))];
    let variables = variables.map(|(name, path)| (OsString::from(name), path.into_os_string()));
    let view = home.plan_of(&variables, Some(&PathBuf::from("/nonexistent")));
    assert_eq!(home.trees(&view), Vec::<String>::new());
}

#[test]
fn a_file_with_a_login_is_hidden_where_it_really_is() {
    let home = Home::new();
    home.program(".nvm/versions/node/v20/bin/node", "");
    home.file(".nvm/versions/node/v20/etc/npmrc", "//registry.example/:_authToken=x\n");
    home.file(".nvm/versions/node/v18/etc/npmrc", "fund=false\n");
    home.file(".nvm/own", "//registry.example/:_authToken=x\n");
    symlink("own", home.path(".nvm/.npmrc")).unwrap();
    home.file(".nvm/.aws/credentials", "x");
    let view = home.plan(&[], &[]);
    let expected = [".nvm/.aws", ".nvm/own", ".nvm/versions/node/v20/etc/npmrc"];
    assert_eq!(view.trees[0].masks, expected.map(|path| home.path(path)));
}

#[test]
fn keys_that_tools_keep_beside_their_programs_are_hidden() {
    let home = Home::new();
    home.program(".foundry/bin/cast", "");
    home.file(".foundry/keystores/main", "x");
    home.program("miniconda3/bin/conda", "");
    home.file("miniconda3/.condarc", "channels:\n  - https://conda.example/t/abc/main\n");
    home.file("miniconda3/envs/a/pip.conf", "[global]\nindex-url = https://u:p@example/s\n");
    let view = home.plan(&[".foundry/bin", "miniconda3/bin"], &[]);
    let masks: Vec<PathBuf> = view.trees.into_iter().flat_map(|tree| tree.masks).collect();
    let expected = [".foundry/keystores", "miniconda3/.condarc", "miniconda3/envs/a/pip.conf"];
    assert_eq!(masks, expected.map(|path| home.path(path)));
}
