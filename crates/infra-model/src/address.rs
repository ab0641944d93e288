//! Where a provider is reached.

use reqwest::Url;

use crate::Provider;

/// The port of an Ollama server.
const OLLAMA_PORT: u16 = 11434;

/// A server's address.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Address {
    base: Url,
}

impl Address {
    /// Takes an address as users write it. What is wrong with it otherwise.
    pub(crate) fn parse(provider: Provider, text: &str) -> Result<Self, &'static str> {
        let text = text.trim();
        let mut base = match provider {
            Provider::Ollama if !text.contains("://") => {
                let mut url = Url::parse(&format!("http://{text}")).map_err(|_| "it is no URL")?;
                if url.port().is_none() {
                    url.set_port(Some(OLLAMA_PORT)).map_err(|()| "it is no URL")?;
                }
                url
            }
            _ => Url::parse(text).map_err(|_| "it is no URL")?,
        };
        if !matches!(base.scheme(), "http" | "https") {
            return Err("it begins neither with http:// nor with https://");
        }
        if base.host_str().is_none_or(str::is_empty) {
            return Err("it names no host");
        }
        if !base.username().is_empty() || base.password().is_some() {
            return Err("it holds a user or a password");
        }
        base.set_fragment(None);
        let mut path = base.path().trim_end_matches('/').to_owned();
        match provider {
            Provider::OpenAi | Provider::OpenRouter => {}
            // For these genai appends to the text, so that a query would end up in the middle.
            Provider::Anthropic | Provider::Ollama if base.query().is_some() => {
                return Err("it holds a query");
            }
            Provider::Anthropic if path.ends_with("/v1") => {}
            Provider::Anthropic => path.push_str("/v1"),
            Provider::Ollama => {}
        }
        base.set_path(&format!("{path}/"));
        Ok(Self { base })
    }

    /// What `genai` appends the endpoint to.
    pub(crate) fn endpoint(&self) -> &str {
        self.base.as_str()
    }

    /// Scheme, host and port.
    pub(crate) fn origin(&self) -> String {
        self.base.origin().ascii_serialization()
    }

    pub(crate) fn is_https(&self) -> bool {
        self.base.scheme() == "https"
    }

    /// Whether the server is on this machine.
    pub(crate) fn is_loopback(&self) -> bool {
        let host = self.base.host_str().unwrap_or_default();
        let ip = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
        match ip {
            Ok(ip) => ip.is_loopback() || ip.is_unspecified(),
            Err(_) => host == "localhost" || host.ends_with(".localhost"),
        }
    }
}

/// The origin alone: a path or a query may hold what is nobody's business.
impl std::fmt::Debug for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Address({})", self.origin())
    }
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;

    use super::*;

    fn endpoint(provider: Provider, text: &str) -> Result<String, &'static str> {
        Address::parse(provider, text).map(|address| address.endpoint().to_owned())
    }

    #[test]
    fn a_slash_at_the_end_changes_nothing() {
        for text in ["http://h:1/v1", "http://h:1/v1/", " http://h:1/v1// "] {
            assert_eq!(endpoint(Provider::OpenAi, text), Ok("http://h:1/v1/".to_owned()), "{text}");
        }
        for text in ["http://h:1", "http://h:1/", "http://h:1/v1", "http://h:1/v1/"] {
            let actual = endpoint(Provider::Anthropic, text);
            assert_eq!(actual, Ok("http://h:1/v1/".to_owned()), "{text}");
        }
    }

    #[test]
    fn a_query_is_kept_where_it_can_be() {
        let actual = endpoint(Provider::OpenAi, "https://h/v1?version=2");
        assert_eq!(actual, Ok("https://h/v1/?version=2".to_owned()));
        assert_eq!(endpoint(Provider::Anthropic, "https://h?v=2"), Err("it holds a query"));
    }

    #[test]
    fn an_ollama_host_needs_neither_scheme_nor_port() {
        for (text, expected) in [
            ("box", "http://box:11434/"),
            ("127.0.0.1:99", "http://127.0.0.1:99/"),
            ("[::1]", "http://[::1]:11434/"),
            ("https://box/ollama", "https://box/ollama/"),
        ] {
            assert_eq!(endpoint(Provider::Ollama, text), Ok(expected.to_owned()));
        }
    }

    #[test]
    fn what_is_no_address_of_a_server_is_refused() {
        for text in ["", "h", "ftp://h", "http://", "http://user:pass@h"] {
            assert!(endpoint(Provider::OpenAi, text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_loopback_is_known_by_all_its_names() {
        for (text, expected) in [
            ("http://127.0.0.1:1", true),
            ("http://127.9.9.9", true),
            ("http://[::1]:1", true),
            ("http://localhost", true),
            ("http://localhost.example.org", false),
            ("http://10.0.0.1", false),
        ] {
            let address = Address::parse(Provider::OpenAi, text).unwrap();
            assert_eq!(address.is_loopback(), expected, "{text}");
        }
    }
}
