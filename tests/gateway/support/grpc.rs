//! A real gRPC app and a real gRPC client: those of Python's `grpcio`, in an environment of their own.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use tokio::sync::OnceCell;

use super::{Checked, Failure};

const SERVER: &str = include_str!("../grpc/server.py");
const CLIENT: &str = include_str!("../grpc/client.py");
const REQUIREMENTS: &str = include_str!("../grpc/requirements.txt");

static PYTHON: OnceCell<PathBuf> = OnceCell::const_new();

/// The Python that has `grpcio`. Installed once, and again when its version is to be another.
async fn python() -> Checked<PathBuf> {
    let install = || async { tokio::task::spawn_blocking(installed).await? };
    PYTHON.get_or_try_init(install).await.cloned()
}

fn installed() -> Checked<PathBuf> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("grpc");
    let (python, stamp) = (folder.join("venv/bin/python"), folder.join("installed"));
    if fs::read_to_string(&stamp).is_ok_and(|before| before == REQUIREMENTS) {
        return Ok(python);
    }
    fs::create_dir_all(&folder)?;
    let requirements = folder.join("requirements.txt");
    fs::write(&requirements, REQUIREMENTS)?;
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(folder.join("venv")))?;
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary", ":all:"];
    run(Command::new(&python).args(pip).arg("--requirement").arg(&requirements))?;
    fs::write(stamp, REQUIREMENTS)?;
    Ok(python)
}

fn run(command: &mut Command) -> Checked {
    let output = command.stdin(Stdio::null()).output().map_err(|error| {
        format!("{error}; install Python 3 (Debian's packages python3-venv and python3-pip)")
    })?;
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned().into()),
    }
}

/// Python has no loopback of its own: whatever this machine's settings are, it is asked directly.
fn program(python: &Path, text: &str) -> Command {
    let mut command = Command::new(python);
    command.args(["-c", text]).env("no_proxy", "127.0.0.1").env("GRPC_VERBOSITY", "NONE");
    command
}

/// The app: the services `test.Team`, `test.Public` and `test.Admin`, all alike. Killed when dropped.
pub(crate) struct GrpcApp {
    child: Child,
    address: SocketAddr,
}

impl GrpcApp {
    /// Starts it, and waits until it serves.
    pub(crate) async fn start() -> Checked<GrpcApp> {
        let python = python().await?;
        tokio::task::spawn_blocking(move || {
            let mut child = program(&python, SERVER).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
            let mut port = String::new();
            let pipe = child.stdout.take().ok_or("no standard output")?;
            BufReader::new(pipe).read_line(&mut port)?;
            Ok(GrpcApp { child, address: SocketAddr::from(([127, 0, 0, 1], port.trim().parse()?)) })
        })
        .await?
    }

    /// As an upstream's URL.
    pub(crate) fn url(&self) -> String {
        format!("h2c://{}", self.address)
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) -> Checked {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for GrpcApp {
    fn drop(&mut self) {
        // It may be over already.
        let _ = self.kill();
    }
}

/// One call, or several at once.
#[derive(Clone, Debug)]
pub(crate) struct Call(Value);

impl Call {
    /// `kind` is `unary_unary`, `unary_stream`, `stream_unary` or `stream_stream`.
    pub(crate) fn new(method: &str, kind: &str, messages: &[&str]) -> Call {
        Call(json!({ "method": method, "kind": kind, "messages": messages, "metadata": [] }))
    }

    /// One more pair of metadata.
    pub(crate) fn metadata(mut self, key: &str, value: &str) -> Call {
        if let Some(pairs) = self.0["metadata"].as_array_mut() {
            pairs.push(json!([key, value]));
        }
        self
    }

    /// Seconds until it is to be over.
    pub(crate) fn within(mut self, seconds: f64) -> Call {
        self.0["timeout"] = json!(seconds);
        self
    }

    /// So many at the same time.
    pub(crate) fn at_once(mut self, count: usize) -> Call {
        self.0["at_once"] = json!(count);
        self
    }
}

/// What came of a call.
#[derive(Clone, Debug)]
pub(crate) struct Came(Value);

impl Came {
    pub(crate) fn code(&self) -> u64 {
        self.0["code"].as_u64().unwrap_or(u64::MAX)
    }

    pub(crate) fn details(&self) -> &str {
        self.0["details"].as_str().unwrap_or("")
    }

    pub(crate) fn messages(&self) -> Vec<&str> {
        self.0["messages"].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
    }

    /// The values of `key` before the first message.
    pub(crate) fn initial(&self, key: &str) -> Vec<&str> {
        values(&self.0["initial"], key)
    }

    /// The values of `key` after the last message.
    pub(crate) fn trailing(&self, key: &str) -> Vec<&str> {
        values(&self.0["trailing"], key)
    }
}

/// The values of `key` in a list of pairs.
pub(crate) fn values<'a>(pairs: &'a Value, key: &str) -> Vec<&'a str> {
    let pairs = pairs.as_array().into_iter().flatten();
    pairs.filter(|pair| pair[0] == key).filter_map(|pair| pair[1].as_str()).collect()
}

/// Makes these calls one after the other on one channel to `target`, and gives what came of each.
pub(crate) async fn calls(target: SocketAddr, calls: &[Call]) -> Checked<Vec<Came>> {
    let python = python().await?;
    let asked = json!({
        "target": target.to_string(),
        "calls": calls.iter().map(|call| &call.0).collect::<Vec<_>>(),
    });
    let lines = tokio::task::spawn_blocking(move || {
        let mut child = program(&python, CLIENT)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        child.stdin.take().ok_or("no standard input")?.write_all(asked.to_string().as_bytes())?;
        let output = child.wait_with_output()?;
        match output.status.success() {
            true => Ok(String::from_utf8(output.stdout)?),
            false => Err(Failure::from(String::from_utf8_lossy(&output.stderr).into_owned())),
        }
    })
    .await??;
    lines.lines().map(|line| Ok(Came(serde_json::from_str(line)?))).collect()
}
