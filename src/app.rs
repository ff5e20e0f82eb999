//! Builds everything once, serves, and goes down in order.
//!
//! Owns: the order of starting and stopping, background timers, what readiness asks.
//! Must not know: how any part works.

mod assemble;
mod secret;

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use async_trait::async_trait;
use pingora::apps::HttpServerOptions;
use pingora::proxy::http_proxy;
use pingora::server::configuration::ServerConf;
use pingora::server::{RunArgs, Server, ShutdownSignal, ShutdownSignalWatch};
use tokio::runtime::Runtime;
use tokio::sync::watch;

use self::secret::Follower;
use crate::admin::{self, Admin, Api, Probes};
use crate::assertion::{self, Assertions};
use crate::bitbucket;
use crate::clock::{Clock, Timestamp};
use crate::config::compile::store::Store as Place;
use crate::config::compile::{Compiled, Token, secret_text};
use crate::directory::Directory;
use crate::directory::background::keep_young;
use crate::directory::checkup::{self, Doctor};
use crate::entropy::Entropy;
use crate::gate::Gate;
use crate::keys::{self, Keyring};
use crate::listener::admission::{self, Admission};
use crate::listener::reload::{self, LOOK_EVERY};
use crate::listener::{Bound, Listen, Listener};
use crate::live::{Live, TIDY_EVERY, feed};
use crate::login::Login;
use crate::open::Open;
use crate::open::watch::Watch;
use crate::pages::{self, Services};
use crate::proxy::Proxy;
use crate::proxy::accounts::Accounts;
use crate::proxy::balance::Pools;
use crate::proxy::facts::RequestIds;
use crate::secret::Secret;
use crate::session;
use crate::snapshot::Current;
use crate::store::lease::{Claim, Task};
use crate::store::{self, Store};
use crate::telemetry::audit::{EndReason, Event};
use crate::telemetry::labels::Freshness;
use crate::telemetry::{self, Telemetry};
use crate::throttle::Throttle;

/// Why the gateway does not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The secret file.
    #[error(transparent)]
    Secret(#[from] keys::secret_file::Error),
    /// The store.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The signing keys.
    #[error(transparent)]
    Assertions(#[from] assertion::Error),
    /// The Bitbucket client.
    #[error(transparent)]
    Bitbucket(#[from] bitbucket::Error),
    /// Logs and metrics.
    #[error(transparent)]
    Telemetry(#[from] telemetry::Error),
    /// An address that cannot be listened on.
    #[error("{address}: cannot listen there ({source}); stop what has the port, or change `{key}`")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Where it stands in the configuration.
        key: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file with the admin address's token.
    #[error("{}: cannot be made ({source}); let the user that runs teamgate own its folder, or put a token there", file.display())]
    AdminToken {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The server did not come up.
    #[error("the server did not come up; the lines before this one say why")]
    Down,
    /// TLS.
    #[error("TLS cannot be set up ({0}); please report this")]
    Tls(#[from] rustls::Error),
    /// No runtime.
    #[error("no threads to run on: {0}")]
    Runtime(std::io::Error),
}

/// What readiness asks, kept by those who know.
#[derive(Default)]
struct Health {
    listening: AtomicBool,
    store: ArcSwapOption<String>,
}

/// A gateway that is built and not yet serving.
pub struct App {
    runtime: Runtime,
    fingerprint: String,
    compiled: Compiled,
    telemetry: Telemetry,
    current: Current,
    services: Services,
    store: Store,
    directory: Directory,
    doctor: Arc<Doctor>,
    clock: Clock,
    entropy: Entropy,
    listeners: Vec<Bound>,
    certificates: Arc<Mutex<reload::Watch>>,
    admin: TcpListener,
    admin_token: Option<Arc<Secret<String>>>,
    health: Arc<Health>,
    open: Open,
    under_way: Arc<AtomicUsize>,
    pools: Pools,
}

impl App {
    /// Builds everything: keys, store, Bitbucket, directory, sessions, pages. `fingerprint` names the
    /// configuration in the audit log and in metrics.
    ///
    /// # Errors
    ///
    /// The first part that cannot be built; its message names the file or address.
    pub fn build(compiled: Compiled, fingerprint: String) -> Result<App, Error> {
        let (clock, entropy) = (Clock::system(), Entropy::system());
        // The first draw of a process may take 0.1 s; no visitor should wait for it.
        let _: [u8; 32] = entropy.bytes();
        let telemetry = Telemetry::start(&assemble::log_settings(&compiled.log))?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("teamgate")
            .enable_all()
            .build()
            .map_err(Error::Runtime)?;
        let listen: Vec<Listen> = compiled.listen.iter().map(assemble::listener).collect::<Result<_, _>>()?;
        let settings = compiled.listen.iter().map(|listen| listen.tls.as_ref());
        let shown = settings.zip(&listen).filter_map(|(tls, listen)| Some((tls?, listen.tls.clone()?)));
        let certificates = Arc::new(Mutex::new(reload::Watch::new(shown)));
        let listeners = {
            let _within = runtime.enter();
            listen.into_iter().map(bound).collect::<Result<Vec<Bound>, Error>>()?
        };
        let admin = bind(compiled.admin.address, "admin.address")?;
        let admin_token =
            compiled.admin.token.as_ref().map(|token| admin_token(token, &entropy)).transpose()?;
        let (ring, _) = Keyring::load_or_create(&compiled.secret_file, &entropy, clock.now())?;
        let ring = Arc::new(ring);
        let (keys, draws, counts) = (ring.clone(), entropy.clone(), telemetry.metrics.clone());
        let store = match &compiled.store {
            Place::Embedded(folder) => Store::open(folder, keys, draws, counts)?,
            Place::Redis(settings) => {
                runtime.block_on(Store::connect(settings.clone(), keys, draws, counts))?
            }
        };
        let directory =
            Directory::new(store.clone(), clock.clone(), telemetry.clone(), runtime.handle().clone());
        let live = Live::new(store.clone(), directory.clone());
        let current =
            Arc::new(ArcSwap::from_pointee(assemble::snapshot(&compiled, &telemetry, directory.traffic())?));
        let assertions = runtime.block_on(Assertions::load(
            store.clone(),
            telemetry.clone(),
            entropy.clone(),
            &current.load().assertion,
            clock.now(),
        ))?;
        let gate = Gate {
            keyring: ring.clone(),
            live: live.clone(),
            directory: directory.clone(),
            telemetry: telemetry.clone(),
        };
        let login = Login {
            keyring: ring,
            entropy: entropy.clone(),
            store: store.clone(),
            directory: directory.clone(),
            live: live.clone(),
            clock: clock.clone(),
            telemetry: telemetry.clone(),
            sign_ins: Throttle::default(),
            callbacks: Throttle::default(),
        };
        let services = Services { gate, login, live, assertions };
        let under_way = Arc::new(AtomicUsize::new(0));
        let pools = Pools::new(runtime.handle().clone(), telemetry.clone());
        pools.adopt(current.load().gate.routes.iter());
        Ok(App {
            runtime,
            fingerprint,
            compiled,
            telemetry,
            current,
            services,
            store,
            doctor: Doctor::new(directory.clone()),
            directory,
            clock,
            entropy,
            listeners,
            certificates,
            admin,
            admin_token,
            health: Arc::new(Health::default()),
            open: Open::default(),
            under_way,
            pools,
        })
    }

    /// The runtime that everything but the proxy runs on.
    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// Serves until a signal says to stop, then goes down in order. `ready` is called once, when every address
    /// takes connections.
    ///
    /// # Errors
    ///
    /// When the server does not come up.
    pub fn serve(mut self, ready: impl FnOnce()) -> Result<(), Error> {
        self.start_timers();
        let probes = Arc::new(self.probes());
        self.start_admin(probes.clone());
        let (stop, stopping) = watch::channel(Stop::No);
        let (accepts, mut accepting) = watch::channel(false);
        let server = self.server(accepts);
        let thread = std::thread::Builder::new().name("pingora".to_owned()).spawn(move || {
            server.run(RunArgs { shutdown_signal: Box::new(Signals { stop }) });
        });
        thread.map_err(Error::Runtime)?;
        // The addresses take connections since they were bound; from here on somebody accepts them.
        self.runtime.block_on(async {
            while accepting.changed().await.is_ok() {
                if *accepting.borrow() {
                    return Ok(());
                }
            }
            Err(Error::Down)
        })?;
        self.health.listening.store(true, Ordering::Release);
        self.telemetry.audit.record(
            self.clock.now(),
            &Event::Started { version: telemetry::VERSION.to_owned(), config: self.fingerprint.clone() },
        );
        self.telemetry.metrics.config_in_force(&self.fingerprint, self.compiled.routes.len());
        ready();
        self.runtime.block_on(self.drain(stopping, &probes));
        self.telemetry.flush();
        Ok(())
    }

    /// Waits for the signal, then for the requests that are under way, then for the disk.
    async fn drain(&self, mut stopping: watch::Receiver<Stop>, probes: &Probes) {
        // The sender lives in the server's thread; when that is gone there is nothing left to wait for.
        let _ = stopping.wait_for(|stop| *stop != Stop::No).await;
        probes.drain();
        let deadline = tokio::time::Instant::now() + self.compiled.shutdown_grace;
        while self.under_way.load(Ordering::Acquire) > 0
            && tokio::time::Instant::now() < deadline
            && *stopping.borrow() != Stop::AtOnce
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let now = self.clock.now();
        if let Err(error) = self.services.live.tidy(&self.current.load().gate.session, now).await {
            tracing::warn!(%error, "the last uses of sessions were not written down");
        }
        if let Err(error) = self.store.close().await {
            tracing::error!(%error, "the store was not closed in good order");
        }
        self.telemetry.audit.record(now, &Event::Stopped);
    }

    fn server(&mut self, accepts: watch::Sender<bool>) -> Server {
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let conf = ServerConf {
            threads,
            // We end the process ourselves when the last request is over; Pingora would sleep this out.
            grace_period_seconds: Some(self.compiled.shutdown_grace.as_secs() + 3600),
            graceful_shutdown_timeout_seconds: Some(0),
            // Pingora takes it for each thread.
            upstream_keepalive_pool_size: self.compiled.kept_connections.div_ceil(threads),
            // More than a request ever makes: proxy/attempt counts them.
            max_retries: 16,
            ..ServerConf::default()
        };
        let mut server = Server::new_with_opt_and_conf(None, conf);
        server.bootstrap();
        let proxy = Proxy {
            current: self.current.clone(),
            services: self.services.clone(),
            router: pages::router(self.services.clone(), &self.current.load().edge.callback.path),
            runtime: self.runtime.handle().clone(),
            clock: self.clock.clone(),
            ids: RequestIds::new(&self.entropy),
            pools: self.pools.clone(),
            telemetry: self.telemetry.clone(),
            open: self.open.clone(),
            accounts: Arc::new(Accounts {
                telemetry: self.telemetry.clone(),
                clock: self.clock.clone(),
                directory: self.directory.clone(),
            }),
            under_way: self.under_way.clone(),
        };
        let admission = self.admission();
        let mut proxy = http_proxy(&server.configuration, proxy);
        let mut options = HttpServerOptions::default();
        // So that CONNECT is refused by us, with a page and a line in the log, and not by Pingora without.
        options.allow_connect_method_proxying = true;
        proxy.server_options = Some(options);
        server.add_service(Listener {
            app: Arc::new(proxy),
            bound: std::mem::take(&mut self.listeners),
            limits: assemble::listener_limits(&self.compiled.limits),
            admission,
            telemetry: self.telemetry.clone(),
            clock: self.clock.clone(),
            accepts,
        });
        server
    }

    /// How many connections there may be, and a gauge of how many there are.
    fn admission(&self) -> Admission {
        let admission = Admission::new(admission::Settings {
            connections: self.compiled.limits.connections,
            per_address: self.compiled.limits.connections_per_address,
            proxies: self.compiled.trusted_proxies.clone(),
        });
        let counted = admission.clone();
        self.telemetry.metrics.at_scrape(move |metrics| {
            metrics.connections.set(i64::try_from(counted.open()).unwrap_or(i64::MAX));
        });
        admission
    }

    /// Looks at Bitbucket: at what was seen every minute, and by asking every hour.
    fn watch_bitbucket(&self) {
        let (doctor, current) = (self.doctor.clone(), self.current.clone());
        self.runtime.spawn(every(checkup::LOOK_EVERY, move || {
            doctor.look(&current.load().gate.directory);
            std::future::ready(())
        }));
        let (doctor, current) = (self.doctor.clone(), self.current.clone());
        self.runtime.spawn(every(checkup::ASK_EVERY, move || {
            let (doctor, current) = (doctor.clone(), current.load_full());
            async move {
                doctor.check(&current.gate.directory).await;
            }
        }));
    }

    fn start_timers(&self) {
        self.watch_certificates();
        self.watch_bitbucket();

        let current = self.current.clone();
        self.runtime.spawn(keep_young(self.directory.clone(), move || current.load().gate.directory.clone()));

        let (directory, settings) = (self.directory.clone(), self.current.load().gate.directory.clone());
        self.runtime.spawn(async move {
            if let Err(error) = directory.recall_names(&settings).await {
                tracing::warn!(%error, "teams that are given by uuid are called by it until one of them is seen");
            }
        });

        let watch = Watch {
            open: self.open.clone(),
            gate: self.services.gate.clone(),
            telemetry: self.telemetry.clone(),
        };
        let (current, clock) = (self.current.clone(), self.clock.clone());
        self.runtime.spawn(async move {
            let mut pace = watch.pace();
            loop {
                pace.next().await;
                let (watch, current, now) = (watch.clone(), current.load_full(), clock.now());
                // In a task of its own: a mistake in one round must not leave everything open for ever.
                let round = tokio::spawn(async move { watch.round(&current.gate, now).await });
                if round.await.is_err() {
                    tracing::error!("open connections could not be decided on; please report this");
                }
            }
        });

        let (live, current, clock, telemetry) =
            (self.services.live.clone(), self.current.clone(), self.clock.clone(), self.telemetry.clone());
        self.runtime.spawn(every(TIDY_EVERY, move || {
            let (live, current, now, telemetry) =
                (live.clone(), current.load_full(), clock.now(), telemetry.clone());
            async move {
                if let Err(error) = live.tidy(&current.gate.session, now).await {
                    telemetry.warn_limited("store", now, &error);
                }
            }
        }));

        let (assertions, current, clock, telemetry) = (
            self.services.assertions.clone(),
            self.current.clone(),
            self.clock.clone(),
            self.telemetry.clone(),
        );
        self.runtime.spawn(every(Duration::from_secs(10), move || {
            let (assertions, current, now, telemetry) =
                (assertions.clone(), current.load_full(), clock.now(), telemetry.clone());
            async move {
                if let Err(error) = assertions.rotate(&current.assertion, now).await {
                    telemetry.warn_limited("keys", now, &error);
                }
            }
        }));

        self.follow_replicas();

        let (store, live, health) = (self.store.clone(), self.services.live.clone(), self.health.clone());
        let mut spoiled = 0;
        self.runtime.spawn(every(Duration::from_secs(2), move || {
            let (store, live, health) = (store.clone(), live.clone(), health.clone());
            let before = std::mem::replace(&mut spoiled, store.spoiled_records());
            if spoiled > before {
                tracing::error!(
                    count = spoiled - before,
                    "records of the store do not open and are passed over; look at the disk, and who can write there"
                );
            }
            async move {
                let problem = store.healthy().await.err().map(|error| Arc::new(error.to_string()));
                if problem.is_none()
                    && let Ok(written @ 1..) = live.settle().await
                {
                    tracing::info!(
                        count = written,
                        "ends of sessions that the store had not taken are written down"
                    );
                }
                health.store.store(problem);
            }
        }));

        let (clock, telemetry) = (self.clock.clone(), self.telemetry.clone());
        self.runtime.spawn(every(Duration::from_secs(60), move || {
            telemetry.summarise_repeats(clock.now());
            std::future::ready(())
        }));

        let sweeper = Sweeper {
            live: self.services.live.clone(),
            store: self.store.clone(),
            directory: self.directory.clone(),
            telemetry: self.telemetry.clone(),
            turn: self.sweep_every() * 3 / 4,
        };
        let (current, clock) = (self.current.clone(), self.clock.clone());
        self.runtime.spawn(every(self.sweep_every(), move || {
            let (sweeper, current, now) = (sweeper.clone(), current.load_full(), clock.now());
            async move {
                if let Err(error) = sweeper.sweep(&current.gate.session, now).await {
                    sweeper.telemetry.warn_limited("store", now, &error);
                }
            }
        }));

        let mut follower = Follower::new(
            &self.compiled.secret_file,
            self.services.gate.keyring.clone(),
            self.store.clone(),
            self.telemetry.clone(),
        );
        let clock = self.clock.clone();
        self.runtime.spawn(async move {
            loop {
                follower.step(clock.now()).await;
                tokio::time::sleep(secret::LOOK_EVERY).await;
            }
        });
    }

    /// Hears what other replicas do.
    fn follow_replicas(&self) {
        let feed = match self.store.feed() {
            Ok(feed) => feed,
            // It was opened with the same settings.
            Err(error) => return tracing::error!(%error, "nothing is heard of other replicas"),
        };
        let listener = feed::Listener {
            live: self.services.live.clone(),
            assertions: self.services.assertions.clone(),
            clock: self.clock.clone(),
            telemetry: self.telemetry.clone(),
        };
        let current = self.current.clone();
        self.runtime.spawn(listener.listen(feed, move || current.load().assertion.clone()));
    }

    /// Often enough that what is over is gone soon after, measured by how soon things are over here.
    fn sweep_every(&self) -> Duration {
        self.compiled.session.idle.clamp(Duration::from_secs(2), Duration::from_secs(600))
    }

    fn watch_certificates(&self) {
        if locked(&self.certificates).is_empty() {
            return;
        }
        let (certificates, clock, telemetry) =
            (self.certificates.clone(), self.clock.clone(), self.telemetry.clone());
        self.runtime.spawn(every(LOOK_EVERY, move || {
            let (certificates, now, telemetry) = (certificates.clone(), clock.now(), telemetry.clone());
            async move {
                // It reads files, and a network's file system may take its time.
                let look = move || locked(&certificates).look(now, &telemetry);
                let _ = tokio::task::spawn_blocking(look).await;
            }
        }));
    }

    /// What must be there for the gateway to serve.
    fn probes(&self) -> Probes {
        let (listeners, store) = (self.health.clone(), self.health.clone());
        Probes::new()
            .with("listeners", move || match listeners.listening.load(Ordering::Acquire) {
                true => Ok(()),
                false => Err("not every address takes connections yet".to_owned()),
            })
            .with("store", move || match store.store.load().as_deref() {
                None => Ok(()),
                Some(problem) => Err(problem.clone()),
            })
    }

    fn start_admin(&self, probes: Arc<Probes>) {
        let (directory, current, clock) = (self.directory.clone(), self.current.clone(), self.clock.clone());
        let (live, store, open) = (self.services.live.clone(), self.store.clone(), self.open.clone());
        let pools = self.pools.clone();
        self.telemetry.metrics.at_scrape(move |metrics| {
            pools.report();
            let now = clock.now();
            let census = directory.census(&current.load().gate.directory, now);
            metrics.memberships.of(Freshness::Fresh).set(census.young);
            metrics.memberships.of(Freshness::Due).set(census.due);
            metrics.memberships.of(Freshness::Stale).set(census.stale);
            metrics.oldest_membership.set(census.oldest_in_use.as_secs_f64());
            directory.report(metrics);
            metrics.sessions.set(i64::try_from(live.count()).unwrap_or(i64::MAX));
            for (kind, count) in open.census(now) {
                metrics.open_connections.of(kind).set(count);
            }
            let owed = i64::try_from(directory.revocations().owed()).unwrap_or(i64::MAX);
            metrics.revocations_owed.set(owed);
            let spoiled = store.spoiled_records().saturating_sub(metrics.corrupted_records.get());
            metrics.corrupted_records.inc_by(spoiled);
        });
        let assertions = self.services.assertions.clone();
        let api = Api {
            live: self.services.live.clone(),
            directory: self.directory.clone(),
            store: self.store.clone(),
            assertions: assertions.clone(),
            ring: self.services.gate.keyring.clone(),
            doctor: self.doctor.clone(),
            current: self.current.clone(),
            clock: self.clock.clone(),
            telemetry: self.telemetry.clone(),
        };
        let router = admin::router(Admin {
            settings: admin::Settings { token: self.admin_token.clone() },
            probes,
            metrics: self.telemetry.metrics.clone(),
            jwks: Box::new(move || assertions.jwks()),
            api: Some(api),
        });
        if let Ok(listener) = self.admin.try_clone() {
            self.runtime.spawn(admin::serve(listener, router, std::future::pending()));
        }
    }
}

/// Removes what is over from the store.
#[derive(Clone)]
struct Sweeper {
    live: Live,
    store: Store,
    directory: Directory,
    telemetry: Telemetry,
    /// How long other replicas leave it alone after one has swept.
    turn: Duration,
}

impl Sweeper {
    /// Sessions first, and then the tokens of those who have none left.
    async fn sweep(&self, settings: &session::Settings, now: Timestamp) -> Result<(), store::Error> {
        // The store judges by the last use that it knows of.
        self.live.tidy(settings, now).await?;
        if let Claim::Held { .. } = self.store.take_lease(Task::Sweep, now, self.turn).await? {
            return Ok(());
        }
        // What other replicas know of the last use is written a little later.
        let as_of = if self.store.is_shared() { now.minus(TIDY_EVERY * 2) } else { now };
        let swept = self.store.sweep(as_of, settings).await?;
        self.telemetry.metrics.sessions_ended.of(EndReason::Expired).inc_by(swept.sessions as u64);
        self.directory.forget_all_unused(now).await?;
        Ok(())
    }
}

/// Poisoned by a panic, it is as good as before: each look begins anew.
fn locked(certificates: &Mutex<reload::Watch>) -> MutexGuard<'_, reload::Watch> {
    certificates.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn every<F: Future<Output = ()>>(span: Duration, mut task: impl FnMut() -> F) {
    let mut tick = tokio::time::interval(span);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    tick.tick().await;
    loop {
        tick.tick().await;
        task().await;
    }
}

/// Whether to stop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stop {
    No,
    WhenIdle,
    AtOnce,
}

/// SIGTERM and the first SIGINT stop when the requests under way are over; a second one stops at once.
struct Signals {
    stop: watch::Sender<Stop>,
}

#[async_trait]
impl ShutdownSignalWatch for Signals {
    async fn recv(&self) -> ShutdownSignal {
        use tokio::signal::unix::{SignalKind, signal};
        let (Ok(mut terminate), Ok(mut interrupt)) =
            (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
        else {
            return std::future::pending().await;
        };
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        self.stop.send_replace(Stop::WhenIdle);
        let stop = self.stop.clone();
        tokio::spawn(async move {
            interrupt.recv().await;
            stop.send_replace(Stop::AtOnce);
        });
        ShutdownSignal::GracefulTerminate
    }
}

/// Takes an address for browsers. Within a runtime.
fn bound(listen: Listen) -> Result<Bound, Error> {
    let address = listen.address;
    Bound::new(listen).map_err(|source| Error::Listen { address, key: "listen.address", source })
}

/// The token that operators show, made where there is none yet.
fn admin_token(token: &Token, entropy: &Entropy) -> Result<Arc<Secret<String>>, Error> {
    let file = match token {
        Token::Known(token) => return Ok(token.clone()),
        Token::ToBeMade(file) => file,
    };
    let fault = |source| Error::AdminToken { file: file.clone(), source };
    let made = Secret::new(entropy.token::<32>());
    match secret_text::create(file, &made, entropy) {
        Ok(()) => {
            tracing::info!(file = %file.display(), "the admin address has a new token");
            Ok(Arc::new(made))
        }
        // Another process made it a moment ago.
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            let read = secret_text::read(file).map_err(|error| fault(std::io::Error::other(error)))?;
            Ok(Arc::new(read.secret))
        }
        Err(error) => Err(fault(error)),
    }
}

/// Takes an address for operators.
fn bind(address: SocketAddr, key: &'static str) -> Result<TcpListener, Error> {
    TcpListener::bind(address).map_err(|source| Error::Listen { address, key, source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::Known;
    use crate::identity::{AccountId, Claims, VerifiedIdentity};
    use crate::live::Browser;
    use crate::membership::Membership;
    use crate::session::SessionKey;
    use crate::store::Grant;

    type Outcome = Result<(), Box<dyn std::error::Error>>;

    const SETTINGS: session::Settings =
        session::Settings { lifetime: Duration::from_secs(10_000), idle: Duration::from_secs(1_000) };

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_unix_seconds(1_800_000_000 + seconds)
    }

    /// Somebody who signs in at `now`.
    async fn signed_in(sweeper: &Sweeper, person: u8, session: u8, now: Timestamp) -> Outcome {
        let claims = Claims {
            account: AccountId::from_bytes([person; 16]),
            display_name: "Ann".into(),
            nickname: None,
            email: None,
        };
        let known = Known {
            identity: VerifiedIdentity::vouched_for(claims),
            profile_as_of: now,
            membership: Membership::new(now, Vec::new()),
        };
        let grant = Grant {
            access_token: Secret::new("access".to_owned()),
            refresh_token: None,
            expires_at: now.plus(Duration::from_secs(7_200)),
            scopes: None,
            obtained_at: now,
            refreshing_since: None,
        };
        let account = sweeper.directory.learn(known, &grant, now).await?;
        sweeper.live.begin(SessionKey([session; 32]), account, Browser::default(), now).await?;
        Ok(())
    }

    #[tokio::test]
    async fn the_tokens_of_whose_last_session_expired_go_with_it() -> Outcome {
        let (folder, entropy, clock) = (tempfile::tempdir()?, Entropy::system(), Clock::manual(at(0)));
        let telemetry = Telemetry::unheard()?;
        let ring = Arc::new(Keyring::ephemeral(&entropy)?);
        let store = Store::open(folder.path(), ring, entropy, telemetry.metrics.clone())?;
        let runtime = tokio::runtime::Handle::current();
        let directory = Directory::new(store.clone(), clock, telemetry.clone(), runtime);
        let live = Live::new(store.clone(), directory.clone());
        let turn = Duration::from_secs(1);
        let sweeper = Sweeper { live, store: store.clone(), directory, telemetry, turn };
        let holders = async || store.accounts_with_grant(None, 10).await;
        let (ann, ben, cleo) = (AccountId::from_bytes([1; 16]), AccountId::from_bytes([2; 16]), 3);
        signed_in(&sweeper, 1, 1, at(0)).await?;
        signed_in(&sweeper, 2, 2, at(0)).await?;
        signed_in(&sweeper, 2, 3, at(900)).await?;
        // In use, which the store knows only when it is tidied.
        assert!(sweeper.live.in_memory(&SessionKey([3; 32]), &SETTINGS, at(1_500)).is_some());
        sweeper.sweep(&SETTINGS, at(999)).await?;
        assert_eq!(holders().await?, [ann, ben]);

        sweeper.sweep(&SETTINGS, at(2_000)).await?;
        assert_eq!(store.session_count().await?, 1);
        assert_eq!(holders().await?, [ben]);
        assert_eq!(sweeper.telemetry.metrics.sessions_ended.of(EndReason::Expired).get(), 2);

        // One that signs in at this moment has written a grant and not yet a session: it stays.
        store.end_session(SessionKey([3; 32])).await?;
        signed_in(&sweeper, cleo, 4, at(2_000)).await?;
        store.end_session(SessionKey([4; 32])).await?;
        sweeper.sweep(&SETTINGS, at(2_030)).await?;
        assert_eq!(holders().await?, [AccountId::from_bytes([cleo; 16])]);
        sweeper.sweep(&SETTINGS, at(2_100)).await?;
        assert_eq!(holders().await?, []);
        Ok(())
    }
}
