//! Which files of a project hold secrets, by their names, and by what is in them where the same name is also given to what
//! is no secret.

use std::path::Path;

/// Whether a file holds a secret, as far as its name says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Secrecy {
    /// It does not.
    Open,
    /// It does.
    Secret,
    /// It does if this says so of what it begins with.
    Perhaps(SecretSigns),
}

/// What shows that a text holds a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SecretSigns {
    words: &'static [&'static str],
    /// An address with a user and a password counts too.
    logins: bool,
}

impl SecretSigns {
    /// Whether they are in a text.
    #[must_use]
    pub fn are_in(&self, text: &[u8]) -> bool {
        let holds = |word: &&str| text.windows(word.len()).any(|part| part == word.as_bytes());
        self.words.iter().any(holds) || (self.logins && holds_login(&String::from_utf8_lossy(text)))
    }
}

/// Whether an address with a user and a password is in a text: `://user:password@`.
#[must_use]
pub fn holds_login(text: &str) -> bool {
    text.split("://").skip(1).any(|rest| {
        let authority = rest.split(['/', ' ', '\n', '"', '\'']).next().unwrap_or_default();
        authority.split_once('@').is_some_and(|(login, _)| login.contains(':'))
    })
}

/// Whether a directory holds nothing but secrets.
#[must_use]
pub fn is_secret_directory(path: &Path) -> bool {
    const NAMES: [&str; 5] = [".ssh", ".aws", ".gnupg", ".kube", ".azure"];
    let named = |name: &str| path.file_name().is_some_and(|own| own == name);
    NAMES.into_iter().any(named) || path.ends_with(".config/gcloud")
}

/// Whether a file at a path of a project holds a secret.
#[must_use]
pub fn secrecy(path: &Path) -> Secrecy {
    let bytes = path.file_name().unwrap_or_default().as_encoded_bytes();
    let ends = |endings: &[&str]| endings.iter().any(|ending| bytes.ends_with(ending.as_bytes()));
    let holding = |words| Secrecy::Perhaps(SecretSigns { words, logins: false });
    let is = |holds| if holds { Secrecy::Secret } else { Secrecy::Open };
    match bytes {
        b".env" | b".netrc" | b"_netrc" | b".pypirc" | b".git-credentials" | b".pgpass"
        | b".my.cnf" | b".htpasswd" | b".vault-token" | b"id_rsa" | b"id_dsa" | b"id_ecdsa"
        | b"id_ed25519" | b"id_ecdsa_sk" | b"id_ed25519_sk" => Secrecy::Secret,
        b"config.json" => is(path.parent().is_some_and(|parent| parent.ends_with(".docker"))),
        b".npmrc" | b".yarnrc.yml" | b".yarnrc" | b"pip.conf" => Secrecy::Perhaps(SecretSigns {
            words: &["_authToken", "_auth=", "_password", "npmAuthToken"],
            logins: true,
        }),
        b"credentials.json" => holding(&["private_key", "client_secret"]),
        _ if bytes.starts_with(b".env.") => {
            is(!ends(&[".example", ".sample", ".template", ".dist", ".defaults"]))
        }
        _ if ends(&[".p12", ".pfx", ".jks", ".keystore", ".ppk", ".kdbx"]) => Secrecy::Secret,
        _ if ends(&[".pem", ".key"]) => holding(&["PRIVATE KEY-----"]),
        _ if bytes.starts_with(b"service-account") && ends(&[".json"]) => holding(&["private_key"]),
        _ => Secrecy::Open,
    }
}
