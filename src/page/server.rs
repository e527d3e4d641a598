//! Serving: connections, their limits, and what goes back over them.
//!
//! Every limit is here: header sizes and times, connections, streams, and how long one who does not
//! read is waited for. What a connection costs is bounded by them, whoever is at its other end.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, Sleep};

use super::ask::{Asked, Refused, Route, Rules};
use super::look::{Board, STREAMS};
use super::{html, random};
use crate::report::Report;

/// Connections at a time; more are told so and closed.
pub(super) const CONNECTIONS: usize = STREAMS + 200;
/// Bytes of a request's line and headers: far more than browsers send.
const HEAD: usize = 16 << 10;
/// Its headers.
const HEADERS: usize = 64;
/// A request has so long to arrive, and a connection to make the next one.
const ARRIVAL: Duration = Duration::from_secs(5);
/// Whoever takes nothing for so long is let go.
const STALL: Duration = Duration::from_secs(10);
/// Bytes that the kernel keeps for one who does not read.
const UNREAD: usize = 64 << 10;
/// Wait where no connection can be had for want of descriptors.
const SHORT_OF: Duration = Duration::from_millis(200);

/// Whoever serves.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) board: Arc<Board>,
    pub(super) rules: Rules,
}

impl Server {
    /// Serves for ever.
    pub(super) async fn serve(self: Arc<Server>, listener: TcpListener) {
        let room = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    log::debug!("accept a connection: {error}");
                    tokio::time::sleep(SHORT_OF).await;
                    continue;
                }
            };
            let Ok(place) = Arc::clone(&room).try_acquire_owned() else {
                let _ = stream.try_write(FULL);
                continue;
            };
            let server = Arc::clone(&self);
            tokio::spawn(async move {
                server.converse(stream).await;
                drop(place);
            });
        }
    }

    async fn converse(self: Arc<Server>, stream: TcpStream) {
        let _ = stream.set_nodelay(true);
        let _ = rustix::net::sockopt::set_socket_send_buffer_size(&stream, UNREAD);
        let patient = Patient { stream, stalled: None };
        let answer = service_fn(move |request: Request<Incoming>| {
            let answer = self.answer(&request);
            async move { Ok::<_, Infallible>(answer) }
        });
        let talk = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(ARRIVAL)
            .max_buf_size(HEAD)
            .max_headers(HEADERS)
            .half_close(false)
            .serve_connection(TokioIo::new(patient), answer);
        if let Err(error) = talk.await {
            log::trace!("a connection ended: {error}");
        }
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Answer> {
        let (method, uri) = (request.method(), request.uri());
        let asked = self.rules.admit(method, uri, request.version(), request.headers());
        let mut response = match asked {
            Ok(asked) => self.tell(asked),
            Err(refused) => refusal(refused),
        };
        for (name, value) in ALWAYS {
            response.headers_mut().entry(name).or_insert(HeaderValue::from_static(value));
        }
        response
    }

    fn tell(&self, asked: Asked) -> Response<Answer> {
        match asked.route {
            Route::Page => {
                let Ok(nonce) = random() else {
                    let (status, why) = (StatusCode::INTERNAL_SERVER_ERROR, "no random number");
                    return refusal(Refused { status, why });
                };
                let token = asked.trusted.then_some(self.rules.token.as_str());
                let text = self.board.with(|model| html::page(model, &nonce, token));
                let mut response = whole(StatusCode::OK, "text/html; charset=utf-8", text);
                if let Ok(policy) = HeaderValue::from_str(&policy(&nonce)) {
                    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
                }
                response
            }
            Route::Healthz => {
                let condition = self.board.condition();
                let unwell = StatusCode::SERVICE_UNAVAILABLE;
                let status = if condition.well { StatusCode::OK } else { unwell };
                whole(status, TEXT, condition.text + "\n")
            }
            Route::Status => self.board.status().map_or_else(
                || {
                    let text = format!("{}\n", self.board.condition().text);
                    whole(StatusCode::SERVICE_UNAVAILABLE, TEXT, text)
                },
                |text| whole(StatusCode::OK, JSON, text + "\n"),
            ),
            Route::Events => match self.board.follow() {
                Some(messages) => with_type(StatusCode::OK, STREAM, Answer::Stream(messages)),
                None => refusal(Refused {
                    status: StatusCode::SERVICE_UNAVAILABLE,
                    why: "too many follow already; try again later",
                }),
            },
            Route::Reports => {
                let text = self.board.with(|model| serde_json::to_string(&model.reports));
                whole(StatusCode::OK, JSON, text.unwrap_or_default() + "\n")
            }
            Route::Metrics => match self.board.figures().map(Answer::Stream) {
                Some(figures) => with_type(StatusCode::OK, FIGURES, figures),
                None => self.not_running(),
            },
            Route::Report(number) => self.report(number),
            Route::RawReport(number) => {
                let json = |report: &Report| {
                    // Only a map with keys that are no texts could fail.
                    serde_json::to_string(report).unwrap_or_default() + "\n"
                };
                match self.board.report(number, json).map(Answer::Stream) {
                    Some(report) => with_type(StatusCode::OK, JSON, report),
                    None => refusal(NO_REPORT),
                }
            }
        }
    }
}

impl Server {
    fn report(&self, number: u64) -> Response<Answer> {
        let Ok(nonce) = random() else {
            let (status, why) = (StatusCode::INTERNAL_SERVER_ERROR, "no random number");
            return refusal(Refused { status, why });
        };
        let policy = HeaderValue::from_str(&policy(&nonce));
        let render = move |report: &Report| html::report(report, &nonce);
        let Some(report) = self.board.report(number, render) else { return refusal(NO_REPORT) };
        let kind = "text/html; charset=utf-8";
        let mut response = with_type(StatusCode::OK, kind, Answer::Stream(report));
        if let Ok(policy) = policy {
            response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
        }
        response
    }

    fn not_running(&self) -> Response<Answer> {
        let text = self.board.condition().text + "\n";
        whole(StatusCode::SERVICE_UNAVAILABLE, TEXT, text)
    }
}

const NO_REPORT: Refused =
    Refused { status: StatusCode::NOT_FOUND, why: "there is no such report (any more)" };
const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const FIGURES: &str = "text/plain; version=0.0.4; charset=utf-8";
const STREAM: &str = "text/event-stream";
const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\n\
    Content-Length: 32\r\n\r\ntoo many connections; try later\n";

/// Headers of every answer, unless it has its own.
const ALWAYS: [(HeaderName, &str); 6] = [
    (header::CACHE_CONTROL, "no-store"),
    (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// What the page may do: run its one script, use its one style, ask its own server.
fn policy(nonce: &str) -> String {
    format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src \
         'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
}

fn refusal(refused: Refused) -> Response<Answer> {
    let mut response = whole(refused.status, TEXT, format!("{}\n", refused.why));
    let headers = response.headers_mut();
    if refused.status == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    // Whatever else it sent is not looked at.
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

fn whole(status: StatusCode, kind: &'static str, text: String) -> Response<Answer> {
    with_type(status, kind, Answer::Whole(Some(Bytes::from(text))))
}

fn with_type(status: StatusCode, kind: &'static str, body: Answer) -> Response<Answer> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// What goes back.
#[derive(Debug)]
enum Answer {
    /// A text.
    Whole(Option<Bytes>),
    /// Events, until it does not keep up.
    Stream(mpsc::Receiver<Bytes>),
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let bytes = match self.get_mut() {
            Answer::Whole(bytes) => bytes.take(),
            Answer::Stream(messages) => ready!(messages.poll_recv(context)),
        };
        Poll::Ready(bytes.map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Answer::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Answer::Whole(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Answer::Stream(_) => SizeHint::new(),
        }
    }
}

/// A connection that ends when its other end takes nothing for too long.
#[derive(Debug)]
struct Patient {
    stream: TcpStream,
    /// When it is let go.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Patient {
    /// What a write came to, with regard to the time that it has been waited for.
    fn judge(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let end = self
            .stalled
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + STALL)));
        ready!(end.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Patient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Patient {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.judge(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.judge(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Listens there.
pub(super) async fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address).await
}
