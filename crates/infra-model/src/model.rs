//! The model port's implementation.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use backon::{ExponentialBuilder, Retryable as _};
use forge_domain::{LanguageModel, ModelError, ModelEvent, ModelId, ModelRequest, ModelStream};
use futures_util::{Stream, StreamExt as _, stream};
use genai::chat::{ChatOptions, ChatStream, ChatStreamEvent, ReasoningEffort};
use genai::resolver::{AuthData, Endpoint};
use genai::{ModelIden, ServiceTarget};
use secrecy::ExposeSecret as _;
use serde_json::json;
use tokio::sync::OnceCell;
use tracing::dispatcher::{Dispatch, with_default};
use tracing::warn;

use crate::answer::{Answer, Step};
use crate::client;
use crate::failure::{Again, Failure, Teller};
use crate::heard::Heard;
use crate::request::chat_request;
use crate::select::{Selection, select};
use crate::server_text::Cleaner;
use crate::{ModelConfig, ModelConfigError, Provider};

/// The longest pause of our own between two attempts, without what chance adds.
const LONGEST_PAUSE: Duration = Duration::from_secs(20);

/// A model, asked through `genai`.
///
/// Cheap to make: nothing is read and nothing connected before the first request.
pub struct GenaiModel {
    selection: Selection,
    limits: Limits,
    teller: Teller,
    client: OnceCell<genai::Client>,
}

#[derive(Debug, Clone, Copy)]
struct Limits {
    connect: Duration,
    attempts: u32,
    first_pause: Duration,
    longest_retry_after: Duration,
}

impl fmt::Debug for GenaiModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GenaiModel")
            .field("model", &self.selection.model)
            .field("address", &self.selection.address)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

impl GenaiModel {
    /// Chooses the model and checks what can be checked without asking it.
    ///
    /// # Errors
    /// [`ModelConfigError`]: an unknown provider, no key, or an address that is none.
    pub fn new(config: ModelConfig) -> Result<Self, ModelConfigError> {
        let selection = select(&config)?;
        let teller = Teller {
            model: selection.model.clone(),
            address: selection.address.origin(),
            cleaner: Cleaner::new(selection.key.clone()),
            first_byte_limit: config.first_byte_limit,
            silence_limit: config.silence_limit,
        };
        let limits = Limits {
            connect: config.connect_limit,
            attempts: config.attempts.max(1),
            first_pause: config.first_pause,
            longest_retry_after: config.longest_retry_after,
        };
        Ok(Self { selection, limits, teller, client: OnceCell::new() })
    }

    /// Who offers it.
    #[must_use]
    pub fn provider(&self) -> Provider {
        self.selection.provider
    }

    async fn client(&self) -> Result<&genai::Client, Failure> {
        let build = async || {
            let (address, limit) = (self.selection.address.clone(), self.limits.connect);
            if !address.is_https() {
                return client::build(&address, limit).map_err(|error| Box::new(error).into());
            }
            // Certificates are read from files.
            match tokio::task::spawn_blocking(move || client::build(&address, limit)).await {
                Ok(client) => client.map_err(|error| Box::new(error).into()),
                Err(error) => Err(forge_domain::BoxedError::from(error)),
            }
        };
        let client = self.client.get_or_try_init(build).await;
        client.map_err(|error| Failure { again: Again::Never, ..self.teller.unreachable(error) })
    }

    /// Asks once, until the answer begins.
    async fn attempt(&self, request: &ModelRequest) -> Result<Running, Failure> {
        let client = self.client().await?;
        let heard = Arc::new(Heard::new(self.selection.provider));
        let options = self.options(Arc::clone(&heard));
        let chat = chat_request(request, self.selection.provider);
        let target = ServiceTarget {
            endpoint: Endpoint::from_owned(self.selection.address.endpoint()),
            auth: match &self.selection.key {
                Some(key) => AuthData::from_single(key.expose_secret()),
                None => AuthData::None,
            },
            model: ModelIden::new(self.selection.provider.adapter(), self.selection.model.name()),
        };
        // Nothing is sent yet: genai sends when the stream is first polled.
        let response = client.exec_chat_stream(target, chat, Some(&options)).await;
        let stream = response.map_err(|error| self.teller.tell(error))?.stream;
        let answer =
            Answer::new(self.selection.provider, self.teller.cleaner.clone(), Arc::clone(&heard));
        let mut running = Running {
            stream: Quiet(stream),
            answer,
            pending: VecDeque::new(),
            heard,
            teller: self.teller.clone(),
            over: false,
        };
        running.fill().await?;
        Ok(running)
    }

    fn options(&self, heard: Arc<Heard>) -> ChatOptions {
        let name = self.selection.model.name();
        // The calls of chat completions are put together here; genai's way makes as many entries as
        // the server's numbers say, be they wrong ones.
        let capture_tool_calls = match self.selection.provider {
            Provider::OpenAi | Provider::OpenRouter => false,
            Provider::Anthropic | Provider::Ollama => true,
        };
        let mut options = ChatOptions::default()
            .with_capture_usage(true)
            .with_capture_tool_calls(capture_tool_calls)
            .with_stream_header_timeout(self.teller.first_byte_limit)
            .with_stream_read_timeout(self.teller.silence_limit)
            .with_raw_frame_sink_arc(heard);
        // genai reads an effort out of names that end in "-high" and the like, and a namespace out of
        // those with "::". The user's name is the name.
        if ReasoningEffort::from_model_name(name).0.is_some() {
            match self.selection.provider {
                // An effort that this format cannot say: none is said, and the name stays.
                Provider::OpenAi | Provider::OpenRouter => {
                    options = options.with_reasoning_effort(ReasoningEffort::Budget(0));
                }
                // Here it would switch the model's thinking on.
                Provider::Anthropic => {
                    options = options.with_reasoning_effort(ReasoningEffort::Zero);
                }
                Provider::Ollama => {}
            }
        }
        if self.selection.provider != Provider::Ollama {
            options = options.with_extra_body(json!({ "model": name }));
        }
        options
    }

    /// The pause before the next attempt, or `None` where there shall be none.
    fn pause(&self, failure: &Failure, own: Option<Duration>) -> Option<Duration> {
        match (failure.again, own) {
            (Again::Never, _) | (_, None) => None,
            (Again::AfterPause, Some(own)) => Some(own),
            // Asking earlier than the server allows is asking in vain.
            (Again::After(wait), Some(_)) if wait > self.limits.longest_retry_after => None,
            (Again::After(wait), Some(_)) => Some(wait),
        }
    }
}

#[async_trait]
impl LanguageModel for GenaiModel {
    fn id(&self) -> &ModelId {
        &self.selection.model
    }

    async fn answer(&self, request: ModelRequest) -> Result<ModelStream, ModelError> {
        let made = AtomicU32::new(0);
        let attempt = || {
            made.fetch_add(1, Ordering::Relaxed);
            self.attempt(&request)
        };
        let pauses = ExponentialBuilder::new()
            .with_min_delay(self.limits.first_pause)
            .with_max_delay(LONGEST_PAUSE.max(self.limits.first_pause))
            .with_max_times(usize::try_from(self.limits.attempts - 1).unwrap_or(usize::MAX))
            .with_jitter();
        let running = attempt
            .retry(pauses)
            .when(|failure: &Failure| failure.again != Again::Never)
            .adjust(|failure, own| self.pause(failure, own))
            .notify(|failure, pause| {
                let attempt = made.load(Ordering::Relaxed);
                let pause_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
                warn!(attempt, pause_ms, error = %failure.error, "The model did not answer; it is asked again.");
            })
            .await;
        match running {
            Ok(running) => Ok(running.into_stream()),
            Err(failure) => Err(counted(failure.error, made.load(Ordering::Relaxed))),
        }
    }
}

fn counted(error: ModelError, made: u32) -> ModelError {
    match error {
        ModelError::Busy { model, status, retry_after, message, .. } => {
            ModelError::Busy { model, status, attempts: made, retry_after, message }
        }
        other => other,
    }
}

/// An answer that has begun.
struct Running {
    stream: Quiet,
    answer: Answer,
    pending: VecDeque<ModelEvent>,
    heard: Arc<Heard>,
    teller: Teller,
    over: bool,
}

impl Running {
    /// Reads until there is something to deliver.
    async fn fill(&mut self) -> Result<(), Failure> {
        while self.pending.is_empty() && !self.over {
            let next = self.stream.next().await;
            if let Some(failure) = self.heard.failure(&self.teller) {
                return Err(failure);
            }
            let step = match next {
                Some(Ok(event)) => self.answer.event(event),
                Some(Err(error)) if !self.heard.half_a_mark() => {
                    return Err(self.teller.tell(error));
                }
                Some(Err(_)) | None => match self.heard.completion() {
                    Some(completion) => self.answer.complete(completion),
                    None => Step::Unfinished,
                },
            };
            match step {
                Step::Events(events) => self.pending.extend(events),
                Step::Finished(events) => {
                    self.pending.extend(events);
                    self.over = true;
                }
                Step::Unfinished => return Err(self.heard.ended(&self.teller)),
            }
        }
        Ok(())
    }

    fn into_stream(self) -> ModelStream {
        Box::pin(stream::unfold(Some(self), |running| async move {
            let mut running = running?;
            match running.fill().await {
                Ok(()) => {
                    let event = running.pending.pop_front()?;
                    Some((Ok(event), Some(running)))
                }
                Err(failure) => Some((Err(failure.midway()), None)),
            }
        }))
    }
}

/// `genai`'s stream without its log: that holds what servers send, keys that they echo included.
struct Quiet(ChatStream);

impl Stream for Quiet {
    type Item = Result<ChatStreamEvent, genai::Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        with_default(&Dispatch::none(), || self.0.poll_next_unpin(cx))
    }
}
