//! What the tests are made of: [`Setup`] (a gateway with everything around it), [`Browser`], [`Wire`].

#![expect(dead_code, reason = "the tests of one file use a part of this only")]

mod blunt;
mod browser;
mod config;
mod gateway;
pub(crate) mod grpc;
pub(crate) mod h2wire;
mod haproxy;
mod http;
mod nginx;
#[path = "../servers/ports.rs"]
mod ports;
#[path = "../servers/redis.rs"]
pub(crate) mod redis;
pub(crate) mod replicas;
mod tls;
mod upstream;
mod wire;

use std::error::Error;
use std::time::Duration;

use bitbucket_sim::{Client, EXAMPLE_CLIENT_ID, EXAMPLE_CLIENT_SECRET, Simulator, World};

pub(crate) use self::blunt::Blunt;
pub(crate) use self::browser::{Browser, CHROME_ACCEPT, navigation};
pub(crate) use self::config::Config;
pub(crate) use self::gateway::{Gateway, Run};
pub(crate) use self::haproxy::Haproxy;
pub(crate) use self::http::{Request, Response, send};
pub(crate) use self::nginx::{Authority, Nginx};
pub(crate) use self::ports::free_address;
pub(crate) use self::tls::shown_certificate;
pub(crate) use self::upstream::Upstream;
pub(crate) use self::wire::{Wire, raw};

/// Why a test could not go on.
pub(crate) type Failure = Box<dyn Error + Send + Sync>;

/// What a test, or a part of it, comes to.
pub(crate) type Checked<T = ()> = Result<T, Failure>;

/// How long anything may take that a test waits for. Long, so that a slow machine fails nothing; what is
/// waited for is over much sooner.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A gateway with everything around it: a pretend Bitbucket and an app, both in this process.
pub(crate) struct Setup {
    /// The pretend Bitbucket: `World::example()`, with the gateway as its client.
    pub(crate) simulator: Simulator,
    /// The app behind every route of [`Config::default`].
    pub(crate) upstream: Upstream,
    /// The real program.
    pub(crate) gateway: Gateway,
}

impl Setup {
    /// With the default configuration.
    pub(crate) async fn new() -> Checked<Setup> {
        Setup::with(Config::default()).await
    }

    /// With `config`; ready to serve when this returns.
    pub(crate) async fn with(config: Config) -> Checked<Setup> {
        Setup::with_variables(config, &[]).await
    }

    /// With `config`, which uses more variables.
    pub(crate) async fn with_variables(config: Config, more: &[(&'static str, String)]) -> Checked<Setup> {
        let simulator = Simulator::start(([127, 0, 0, 1], 0).into(), World::example()).await?;
        let upstream = Upstream::start().await?;
        let variables = [
            ("BITBUCKET", simulator.url()),
            ("UPSTREAM", upstream.url()),
            ("CLIENT_ID", EXAMPLE_CLIENT_ID.to_owned()),
            ("CLIENT_SECRET", EXAMPLE_CLIENT_SECRET.to_owned()),
        ];
        let gateway = Gateway::start(&config, &[&variables, more].concat()).await?;
        simulator.with(|world| world.set_callback(EXAMPLE_CLIENT_ID, &gateway.url("/.teamgate/callback")))?;
        Ok(Setup { simulator, upstream, gateway })
    }

    /// Another gateway beside the first, with a folder, a secret and a Bitbucket client of its own.
    pub(crate) async fn another(&self, config: Config) -> Checked<Gateway> {
        let variables = [
            ("BITBUCKET", self.simulator.url()),
            ("UPSTREAM", self.upstream.url()),
            ("CLIENT_ID", "another".to_owned()),
            ("CLIENT_SECRET", "another-secret-of-the-tests".to_owned()),
        ];
        let gateway = Gateway::start(&config, &variables).await?;
        let callback = gateway.url("/.teamgate/callback");
        self.simulator.with(|world| {
            world.register_client(Client::new("another", "another-secret-of-the-tests", &callback));
        });
        Ok(gateway)
    }

    /// The gateway's address and `path`.
    pub(crate) fn url(&self, path: &str) -> String {
        self.gateway.url(path)
    }

    /// A new browser in which `user` (`ann`, `ben`, …) has signed in and landed on `/lobby`.
    pub(crate) async fn signed_in(&self, user: &str) -> Checked<Browser> {
        let browser = Browser::new();
        let page = browser.sign_in(&self.url("/lobby"), user).await?;
        page.expect(200)?;
        Ok(browser)
    }
}

/// Waits until `condition` holds.
///
/// # Errors
///
/// When it does not within [`PATIENCE`], with `what` was waited for.
pub(crate) async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> Checked<bool>) -> Checked {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !condition().await? {
        if tokio::time::Instant::now() > deadline {
            return Err(format!("waited in vain until {what}").into());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
