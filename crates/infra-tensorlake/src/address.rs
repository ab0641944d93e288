//! Which server is asked for what.

use thiserror::Error;

/// Why an address cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AddressError {
    /// It is no absolute `http` or `https` address with a host.
    #[error("{url:?} is no address of a server: http://… or https://… is expected")]
    Shape {
        /// The address as it was given, without what looks like credentials.
        url: String,
    },
    /// It holds a user or a password, which would go into messages.
    #[error("the address of {host} holds credentials; the key is given apart")]
    Credentials {
        /// The host.
        host: String,
    },
}

/// How a server's paths begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PathStyle {
    /// `/sandboxes`, as the service has them.
    Flat,
    /// `/v1/namespaces/{namespace}/sandboxes`, as servers on this machine have them.
    Namespaced(String),
}

/// The server that makes and deletes sandboxes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lifecycle {
    base: String,
    style: PathStyle,
}

/// A base address, taken apart as far as it matters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Base {
    /// Without a trailing slash.
    pub(crate) url: String,
    pub(crate) host: String,
}

impl Base {
    pub(crate) fn parse(url: &str) -> Result<Self, AddressError> {
        let shape =
            || AddressError::Shape { url: url.rsplit('@').next().unwrap_or_default().to_owned() };
        let parsed = reqwest::Url::parse(url).map_err(|_| shape())?;
        let host = parsed.host_str().ok_or_else(shape)?.to_owned();
        if !matches!(parsed.scheme(), "http" | "https") {
            return Err(shape());
        }
        if !parsed.username().is_empty() || parsed.password().is_some() {
            return Err(AddressError::Credentials { host });
        }
        Ok(Self { url: url.trim_end_matches('/').to_owned(), host })
    }

    pub(crate) fn is_loopback(&self) -> bool {
        let address = self.host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
        self.host == "localhost" || address.is_ok_and(|address| address.is_loopback())
    }
}

impl Lifecycle {
    /// `api.X` stands for `sandbox.X`; a server on this machine is asked in its own style of paths; any
    /// other host is taken as it is.
    ///
    /// The vendor's clients ask the production service where the host is neither of the first two. That
    /// would send a key that was meant for one server to another.
    pub(crate) fn derive(api_url: &str, namespace: &str) -> Result<Self, AddressError> {
        let base = Base::parse(api_url)?;
        if base.is_loopback() {
            return Ok(Self { base: base.url, style: PathStyle::Namespaced(namespace.to_owned()) });
        }
        let url = match base.host.strip_prefix("api.") {
            Some(domain) => base.url.replacen(&base.host, &format!("sandbox.{domain}"), 1),
            None => base.url,
        };
        Ok(Self { base: url, style: PathStyle::Flat })
    }

    pub(crate) fn is_loopback(&self) -> bool {
        Base::parse(&self.base).is_ok_and(|base| base.is_loopback())
    }

    pub(crate) fn sandboxes(&self) -> String {
        match &self.style {
            PathStyle::Flat => format!("{}/sandboxes", self.base),
            PathStyle::Namespaced(name) => format!("{}/v1/namespaces/{name}/sandboxes", self.base),
        }
    }

    pub(crate) fn sandbox(&self, id: &str) -> String {
        format!("{}/{id}", self.sandboxes())
    }
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;

    use super::*;

    #[test]
    fn the_sandbox_host_follows_from_the_api_host() {
        let actual = |url| Lifecycle::derive(url, "default").map(|lifecycle| lifecycle.sandboxes());
        let cases = [
            ("https://api.tensorlake.ai", "https://sandbox.tensorlake.ai/sandboxes"),
            ("https://api.tensorlake.ai/", "https://sandbox.tensorlake.ai/sandboxes"),
            ("https://vm.example:8443", "https://vm.example:8443/sandboxes"),
            ("http://127.0.0.1:9", "http://127.0.0.1:9/v1/namespaces/default/sandboxes"),
            ("http://localhost:9/", "http://localhost:9/v1/namespaces/default/sandboxes"),
            ("http://[::1]:9", "http://[::1]:9/v1/namespaces/default/sandboxes"),
        ];
        for (url, expected) in cases {
            assert_eq!(actual(url), Ok(expected.to_owned()), "{url}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused_without_its_credentials() {
        for url in ["", "api.tensorlake.ai", "ftp://x", "http://"] {
            let error = Base::parse(url).unwrap_err();
            assert!(matches!(error, AddressError::Shape { .. }), "{url}: {error:?}");
        }
        let error = Base::parse("https://me:s3cret@host").unwrap_err();
        assert_eq!(error, AddressError::Credentials { host: "host".to_owned() });
        assert!(!Base::parse("me:s3cret@host:x").unwrap_err().to_string().contains("s3cret"));
    }
}
