//! Who offers models.

use std::fmt;

use genai::adapter::AdapterKind;

/// The model of `anthropic` where none is named.
pub const DEFAULT_ANTHROPIC_MODEL: &str = "claude-sonnet-4-5";
/// The model of `openai` where none is named.
pub const DEFAULT_OPENAI_MODEL: &str = "gpt-5";
/// The model of `openrouter` where none is named.
pub const DEFAULT_OPENROUTER_MODEL: &str = "anthropic/claude-sonnet-4.5";

/// A provider of models; the half of a model's id before the slash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provider {
    /// Anthropic's messages.
    Anthropic,
    /// OpenAI's chat completions, and every server that speaks them.
    OpenAi,
    /// OpenRouter: many providers behind OpenAI's chat completions.
    OpenRouter,
    /// Ollama's own chat. Needs no key.
    Ollama,
}

impl Provider {
    /// All providers, in the order in which a key picks the default model.
    pub const ALL: [Self; 4] = [Self::Anthropic, Self::OpenAi, Self::OpenRouter, Self::Ollama];

    /// Its name in a model's id.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Anthropic => "anthropic",
            Self::OpenAi => "openai",
            Self::OpenRouter => "openrouter",
            Self::Ollama => "ollama",
        }
    }

    /// The provider of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|provider| provider.name() == name)
    }

    /// The variable that users put its key in. `None`: it needs no key.
    #[must_use]
    pub fn key_variable(self) -> Option<&'static str> {
        match self {
            Self::Anthropic => Some("ANTHROPIC_API_KEY"),
            Self::OpenAi => Some("OPENAI_API_KEY"),
            Self::OpenRouter => Some("OPENROUTER_API_KEY"),
            Self::Ollama => None,
        }
    }

    /// Where a key is made; for Ollama, where the server is found.
    #[must_use]
    pub fn source(self) -> &'static str {
        match self {
            Self::Anthropic => "https://console.anthropic.com/settings/keys",
            Self::OpenAi => "https://platform.openai.com/api-keys",
            Self::OpenRouter => "https://openrouter.ai/settings/keys",
            Self::Ollama => "https://ollama.com/download",
        }
    }

    /// The name of the model where the user names none. `None`: there is no default, since what an
    /// Ollama server has is its owner's choice.
    #[must_use]
    pub fn default_model(self) -> Option<&'static str> {
        match self {
            Self::Anthropic => Some(DEFAULT_ANTHROPIC_MODEL),
            Self::OpenAi => Some(DEFAULT_OPENAI_MODEL),
            Self::OpenRouter => Some(DEFAULT_OPENROUTER_MODEL),
            Self::Ollama => None,
        }
    }

    /// The address where the user gives none, as [`crate::ModelConfig`] takes it.
    #[must_use]
    pub fn default_base_url(self) -> &'static str {
        match self {
            Self::Anthropic => "https://api.anthropic.com",
            Self::OpenAi => "https://api.openai.com/v1",
            Self::OpenRouter => "https://openrouter.ai/api/v1",
            Self::Ollama => "http://127.0.0.1:11434",
        }
    }

    /// The provider whose name is nearest to a mistyped one, if one is near.
    #[must_use]
    pub fn nearest(name: &str) -> Option<Self> {
        let name = name.to_lowercase();
        let score = |provider: &Self| strsim::jaro_winkler(provider.name(), &name);
        let best = Self::ALL.into_iter().max_by(|a, b| score(a).total_cmp(&score(b)))?;
        (score(&best) >= 0.8).then_some(best)
    }

    /// Which of `genai`'s protocols it speaks. Fixed by the provider, never guessed from the model's
    /// name: for some names `genai` would choose OpenAI's responses.
    pub(crate) fn adapter(self) -> AdapterKind {
        match self {
            Self::Anthropic => AdapterKind::Anthropic,
            Self::OpenAi => AdapterKind::OpenAI,
            Self::OpenRouter => AdapterKind::OpenRouter,
            Self::Ollama => AdapterKind::Ollama,
        }
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
