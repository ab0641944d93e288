//! Which model it is, and what it needs.

use forge_domain::{ModelId, ModelIdError};
use secrecy::{ExposeSecret as _, SecretString};
use thiserror::Error;

use crate::address::Address;
use crate::{ModelConfig, Provider};

/// Why a configuration leads to no model. No variant holds a key.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ModelConfigError {
    /// There is no such provider.
    #[error(
        "there is no provider {name:?}; the providers are anthropic, openai, openrouter and ollama{}",
        nearest.map(|provider| format!(" (is it {provider}?)")).unwrap_or_default()
    )]
    UnknownProvider {
        /// The provider as it was written.
        name: String,
        /// The one that may be meant.
        nearest: Option<Provider>,
    },
    /// The named model needs a key that is not there.
    #[error(
        "{model} needs a key in {variable}, which is not set; one is made at {}",
        provider.source()
    )]
    MissingKey {
        /// The model.
        model: ModelId,
        /// Its provider.
        provider: Provider,
        /// The variable that users put the key in.
        variable: &'static str,
    },
    /// No model is named, and no key says which it could be.
    #[error(
        "no model is named and no key is set: set ANTHROPIC_API_KEY ({anthropic}), OPENAI_API_KEY \
         ({openai}) or OPENROUTER_API_KEY ({openrouter}), or name a model of an Ollama server, which \
         needs no key, as ollama/NAME ({ollama})",
        anthropic = Provider::Anthropic.source(),
        openai = Provider::OpenAi.source(),
        openrouter = Provider::OpenRouter.source(),
        ollama = Provider::Ollama.source()
    )]
    NoKey,
    /// A key cannot be sent: it holds a character that no key has.
    #[error("the key in {variable} holds a space, a control character or one that is not ASCII")]
    Key {
        /// The variable that users put the key in.
        variable: &'static str,
    },
    /// An address cannot be used.
    #[error("the address of {provider} cannot be used: {reason}")]
    Address {
        /// The provider.
        provider: Provider,
        /// What is wrong with it. Not the address itself, which may hold credentials.
        reason: &'static str,
    },
    /// A default model is not written as a model is.
    #[error("the default model is not a model")]
    Default(#[from] ModelIdError),
}

/// A model with all that it takes to ask it.
#[derive(Debug, Clone)]
pub(crate) struct Selection {
    pub(crate) model: ModelId,
    pub(crate) provider: Provider,
    pub(crate) key: Option<SecretString>,
    pub(crate) address: Address,
}

/// Chooses the model, and checks all that can be checked without asking it.
pub(crate) fn select(config: &ModelConfig) -> Result<Selection, ModelConfigError> {
    let (model, provider) = match &config.model {
        Some(model) => {
            let name = model.provider();
            let provider =
                Provider::from_name(name).ok_or_else(|| ModelConfigError::UnknownProvider {
                    name: name.to_owned(),
                    nearest: Provider::nearest(name),
                })?;
            (model.clone(), provider)
        }
        None => default_model(config)?,
    };
    let key = key(config, provider)?;
    if let (None, Some(variable)) = (&key, provider.key_variable()) {
        return Err(ModelConfigError::MissingKey { model, provider, variable });
    }
    let given = match provider {
        Provider::Anthropic => &config.anthropic_base_url,
        Provider::OpenAi => &config.openai_base_url,
        Provider::OpenRouter => &config.openrouter_base_url,
        Provider::Ollama => &config.ollama_host,
    };
    // An empty variable is a variable that is not set.
    let given = given.as_deref().filter(|text| !text.trim().is_empty());
    let address = Address::parse(provider, given.unwrap_or(provider.default_base_url()))
        .map_err(|reason| ModelConfigError::Address { provider, reason })?;
    Ok(Selection { model, provider, key, address })
}

fn default_model(config: &ModelConfig) -> Result<(ModelId, Provider), ModelConfigError> {
    for provider in Provider::ALL {
        if let (Some(_), Some(name)) = (key(config, provider)?, provider.default_model()) {
            return Ok((ModelId::parse(&format!("{provider}/{name}"))?, provider));
        }
    }
    Err(ModelConfigError::NoKey)
}

/// The key of a provider, without white space around it.
fn key(config: &ModelConfig, provider: Provider) -> Result<Option<SecretString>, ModelConfigError> {
    let given = match provider {
        Provider::Anthropic => &config.anthropic_key,
        Provider::OpenAi => &config.openai_key,
        Provider::OpenRouter => &config.openrouter_key,
        Provider::Ollama => &None,
    };
    let Some(text) = given.as_ref().map(|key| key.expose_secret().trim()) else {
        return Ok(None);
    };
    if text.is_empty() {
        return Ok(None);
    }
    match provider.key_variable() {
        Some(variable) if !text.chars().all(|c| c.is_ascii_graphic()) => {
            Err(ModelConfigError::Key { variable })
        }
        _ => Ok(Some(SecretString::from(text))),
    }
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;

    use super::*;

    fn selected(config: &ModelConfig) -> Result<String, ModelConfigError> {
        select(config).map(|selection| selection.model.to_string())
    }

    fn model(text: &str) -> ModelConfig {
        ModelConfig::new().model(ModelId::parse(text).unwrap())
    }

    #[test]
    fn the_first_key_in_the_documented_order_picks_the_default_model() {
        let openrouter = ModelConfig::new().openrouter_key("key-of-openrouter");
        let openai = openrouter.clone().openai_key("key-of-openai");
        let anthropic = openai.clone().anthropic_key("key-of-anthropic");
        let empty = anthropic.clone().anthropic_key(" \n");
        let actual = [&openrouter, &openai, &anthropic, &empty].map(selected);
        let expected = [
            "openrouter/anthropic/claude-sonnet-4.5",
            "openai/gpt-5",
            "anthropic/claude-sonnet-4-5",
            "openai/gpt-5",
        ];
        assert_eq!(actual, expected.map(|model| Ok(model.to_owned())));
    }

    #[test]
    fn without_any_key_the_error_names_every_way_to_a_model() {
        let actual = selected(&ModelConfig::new()).unwrap_err().to_string();
        for part in [
            "ANTHROPIC_API_KEY",
            "OPENAI_API_KEY",
            "OPENROUTER_API_KEY",
            "ollama/",
            "https://console.anthropic.com",
            "https://platform.openai.com",
            "https://openrouter.ai",
        ] {
            assert!(actual.contains(part), "{part}: {actual}");
        }
    }

    #[test]
    fn a_named_model_needs_its_own_providers_key() {
        let config = model("openai/gpt-5").anthropic_key("key-of-anthropic");
        let actual = selected(&config).unwrap_err();
        let expected = ModelConfigError::MissingKey {
            model: ModelId::parse("openai/gpt-5").unwrap(),
            provider: Provider::OpenAi,
            variable: "OPENAI_API_KEY",
        };
        assert_eq!(actual, expected);
        assert!(actual.to_string().contains("OPENAI_API_KEY"), "{actual}");
    }

    #[test]
    fn ollama_needs_no_key() {
        assert_eq!(selected(&model("ollama/qwen3:8b")), Ok("ollama/qwen3:8b".to_owned()));
    }

    #[test]
    fn a_mistyped_provider_is_answered_with_the_nearest_one() {
        for (text, nearest) in [
            ("opneai/gpt-5", Some(Provider::OpenAi)),
            ("OpenAI/gpt-5", Some(Provider::OpenAi)),
            ("antropic/claude", Some(Provider::Anthropic)),
            ("open-router/x", Some(Provider::OpenRouter)),
            ("olama/x", Some(Provider::Ollama)),
            ("xyz/x", None),
        ] {
            let actual = selected(&model(text)).unwrap_err();
            let name = text.split('/').next().unwrap().to_owned();
            assert_eq!(actual, ModelConfigError::UnknownProvider { name, nearest }, "{text}");
            assert!(actual.to_string().contains("anthropic, openai, openrouter and ollama"));
        }
    }

    #[test]
    fn a_key_that_no_header_can_carry_is_refused_without_being_shown() {
        let config = model("openai/gpt-5").openai_key("sk-\u{7}-hidden");
        let actual = selected(&config).unwrap_err();
        assert_eq!(actual, ModelConfigError::Key { variable: "OPENAI_API_KEY" });
        assert!(!format!("{actual} {actual:?} {config:?}").contains("hidden"));
    }

    #[test]
    fn an_empty_address_is_the_default_and_a_wrong_one_is_named() {
        let config = model("openai/gpt-5").openai_key("k").openai_base_url("");
        let actual = select(&config).unwrap().address.endpoint().to_owned();
        assert_eq!(actual, "https://api.openai.com/v1/");
        let wrong = select(&config.openai_base_url("https://user:hidden@h")).unwrap_err();
        assert!(wrong.to_string().starts_with("the address of openai cannot be used"), "{wrong}");
        assert!(!format!("{wrong:?}").contains("hidden"));
    }
}
