//! Files that tools of the host execute, or take commands from, by themselves. `docs/review.md` lists them.

use std::path::Path;

/// What a path is to the host's tools.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Surface {
    /// A file as any other.
    Plain,
    /// Something executes from it once its user says so, as a build does: shown with the reason.
    Marked(&'static str),
    /// Something executes from it by itself, on entering, opening or fetching: not applied without a yes of its own.
    Blocked(&'static str),
}

/// Directories in which everything is such a file, at any depth.
const BLOCKED_DIRECTORIES: &[(&str, &str)] = &[
    (".vscode", "an editor runs tasks and settings from it"),
    (".vscode-server", "an editor runs tasks and settings from it"),
    (".idea", "an editor runs configurations from it"),
    (".fleet", "an editor runs configurations from it"),
    (".zed", "an editor runs tasks and settings from it"),
    (".vim", "an editor runs scripts from it"),
    (".nvim", "an editor runs scripts from it"),
    (".sublime", "an editor runs build systems from it"),
    (".devcontainer", "an editor builds and runs containers from it"),
    (".claude", "a coding agent takes commands from it"),
    (".codex", "a coding agent takes commands from it"),
    (".cursor", "a coding agent takes commands from it"),
    (".gemini", "a coding agent takes commands from it"),
    (".opencode", "a coding agent takes commands from it"),
    (".windsurf", "a coding agent takes commands from it"),
    (".aider", "a coding agent takes commands from it"),
    (".continue", "a coding agent takes commands from it"),
    (".roo", "a coding agent takes commands from it"),
    (".kiro", "a coding agent takes commands from it"),
    (".forge", "forge takes its configuration from it"),
    (".husky", "git runs hooks from it"),
    (".githooks", "git runs hooks from it"),
    (".git-hooks", "git runs hooks from it"),
    (".ssh", "ssh takes commands and keys from it"),
    (".gnupg", "gpg takes commands and keys from it"),
    (".direnv", "direnv loads it on entering the directory"),
    (".circleci", "continuous integration runs it"),
    (".buildkite", "continuous integration runs it"),
    (".woodpecker", "continuous integration runs it"),
    (".forgejo", "continuous integration runs it"),
    (".gitea", "continuous integration runs it"),
    (".yarn", "yarn runs its own releases and plugins from it"),
    (".mvn", "maven takes options and extensions from it"),
];

/// The same, by the last two directories above.
const BLOCKED_PAIRS: &[(&str, &str, &str)] = &[
    (".github", "workflows", "continuous integration runs it"),
    (".github", "actions", "continuous integration runs it"),
    (".config", "mise", "mise runs hooks and sets variables from it"),
];

const BLOCKED_NAMES: &[(&str, &str)] = &[
    (".envrc", "direnv loads it on entering the directory"),
    (".env", "tools load variables from it"),
    (".gitattributes", "git chooses filters and merge drivers by it"),
    (".gitmodules", "git takes addresses and commands from it"),
    (".gitconfig", "git takes commands from it"),
    (".lfsconfig", "git takes addresses from it"),
    (".mcp.json", "a coding agent starts servers from it"),
    ("mcp.json", "a coding agent starts servers from it"),
    ("opencode.json", "a coding agent takes commands from it"),
    (".cursorrules", "a coding agent takes commands from it"),
    (".windsurfrules", "a coding agent takes commands from it"),
    (".aider.conf.yml", "a coding agent takes commands from it"),
    ("forge.yaml", "a coding agent takes commands from it"),
    (".npmrc", "npm takes addresses and scripts from it"),
    (".yarnrc", "yarn takes programs and addresses from it"),
    (".yarnrc.yml", "yarn takes programs and addresses from it"),
    (".pnpmfile.cjs", "pnpm runs it"),
    ("bunfig.toml", "bun preloads scripts from it"),
    (".pypirc", "python's tools take addresses from it"),
    ("pip.conf", "pip takes addresses from it"),
    (".bazelrc", "bazel takes options from it"),
    ("pyvenv.cfg", "python chooses its interpreter's home by it"),
    ("sitecustomize.py", "python runs it at every start"),
    ("usercustomize.py", "python runs it at every start"),
    (".pre-commit-config.yaml", "git's hooks run it"),
    ("lefthook.yml", "git's hooks run it"),
    (".lefthook.yml", "git's hooks run it"),
    ("lefthook.yaml", "git's hooks run it"),
    (".overcommit.yml", "git's hooks run it"),
    (".mise.toml", "mise runs hooks and sets variables from it"),
    ("mise.toml", "mise runs hooks and sets variables from it"),
    ("mise.local.toml", "mise runs hooks and sets variables from it"),
    (".tool-versions", "a version manager chooses programs by it"),
    ("rust-toolchain", "rustup chooses the compiler by it"),
    ("rust-toolchain.toml", "rustup chooses the compiler by it"),
    (".nvmrc", "a version manager chooses programs by it"),
    (".python-version", "a version manager chooses programs by it"),
    (".ruby-version", "a version manager chooses programs by it"),
    (".gitlab-ci.yml", "continuous integration runs it"),
    (".travis.yml", "continuous integration runs it"),
    ("azure-pipelines.yml", "continuous integration runs it"),
    ("bitbucket-pipelines.yml", "continuous integration runs it"),
    (".drone.yml", "continuous integration runs it"),
    (".cirrus.yml", "continuous integration runs it"),
    ("appveyor.yml", "continuous integration runs it"),
    (".appveyor.yml", "continuous integration runs it"),
    ("jenkinsfile", "continuous integration runs it"),
    (".exrc", "an editor runs it"),
    (".vimrc", "an editor runs it"),
    (".nvimrc", "an editor runs it"),
    (".nvim.lua", "an editor runs it"),
    (".lvimrc", "an editor runs it"),
    (".dir-locals.el", "an editor evaluates it"),
    (".dir-locals-2.el", "an editor evaluates it"),
    (".gdbinit", "gdb runs it"),
    (".lldbinit", "lldb runs it"),
    (".bashrc", "a shell runs it"),
    (".bash_profile", "a shell runs it"),
    (".profile", "a shell runs it"),
    (".zshrc", "a shell runs it"),
    (".zshenv", "a shell runs it"),
    (".autoenv.zsh", "a shell runs it on entering the directory"),
    (".autoenv", "a shell runs it on entering the directory"),
    (".irbrc", "ruby's console runs it"),
    (".pryrc", "ruby's console runs it"),
    (".rprofile", "R runs it at every start"),
    (".rspec", "a test runner takes options from it"),
    (".pdbrc", "python's debugger runs it"),
    (".pdbrc.py", "python's debugger runs it"),
];

const BLOCKED_ENDINGS: &[(&str, &str)] = &[
    (".pth", "python runs lines of it at every start"),
    (".code-workspace", "an editor runs tasks and settings from it"),
    (".sublime-project", "an editor runs build systems from it"),
    (".desktop", "a desktop starts programs from it"),
];

const MARKED_NAMES: &[(&str, &str)] = &[
    ("package.json", "npm runs scripts from it"),
    ("makefile", "make runs it"),
    ("gnumakefile", "make runs it"),
    ("justfile", "just runs it"),
    (".justfile", "just runs it"),
    ("taskfile.yml", "task runs it"),
    ("rakefile", "rake runs it"),
    ("gemfile", "bundler runs it"),
    ("build.rs", "cargo runs it in a build"),
    ("cargo.toml", "a build fetches and runs what it names"),
    ("conftest.py", "pytest runs it"),
    ("setup.py", "python's installers run it"),
    ("noxfile.py", "nox runs it"),
    ("tasks.py", "invoke runs it"),
    ("setup.cfg", "python's tools take options from it"),
    ("tox.ini", "tox runs commands from it"),
    ("pytest.ini", "pytest takes options from it"),
    ("pyproject.toml", "python's tools build and run from it"),
    ("build.gradle", "gradle runs it"),
    ("build.gradle.kts", "gradle runs it"),
    ("settings.gradle", "gradle runs it"),
    ("gradlew", "it is run to build"),
    ("gradle-wrapper.properties", "gradle fetches and runs what it names"),
    ("pom.xml", "maven runs plugins from it"),
    ("cmakelists.txt", "cmake runs it"),
    ("meson.build", "meson runs it"),
    ("configure", "it is run to build"),
    ("dockerfile", "docker builds from it"),
    ("docker-compose.yml", "docker starts containers from it"),
    ("compose.yaml", "docker starts containers from it"),
    ("procfile", "it names programs to start"),
    ("flake.nix", "nix evaluates it"),
    ("shell.nix", "nix evaluates it"),
    ("default.nix", "nix evaluates it"),
    ("build", "bazel builds from it"),
    ("build.bazel", "bazel builds from it"),
    ("vite.config.ts", "a build runs it"),
    ("vite.config.js", "a build runs it"),
    ("webpack.config.js", "a build runs it"),
    ("babel.config.js", "a build runs it"),
    (".eslintrc.js", "a linter runs it"),
    ("eslint.config.js", "a linter runs it"),
    ("agents.md", "coding agents follow it"),
    ("claude.md", "coding agents follow it"),
    ("gemini.md", "coding agents follow it"),
    ("cargo.lock", "it says from where dependencies come"),
    ("package-lock.json", "it says from where dependencies come"),
    ("npm-shrinkwrap.json", "it says from where dependencies come"),
    ("yarn.lock", "it says from where dependencies come"),
    ("pnpm-lock.yaml", "it says from where dependencies come"),
    ("bun.lock", "it says from where dependencies come"),
    ("poetry.lock", "it says from where dependencies come"),
    ("uv.lock", "it says from where dependencies come"),
    ("requirements.txt", "it says from where dependencies come"),
    ("go.mod", "it says from where dependencies come"),
    ("go.sum", "it says from where dependencies come"),
    ("gemfile.lock", "it says from where dependencies come"),
    ("composer.json", "composer runs scripts from it"),
    ("composer.lock", "it says from where dependencies come"),
];

/// What the host's tools make of a path. Letter case does not count, since it does not on some file systems.
#[must_use]
pub fn surface(path: &Path) -> Surface {
    let names: Vec<String> =
        path.iter().map(|name| name.to_string_lossy().to_lowercase()).collect();
    let found = |table: &[(&str, &'static str)], name: &str| {
        table.iter().find(|(known, _)| *known == name).map(|(_, reason)| *reason)
    };
    if let Some(reason) = names.iter().find_map(|name| found(BLOCKED_DIRECTORIES, name)) {
        return Surface::Blocked(reason);
    }
    for (above, name, reason) in BLOCKED_PAIRS {
        if names.windows(2).any(|pair| pair[0] == *above && pair[1] == *name) {
            return Surface::Blocked(reason);
        }
    }
    // Both `config` and `config.toml`; what else stands there, as credentials, is hidden or of no effect.
    if names.windows(2).any(|pair| pair[0] == ".cargo" && pair[1].starts_with("config")) {
        return Surface::Blocked("cargo runs programs that it names");
    }
    let Some(name) = names.last() else { return Surface::Plain };
    if let Some(reason) = found(BLOCKED_NAMES, name) {
        return Surface::Blocked(reason);
    }
    if name.starts_with(".env.") && !is_example(name) {
        return Surface::Blocked("tools load variables from it");
    }
    if let Some((_, reason)) = BLOCKED_ENDINGS.iter().find(|(ending, _)| name.ends_with(ending)) {
        return Surface::Blocked(reason);
    }
    match found(MARKED_NAMES, name) {
        Some(reason) => Surface::Marked(reason),
        None if name.ends_with(".mk") => Surface::Marked("make runs it"),
        None => Surface::Plain,
    }
}

fn is_example(name: &str) -> bool {
    [".example", ".sample", ".template"].iter().any(|ending| name.ends_with(ending))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_executes_by_itself_is_known_at_any_depth_and_in_any_letter_case() {
        for path in [
            ".envrc",
            "sub/.envrc",
            ".EnvRC",
            ".vscode/tasks.json",
            "a/.vscode/settings.json",
            ".VSCODE/x",
            ".claude/settings.json",
            ".mcp.json",
            ".cargo/config",
            ".cargo/config.toml",
            "x/.Cargo/Config.TOML",
            ".npmrc",
            ".husky/pre-commit",
            ".github/workflows/ci.yml",
            ".gitattributes",
            ".gitmodules",
            "rust-toolchain.toml",
            ".nvim.lua",
            ".env",
            ".env.local",
            "lib/site-packages/evil.pth",
            "project.code-workspace",
            ".forge/config.toml",
            ".gitlab-ci.yml",
            "pyvenv.cfg",
            "venv/lib/sitecustomize.py",
            ".idea/workspace.xml",
            ".pre-commit-config.yaml",
        ] {
            assert!(matches!(surface(Path::new(path)), Surface::Blocked(_)), "{path}");
        }
    }

    #[test]
    fn the_documentation_lists_them_all() {
        let text = include_str!("../../../../docs/review.md");
        let tables = [BLOCKED_DIRECTORIES, BLOCKED_NAMES, BLOCKED_ENDINGS, MARKED_NAMES];
        for (name, reason) in tables.into_iter().flatten() {
            let is_there = |line: &str| line.contains(name) && line.contains(reason);
            assert!(text.lines().any(is_there), "{name}: {reason}");
        }
        for (above, name, reason) in BLOCKED_PAIRS {
            assert!(text.contains(&format!("{above}/{name}")) && text.contains(reason), "{name}");
        }
    }

    #[test]
    fn what_a_build_runs_is_marked_and_the_rest_is_plain() {
        for path in
            ["package.json", "a/Makefile", "build.rs", "tests/conftest.py", "Cargo.lock", "x.mk"]
        {
            assert!(matches!(surface(Path::new(path)), Surface::Marked(_)), "{path}");
        }
        for path in [
            "src/main.rs",
            "README.md",
            ".gitignore",
            ".github/ISSUE_TEMPLATE.md",
            ".env.example",
            "vscode/tasks.json",
            "cargo/config.toml",
            "envrc",
            "src/build.rs.txt",
        ] {
            assert_eq!(surface(Path::new(path)), Surface::Plain, "{path}");
        }
    }
}
