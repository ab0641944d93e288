//! Connections: how many there are, and how long one may take to ask for something.

use std::convert::Infallible;
use std::future::ready;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderValue, Request, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use hyper::body::Incoming;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::failure::Failure;

/// So many clients that find every place taken are told so at the same time; others are closed at once.
const MAX_REFUSALS: usize = 64;
/// How long a client may take to be told.
const REFUSAL_LIMIT: Duration = Duration::from_secs(5);
/// How long nobody is taken in where the system has no more descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);
/// How often a client of HTTP/2 is asked whether it is there, and how long its answer may take.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_LIMIT: Duration = Duration::from_secs(30);

/// What connections may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ConnectionLimits {
    /// Sockets of terminals included.
    pub(crate) max_connections: usize,
    /// From the opening of a connection, or the answer before, to the end of a request's header.
    pub(crate) header_limit: Duration,
}

/// Takes connections in until the end, and returns when they have ended.
///
/// # Cancel safety
/// Dropping the future cuts every connection off, but for those that became sockets.
pub(crate) async fn serve(
    listener: TcpListener,
    app: Router,
    limits: ConnectionLimits,
    ending: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(limits.max_connections.min(Semaphore::MAX_PERMITS)));
    let refusals = Arc::new(Semaphore::new(MAX_REFUSALS));
    let mut all = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = ending.cancelled() => break,
            Some(_) = all.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) if is_of_the_client(&error) => continue,
            Err(error) => {
                warn!(%error, "No connection could be taken in.");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Small answers are not to wait for the client's acknowledgement of the ones before.
        drop(stream.set_nodelay(true));
        if let Ok(place) = Arc::clone(&places).try_acquire_owned() {
            let connection = Connection { stream, _place: place };
            all.spawn(attend(connection, app.clone(), limits, ending.clone()));
        } else if let Ok(place) = Arc::clone(&refusals).try_acquire_owned() {
            debug!(max_connections = limits.max_connections, "A connection was one too many.");
            all.spawn(refuse(Connection { stream, _place: place }, limits.max_connections));
        }
    }
    drop(listener);
    while all.join_next().await.is_some() {}
}

fn is_of_the_client(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
    )
}

fn builder(header_limit: Duration) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(header_limit);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_LIMIT)
        // For sockets over HTTP/2.
        .enable_connect_protocol();
    builder
}

/// Answers what comes by one connection.
async fn attend(
    connection: Connection,
    app: Router,
    limits: ConnectionLimits,
    ending: CancellationToken,
) {
    let asked = Arc::new(AtomicBool::new(false));
    let (app, has_asked) = (TowerToHyperService::new(app), Arc::clone(&asked));
    let service = service_fn(move |request: Request<Incoming>| {
        has_asked.store(true, Ordering::Relaxed);
        app.call(request)
    });
    let builder = builder(limits.header_limit);
    let mut serving =
        pin!(builder.serve_connection_with_upgrades(TokioIo::new(connection), service));
    // Which HTTP a client speaks shows in its first bytes, and these have no limit but this one.
    let mut first = pin!(tokio::time::sleep(limits.header_limit));
    let (mut is_first, mut is_ending) = (true, false);
    loop {
        tokio::select! {
            ended = &mut serving => {
                if let Err(error) = ended {
                    debug!(%error, "A connection ended before its time.");
                }
                return;
            }
            () = &mut first, if is_first => {
                if !asked.load(Ordering::Relaxed) {
                    debug!("A connection asked for nothing in time.");
                    return;
                }
                is_first = false;
            }
            () = ending.cancelled(), if !is_ending => {
                serving.as_mut().graceful_shutdown();
                is_ending = true;
            }
        }
    }
}

/// Answers the first request of a connection for which there is no place, whatever it is.
async fn refuse(connection: Connection, max_connections: usize) {
    let service =
        service_fn(|_: Request<Incoming>| ready(Ok::<_, Infallible>(refusal(max_connections))));
    let mut builder = builder(REFUSAL_LIMIT);
    builder.http1().keep_alive(false);
    let serving = builder.serve_connection(TokioIo::new(connection), service);
    // One that takes longer is cut off.
    drop(tokio::time::timeout(REFUSAL_LIMIT, serving).await);
}

fn refusal(max_connections: usize) -> Response {
    let text = format!("the server has {max_connections} connections already");
    let status = StatusCode::SERVICE_UNAVAILABLE;
    let mut response = Failure::new(status, "TOO_MANY_CONNECTIONS", text).into_response();
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

/// A connection, and the place that it takes for as long as it is open, whatever becomes of it.
struct Connection {
    stream: TcpStream,
    _place: OwnedSemaphorePermit,
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
