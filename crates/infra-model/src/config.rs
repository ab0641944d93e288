//! What the caller decides.

use std::time::Duration;

use derive_setters::Setters;
use forge_domain::ModelId;
use secrecy::SecretString;

/// Which model, with which keys, at which addresses, within which limits.
///
/// All fields have setters. An empty key, or one of white space alone, counts as none; white space
/// around a key is removed. `Debug` shows no key.
#[derive(Debug, Clone, Setters)]
#[setters(into, strip_option)]
pub struct ModelConfig {
    /// The model. Default: the first key, in the order of [`crate::Provider::ALL`], picks its
    /// provider's default model.
    pub model: Option<ModelId>,
    /// The key of `anthropic`.
    pub anthropic_key: Option<SecretString>,
    /// The key of `openai`. Servers that want none still need some text here.
    pub openai_key: Option<SecretString>,
    /// The key of `openrouter`.
    pub openrouter_key: Option<SecretString>,
    /// The address of `anthropic`, without `/v1`. Default `https://api.anthropic.com`.
    pub anthropic_base_url: Option<String>,
    /// The address of `openai`, with `/v1` where the server has it, with or without a slash at its
    /// end. Default `https://api.openai.com/v1`.
    pub openai_base_url: Option<String>,
    /// The address of `openrouter`. Default `https://openrouter.ai/api/v1`.
    pub openrouter_base_url: Option<String>,
    /// The address of `ollama`: a URL, or `host` or `host:port` as in `OLLAMA_HOST`. Default
    /// `http://127.0.0.1:11434`.
    pub ollama_host: Option<String>,
    /// How long a connection may take. Default 10 s.
    pub connect_limit: Duration,
    /// How long the server may take from the request to the first byte of its reply, the connection
    /// included. Default 120 s.
    pub first_byte_limit: Duration,
    /// How long a reply that has begun may be silent. Default 120 s.
    pub silence_limit: Duration,
    /// How often a request is made at most, the first time included. At least once. Default 4.
    pub attempts: u32,
    /// The pause before the second attempt where the server names none; it doubles with each, up to
    /// 20 s, and up to as much again is added by chance. Default 500 ms.
    pub first_pause: Duration,
    /// The longest `Retry-After` that is waited for. A server that asks for more is not asked again.
    /// Default 60 s.
    pub longest_retry_after: Duration,
}

impl Default for ModelConfig {
    fn default() -> Self {
        Self {
            model: None,
            anthropic_key: None,
            openai_key: None,
            openrouter_key: None,
            anthropic_base_url: None,
            openai_base_url: None,
            openrouter_base_url: None,
            ollama_host: None,
            connect_limit: Duration::from_secs(10),
            first_byte_limit: Duration::from_secs(120),
            silence_limit: Duration::from_secs(120),
            attempts: 4,
            first_pause: Duration::from_millis(500),
            longest_retry_after: Duration::from_secs(60),
        }
    }
}

impl ModelConfig {
    /// No keys, no model, the default limits.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}
