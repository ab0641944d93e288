//! Toolchains, where they live, and what in a home directory is none.

/// The user's variables that tell where toolchains are. None of them is a secret; of everything else in
/// the user's environment, commands get nothing by themselves.
pub const TOOLCHAIN_VARIABLES: &[&str] = &[
    "ANDROID_HOME",
    "ANDROID_SDK_ROOT",
    "ASDF_DATA_DIR",
    "ASDF_DIR",
    "BUN_INSTALL",
    "CARGO_HOME",
    "CONDA_DEFAULT_ENV",
    "CONDA_PREFIX",
    "DENO_INSTALL",
    "DOTNET_ROOT",
    "FNM_DIR",
    "FNM_MULTISHELL_PATH",
    "GEM_HOME",
    "GOENV_ROOT",
    "GOMODCACHE",
    "GOPATH",
    "GOROOT",
    "GRADLE_HOME",
    "HOMEBREW_CELLAR",
    "HOMEBREW_PREFIX",
    "HOMEBREW_REPOSITORY",
    "JAVA_HOME",
    "JENV_ROOT",
    "M2_HOME",
    "MAVEN_HOME",
    "MISE_DATA_DIR",
    "NIX_PROFILES",
    "NODENV_ROOT",
    "NODENV_VERSION",
    "NVM_BIN",
    "NVM_DIR",
    "OPAMROOT",
    "OPAM_SWITCH_PREFIX",
    "PATH",
    "PIXI_HOME",
    "PNPM_HOME",
    "PYENV_ROOT",
    "PYENV_VERSION",
    "RBENV_ROOT",
    "RBENV_VERSION",
    "RUSTUP_HOME",
    "RUSTUP_TOOLCHAIN",
    "SDKMAN_CANDIDATES_DIR",
    "SDKMAN_DIR",
    "UV_PYTHON_INSTALL_DIR",
    "VIRTUAL_ENV",
    "VOLTA_HOME",
];

/// Those whose value is a choice and no directory; they are passed on as they are.
pub(super) const CHOICES: [&str; 5] =
    ["CONDA_DEFAULT_ENV", "NODENV_VERSION", "PYENV_VERSION", "RBENV_VERSION", "RUSTUP_TOOLCHAIN"];

/// Those whose value is several directories between blanks; the rest have colons, if anything.
pub(super) const BLANK_SEPARATED: [&str; 1] = ["NIX_PROFILES"];

/// Those whose directory its tool insists on writing to.
pub(super) const WRITTEN: [&str; 10] = [
    "BUN_INSTALL",
    "CARGO_HOME",
    "DENO_INSTALL",
    "GOENV_ROOT",
    "GOMODCACHE",
    "GOPATH",
    "NODENV_ROOT",
    "PNPM_HOME",
    "PYENV_ROOT",
    "RBENV_ROOT",
];

/// Where toolchains are though no variable says so: the variable, and its default under the home
/// directory. The home directory is another inside, so the variable is set there.
pub(super) const DEFAULTS: [(&str, &str); 11] = [
    ("ASDF_DATA_DIR", ".asdf"),
    ("BUN_INSTALL", ".bun"),
    ("CARGO_HOME", ".cargo"),
    ("GOPATH", "go"),
    ("NODENV_ROOT", ".nodenv"),
    ("NVM_DIR", ".nvm"),
    ("PYENV_ROOT", ".pyenv"),
    ("RBENV_ROOT", ".rbenv"),
    ("RUSTUP_HOME", ".rustup"),
    ("UV_PYTHON_INSTALL_DIR", ".local/share/uv/python"),
    ("VOLTA_HOME", ".volta"),
];

/// Directories that are a toolchain as a whole: the ends of their paths.
pub(super) const ROOTS: [&str; 40] = [
    ".asdf",
    ".bun",
    ".cabal",
    ".cargo",
    ".conda",
    ".deno",
    ".dotnet",
    ".fnm",
    ".foundry",
    ".gem",
    ".ghcup",
    ".goenv",
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
    ".local/share/rtx",
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
    "mambaforge",
    "micromamba",
    "miniconda",
    "miniconda3",
    "miniforge3",
    GO,
];

/// Go's is called as anything may be: it counts only where it looks like one.
pub(super) const GO: &str = "go";

/// Those of the above that their tool insists on writing to.
pub(super) const WRITES: [&str; 10] = [
    ".bun",
    ".cargo",
    ".deno",
    ".goenv",
    ".local/share/pnpm",
    ".nodenv",
    ".pyenv",
    ".rbenv",
    ".juliaup",
    GO,
];

/// Where a toolchain keeps its versions. One may be a link to a directory elsewhere (`rustup toolchain
/// link`). `*` is every directory there.
pub(super) const VERSIONS: [&str; 6] =
    ["toolchains", "versions", "versions/node", "envs", "candidates/*", "installs/*"];

/// Parts of paths that are never shown, wherever they are and whatever names them.
pub(super) const NEVER_ANYWHERE: [&str; 26] = [
    ".aws",
    ".azure",
    ".bitcoin",
    ".claude",
    ".codex",
    ".config",
    ".docker",
    ".electrum",
    ".ethereum",
    ".gcloud",
    ".gemini",
    ".gnupg",
    ".kube",
    ".m2",
    ".mozilla",
    ".netrc",
    ".oci",
    ".password-store",
    ".pki",
    ".ssh",
    ".terraform.d",
    ".thunderbird",
    ".var",
    ".vault-token",
    "keyrings",
    "kwalletd",
];

/// What is never shown beneath a home directory.
pub(super) const NEVER_AT_HOME: [&str; 9] = [
    ".cache/BraveSoftware",
    ".cache/chromium",
    ".cache/google-chrome",
    ".cache/keyring",
    ".cache/mozilla",
    ".local/share/Trash",
    ".local/share/containers",
    ".local/state",
    "snap",
];

/// What holds more than any toolchain beneath a home directory: never shown as a whole.
pub(super) const WIDE_AT_HOME: [&str; 15] = [
    ".cache",
    ".local",
    ".local/lib",
    ".local/opt",
    ".local/share",
    "Desktop",
    "Documents",
    "Downloads",
    "Dropbox",
    "Music",
    "OneDrive",
    "Pictures",
    "Public",
    "Templates",
    "Videos",
];

/// The system's own, and what the sandbox has its own of: nothing there is a toolchain.
pub(super) const NEVER_OF_SYSTEM: [&str; 7] =
    ["/boot", "/dev", "/lost+found", "/proc", "/run", "/sys", "/var"];

/// Where home directories are.
pub(super) const HOMES: [&str; 4] = ["/home", "/var/home", "/export/home", "/Users"];

/// What holds more than any toolchain and lies elsewhere.
pub(super) const WIDE_AT_ROOT: [&str; 12] = [
    "/etc",
    "/export",
    "/export/home",
    "/home",
    "/media",
    "/mnt",
    "/opt",
    "/srv",
    "/tmp",
    "/usr",
    "/usr/local",
    "/var/home",
];
