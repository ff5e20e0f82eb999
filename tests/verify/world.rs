//! A gateway with its Bitbucket and an app, and a real assertion out of it.

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::fs;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::routing::get;
use bitbucket_sim::{EXAMPLE_CLIENT_ID, EXAMPLE_CLIENT_SECRET, Simulator, World};
use http::header::{ACCEPT, COOKIE, LOCATION, SET_COOKIE};
use http::{HeaderMap, StatusCode};
use reqwest::redirect::Policy;
use reqwest::{Client, RequestBuilder, Response};
use serde_json::Value;

use crate::process::{Serving, free_addresses};

/// Ends with this value.
pub(crate) struct Gateway {
    /// `iss`, `aud`, and where the keys are.
    pub(crate) url: String,
    /// What the app received for Ann.
    pub(crate) assertion: String,
    /// The published key that made it.
    pub(crate) jwk: Value,
    _simulator: Simulator,
    _process: Serving,
    _folder: tempfile::TempDir,
}

impl Gateway {
    /// Starts everything, signs Ann in, and takes the assertion that the app got about her.
    pub(crate) async fn start(algorithm: &str) -> Result<Gateway, Box<dyn StdError>> {
        // Once in a process; the others find it done.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let [listen, admin] = free_addresses()?;
        let url = format!("http://{listen}");
        let mut world = World::example();
        world.set_callback(EXAMPLE_CLIENT_ID, &format!("{url}/.teamgate/callback"))?;
        let simulator = Simulator::start(([127, 0, 0, 1], 0).into(), world).await?;
        let app = serve(Router::new().fallback(echo)).await?;
        let folder = tempfile::tempdir()?;
        let config = folder.path().join("teamgate.yaml");
        let bitbucket = simulator.url();
        fs::write(
            &config,
            format!(
                "listen: [{{ address: '{listen}' }}]
admin: {{ address: '{admin}' }}
external_url: {url}
bitbucket:
  client_id: {EXAMPLE_CLIENT_ID}
  client_secret: {EXAMPLE_CLIENT_SECRET}
  include_team_groups: true
  web_url: {bitbucket}
  api_url: {bitbucket}/2.0
assertion: {{ algorithm: {algorithm} }}
log: {{ access: false, level: error }}
routes: [{{ name: app, teams: [acme], upstream: 'http://{app}' }}]
"
            ),
        )?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_teamgate"));
        let process = Serving::start(command.arg("run").arg("--config").arg(&config), listen)?;
        let assertion = sign_in(&url).await?;
        let kid = crate::forge::read(&assertion)?.0["kid"].clone();
        let keys: Value = client()?.get(format!("{url}/.teamgate/jwks.json")).send().await?.json().await?;
        let jwk = keys["keys"].as_array().and_then(|keys| keys.iter().find(|key| key["kid"] == kid)).cloned();
        let jwk = jwk.ok_or_else(|| format!("{kid} is not among {keys}"))?;
        Ok(Gateway { url, assertion, jwk, _simulator: simulator, _process: process, _folder: folder })
    }
}

/// Serves a document of keys, and gives its URL.
pub(crate) async fn publish(keys: Vec<Value>) -> Result<String, Box<dyn StdError>> {
    let document = Arc::new(serde_json::json!({ "keys": keys }));
    let keys = async |State(document): State<Arc<Value>>| axum::Json((*document).clone());
    let address = serve(Router::new().route("/keys", get(keys)).with_state(document)).await?;
    Ok(format!("http://{address}/keys"))
}

async fn serve(router: Router) -> Result<SocketAddr, Box<dyn StdError>> {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(address)
}

/// The app: answers with the assertion that it received.
async fn echo(headers: HeaderMap) -> String {
    headers.get("x-teamgate-assertion").and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
}

fn client() -> Result<Client, reqwest::Error> {
    Client::builder().no_proxy().redirect(Policy::none()).timeout(Duration::from_secs(20)).build()
}

async fn sign_in(url: &str) -> Result<String, Box<dyn StdError>> {
    let client = client()?;
    let mut cookies = BTreeMap::new();
    let start = send(client.get(url), &mut cookies).await?;
    let agreed = client.post(location(&start)?).form(&[("user", "ann")]).send().await?;
    let back = send(client.get(location(&agreed)?), &mut cookies).await?;
    location(&back)?;
    let page = send(client.get(url), &mut cookies).await?;
    match page.status() {
        StatusCode::OK => Ok(page.text().await?),
        other => Err(format!("signed in, and got {other}").into()),
    }
}

async fn send(
    request: RequestBuilder,
    cookies: &mut BTreeMap<String, String>,
) -> Result<Response, Box<dyn StdError>> {
    let jar: Vec<String> = cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let response = request.header(ACCEPT, "text/html").header(COOKIE, jar.join("; ")).send().await?;
    for cookie in response.headers().get_all(SET_COOKIE) {
        let pair = cookie.to_str()?.split(';').next().and_then(|pair| pair.split_once('='));
        let (name, value) = pair.ok_or("a cookie without a value")?;
        cookies.insert(name.to_owned(), value.to_owned());
    }
    Ok(response)
}

fn location(response: &Response) -> Result<String, Box<dyn StdError>> {
    let to =
        response.headers().get(LOCATION).ok_or_else(|| format!("{} leads nowhere", response.status()))?;
    Ok(to.to_str()?.to_owned())
}
