//! The key that every request has to carry.

use std::fmt;
use std::io;

use rustix::rand::{GetRandomFlags, getrandom};
use secrecy::{ExposeSecret, SecretString};

/// A bearer key. `Debug` does not show it.
#[derive(Clone)]
pub struct ApiKey(SecretString);

impl ApiKey {
    /// Takes a key: not empty, and of visible ASCII characters alone, since it travels in a header.
    #[must_use]
    pub fn parse(key: &SecretString) -> Option<Self> {
        let text = key.expose_secret();
        let is_key = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        is_key.then(|| Self(key.clone()))
    }

    /// Makes one of 256 random bits.
    ///
    /// # Errors
    /// The kernel has no random numbers to give.
    pub fn generate() -> io::Result<Self> {
        let mut bytes = [0; 32];
        let mut filled = 0;
        while filled < bytes.len() {
            filled += getrandom(&mut bytes[filled..], GetRandomFlags::empty())?;
        }
        let mut text = String::from("forge_");
        for byte in bytes {
            text.push_str(&format!("{byte:02x}"));
        }
        Ok(Self(text.into()))
    }

    /// The key itself, for whoever is to use it.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    /// Whether a header's value is `Bearer` with this key. How long that takes says nothing about the key.
    pub(crate) fn admits(&self, header: &[u8]) -> bool {
        let Some((scheme, given)) = header.split_at_checked(7) else { return false };
        // Comparing two hashes of blake3 takes the same time wherever they differ.
        let same = blake3::hash(given) == blake3::hash(self.expose().as_bytes());
        scheme.eq_ignore_ascii_case(b"bearer ") && same
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_key_is_admitted() {
        let key = ApiKey::parse(&"forge_secret".into()).unwrap();
        for good in ["Bearer forge_secret", "bearer forge_secret"] {
            assert!(key.admits(good.as_bytes()), "{good}");
        }
        for bad in [
            "",
            "Bearer",
            "Bearer ",
            "Bearer forge_secre",
            "Bearer forge_secrets",
            "Basic forge_secret",
        ] {
            assert!(!key.admits(bad.as_bytes()), "{bad}");
        }
    }

    #[test]
    fn what_cannot_be_in_a_header_is_no_key() {
        for bad in ["", "a b", "a\n", "ä"] {
            assert!(ApiKey::parse(&bad.to_owned().into()).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn two_keys_differ_and_do_not_show() {
        let (one, other) = (ApiKey::generate().unwrap(), ApiKey::generate().unwrap());
        assert_ne!(one.expose(), other.expose());
        assert_eq!(one.expose().len(), 70);
        assert_eq!(format!("{one:?}"), "ApiKey(..)");
    }
}
