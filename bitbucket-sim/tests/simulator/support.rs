//! A simulator to ask, and the smallest HTTP client that also notices a connection cut without an answer.

use std::error::Error;
use std::io;
use std::net::SocketAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bitbucket_sim::{EXAMPLE_CLIENT_ID, EXAMPLE_CLIENT_SECRET, Simulator, World};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use url::{Url, form_urlencoded};

pub(crate) type Outcome = Result<(), Box<dyn Error>>;

pub(crate) const CALLBACK: &str = "http://127.0.0.1:8080/.teamgate/callback";
pub(crate) const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");

pub(crate) async fn started(world: World) -> io::Result<Simulator> {
    Simulator::start(([127, 0, 0, 1], 0).into(), world).await
}

pub(crate) struct Reply {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn json(&self) -> Result<Value, serde_json::Error> {
        serde_json::from_str(&self.body)
    }

    pub(crate) fn is_html(&self) -> bool {
        self.header("content-type").is_some_and(|kind| kind.starts_with("text/html"))
    }

    /// A parameter of the redirect.
    pub(crate) fn sent_back(&self, name: &str) -> Option<String> {
        let location = Url::parse(self.header("location")?).ok()?;
        location.query_pairs().find(|(known, _)| known == name).map(|(_, value)| value.into_owned())
    }

    /// `name=value` of the cookie that was set.
    pub(crate) fn cookie(&self) -> Option<&str> {
        self.header("set-cookie")?.split(';').next()
    }
}

/// One request on one connection. `UnexpectedEof` when it was closed without an answer.
pub(crate) async fn send(
    address: SocketAddr,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> io::Result<Reply> {
    let mut request = format!("{method} {target} HTTP/1.1\r\nconnection: close\r\n");
    if !headers.iter().any(|(name, _)| *name == "host") {
        request += &format!("host: {address}\r\n");
    }
    for (name, value) in headers {
        request += &format!("{name}: {value}\r\n");
    }
    request += &format!("content-length: {}\r\n\r\n{body}", body.len());

    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer).await;
    if answer.is_empty() {
        // Closed or reset, as the system pleases.
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("no answer: {read:?}")));
    }
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(io::ErrorKind::InvalidData)?;
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|text| text.parse().ok());
    let headers = lines.filter_map(|line| line.split_once(": "));
    let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect();
    Ok(Reply { status: status.ok_or(io::ErrorKind::InvalidData)?, headers, body: body.to_owned() })
}

pub(crate) async fn get(simulator: &Simulator, target: &str) -> io::Result<Reply> {
    send(simulator.address(), "GET", target, &[], "").await
}

/// An API call with a good header.
pub(crate) async fn api(simulator: &Simulator, token: &str, target: &str) -> io::Result<Reply> {
    let authorization = format!("Bearer {token}");
    send(simulator.address(), "GET", target, &[("authorization", &authorization)], "").await
}

pub(crate) async fn post(
    simulator: &Simulator,
    target: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> io::Result<Reply> {
    let headers: Vec<_> = headers.iter().copied().chain([FORM]).collect();
    send(simulator.address(), "POST", target, &headers, body).await
}

pub(crate) fn form(pairs: &[(&str, &str)]) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
}

/// An authorize request of the demonstration's client; `more` is added to the usual parameters.
pub(crate) fn authorize(more: &[(&str, &str)]) -> String {
    let usual = [("client_id", EXAMPLE_CLIENT_ID), ("response_type", "code"), ("state", "st&te")];
    let all: Vec<_> = usual.iter().copied().chain(more.iter().copied()).collect();
    format!("/site/oauth2/authorize?{}", form(&all))
}

pub(crate) fn basic() -> String {
    format!("Basic {}", STANDARD.encode(format!("{EXAMPLE_CLIENT_ID}:{EXAMPLE_CLIENT_SECRET}")))
}

/// A request to the token endpoint, authenticated.
pub(crate) async fn token(simulator: &Simulator, pairs: &[(&str, &str)]) -> io::Result<Reply> {
    post(simulator, "/site/oauth2/access_token", &[("authorization", &basic())], &form(pairs)).await
}

pub(crate) async fn code(simulator: &Simulator, user: &str) -> Result<String, Box<dyn Error>> {
    let target = authorize(&[("redirect_uri", CALLBACK)]);
    let reply = post(simulator, &target, &[], &form(&[("user", user)])).await?;
    Ok(reply.sent_back("code").ok_or("no code")?)
}

/// Access and refresh token.
pub(crate) async fn tokens(simulator: &Simulator, user: &str) -> Result<(String, String), Box<dyn Error>> {
    let code = code(simulator, user).await?;
    let pairs = [("grant_type", "authorization_code"), ("code", &code), ("redirect_uri", CALLBACK)];
    both(&token(simulator, &pairs).await?)
}

pub(crate) async fn refresh(simulator: &Simulator, refresh_token: &str) -> io::Result<Reply> {
    token(simulator, &[("grant_type", "refresh_token"), ("refresh_token", refresh_token)]).await
}

pub(crate) fn both(reply: &Reply) -> Result<(String, String), Box<dyn Error>> {
    let body = reply.json()?;
    let text = |key: &str| body[key].as_str().map(str::to_owned).ok_or_else(|| format!("no {key} in {body}"));
    Ok((text("access_token")?, text("refresh_token")?))
}
