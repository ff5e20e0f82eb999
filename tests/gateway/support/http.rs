//! Requests and responses, one connection each.

use std::net::SocketAddr;

use serde_json::Value;
use url::Url;

use super::{Checked, Wire};

/// A request. Nothing is sent that is not said, but `Host`, `Connection: close` and a body's length.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) url: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Option<Vec<u8>>,
}

impl Request {
    pub(crate) fn new(method: &str, url: &str) -> Request {
        Request { method: method.to_owned(), url: url.to_owned(), headers: Vec::new(), body: None }
    }

    pub(crate) fn get(url: &str) -> Request {
        Request::new("GET", url)
    }

    /// One more header. `Host` replaces that of the URL; the connection goes where the URL says.
    pub(crate) fn header(mut self, name: &str, value: &str) -> Request {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn headers(mut self, headers: &[(&str, &str)]) -> Request {
        self.headers.extend(headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        self
    }

    pub(crate) fn body(mut self, body: impl Into<Vec<u8>>) -> Request {
        self.body = Some(body.into());
        self
    }

    /// The bytes as they are sent. The path and query go as they stand in the URL's text, byte for byte.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let rest = self.url.split_once("://").map_or(&*self.url, |(_, rest)| rest);
        let at = rest.find(['/', '?']).unwrap_or(rest.len());
        let (host, target) = rest.split_at(at);
        let target = target.split('#').next().unwrap_or("");
        let slash = if target.starts_with('/') { "" } else { "/" };
        let mut head = format!("{} {slash}{target} HTTP/1.1\r\n", self.method);
        let has = |wanted: &str| self.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case(wanted));
        if !has("host") {
            head.push_str(&format!("Host: {host}\r\n"));
        }
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if !has("connection") {
            head.push_str("Connection: close\r\n");
        }
        if let Some(body) = &self.body
            && !has("content-length")
            && !has("transfer-encoding")
        {
            head.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(self.body.as_deref().unwrap_or_default());
        bytes
    }

    /// Where the connection goes.
    pub(crate) fn address(&self) -> Checked<SocketAddr> {
        let url = Url::parse(&self.url)?;
        let host = url.host_str().unwrap_or("127.0.0.1");
        let port = url.port_or_known_default().unwrap_or(80);
        // Every host of a test is this machine.
        Ok(host.parse().map_or(SocketAddr::from(([127, 0, 0, 1], port)), |ip| SocketAddr::new(ip, port)))
    }
}

/// Sends `request` on a connection of its own and reads the answer to its end. With an https URL over TLS, whoever
/// the other side says it is.
pub(crate) async fn send(request: &Request) -> Checked<Response> {
    let mut wire = match request.url.strip_prefix("https://") {
        Some(rest) => {
            let name = rest.split(['/', '?', ':']).next().unwrap_or("");
            Wire::connect_tls(request.address()?, name).await?
        }
        None => Wire::connect(request.address()?).await?,
    };
    wire.send(&request.bytes()).await?;
    let mut response = wire.response_to(&request.method).await?;
    response.url.clone_from(&request.url);
    Ok(response)
}

/// A response.
#[derive(Clone, Debug, Default)]
pub(crate) struct Response {
    /// Where it came from, if known.
    pub(crate) url: String,
    pub(crate) status: u16,
    /// In order and as written.
    pub(crate) headers: Vec<(String, String)>,
    /// Without its chunking.
    pub(crate) body: Vec<u8>,
}

impl Response {
    /// The first header called `name`, in any case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.all(name).first().copied()
    }

    /// All headers called `name`.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        let found = self.headers.iter().filter(|(own, _)| own.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str()).collect()
    }

    /// The body as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    pub(crate) fn json(&self) -> Checked<Value> {
        serde_json::from_slice(&self.body).map_err(|error| format!("{error}: {self:?}").into())
    }

    /// Where it sends the browser: an absolute URL.
    pub(crate) fn location(&self) -> Checked<String> {
        let location = self.header("location").ok_or_else(|| format!("no Location in {self:?}"))?;
        Ok(Url::parse(&self.url)?.join(location)?.to_string())
    }

    /// An error unless the status is `status`.
    pub(crate) fn expect(&self, status: u16) -> Checked<&Response> {
        if self.status == status {
            return Ok(self);
        }
        Err(format!(
            "expected {status}, got {} from {}\n{:?}\n{}",
            self.status,
            self.url,
            self.headers,
            self.text()
        )
        .into())
    }

    /// What the app echoed: the value of header `name` as the app got it.
    pub(crate) fn echoed(&self, name: &str) -> Checked<Option<String>> {
        Ok(self.echoed_all(name)?.into_iter().next())
    }

    /// What the app echoed: every value of header `name`, in any case, as the app got it.
    pub(crate) fn echoed_all(&self, name: &str) -> Checked<Vec<String>> {
        let echo = self.json()?;
        let headers = echo["headers"].as_array().ok_or_else(|| format!("not from the app: {self:?}"))?;
        let pairs = headers.iter().filter_map(|pair| Some((pair[0].as_str()?, pair[1].as_str()?)));
        Ok(pairs
            .filter(|(own, _)| own.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.to_owned())
            .collect())
    }
}
