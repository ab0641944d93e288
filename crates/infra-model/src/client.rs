//! The HTTP client: one TLS stack, rustls on ring, with the platform's certificates.

use std::sync::Arc;
use std::time::Duration;

use reqwest::redirect::Policy;
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::BuilderVerifierExt as _;
use thiserror::Error;

use crate::address::Address;

/// Why there is no HTTP client.
#[derive(Debug, Error)]
pub(crate) enum ClientError {
    /// The certificates of this machine cannot be used.
    #[error("this machine's certificates cannot be loaded")]
    Tls(#[source] rustls::Error),
    /// The client cannot be built.
    #[error("the HTTP client cannot be built")]
    Http(#[source] reqwest::Error),
    /// `genai` refuses its configuration.
    #[error("the model client cannot be built")]
    Genai(#[source] genai::Error),
}

/// Builds the client for one server. Reads this machine's certificates where the server is asked over
/// TLS, which may take some milliseconds.
pub(crate) fn build(
    address: &Address,
    connect_limit: Duration,
) -> Result<genai::Client, ClientError> {
    let builder =
        ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(ClientError::Tls)?;
    let tls = if address.is_https() {
        builder.with_platform_verifier().map_err(ClientError::Tls)?.with_no_client_auth()
    } else {
        // Without TLS no certificate is needed, and redirects are not followed.
        builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth()
    };
    let mut http = reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .connect_timeout(connect_limit)
        .tcp_nodelay(true)
        // A key goes to no server but the one that it is for.
        .redirect(Policy::none())
        .user_agent(concat!("forge/", env!("CARGO_PKG_VERSION")));
    if address.is_loopback() {
        http = http.no_proxy();
    }
    let http = http.build().map_err(ClientError::Http)?;
    genai::Client::builder().with_reqwest(http).build().map_err(ClientError::Genai)
}
