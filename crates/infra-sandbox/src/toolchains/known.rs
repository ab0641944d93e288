//! Toolchains and where they live.

/// The user's variables that tell where toolchains are. None of them is a secret; of everything else in
/// the user's environment, commands get nothing by themselves.
pub const TOOLCHAIN_VARIABLES: &[&str] = &[
    "ASDF_DATA_DIR",
    "ASDF_DIR",
    "BUN_INSTALL",
    "CARGO_HOME",
    "CONDA_PREFIX",
    "DENO_INSTALL",
    "DOTNET_ROOT",
    "FNM_DIR",
    "FNM_MULTISHELL_PATH",
    "GOPATH",
    "GOROOT",
    "HOMEBREW_PREFIX",
    "JAVA_HOME",
    "MISE_DATA_DIR",
    "NODENV_ROOT",
    "NVM_BIN",
    "NVM_DIR",
    "PATH",
    "PNPM_HOME",
    "PYENV_ROOT",
    "PYENV_VERSION",
    "RBENV_ROOT",
    "RBENV_VERSION",
    "RUSTUP_HOME",
    "RUSTUP_TOOLCHAIN",
    "SDKMAN_DIR",
    "UV_PYTHON_INSTALL_DIR",
    "VIRTUAL_ENV",
    "VOLTA_HOME",
];

/// Those whose value is a choice and no directory; they are passed on as they are.
pub(super) const CHOICES: [&str; 3] = ["PYENV_VERSION", "RBENV_VERSION", "RUSTUP_TOOLCHAIN"];

/// Directories that are a toolchain as a whole: the ends of their paths.
pub(super) const ROOTS: [&str; 36] = [
    ".asdf",
    ".bun",
    ".cabal",
    ".cargo",
    ".conda",
    ".deno",
    ".dotnet",
    ".fnm",
    ".foundry",
    ".ghcup",
    ".gem",
    ".gvm",
    ".jenv",
    ".juliaup",
    ".krew",
    ".linuxbrew",
    ".local/pipx",
    ".local/share/fnm",
    ".local/share/mise",
    ".local/share/pipx",
    ".local/share/pnpm",
    ".local/share/uv",
    ".nodenv",
    ".nvm",
    ".opam",
    ".pixi",
    ".pyenv",
    ".rbenv",
    ".rustup",
    ".sdkman",
    ".volta",
    "anaconda3",
    "go",
    "mambaforge",
    "miniconda3",
    "miniforge3",
];

/// Those that insist on writing to their own directory, by the last part of it.
pub(super) const WRITES: [&str; 6] = [".cargo", ".deno", ".bun", ".pyenv", ".rbenv", "go"];

/// Where toolchains are though no variable says so: the variable, and its default under the home
/// directory.
pub(super) const DEFAULTS: [(&str, &str); 7] = [
    ("CARGO_HOME", ".cargo"),
    ("RUSTUP_HOME", ".rustup"),
    ("GOPATH", "go"),
    ("PYENV_ROOT", ".pyenv"),
    ("RBENV_ROOT", ".rbenv"),
    ("NVM_DIR", ".nvm"),
    ("VOLTA_HOME", ".volta"),
];

/// What is never shown, whatever names it: beneath the home directory.
pub(super) const NEVER: [&str; 12] = [
    ".ssh",
    ".aws",
    ".azure",
    ".config",
    ".docker",
    ".gnupg",
    ".kube",
    ".mozilla",
    ".password-store",
    ".local/share/keyrings",
    ".local/state",
    ".thunderbird",
];

/// Files in a toolchain that hold logins: always, and where a look inside shows one.
pub(super) const CREDENTIALS: [&str; 4] =
    ["credentials", "credentials.toml", ".netrc", ".git-credentials"];
pub(super) const MAYBE_CREDENTIALS: [&str; 5] =
    ["config", "config.toml", ".npmrc", "pip.conf", "etc/npmrc"];
