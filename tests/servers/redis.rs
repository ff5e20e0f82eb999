//! The real Redis: one server, one with TLS and an access list, three Sentinels over a master and a replica, a
//! Cluster of three. Debian's packages `redis-server` and `redis-sentinel` are enough. Everything listens on
//! loopback only, has a folder of its own, and is killed when dropped.

#![allow(dead_code, reason = "each test binary uses a part of this")]

use std::fs;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::ports::free_address;

/// How long anything may take that is waited for. Long, so that a slow machine fails nothing.
const PATIENCE: Duration = Duration::from_secs(60);

/// What every server is told: what was answered is on disk.
const DURABLE: &str = "appendonly yes\nappendfsync always\nsave \"\"\nmaxmemory-policy noeviction\n";

/// One process: `redis-server`, or the same program as a Sentinel.
pub(crate) struct Server {
    program: &'static str,
    address: SocketAddr,
    arguments: Vec<String>,
    child: Child,
    folder: TempDir,
}

impl Server {
    /// One server, as it is installed.
    pub(crate) fn plain() -> io::Result<Server> {
        Server::of("redis-server")
    }

    /// One server of `program`.
    pub(crate) fn of(program: &'static str) -> io::Result<Server> {
        Server::start(program, &[], |address, _| Ok(format!("port {}\n{DURABLE}", address.port())))
    }

    /// Starts one with the configuration that `write` gives for its address and folder.
    fn start(
        program: &'static str,
        arguments: &[&str],
        write: impl Fn(SocketAddr, &Path) -> io::Result<String>,
    ) -> io::Result<Server> {
        // A free port may be somebody else's a moment later.
        for _ in 0..5 {
            let (address, folder) = (free_address()?, tempfile::tempdir()?);
            let common = format!("bind 127.0.0.1\ndir {}\nlogfile server.log\n", folder.path().display());
            let text = common + &write(address, folder.path())?;
            fs::write(folder.path().join("server.conf"), text)?;
            let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
            let child = spawn(program, folder.path(), &arguments)?;
            let mut server = Server { program, address, arguments, child, folder };
            if server.takes_connections()? {
                return Ok(server);
            }
        }
        Err(io::Error::other(format!("{program} does not start")))
    }

    fn takes_connections(&mut self) -> io::Result<bool> {
        let deadline = Instant::now() + PATIENCE;
        while self.child.try_wait()?.is_none() {
            if TcpStream::connect(self.address).is_ok() {
                return Ok(true);
            }
            if Instant::now() > deadline {
                return Err(io::Error::other(format!("{} takes no connections", self.program)));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(false)
    }

    /// Where it takes connections.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) -> io::Result<()> {
        self.child.kill()?;
        self.child.wait().map(|_| ())
    }

    /// Starts it again after [`Server::kill`], with what is on its disk, and waits until it has read that.
    pub(crate) fn restart(&mut self) -> io::Result<()> {
        self.child = spawn(self.program, self.folder.path(), &self.arguments)?;
        if !self.takes_connections()? {
            return Err(io::Error::other("it does not start again"));
        }
        let deadline = Instant::now() + PATIENCE;
        while !matches!(self.say("PING").as_deref(), Ok("+PONG") | Ok("-NOAUTH Authentication required.")) {
            if Instant::now() > deadline {
                return Err(io::Error::other("it does not get ready again"));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// SIGSTOP or SIGCONT: it keeps its connections and says nothing.
    pub(crate) fn signal(&self, name: &str) -> io::Result<()> {
        Command::new("kill").args([name, &self.child.id().to_string()]).status().map(|_| ())
    }

    /// The first line of its answer to a command, or what a bulk answer holds.
    pub(crate) fn say(&self, command: &str) -> io::Result<String> {
        let stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        (&stream).write_all(format!("{command}\r\n").as_bytes())?;
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let line = line.trim_end().to_owned();
        let Some(length) = line.strip_prefix('$').and_then(|length| length.parse().ok()) else {
            return Ok(line);
        };
        let mut bulk = vec![0; length];
        reader.read_exact(&mut bulk)?;
        Ok(String::from_utf8_lossy(&bulk).into_owned())
    }

    /// The items of its answer to a command that gives a list.
    pub(crate) fn list(&self, command: &str) -> io::Result<Vec<String>> {
        let stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        (&stream).write_all(format!("{command}\r\n").as_bytes())?;
        let mut lines = BufReader::new(stream).lines();
        let mut line = || lines.next().unwrap_or_else(|| Err(io::ErrorKind::UnexpectedEof.into()));
        let count: usize = line()?.trim_start_matches('*').parse().map_err(io::Error::other)?;
        let mut items = Vec::new();
        for _ in 0..count {
            line()?;
            items.push(line()?);
        }
        Ok(items)
    }

    /// Everything on its disk.
    pub(crate) fn raw(&self) -> io::Result<Vec<u8>> {
        let mut raw = Vec::new();
        let mut folders = vec![self.folder.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder)? {
                let path = entry?.path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.file_name().is_some_and(|name| name != "server.log" && name != "server.conf") {
                    raw.extend(fs::read(path)?);
                }
            }
        }
        Ok(raw)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may be over already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(program: &str, folder: &Path, arguments: &[String]) -> io::Result<Child> {
    let mut command = Command::new(program);
    command.arg(folder.join("server.conf")).args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let hint = format!("{program}: install the packages redis-server and redis-sentinel");
    command.spawn().map_err(|error| io::Error::new(error.kind(), format!("{hint} ({error})")))
}

/// Whether a program is on `PATH`.
pub(crate) fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// The user of [`secured`], who may do what `docs/operations.md` says and nothing else.
pub(crate) const USER: &str = "teamgate";
/// And the password.
pub(crate) const PASSWORD: &str = "a password of the tests";
/// The access list of that page.
pub(crate) const ACCESS: &str =
    "~teamgate:* -@all +@read +@write +@scripting +@connection -keys -scan -flushall -flushdb";

/// A server that speaks TLS only and knows one user, and the authority of its certificate: in PEM, in DER.
pub(crate) fn secured() -> Result<(Server, String, Vec<u8>), Box<dyn std::error::Error + Send + Sync>> {
    let mut authority = rcgen::CertificateParams::new(Vec::new())?;
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate()?;
    let ca = authority.self_signed(&key)?;
    let (ca, der) = (ca.pem(), ca.der().to_vec());
    let issuer = rcgen::Issuer::new(authority, key);
    let key = rcgen::KeyPair::generate()?;
    let own = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()])?.signed_by(&key, &issuer)?.pem();
    let server = Server::start("redis-server", &[], |address, folder| {
        fs::write(folder.join("tls.crt"), &own)?;
        fs::write(folder.join("tls.key"), key.serialize_pem())?;
        fs::write(folder.join("ca.crt"), &ca)?;
        let access = format!("user default off\nuser {USER} on \">{PASSWORD}\" {ACCESS}\n");
        Ok(format!(
            "port 0\ntls-port {}\ntls-cert-file tls.crt\ntls-key-file tls.key\ntls-ca-cert-file ca.crt\n\
             tls-auth-clients no\n{DURABLE}{access}",
            address.port()
        ))
    })?;
    Ok((server, ca, der))
}

/// A master, a replica of it, and three Sentinels that agree by two.
pub(crate) struct Watched {
    /// The first is the master at the start.
    pub(crate) servers: Vec<Server>,
    /// Those who say which it is.
    pub(crate) sentinels: Vec<Server>,
}

/// What the Sentinels of the tests call the group.
pub(crate) const MASTER: &str = "gate-sessions";

impl Watched {
    /// Starts all five, and waits until the Sentinels know each other and the replica.
    pub(crate) fn start() -> io::Result<Watched> {
        let master = Server::plain()?;
        let port = master.address().port();
        let replica = Server::start("redis-server", &[], |address, _| {
            Ok(format!("port {}\nreplicaof 127.0.0.1 {port}\n{DURABLE}", address.port()))
        })?;
        let sentinels: Vec<Server> = (0..3)
            .map(|_| {
                Server::start("redis-server", &["--sentinel"], |address, _| {
                    Ok(format!(
                        "port {}\nsentinel monitor {MASTER} 127.0.0.1 {port} 2\n\
                         sentinel down-after-milliseconds {MASTER} 2000\nsentinel failover-timeout {MASTER} 6000\n",
                        address.port()
                    ))
                })
            })
            .collect::<io::Result<_>>()?;
        let watched = Watched { servers: vec![master, replica], sentinels };
        watched.eventually("the Sentinels know everybody", |watched| {
            let in_step = watched.servers[1].say("INFO replication")?.contains("master_link_status:up");
            let mut known = true;
            for sentinel in &watched.sentinels {
                let info = sentinel.say("INFO sentinel")?;
                known = known && info.contains("status=ok,") && info.contains("slaves=1,sentinels=3");
            }
            Ok(in_step && known)
        })?;
        Ok(watched)
    }

    /// Waits until the replica has everything.
    pub(crate) fn replicated(&self) -> io::Result<()> {
        self.eventually("the replica has everything", |watched| {
            let offset = |info: &str, name: &str| {
                info.lines().find_map(|line| line.strip_prefix(name)?.parse::<u64>().ok())
            };
            let master = offset(&watched.servers[0].say("INFO replication")?, "master_repl_offset:");
            let replica = offset(&watched.servers[1].say("INFO replication")?, "slave_repl_offset:");
            Ok(master.is_some() && replica >= master)
        })
    }

    fn eventually(&self, what: &str, held: impl Fn(&Watched) -> io::Result<bool>) -> io::Result<()> {
        wait_until(what, || held(self))
    }
}

/// Three masters that share the slots, and know [`USER`], who may see in addition which node has which.
pub(crate) struct Cluster {
    /// All of them.
    pub(crate) nodes: Vec<Server>,
}

impl Cluster {
    /// Starts them, and waits until each says that all is well.
    pub(crate) fn start() -> io::Result<Cluster> {
        let mut buses = Vec::new();
        let mut nodes = Vec::new();
        for _ in 0..3 {
            let bus = free_address()?.port();
            buses.push(bus);
            nodes.push(Server::start("redis-server", &[], |address, _| {
                Ok(format!(
                    "port {}\ncluster-enabled yes\ncluster-port {bus}\ncluster-node-timeout 4000\n{DURABLE}\
                     user {USER} on \">{PASSWORD}\" {ACCESS} +cluster|slots\n",
                    address.port()
                ))
            })?);
        }
        let slots = ["0 5460", "5461 10922", "10923 16383"];
        for (number, node) in nodes.iter().enumerate() {
            let epoch = node.say(&format!("CLUSTER SET-CONFIG-EPOCH {}", number + 1))?;
            let added = node.say(&format!("CLUSTER ADDSLOTSRANGE {}", slots[number]))?;
            if epoch != "+OK" || added != "+OK" {
                return Err(io::Error::other(format!("{epoch} {added}")));
            }
        }
        for (node, bus) in nodes.iter().zip(&buses).skip(1) {
            let met = nodes[0].say(&format!("CLUSTER MEET 127.0.0.1 {} {bus}", node.address().port()))?;
            if met != "+OK" {
                return Err(io::Error::other(met));
            }
        }
        let cluster = Cluster { nodes };
        cluster.is_whole()?;
        Ok(cluster)
    }

    /// Waits until each node says that every slot is served.
    pub(crate) fn is_whole(&self) -> io::Result<()> {
        wait_until("the cluster is whole", || {
            let mut whole = true;
            for node in &self.nodes {
                let info = node.say("CLUSTER INFO")?;
                whole = whole && info.contains("cluster_state:ok") && info.contains("cluster_size:3");
            }
            Ok(whole)
        })
    }
}

fn wait_until(what: &str, held: impl Fn() -> io::Result<bool>) -> io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !held()? {
        if Instant::now() > deadline {
            return Err(io::Error::other(format!("waited in vain until {what}")));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
