//! The connection to Redis: one server, the master that Sentinel names, or a Cluster.
//!
//! Owns: [`Settings`], connecting and connecting again, every time limit, what an error of the server or of the
//! network means. Must not know: what is asked.
//!
//! One multiplexed connection serves everybody (one for each node of a Cluster): what many ask at once travels
//! together. A connection that failed is thrown away, and the next question makes a new one, but not sooner than
//! a moment after the last attempt: whoever asks in between is refused at once instead of waiting in a queue.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use ::redis::aio::{ConnectionLike, MultiplexedConnection};
use ::redis::cluster::ClusterClientBuilder;
use ::redis::cluster_async::ClusterConnection;
use ::redis::sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType};
use ::redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind, FromRedisValue,
    IntoConnectionInfo, Pipeline, RedisConnectionInfo, RedisError, RedisFuture, RedisResult, ServerErrorKind,
    TlsCertificates, TlsMode, Value,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::sync::{Mutex, Semaphore};
use tokio::time::Instant;

use super::super::{Error, Fault};
use super::scripts::Lua;
use crate::secret::Secret;

/// How long a connection may take to be ready, all its steps together.
const CONNECT: Duration = Duration::from_secs(3);
/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(3);
/// How many questions are under way at once; the others wait to be let in, so that the last of a crowd has as much
/// time for its answer as the first.
const UNDER_WAY: usize = 128;
/// How long one waits to be let in.
const LET_IN: Duration = Duration::from_secs(5);
/// How long a Cluster may look for the right node, once the wrong one was asked.
const REDIRECTED: Duration = Duration::from_secs(5);
/// The first pause after a failed attempt; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(800);

/// Where Redis is, and how to be let in.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Host and port of the server, of the Sentinels, or of some nodes of the Cluster.
    pub servers: Vec<(String, u16)>,
    /// What they are.
    pub topology: Topology,
    /// TLS on every connection; none: plain TCP.
    pub tls: Option<Tls>,
    /// The user of an access list; none: the default user.
    pub username: Option<String>,
    /// The password.
    pub password: Option<Arc<Secret<String>>>,
    /// The number of the database. A Cluster has only 0.
    pub database: u32,
    /// What every key begins with.
    pub prefix: Box<str>,
}

/// How the servers belong together.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Topology {
    /// One server.
    Single,
    /// Sentinels that know which server is the master.
    Sentinel {
        /// What the Sentinels call the group.
        master: Box<str>,
    },
    /// Nodes that share the keys.
    Cluster,
}

/// TLS to the servers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tls {
    /// The authorities that vouch for the servers, in DER; none: the system's.
    pub ca: Option<Vec<Vec<u8>>>,
}

impl Settings {
    /// The servers as messages name them: never with a password.
    pub fn place(&self) -> Arc<Path> {
        let scheme = if self.tls.is_some() { "rediss" } else { "redis" };
        let servers: Vec<String> =
            self.servers.iter().map(|(host, port)| format!("{}:{port}", bracketed(host))).collect();
        let place = match &self.topology {
            Topology::Sentinel { master } => format!("{scheme}://{} (master {master})", servers.join(",")),
            Topology::Single if self.database > 0 => {
                format!("{scheme}://{}/{}", servers.join(","), self.database)
            }
            Topology::Single | Topology::Cluster => format!("{scheme}://{}", servers.join(",")),
        };
        Arc::from(Path::new(&place))
    }

    fn certificates(&self) -> Option<TlsCertificates> {
        let tls = self.tls.as_ref()?;
        // The client wants it the other way.
        let pem = |der: &Vec<u8>| {
            format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", STANDARD.encode(der))
        };
        let root_cert = tls.ca.as_ref().map(|ca| ca.iter().map(pem).collect::<String>().into_bytes());
        Some(TlsCertificates { client_tls: None, root_cert })
    }

    fn addresses(&self) -> impl Iterator<Item = ConnectionAddr> + '_ {
        self.servers.iter().map(|(host, port)| match self.tls {
            None => ConnectionAddr::Tcp(host.clone(), *port),
            Some(_) => {
                ConnectionAddr::TcpTls { host: host.clone(), port: *port, insecure: false, tls_params: None }
            }
        })
    }

    fn login(&self) -> RedisConnectionInfo {
        let mut login = RedisConnectionInfo::default().set_db(i64::from(self.database));
        if let Some(username) = &self.username {
            login = login.set_username(username);
        }
        if let Some(password) = &self.password {
            login = login.set_password(password.expose());
        }
        login
    }
}

fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

/// What is wrong with a server, and the cure.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ServerFault {
    /// No connection, or it broke.
    #[error("cannot be reached; start it, or check the address and the network; teamgate goes on by itself")]
    Unreachable,
    /// TLS did not come about.
    #[error(
        "agrees on no TLS; check that it speaks TLS there, that its certificate is for this name, and `store.ca`"
    )]
    Tls,
    /// It says nothing.
    #[error("does not answer in time; check its load and the network; teamgate goes on by itself")]
    Silent,
    /// Wrong user or password.
    #[error("refuses the user name or the password; check `store.username` and `store.password`")]
    Login,
    /// The user may not do this.
    #[error(
        "forbids a command or a key to this user; `docs/operations.md` has the access list that it needs"
    )]
    Forbidden,
    /// `maxmemory` is reached.
    #[error("has no memory left for writes; raise its `maxmemory`; teamgate goes on by itself")]
    MemoryFull,
    /// It cannot save and is told to refuse writes then.
    #[error("refuses writes because it cannot save to its disk; check that disk; teamgate goes on by itself")]
    DiskFault,
    /// `min-replicas-to-write` is not met.
    #[error("has fewer replicas than its `min-replicas-to-write`; start them; teamgate goes on by itself")]
    FewReplicas,
    /// It is not the master, or not yet.
    #[error("is no master and takes no writes; teamgate asks again, and goes on once there is a master")]
    NoMaster,
    /// It is starting.
    #[error("is still loading its data; teamgate goes on by itself")]
    Loading,
    /// Parts of the Cluster have no node.
    #[error("is a cluster with slots that nobody serves; start the nodes that are missing")]
    SlotsUnserved,
    /// Something that this version does not understand.
    #[error(
        "gives an answer that makes no sense here; check that it is Redis 6.2 or later, or Valkey, and nobody else writes under `store.prefix`"
    )]
    Senseless,
    /// A record is sealed under a key that the secret file does not have yet.
    #[error(
        "has records under a key that this replica's secret file does not have; give every replica the same secret \
         file, a new key on its second line first"
    )]
    UnknownKey,
}

/// One connection, whatever is at its other end.
#[derive(Clone)]
pub(super) enum Connection {
    Server(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Connection::Server(connection) => connection.req_packed_command(cmd),
            Connection::Cluster(connection) => connection.req_packed_command(cmd),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Connection::Server(connection) => connection.req_packed_commands(pipeline, offset, count),
            Connection::Cluster(connection) => connection.req_packed_commands(pipeline, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Connection::Server(connection) => connection.get_db(),
            Connection::Cluster(connection) => connection.get_db(),
        }
    }
}

/// Makes connections.
pub(super) struct Dialer {
    settings: Settings,
    sentinel: Option<Mutex<SentinelClient>>,
    /// How long an answer may take.
    answer: Duration,
    retries: u32,
}

impl Dialer {
    /// For questions that are answered at once.
    pub(super) fn new(settings: Settings) -> RedisResult<Dialer> {
        Dialer::patient(settings, ANSWER, 3)
    }

    /// For questions that wait up to `answer` for something to happen, and are not asked again by themselves.
    pub(super) fn patient(settings: Settings, answer: Duration, retries: u32) -> RedisResult<Dialer> {
        let sentinel = match &settings.topology {
            Topology::Sentinel { master } => Some(Mutex::new(sentinels(&settings, master)?)),
            Topology::Single | Topology::Cluster => None,
        };
        Ok(Dialer { settings, sentinel, answer, retries })
    }

    pub(super) async fn connect(&self) -> RedisResult<Connection> {
        match tokio::time::timeout(CONNECT, self.dial()).await {
            Ok(outcome) => outcome,
            Err(_) => Err(RedisError::from(std::io::Error::from(std::io::ErrorKind::TimedOut))),
        }
    }

    async fn dial(&self) -> RedisResult<Connection> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT))
            .set_response_timeout(Some(self.answer));
        if let Some(sentinel) = &self.sentinel {
            let client = sentinel.lock().await.async_get_client().await?;
            return Ok(Connection::Server(
                client.get_multiplexed_async_connection_with_config(&config).await?,
            ));
        }
        let mut servers = Vec::new();
        for address in self.settings.addresses() {
            let info: ConnectionInfo = address.into_connection_info()?;
            servers.push(info.set_redis_settings(self.settings.login()));
        }
        if self.settings.topology == Topology::Cluster {
            let mut builder = ClusterClientBuilder::new(servers)
                .connection_timeout(CONNECT)
                .response_timeout(self.answer)
                .overall_response_timeout(Some(self.answer.max(REDIRECTED)))
                .retries(self.retries)
                .max_retry_wait(400);
            if let Some(certificates) = self.settings.certificates() {
                builder = builder.tls(TlsMode::Secure).certs(certificates);
            }
            return Ok(Connection::Cluster(builder.build()?.get_async_connection().await?));
        }
        let server = servers.swap_remove(0);
        let client = match self.settings.certificates() {
            Some(certificates) => Client::build_with_tls(server, certificates)?,
            None => Client::open(server)?,
        };
        Ok(Connection::Server(client.get_multiplexed_async_connection_with_config(&config).await?))
    }
}

fn sentinels(settings: &Settings, master: &str) -> RedisResult<SentinelClient> {
    let mut builder = SentinelClientBuilder::new(settings.addresses(), master, SentinelServerType::Master)?
        .set_client_to_redis_db(i64::from(settings.database));
    if let Some(certificates) = settings.certificates() {
        builder = builder
            .set_client_to_redis_tls_mode(TlsMode::Secure)
            .set_client_to_redis_certificates(certificates.clone())
            .set_client_to_sentinel_tls_mode(TlsMode::Secure)
            .set_client_to_sentinel_certificates(certificates);
    }
    if let Some(username) = &settings.username {
        builder = builder.set_client_to_redis_username(username);
    }
    if let Some(password) = &settings.password {
        builder = builder.set_client_to_redis_password(password.expose());
    }
    builder.build()
}

/// The one connection, made anew when it fails.
pub(super) struct Link {
    dialer: Dialer,
    pub(super) place: Arc<Path>,
    current: RwLock<Current>,
    /// Held by whoever makes a connection.
    attempt: Mutex<Attempt>,
    room: Semaphore,
}

#[derive(Default)]
struct Current {
    connection: Option<Connection>,
    /// Counts connections, so that an old failure does not cost a new connection.
    generation: u64,
    closed: bool,
}

struct Attempt {
    not_before: Instant,
    pause: Duration,
    fault: ServerFault,
}

impl Link {
    pub(super) fn new(settings: Settings) -> Result<Link, Error> {
        let place = settings.place();
        let dialer = Dialer::new(settings).map_err(|error| unavailable(&place, fault_of(&error)))?;
        let attempt =
            Attempt { not_before: Instant::now(), pause: FIRST_PAUSE, fault: ServerFault::Unreachable };
        Ok(Link {
            dialer,
            place,
            current: RwLock::default(),
            attempt: Mutex::new(attempt),
            room: Semaphore::new(UNDER_WAY),
        })
    }

    /// Asks, and asks once more over a new connection if the one at hand turns out to be broken: for what may
    /// be asked twice without harm.
    pub(super) async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, Error> {
        match self.attempt_once(command).await? {
            Err(ServerFault::Unreachable) => self.tell(command).await,
            outcome => outcome.map_err(|fault| self.unavailable(fault)),
        }
    }

    /// Asks once: what is done may have been done even where this fails.
    pub(super) async fn tell<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, Error> {
        self.attempt_once(command).await?.map_err(|fault| self.unavailable(fault))
    }

    /// Has a script run over `keys`, which are in one slot.
    pub(super) async fn run<T: FromRedisValue>(
        &self,
        script: &Lua,
        keys: &[Vec<u8>],
        arguments: &[&[u8]],
    ) -> Result<T, Error> {
        let evaluation = |name: &str, code: &str| {
            let mut command = ::redis::cmd(name);
            command.arg(code).arg(keys.len()).arg(keys);
            for argument in arguments {
                command.arg(*argument);
            }
            command
        };
        let (generation, connection) = self.connection().await?;
        let outcome = self.send(connection.clone(), &evaluation("EVALSHA", script.hash())).await;
        let outcome = match outcome {
            // Each server of a Cluster, and each one after a restart, hears the text once.
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                self.send(connection, &evaluation("EVAL", script.code())).await
            }
            outcome => outcome,
        };
        self.judge(generation, outcome).map_err(|fault| self.unavailable(fault))
    }

    async fn attempt_once<T: FromRedisValue>(&self, command: &Cmd) -> Result<Result<T, ServerFault>, Error> {
        let (generation, connection) = self.connection().await?;
        let outcome = self.send(connection, command).await;
        Ok(self.judge(generation, outcome))
    }

    async fn send(&self, mut connection: Connection, command: &Cmd) -> RedisResult<Value> {
        // The client has limits of its own; this one holds whatever it does.
        let limit = ANSWER.max(REDIRECTED) + Duration::from_millis(500);
        let Ok(_permit) = tokio::time::timeout(LET_IN, self.room.acquire()).await else {
            return Err(RedisError::from(std::io::Error::from(std::io::ErrorKind::TimedOut)));
        };
        match tokio::time::timeout(limit, connection.req_packed_command(command)).await {
            Ok(outcome) => outcome.and_then(Value::extract_error),
            Err(_) => Err(RedisError::from(std::io::Error::from(std::io::ErrorKind::TimedOut))),
        }
    }

    fn judge<T: FromRedisValue>(
        &self,
        generation: u64,
        outcome: RedisResult<Value>,
    ) -> Result<T, ServerFault> {
        let error = match outcome.and_then(|value| Ok(T::from_redis_value(value)?)) {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        let fault = fault_of(&error);
        match fault {
            ServerFault::Unreachable
            | ServerFault::Silent
            | ServerFault::Tls
            | ServerFault::NoMaster
            | ServerFault::SlotsUnserved
            | ServerFault::Login => self.drop_connection(generation),
            _ => {}
        }
        Err(fault)
    }

    async fn connection(&self) -> Result<(u64, Connection), Error> {
        if let Some(current) = self.current()? {
            return Ok(current);
        }
        let mut attempt = self.attempt.lock().await;
        if let Some(current) = self.current()? {
            return Ok(current);
        }
        if Instant::now() < attempt.not_before {
            return Err(self.unavailable(attempt.fault));
        }
        match self.dialer.connect().await {
            Ok(connection) => {
                attempt.pause = FIRST_PAUSE;
                let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
                if current.closed {
                    return Err(Error::Closed);
                }
                current.generation += 1;
                current.connection = Some(connection.clone());
                Ok((current.generation, connection))
            }
            Err(error) => {
                attempt.fault = fault_of(&error);
                attempt.not_before = Instant::now() + attempt.pause;
                attempt.pause = (attempt.pause * 2).min(LONGEST_PAUSE);
                Err(self.unavailable(attempt.fault))
            }
        }
    }

    fn current(&self) -> Result<Option<(u64, Connection)>, Error> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        if current.closed {
            return Err(Error::Closed);
        }
        Ok(current.connection.clone().map(|connection| (current.generation, connection)))
    }

    fn drop_connection(&self, generation: u64) {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        if current.generation == generation {
            current.connection = None;
        }
    }

    /// Everything after it fails with [`Error::Closed`].
    pub(super) fn close(&self) -> Result<(), Error> {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        if current.closed {
            return Err(Error::Closed);
        }
        *current = Current { closed: true, ..Current::default() };
        Ok(())
    }

    pub(super) fn unavailable(&self, fault: ServerFault) -> Error {
        unavailable(&self.place, fault)
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.place.display())
    }
}

fn unavailable(place: &Arc<Path>, fault: ServerFault) -> Error {
    Error::Unavailable { place: Arc::clone(place), fault: Fault::Server(fault) }
}

/// What an error of the client or the server means to an operator.
pub(super) fn fault_of(error: &RedisError) -> ServerFault {
    match error.code() {
        Some("WRONGPASS" | "NOAUTH") => return ServerFault::Login,
        Some("NOPERM") => return ServerFault::Forbidden,
        Some("OOM") => return ServerFault::MemoryFull,
        Some("MISCONF") => return ServerFault::DiskFault,
        Some("NOREPLICAS") => return ServerFault::FewReplicas,
        Some("READONLY" | "UNBLOCKED" | "MASTERDOWN") => return ServerFault::NoMaster,
        Some("LOADING") => return ServerFault::Loading,
        Some("CLUSTERDOWN" | "TRYAGAIN") => return ServerFault::SlotsUnserved,
        _ => {}
    }
    match error.kind() {
        ErrorKind::AuthenticationFailed => ServerFault::Login,
        ErrorKind::MasterNameNotFoundBySentinel | ErrorKind::NoValidReplicasFoundBySentinel => {
            ServerFault::NoMaster
        }
        ErrorKind::EmptySentinelList | ErrorKind::ClusterConnectionNotFound => ServerFault::Unreachable,
        ErrorKind::Server(_) | ErrorKind::Parse | ErrorKind::UnexpectedReturnType => ServerFault::Senseless,
        _ if error.is_timeout() => ServerFault::Silent,
        _ if is_tls(error) => ServerFault::Tls,
        _ => ServerFault::Unreachable,
    }
}

fn is_tls(error: &RedisError) -> bool {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(mut error) = source {
        if let Some(shared) = error.downcast_ref::<Arc<dyn std::error::Error + Send + Sync>>() {
            error = &**shared;
        }
        if let Some(error) = error.downcast_ref::<std::io::Error>()
            && error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>())
        {
            return true;
        }
        source = error.source();
    }
    false
}
