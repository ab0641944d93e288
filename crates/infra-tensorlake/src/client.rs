//! Requests with everything that each of them needs: the key, the time limits, the attempts.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Method, RequestBuilder, Response};
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::BuilderVerifierExt as _;
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tracing::debug;

use crate::address::Lifecycle;
use crate::config::{ConfigError, TensorlakeConfig};
use crate::failure::{RequestError, refusal};
use crate::retry::{Repeatable, wait_before_next};

/// What is read of an answer that should be short.
const MAX_ANSWER_BYTES: usize = 4 * 1024 * 1024;

/// One kept-alive client for one server. `Debug` shows no header.
#[derive(Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    key: SecretString,
    silence_limit: Duration,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

impl Client {
    pub(crate) fn new(
        config: &TensorlakeConfig,
        lifecycle: &Lifecycle,
    ) -> Result<Self, ConfigError> {
        Self::built(config, lifecycle, reqwest::Client::builder())
    }

    /// One for connections that become sockets, which HTTP/1.1 alone can.
    pub(crate) fn for_sockets(
        config: &TensorlakeConfig,
        lifecycle: &Lifecycle,
    ) -> Result<Self, ConfigError> {
        Self::built(config, lifecycle, reqwest::Client::builder().http1_only())
    }

    fn built(
        config: &TensorlakeConfig,
        lifecycle: &Lifecycle,
        builder: reqwest::ClientBuilder,
    ) -> Result<Self, ConfigError> {
        let mut http = builder
            .tls_backend_preconfigured(tls(lifecycle)?)
            .connect_timeout(config.connect_limit)
            .tcp_nodelay(true)
            // Below what servers allow: a request on a connection that they have just closed fails, and a
            // command's cannot be sent again.
            .pool_idle_timeout(Duration::from_secs(20))
            // The key goes to no server but the one that it is for.
            .redirect(Policy::none())
            .default_headers(headers(config)?)
            .user_agent(concat!("forge/", env!("CARGO_PKG_VERSION")));
        if lifecycle.is_loopback() {
            http = http.no_proxy();
        }
        let http = http.build().map_err(|error| ConfigError::Client(Box::new(error)))?;
        Ok(Self { http, key: config.key.clone(), silence_limit: config.silence_limit })
    }

    pub(crate) fn request(&self, method: Method, url: &str) -> RequestBuilder {
        self.http.request(method, url)
    }

    /// A server's text for a person.
    pub(crate) fn shown(&self, text: &str) -> String {
        crate::failure::shown(text, self.key.expose_secret())
    }

    /// An answer that is not what the interface says. What it holds may be in the explanation.
    pub(crate) fn unreadable(&self, explanation: impl fmt::Display) -> RequestError {
        RequestError::Unreadable(self.shown(&explanation.to_string()))
    }

    /// Sends a request, again where that is allowed, until the head of an answer is there. A refusal is
    /// an error; the given statuses are none.
    pub(crate) async fn send(
        &self,
        request: RequestBuilder,
        repeatable: Repeatable,
        accepted: &[u16],
    ) -> Result<Response, RequestError> {
        self.send_within(self.silence_limit, request, repeatable, accepted).await
    }

    /// The same with a limit of its own for the head of the answer.
    pub(crate) async fn send_within(
        &self,
        limit: Duration,
        request: RequestBuilder,
        repeatable: Repeatable,
        accepted: &[u16],
    ) -> Result<Response, RequestError> {
        let mut attempt = 1;
        loop {
            let Some(this_one) = request.try_clone() else {
                return Err(RequestError::Unreadable(
                    "the request cannot be sent twice".to_owned(),
                ));
            };
            let error = match self.send_once(limit, this_one, accepted).await {
                Ok(response) => return Ok(response),
                Err(error) => error,
            };
            let Some(wait) = wait_before_next(&error, repeatable, attempt) else {
                return Err(error);
            };
            debug!(attempt, wait_ms = wait.as_millis(), %error, "A request is sent again.");
            tokio::time::sleep(wait).await;
            attempt += 1;
        }
    }

    async fn send_once(
        &self,
        limit: Duration,
        request: RequestBuilder,
        accepted: &[u16],
    ) -> Result<Response, RequestError> {
        let response = tokio::time::timeout(limit, request.send())
            .await
            .map_err(|_| RequestError::Silent { limit })?
            .map_err(|error| broken(error.without_url()))?;
        let status = response.status().as_u16();
        if response.status().is_success() || accepted.contains(&status) {
            return Ok(response);
        }
        let retry_after = retry_after(response.headers());
        let body = self.body(response).await.unwrap_or_default();
        Err(refusal(status, &body, retry_after, self.key.expose_secret()))
    }

    /// Reads a short answer to its end.
    pub(crate) async fn body(&self, response: Response) -> Result<Vec<u8>, RequestError> {
        self.body_up_to(MAX_ANSWER_BYTES, response).await
    }

    async fn body_up_to(
        &self,
        limit_bytes: usize,
        mut response: Response,
    ) -> Result<Vec<u8>, RequestError> {
        let mut body = Vec::new();
        while let Some(chunk) = self.chunk(&mut response).await? {
            if body.len() + chunk.len() > limit_bytes {
                return Err(RequestError::Unreadable("it is too long".to_owned()));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    /// Reads the next piece of an answer, within the limit of silence.
    pub(crate) async fn chunk(
        &self,
        response: &mut Response,
    ) -> Result<Option<bytes::Bytes>, RequestError> {
        let limit = self.silence_limit;
        tokio::time::timeout(limit, response.chunk())
            .await
            .map_err(|_| RequestError::Silent { limit })?
            .map_err(|error| broken(error.without_url()))
    }

    /// Reads an answer as JSON that holds output, and so may be long.
    pub(crate) async fn long_json<T: DeserializeOwned>(
        &self,
        response: Response,
    ) -> Result<T, RequestError> {
        let body = self.body_up_to(crate::sse::DEFAULT_MAX_EVENT_BYTES, response).await?;
        serde_json::from_slice(&body).map_err(|error| self.unreadable(error))
    }

    /// Reads a short answer as JSON.
    pub(crate) async fn json<T: DeserializeOwned>(
        &self,
        response: Response,
    ) -> Result<T, RequestError> {
        let body = self.body(response).await?;
        serde_json::from_slice(&body).map_err(|error| self.unreadable(error))
    }
}

/// A body of JSON, made once, so that every attempt sends the same.
pub(crate) fn json_body(
    request: RequestBuilder,
    body: &impl Serialize,
) -> Result<RequestBuilder, RequestError> {
    let body =
        serde_json::to_vec(body).map_err(|error| RequestError::Unreadable(error.to_string()))?;
    Ok(request.header("content-type", "application/json").body(body))
}

fn broken(error: reqwest::Error) -> RequestError {
    if error.is_connect() { RequestError::Connect(error) } else { RequestError::Broken(error) }
}

/// Seconds; the other form, a date, is not sent by this service.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

fn headers(config: &TensorlakeConfig) -> Result<HeaderMap, ConfigError> {
    let key = config.key.expose_secret();
    let mut bearer =
        HeaderValue::try_from(format!("Bearer {key}")).map_err(|_| ConfigError::Key)?;
    if key.trim().is_empty() {
        return Err(ConfigError::Key);
    }
    bearer.set_sensitive(true);
    let mut headers = HeaderMap::new();
    headers.insert(reqwest::header::AUTHORIZATION, bearer);
    let scopes = [
        ("organization", "x-forwarded-organization-id", &config.organization),
        ("project", "x-forwarded-project-id", &config.project),
    ];
    for (what, header, value) in scopes {
        if let Some(value) = value {
            let value = HeaderValue::from_str(value).map_err(|_| ConfigError::Header { what })?;
            headers.insert(HeaderName::from_static(header), value);
        }
    }
    Ok(headers)
}

/// One TLS stack, rustls on ring, with the platform's certificates; none are read for plain HTTP on this
/// machine.
fn tls(lifecycle: &Lifecycle) -> Result<ClientConfig, ConfigError> {
    let failed = |error: rustls::Error| ConfigError::Client(Box::new(error));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(failed)?;
    if lifecycle.sandboxes().starts_with("https:") {
        Ok(builder.with_platform_verifier().map_err(failed)?.with_no_client_auth())
    } else {
        Ok(builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
    }
}
