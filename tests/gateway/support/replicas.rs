//! Several gateways on one Redis: one configuration, one secret file, one way back from Bitbucket.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bitbucket_sim::{EXAMPLE_CLIENT_ID, EXAMPLE_CLIENT_SECRET, Simulator, World};
use tempfile::TempDir;

use super::redis::Server;
use super::{Browser, Checked, Config, Gateway, Response, Upstream, free_address};

/// Three replicas and everything around them.
pub(crate) struct Replicas {
    pub(crate) simulator: Simulator,
    pub(crate) upstream: Upstream,
    pub(crate) redis: Server,
    pub(crate) all: Vec<Replica>,
    _folder: TempDir,
}

/// One of them, as a balancer sees it.
pub(crate) struct Replica {
    pub(crate) gateway: Gateway,
    pub(crate) address: SocketAddr,
    in_rotation: AtomicBool,
    under_way: AtomicUsize,
}

impl Replica {
    /// Its address and `path`.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

impl Replicas {
    /// With `config`, which says nothing of listeners, of the store and of the secret file.
    pub(crate) async fn start(config: Config) -> Checked<Replicas> {
        let simulator = Simulator::start(([127, 0, 0, 1], 0).into(), World::example()).await?;
        let upstream = Upstream::start().await?;
        let redis = Server::plain()?;
        let folder = tempfile::tempdir()?;
        let secret: PathBuf = folder.path().join("teamgate.secret");
        let config = config
            .top("listen: [{ address: $OWN }]")
            .top("external_url: http://$FRONT")
            .top("secret_file: $SECRET")
            .top("store: { kind: redis, url: \"redis://$REDIS\" }");
        let mut all: Vec<Replica> = Vec::new();
        for _ in 0..3 {
            let address = free_address()?;
            let front = all.first().map_or(address, |first| first.address);
            let variables = [
                ("BITBUCKET", simulator.url()),
                ("UPSTREAM", upstream.url()),
                ("CLIENT_ID", EXAMPLE_CLIENT_ID.to_owned()),
                ("CLIENT_SECRET", EXAMPLE_CLIENT_SECRET.to_owned()),
                ("OWN", address.to_string()),
                ("FRONT", front.to_string()),
                ("SECRET", secret.display().to_string()),
                ("REDIS", redis.address().to_string()),
            ];
            let gateway = Gateway::start(&config, &variables).await?;
            all.push(Replica {
                gateway,
                address,
                in_rotation: AtomicBool::new(true),
                under_way: AtomicUsize::new(0),
            });
        }
        let callback = all[0].url("/.teamgate/callback");
        simulator.with(|world| world.set_callback(EXAMPLE_CLIENT_ID, &callback))?;
        Ok(Replicas { simulator, upstream, redis, all, _folder: folder })
    }

    /// A new browser in which `user` has signed in.
    pub(crate) async fn signed_in(&self, user: &str) -> Checked<Browser> {
        let browser = Browser::new();
        browser.sign_in(&self.all[0].url("/lobby"), user).await?.expect(200)?;
        Ok(browser)
    }

    /// What a balancer does with the `number`th request: gives it to one that is in rotation.
    pub(crate) async fn balanced(&self, browser: &Browser, path: &str, number: usize) -> Checked<Response> {
        let count = self.all.len();
        for step in 0..count {
            let replica = &self.all[(number + step) % count];
            // Counted first: who takes it out of rotation sees this request, or is seen by it.
            replica.under_way.fetch_add(1, Ordering::SeqCst);
            let outcome = match replica.in_rotation.load(Ordering::SeqCst) {
                true => Some(browser.script(&replica.url(path)).await),
                false => None,
            };
            replica.under_way.fetch_sub(1, Ordering::SeqCst);
            if let Some(outcome) = outcome {
                return outcome;
            }
        }
        Err("none is in rotation".into())
    }

    /// Takes one out of rotation, and waits for the requests that it has.
    pub(crate) async fn take_out(&self, number: usize) -> Checked {
        let replica = &self.all[number];
        replica.in_rotation.store(false, Ordering::SeqCst);
        super::eventually("its requests are over", async || Ok(replica.under_way.load(Ordering::SeqCst) == 0))
            .await
    }

    /// Puts it back.
    pub(crate) fn put_back(&self, number: usize) {
        self.all[number].in_rotation.store(true, Ordering::SeqCst);
    }
}
