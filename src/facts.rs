//! What the gate needs to know of a request.
//!
//! Owns: [`Facts`], [`Arrival`], [`Shape`], [`shape`], [`is_grpc`].
//! Must not know: Pingora, axum, sockets. Whose forwarded headers are believed is decided where facts are
//! gathered, in `proxy/facts`.

use std::net::IpAddr;
use std::sync::Arc;

use http::header::{ACCEPT, CONTENT_TYPE, UPGRADE};
use http::{HeaderMap, Method};

use crate::clock::Timestamp;

/// One request, as far as deciding on it goes. Borrowed from the connection; nothing here is I/O.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// When the request arrived: the one clock reading of a request.
    pub now: Timestamp,
    /// The method.
    pub method: &'a Method,
    /// `https` or `http`, as the browser sees it.
    pub scheme: &'a str,
    /// The host the browser asked for: lower case, no port, no trailing dot.
    pub host: &'a str,
    /// `host[:port]` as the browser wrote it, for links back.
    pub authority: &'a str,
    /// The canonical path; what is decided on and what is forwarded.
    pub path: &'a str,
    /// The query without its `?`, verbatim.
    pub query: Option<&'a str>,
    /// All headers as they came.
    pub headers: &'a HeaderMap,
    /// Who is asking, by address.
    pub client: IpAddr,
    /// The name of this request in logs and on pages.
    pub request_id: &'a str,
}

/// The same, owned, without the headers: what outlives the connection's buffers. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// See [`Facts::now`].
    pub now: Timestamp,
    /// See [`Facts::scheme`].
    pub scheme: &'static str,
    /// See [`Facts::host`].
    pub host: Arc<str>,
    /// See [`Facts::authority`].
    pub authority: Arc<str>,
    /// See [`Facts::path`].
    pub path: Arc<str>,
    /// See [`Facts::query`].
    pub query: Option<Box<str>>,
    /// See [`Facts::client`].
    pub client: IpAddr,
    /// See [`Facts::request_id`].
    pub request_id: Arc<str>,
}

impl Arrival {
    /// The facts, with what the connection still holds.
    pub fn facts<'a>(&'a self, method: &'a Method, headers: &'a HeaderMap) -> Facts<'a> {
        Facts {
            now: self.now,
            method,
            scheme: self.scheme,
            host: &self.host,
            authority: &self.authority,
            path: &self.path,
            query: self.query.as_deref(),
            headers,
            client: self.client,
            request_id: &self.request_id,
        }
    }

    /// The address that was asked for, as a link on the same host: path and query.
    pub fn link(&self) -> String {
        match &self.query {
            Some(query) => format!("{}?{query}", self.path),
            None => self.path.to_string(),
        }
    }
}

/// What kind of answer a request can make use of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shape {
    /// A person looks at the answer: pages and redirects make sense.
    Navigation,
    /// gRPC: status in trailers or headers.
    Grpc,
    /// Anything else: scripts, images, WebSockets, curl. A redirect would only confuse it.
    Program,
}

/// Whether a request is a gRPC call, [`Shape::Grpc`]. Names of media types have no case (RFC 9110 §8.3.1).
pub fn is_grpc(headers: &HeaderMap) -> bool {
    const GRPC: &[u8] = b"application/grpc";
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.as_bytes().get(..GRPC.len()));
    kind.is_some_and(|kind| kind.eq_ignore_ascii_case(GRPC))
}

/// Tells a browser's navigation from everything else.
///
/// `Sec-Fetch-Mode` decides where the browser sends it (Fetch Metadata, W3C). Without it a GET or HEAD whose
/// `Accept` prefers HTML counts: command-line tools send `*/*`, which prefers nothing.
pub fn shape(method: &Method, headers: &HeaderMap) -> Shape {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if is_grpc(headers) {
        return Shape::Grpc;
    }
    if !matches!(*method, Method::GET | Method::HEAD) || headers.contains_key(UPGRADE) {
        return Shape::Program;
    }
    if let Some(mode) = text("sec-fetch-mode") {
        return if mode == "navigate" { Shape::Navigation } else { Shape::Program };
    }
    let fetch_metadata = ["sec-fetch-site", "sec-fetch-dest", "sec-fetch-user"];
    if fetch_metadata.iter().any(|name| headers.contains_key(*name)) || text("x-requested-with").is_some() {
        return Shape::Program;
    }
    let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("");
    if prefers_html(accept) { Shape::Navigation } else { Shape::Program }
}

/// Whether `Accept` names HTML with a weight that nothing named besides it exceeds (RFC 9110 §12.5.1).
fn prefers_html(accept: &str) -> bool {
    let mut html = 0_u16;
    let mut best_other = 0_u16;
    for range in accept.split(',') {
        let mut parts = range.split(';').map(str::trim);
        let kind = parts.next().unwrap_or("").to_ascii_lowercase();
        let weight = parts.find_map(|p| p.strip_prefix("q=")).map_or(1000, thousandths);
        match kind.as_str() {
            "text/html" | "application/xhtml+xml" => html = html.max(weight),
            "*/*" | "" => {}
            _ => best_other = best_other.max(weight),
        }
    }
    html > 0 && html >= best_other
}

/// A quality value (RFC 9110 §12.4.2) in thousandths; nonsense weighs nothing.
fn thousandths(q: &str) -> u16 {
    match q.parse::<f32>() {
        Ok(value) if (0.0..=1.0).contains(&value) => (value * 1000.0) as u16,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (http::HeaderName::from_static(name), http::HeaderValue::from_static(value)))
            .collect()
    }

    const CHROME: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8";

    #[test]
    fn only_a_person_looking_at_a_page_is_a_navigation() {
        type Row = (&'static str, &'static Method, &'static [(&'static str, &'static str)], Shape);
        let rows: &[Row] = &[
            (
                "modern browser",
                &Method::GET,
                &[("sec-fetch-mode", "navigate"), ("accept", CHROME)],
                Shape::Navigation,
            ),
            ("HEAD", &Method::HEAD, &[("sec-fetch-mode", "navigate")], Shape::Navigation),
            ("old browser", &Method::GET, &[("accept", CHROME)], Shape::Navigation),
            ("text browser", &Method::GET, &[("accept", "text/html, text/*;q=0.5")], Shape::Navigation),
            (
                "form post",
                &Method::POST,
                &[("sec-fetch-mode", "navigate"), ("accept", CHROME)],
                Shape::Program,
            ),
            ("fetch()", &Method::GET, &[("sec-fetch-mode", "cors"), ("accept", "*/*")], Shape::Program),
            (
                "fetch() that asks for HTML",
                &Method::GET,
                &[("sec-fetch-mode", "cors"), ("accept", CHROME)],
                Shape::Program,
            ),
            (
                "image",
                &Method::GET,
                &[("sec-fetch-mode", "no-cors"), ("accept", "image/avif,*/*")],
                Shape::Program,
            ),
            (
                "half of Fetch Metadata",
                &Method::GET,
                &[("sec-fetch-dest", "empty"), ("accept", CHROME)],
                Shape::Program,
            ),
            ("EventSource", &Method::GET, &[("accept", "text/event-stream")], Shape::Program),
            (
                "old XHR",
                &Method::GET,
                &[("x-requested-with", "XMLHttpRequest"), ("accept", CHROME)],
                Shape::Program,
            ),
            ("curl", &Method::GET, &[("accept", "*/*")], Shape::Program),
            ("nothing", &Method::GET, &[], Shape::Program),
            ("JSON first", &Method::GET, &[("accept", "application/json, text/html;q=0.9")], Shape::Program),
            ("HTML not wanted", &Method::GET, &[("accept", "text/html;q=0, */*")], Shape::Program),
            ("nonsense weight", &Method::GET, &[("accept", "text/html;q=9")], Shape::Program),
            (
                "WebSocket",
                &Method::GET,
                &[("upgrade", "websocket"), ("sec-fetch-mode", "websocket")],
                Shape::Program,
            ),
            ("old WebSocket", &Method::GET, &[("upgrade", "websocket"), ("accept", CHROME)], Shape::Program),
            ("gRPC", &Method::POST, &[("content-type", "application/grpc")], Shape::Grpc),
            ("gRPC+proto", &Method::POST, &[("content-type", "application/grpc+proto")], Shape::Grpc),
            ("gRPC in capitals", &Method::POST, &[("content-type", "Application/gRPC")], Shape::Grpc),
            ("OPTIONS", &Method::OPTIONS, &[("accept", CHROME)], Shape::Program),
        ];
        for (who, method, pairs, expected) in rows {
            assert_eq!(shape(method, &headers(pairs)), *expected, "{who}");
        }
    }
}
