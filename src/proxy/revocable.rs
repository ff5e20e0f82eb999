//! An HTTP/2 stream that can be ended from outside, and by a client's silence.
//!
//! Owns: [`revocable`], which stands between Pingora and the stream of a client.
//! Must not know: who ends it, and why; how long a silence may be.
//!
//! In HTTP/2 many requests share a connection, so its bytes cannot be made to fail for one of them, and Pingora has no
//! way to be told. What it awaits can be: each wait for the client ends when the request's line does, as if the client
//! were gone, and the request is over in good order, with its last hooks and its access line.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::Stream;
use http::HeaderMap;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::Digest;
use pingora::protocols::http::custom::CustomMessageWrite;
use pingora::protocols::http::custom::server::Session as Custom;
use pingora::protocols::http::v2::server::HttpSession as Http2;
use pingora::protocols::http::{HttpTask, ServerSession};
use pingora::protocols::l4::socket::SocketAddr;
use pingora::{Error, ErrorType, Result};
use std::sync::Arc;

use super::patience::{Answer, Patience};
use crate::open::{Ending, Line};

/// What a stream fails with when it was ended.
const ENDED: ErrorType = ErrorType::Custom("access was lost");

/// Makes an HTTP/2 stream one that fails when `line` is ended, or when its client is silent for longer than
/// `patience` lets it. Anything else stays what it is: in HTTP/1.1 the connection is the request's own, and fails
/// itself.
pub(super) fn revocable(session: &mut ServerSession, line: &Arc<Line>, patience: Patience) {
    if !session.is_http2() {
        return;
    }
    // The unit is Pingora's own stand-in; it is gone again before anybody could ask it anything.
    match std::mem::replace(session, ServerSession::new_custom(Box::new(()))) {
        ServerSession::H2(stream) => {
            let revocable = Revocable { stream, line: line.clone(), patience, answer: Answer::None };
            *session = ServerSession::new_custom(Box::new(revocable));
        }
        other => *session = other,
    }
}

struct Revocable {
    stream: Http2,
    line: Arc<Line>,
    patience: Patience,
    answer: Answer,
}

impl Revocable {
    /// How long the client may be silent in its body.
    fn silence(&mut self) -> Option<Duration> {
        if self.stream.is_body_done() {
            return None;
        }
        if self.answer == Answer::None && self.stream.response_written().is_some() {
            self.answer = Answer::Begun;
        }
        self.patience.with_body(self.answer, self.stream.body_bytes_read())
    }
}

/// What comes of a wait, unless it takes too long.
async fn within<T>(silence: Option<Duration>, wait: impl Future<Output = Result<T>>) -> Result<T> {
    let Some(silence) = silence else { return wait.await };
    match tokio::time::timeout(silence, wait).await {
        Ok(result) => result,
        Err(_) => {
            Err(Error::explain(ErrorType::ReadTimedout, "the client stopped sending its body").into_down())
        }
    }
}

fn ended(_: Ending) -> Box<Error> {
    Error::explain(ENDED, "the session or the membership that admitted it is gone").into_down()
}

/// What Pingora asks of a stream, as its own HTTP/2 streams answer it, but for the waits.
#[async_trait]
impl Custom for Revocable {
    async fn read_body_bytes(&mut self) -> Result<Option<Bytes>> {
        let silence = self.silence();
        tokio::select! {
            biased;
            ending = self.line.ended() => Err(ended(ending)),
            read = within(silence, self.stream.read_body_bytes()) => read,
        }
    }

    async fn read_body_or_idle(&mut self, no_body_expected: bool) -> Result<Option<Bytes>> {
        let silence = if no_body_expected { None } else { self.silence() };
        tokio::select! {
            biased;
            ending = self.line.ended() => Err(ended(ending)),
            read = within(silence, self.stream.read_body_or_idle(no_body_expected)) => read,
        }
    }

    async fn response_duplex_vec(&mut self, tasks: Vec<HttpTask>) -> Result<bool> {
        let written = tokio::select! {
            biased;
            ending = self.line.ended() => Err(ended(ending)),
            written = self.stream.response_duplex_vec(tasks) => written,
        };
        if let Ok(true) = written {
            self.answer = Answer::Whole;
        }
        written
    }

    fn req_header(&self) -> &RequestHeader {
        self.stream.req_header()
    }

    fn req_header_mut(&mut self) -> &mut RequestHeader {
        self.stream.req_header_mut()
    }

    async fn drain_request_body(&mut self) -> Result<()> {
        self.stream.drain_request_body().await
    }

    async fn write_response_header(&mut self, header: Box<ResponseHeader>, end: bool) -> Result<()> {
        self.stream.write_response_header(header, end)
    }

    async fn write_response_header_ref(&mut self, header: &ResponseHeader, end: bool) -> Result<()> {
        self.stream.write_response_header_ref(header, end)
    }

    async fn write_body(&mut self, data: Bytes, end: bool) -> Result<()> {
        self.stream.write_body(data, end).await
    }

    async fn write_trailers(&mut self, trailers: HeaderMap) -> Result<()> {
        self.stream.write_trailers(trailers)
    }

    fn set_read_timeout(&mut self, _: Option<Duration>) {}

    fn get_read_timeout(&self) -> Option<Duration> {
        None
    }

    fn set_write_timeout(&mut self, timeout: Option<Duration>) {
        self.stream.set_write_timeout(timeout);
    }

    fn get_write_timeout(&self) -> Option<Duration> {
        self.stream.get_write_timeout()
    }

    fn set_total_drain_timeout(&mut self, timeout: Option<Duration>) {
        self.stream.set_total_drain_timeout(timeout);
    }

    fn get_total_drain_timeout(&self) -> Option<Duration> {
        self.stream.get_total_drain_timeout()
    }

    fn request_summary(&self) -> String {
        self.stream.request_summary()
    }

    fn response_written(&self) -> Option<&ResponseHeader> {
        self.stream.response_written()
    }

    async fn shutdown(&mut self, _: u32, _: &str) {
        self.stream.shutdown();
    }

    fn is_body_done(&mut self) -> bool {
        self.stream.is_body_done()
    }

    async fn finish(&mut self) -> Result<()> {
        self.stream.finish()
    }

    fn is_body_empty(&mut self) -> bool {
        self.stream.is_body_empty()
    }

    fn body_bytes_sent(&self) -> usize {
        self.stream.body_bytes_sent()
    }

    fn body_bytes_read(&self) -> usize {
        self.stream.body_bytes_read()
    }

    fn digest(&self) -> Option<&Digest> {
        self.stream.digest()
    }

    fn digest_mut(&mut self) -> Option<&mut Digest> {
        self.stream.digest_mut()
    }

    fn client_addr(&self) -> Option<&SocketAddr> {
        self.stream.client_addr()
    }

    fn server_addr(&self) -> Option<&SocketAddr> {
        self.stream.server_addr()
    }

    fn pseudo_raw_h1_request_header(&self) -> Bytes {
        self.stream.pseudo_raw_h1_request_header()
    }

    fn enable_retry_buffering(&mut self) {
        self.stream.enable_retry_buffering();
    }

    fn retry_buffer_truncated(&self) -> bool {
        self.stream.retry_buffer_truncated()
    }

    fn get_retry_buffer(&self) -> Option<Bytes> {
        self.stream.get_retry_buffer()
    }

    // Messages besides the body: HTTP/2 has none.

    async fn finish_custom(&mut self) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_reader(
        &mut self,
    ) -> Option<Box<dyn Stream<Item = Result<Bytes>> + Unpin + Send + Sync + 'static>> {
        None
    }

    fn restore_custom_message_reader(
        &mut self,
        _: Box<dyn Stream<Item = Result<Bytes>> + Unpin + Send + Sync + 'static>,
    ) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_writer(&mut self) -> Option<Box<dyn CustomMessageWrite>> {
        None
    }

    fn restore_custom_message_writer(&mut self, _: Box<dyn CustomMessageWrite>) -> Result<()> {
        Ok(())
    }
}
