//! The real nginx as an app. Debian's package `nginx-light` is enough.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use tokio::net::{TcpStream, UnixStream};

use super::{Checked, PATIENCE, free_address};

/// A running nginx with a configuration and a folder of its own. Killed when dropped.
pub(crate) struct Nginx {
    folder: TempDir,
    address: SocketAddr,
    child: Child,
}

impl Nginx {
    /// Starts one that serves `servers`, the inside of `http { … }`, and waits until it takes connections.
    ///
    /// `@ADDRESS@` stands for a free address on loopback, `@FOLDER@` for the folder of [`Nginx::folder`]. At
    /// least one server listens on one of `@ADDRESS@` and `unix:@FOLDER@/nginx.sock`. Each request leaves a line
    /// in [`Nginx::log`]; a `log_format lines …;` of the test's own says what is in it.
    pub(crate) async fn start(servers: &str) -> Checked<Nginx> {
        Nginx::start_with(servers, |_| Ok(())).await
    }

    /// The same, after `prepare` has put into the folder what `servers` names.
    pub(crate) async fn start_with(servers: &str, prepare: impl FnOnce(&Path) -> Checked) -> Checked<Nginx> {
        let folder = tempfile::tempdir()?;
        prepare(folder.path())?;
        // A free port may be somebody else's a moment later.
        for _ in 0..5 {
            let address = free_address()?;
            fs::write(folder.path().join("nginx.conf"), configuration(servers, folder.path(), address))?;
            let mut child = spawn(folder.path())?;
            if is_up(folder.path(), address, &mut child).await? {
                return Ok(Nginx { folder, address, child });
            }
            let said = fs::read_to_string(folder.path().join("error.log")).unwrap_or_default();
            if !said.contains("Address already in use") {
                return Err(format!("nginx did not start:\n{said}\n{servers}").into());
            }
        }
        Err("no free port for nginx".into())
    }

    /// One that answers every request with 200 and `body`, which may name nginx's variables.
    pub(crate) async fn saying(body: &str) -> Checked<Nginx> {
        let servers = format!("server {{ listen @ADDRESS@; location / {{ return 200 \"{body}\"; }} }}");
        Nginx::start(&servers).await
    }

    /// Its process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// What stands for `@ADDRESS@`.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://` and the address.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What stands for `@FOLDER@`.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The socket that a server may listen on as `unix:@FOLDER@/nginx.sock`.
    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("nginx.sock")
    }

    /// The access log so far, a line for each request that is over.
    pub(crate) fn log(&self) -> Checked<Vec<String>> {
        Ok(fs::read_to_string(self.folder.path().join("access.log"))?.lines().map(str::to_owned).collect())
    }

    /// SIGKILL: connections are reset, the port refuses.
    pub(crate) fn kill(&mut self) -> Checked {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Starts it again with the same folder and address, after [`Nginx::kill`].
    pub(crate) async fn restart(&mut self) -> Checked {
        // nginx leaves it behind when it is killed, and does not bind to what is there.
        let _ = fs::remove_file(self.socket());
        self.child = spawn(self.folder.path())?;
        match is_up(self.folder.path(), self.address, &mut self.child).await? {
            true => Ok(()),
            false => Err("nginx did not start again".into()),
        }
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // It may be over already.
        let _ = self.kill();
    }
}

/// One process without a master: SIGKILL leaves nobody behind.
fn configuration(servers: &str, folder: &Path, address: SocketAddr) -> String {
    let folder = folder.display().to_string();
    let servers = servers.replace("@ADDRESS@", &address.to_string()).replace("@FOLDER@", &folder);
    let format = if servers.contains("log_format lines") {
        ""
    } else {
        "log_format lines '$request $status $connection $connection_requests';"
    };
    let paths: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|name| format!("{name}_temp_path {folder}/{name};\n"))
        .collect();
    format!(
        "daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/error.log warn;\n\
         events {{ worker_connections 1024; }}\n\
         http {{ {paths} {format}\n{servers}\naccess_log {folder}/access.log lines;\n}}\n"
    )
}

fn spawn(folder: &Path) -> Checked<Child> {
    let mut command = Command::new("nginx");
    command.arg("-p").arg(folder).arg("-c").arg(folder.join("nginx.conf"));
    command.arg("-e").arg(folder.join("error.log"));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().map_err(|error| format!("nginx: {error}; install the package nginx-light").into())
}

/// Waits until it takes connections; false when it is over instead.
async fn is_up(folder: &Path, address: SocketAddr, child: &mut Child) -> Checked<bool> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        if child.try_wait()?.is_some() {
            return Ok(false);
        }
        let listens = TcpStream::connect(address).await.is_ok()
            || UnixStream::connect(folder.join("nginx.sock")).await.is_ok();
        // The pid file comes after the sockets: whoever answered before was somebody else.
        if listens && folder.join("nginx.pid").exists() {
            return Ok(true);
        }
        if tokio::time::Instant::now() > deadline {
            return Err("nginx takes no connections".into());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A certificate authority of the test's own, made with the `openssl` program.
pub(crate) struct Authority {
    folder: TempDir,
}

impl Authority {
    pub(crate) fn new() -> Checked<Authority> {
        let authority = Authority { folder: tempfile::tempdir()? };
        authority.openssl(&[
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "30",
            "-subj",
            "/CN=The tests' own authority",
            "-keyout",
            "ca.key",
            "-out",
            "ca.pem",
        ])?;
        Ok(authority)
    }

    /// Its certificate, PEM.
    pub(crate) fn certificate(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// A certificate for `name` (`DNS:app.example.com`, `IP:127.0.0.1`) and its key, PEM: two files.
    pub(crate) fn issue(&self, name: &str) -> Checked<(PathBuf, PathBuf)> {
        let file = name.replace([':', '*'], "-");
        let (key, request, certificate) =
            (format!("{file}.key"), format!("{file}.csr"), format!("{file}.pem"));
        fs::write(self.folder.path().join("extensions"), format!("subjectAltName={name}\n"))?;
        self.openssl(&[
            "req",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-subj",
            "/CN=a certificate of the tests",
            "-keyout",
            &key,
            "-out",
            &request,
        ])?;
        self.openssl(&[
            "x509",
            "-req",
            "-in",
            &request,
            "-CA",
            "ca.pem",
            "-CAkey",
            "ca.key",
            "-CAcreateserial",
            "-days",
            "30",
            "-extfile",
            "extensions",
            "-out",
            &certificate,
        ])?;
        Ok((self.folder.path().join(certificate), self.folder.path().join(key)))
    }

    fn openssl(&self, arguments: &[&str]) -> Checked {
        let output = Command::new("openssl")
            .args(arguments)
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .output()
            .map_err(|error| format!("openssl: {error}; install the package openssl"))?;
        match output.status.success() {
            true => Ok(()),
            false => {
                Err(format!("openssl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr)).into())
            }
        }
    }
}
