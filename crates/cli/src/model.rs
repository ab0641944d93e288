//! Which model, with which keys: from the flag, the variables and the configuration.

use forge_api::{ModelConfig, ModelId, ModelIdError, SecretString};
use thiserror::Error;

use crate::variables;

/// Why no model can be named.
#[derive(Debug, Error)]
pub(crate) enum ModelSettingsError {
    /// It is not written as a model is.
    #[error(transparent)]
    Name(#[from] ModelIdError),
    /// A variable is not text.
    #[error("the variable {name} is not valid UTF-8")]
    Variable {
        /// Its name, never its value.
        name: &'static str,
    },
}

/// Puts together what the variables say, and the model where one was named.
///
/// # Errors
/// [`ModelSettingsError`]. Whether the provider exists and has its key is checked later.
pub(crate) fn configure(named: Option<&str>) -> Result<ModelConfig, ModelSettingsError> {
    let text = |name| variables::text(name).map_err(|name| ModelSettingsError::Variable { name });
    let key = |name| Ok::<_, ModelSettingsError>(text(name)?.map(SecretString::from));
    let mut config = ModelConfig::new();
    config.model = named.map(ModelId::parse).transpose()?;
    config.anthropic_key = key("ANTHROPIC_API_KEY")?;
    config.openai_key = key("OPENAI_API_KEY")?;
    config.openrouter_key = key("OPENROUTER_API_KEY")?;
    config.anthropic_base_url = text("ANTHROPIC_BASE_URL")?;
    config.openai_base_url = text("OPENAI_BASE_URL")?;
    config.openrouter_base_url = text("OPENROUTER_BASE_URL")?;
    config.ollama_host = text("OLLAMA_HOST")?;
    Ok(config)
}
