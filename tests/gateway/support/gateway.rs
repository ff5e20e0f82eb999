//! The program as a child process.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use super::{Checked, Config, PATIENCE, eventually, free_address};

/// The program that is tested.
const PROGRAM: &str = env!("CARGO_BIN_EXE_teamgate");

/// The program running, whatever its command. Killed when dropped.
pub(crate) struct Run {
    child: Child,
    stdout: Arc<Mutex<Vec<String>>>,
    stderr: Arc<Mutex<Vec<String>>>,
}

impl Run {
    /// Starts it in `folder` with `arguments`, and nothing of teamgate's in its environment but `variables`.
    pub(crate) fn start(folder: &Path, arguments: &[&str], variables: &[(&str, String)]) -> Checked<Run> {
        Run::start_under(&[], folder, arguments, variables)
    }

    /// The same, as the last arguments of the program `under`, which becomes it or runs it within itself.
    pub(crate) fn start_under(
        under: &[&str],
        folder: &Path,
        arguments: &[&str],
        variables: &[(&str, String)],
    ) -> Checked<Run> {
        let stdout = Arc::new(Mutex::new(Vec::new()));
        let stderr = Arc::new(Mutex::new(Vec::new()));
        let child = spawn(under, folder, arguments, variables, &stdout, &stderr)?;
        Ok(Run { child, stdout, stderr })
    }

    /// The lines of standard output so far.
    pub(crate) fn stdout(&self) -> Vec<String> {
        self.stdout.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The lines of standard error so far.
    pub(crate) fn stderr(&self) -> Vec<String> {
        self.stderr.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Its process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// How much memory it has, in KiB.
    pub(crate) fn memory(&self) -> Checked<u64> {
        self.status("VmRSS:")
    }

    /// The most that it ever had, in KiB.
    pub(crate) fn peak_memory(&self) -> Checked<u64> {
        self.status("VmHWM:")
    }

    fn status(&self, name: &str) -> Checked<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix(name)).ok_or("no such line")?;
        Ok(line.trim().trim_end_matches("kB").trim().parse()?)
    }

    /// How many files and sockets it has open.
    pub(crate) fn open_files(&self) -> Checked<usize> {
        Ok(std::fs::read_dir(format!("/proc/{}/fd", self.child.id()))?.count())
    }

    /// Its exit code, if it is over. A signal is -1.
    pub(crate) fn exited(&mut self) -> Checked<Option<i32>> {
        Ok(self.child.try_wait()?.map(|status| status.code().unwrap_or(-1)))
    }

    /// Waits until it is over, and for its last words.
    pub(crate) async fn exit_code(&mut self) -> Checked<i32> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            if let Some(code) = self.exited()? {
                // The readers hold the other ends: alone with them means that both pipes are at their end.
                let (out, err) = (self.stdout.clone(), self.stderr.clone());
                eventually("the pipes are read", async || {
                    Ok(Arc::strong_count(&out) <= 2 && Arc::strong_count(&err) <= 2)
                })
                .await?;
                return Ok(code);
            }
            if tokio::time::Instant::now() > deadline {
                return Err(format!("it does not end; it said {:?}", self.stderr()).into());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Sends SIGTERM.
    pub(crate) fn signal_term(&self) -> Checked {
        self.signal("-TERM")
    }

    /// Sends SIGINT, as Ctrl-C does.
    pub(crate) fn signal_int(&self) -> Checked {
        self.signal("-INT")
    }

    fn signal(&self, name: &str) -> Checked {
        Command::new("kill").args([name, &self.child.id().to_string()]).status()?;
        Ok(())
    }

    /// Sends SIGKILL and waits until it is gone.
    pub(crate) async fn kill(&mut self) -> Checked {
        self.child.kill()?;
        self.exit_code().await?;
        Ok(())
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // It may be over already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(
    under: &[&str],
    folder: &Path,
    arguments: &[&str],
    variables: &[(&str, String)],
    stdout: &Arc<Mutex<Vec<String>>>,
    stderr: &Arc<Mutex<Vec<String>>>,
) -> Checked<Child> {
    let words = [under, &[PROGRAM], arguments].concat();
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).current_dir(folder).env_remove("TEAMGATE_CONFIG").env_remove("RUST_LOG");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    for (name, value) in variables {
        command.env(name, value);
    }
    let mut child = command.spawn()?;
    if let Some(pipe) = child.stdout.take() {
        collect(pipe, stdout);
    }
    if let Some(pipe) = child.stderr.take() {
        collect(pipe, stderr);
    }
    Ok(child)
}

fn collect(pipe: impl Read + Send + 'static, lines: &Arc<Mutex<Vec<String>>>) {
    let lines = lines.clone();
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).split(b'\n') {
            let Ok(line) = line else { break };
            let line = String::from_utf8_lossy(&line).into_owned();
            lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        }
    });
}

/// What stands between the lines of two starts.
const RESTARTED: &str = "restarted by the test";

/// `teamgate run` in a folder of its own.
pub(crate) struct Gateway {
    run: Run,
    folder: TempDir,
    listen: SocketAddr,
    second: SocketAddr,
    third: SocketAddr,
    admin: SocketAddr,
    variables: Vec<(&'static str, String)>,
}

impl Gateway {
    /// Starts it and waits until it serves.
    pub(crate) async fn start(config: &Config, variables: &[(&'static str, String)]) -> Checked<Gateway> {
        // A free port may be somebody else's a moment later.
        for _ in 0..5 {
            let mut gateway = Gateway::begin(config, variables)?;
            if gateway.is_ready().await? {
                return Ok(gateway);
            }
            let said = gateway.stderr().join("\n");
            if !said.contains("cannot listen there") {
                return Err(format!("the gateway did not start:\n{said}\n{}", config.text()).into());
            }
        }
        Err("no free port".into())
    }

    /// Starts it in a folder that holds something already, as the last arguments of the program `under` (none: by
    /// itself), and waits until it serves.
    pub(crate) async fn start_in(
        folder: TempDir,
        under: &[&str],
        config: &Config,
        variables: &[(&'static str, String)],
    ) -> Checked<Gateway> {
        let mut gateway = Gateway::begin_in(folder, under, config, variables)?;
        match gateway.is_ready().await? {
            true => Ok(gateway),
            false => Err(format!("the gateway did not start:\n{}", gateway.stderr().join("\n")).into()),
        }
    }

    fn begin(config: &Config, variables: &[(&'static str, String)]) -> Checked<Gateway> {
        Gateway::begin_in(tempfile::tempdir()?, &[], config, variables)
    }

    fn begin_in(
        folder: TempDir,
        under: &[&str],
        config: &Config,
        variables: &[(&'static str, String)],
    ) -> Checked<Gateway> {
        let (listen, admin) = (free_address()?, free_address()?);
        let (second, third) = (free_address()?, free_address()?);
        std::fs::write(folder.path().join("teamgate.yaml"), config.text())?;
        let mut variables = variables.to_vec();
        variables.push(("LISTEN", listen.to_string()));
        variables.push(("PORT", listen.port().to_string()));
        variables.push(("SECOND", second.to_string()));
        variables.push(("THIRD", third.to_string()));
        variables.push(("ADMIN", admin.to_string()));
        let run = Run::start_under(under, folder.path(), &["run"], &variables)?;
        Ok(Gateway { run, folder, listen, second, third, admin, variables })
    }

    /// Waits until the last start has come to an end, good (true) or bad.
    async fn is_ready(&mut self) -> Checked<bool> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            // What is logged may come before and after it.
            let said = self.stderr();
            let last_start = said.iter().rposition(|line| line == RESTARTED).unwrap_or(0);
            if said[last_start..].iter().any(|line| line.contains("metrics and health on")) {
                return Ok(true);
            }
            if self.run.exited()?.is_some() {
                self.run.exit_code().await?;
                return Ok(false);
            }
            if tokio::time::Instant::now() > deadline {
                return Err(format!("the gateway does not get ready: {:?}", self.stderr()).into());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Where it listens for browsers.
    pub(crate) fn address(&self) -> SocketAddr {
        self.listen
    }

    /// Where it listens for browsers, too, if its configuration has `$SECOND`.
    pub(crate) fn second(&self) -> SocketAddr {
        self.second
    }

    /// The same with `$THIRD`.
    pub(crate) fn third(&self) -> SocketAddr {
        self.third
    }

    /// Where it listens for operators.
    pub(crate) fn admin_address(&self) -> SocketAddr {
        self.admin
    }

    /// Its address and `path`.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.listen)
    }

    /// The operators' address and `path`.
    pub(crate) fn admin_url(&self, path: &str) -> String {
        format!("http://{}{path}", self.admin)
    }

    /// The folder with `teamgate.yaml`, `teamgate.secret` and `state`.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The variables that its configuration uses.
    pub(crate) fn variables(&self) -> &[(&'static str, String)] {
        &self.variables
    }

    /// Every line of standard output, over restarts.
    pub(crate) fn stdout(&self) -> Vec<String> {
        self.run.stdout()
    }

    /// Every line of standard error, over restarts.
    pub(crate) fn stderr(&self) -> Vec<String> {
        self.run.stderr()
    }

    /// The access lines.
    pub(crate) fn access(&self) -> Vec<Value> {
        stream(&self.stdout(), "access")
    }

    /// The audit records.
    pub(crate) fn audit(&self) -> Vec<Value> {
        stream(&self.stdout(), "audit")
    }

    /// The audit records of one event.
    pub(crate) fn audited(&self, event: &str) -> Vec<Value> {
        self.audit().into_iter().filter(|record| record["event"] == event).collect()
    }

    /// The same, once there are at least `count`: a line is written a moment after the answer it is about.
    pub(crate) async fn recorded(&self, event: &str, count: usize) -> Checked<Vec<Value>> {
        eventually(&format!("{count} × {event} on record"), async || Ok(self.audited(event).len() >= count))
            .await?;
        Ok(self.audited(event))
    }

    /// The first line of the log that holds `text`, once it is there.
    pub(crate) async fn logged(&self, text: &str) -> Checked<String> {
        let found = || self.log().iter().map(ToString::to_string).find(|line| line.contains(text));
        eventually(&format!("{text} in the log"), async || Ok(found().is_some())).await?;
        found().ok_or_else(|| "it was there a moment ago".into())
    }

    /// What it says about itself.
    pub(crate) fn log(&self) -> Vec<Value> {
        stream(&self.stderr(), "log")
    }

    /// How much memory it has, in KiB.
    pub(crate) fn memory(&self) -> Checked<u64> {
        self.run.memory()
    }

    /// The most that it ever had, in KiB.
    pub(crate) fn peak_memory(&self) -> Checked<u64> {
        self.run.peak_memory()
    }

    /// How many files and sockets it has open.
    pub(crate) fn open_files(&self) -> Checked<usize> {
        self.run.open_files()
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.run.child.id()
    }

    /// The process.
    pub(crate) fn process(&mut self) -> &mut Run {
        &mut self.run
    }

    /// SIGKILL.
    pub(crate) async fn kill(&mut self) -> Checked {
        self.run.kill().await
    }

    /// SIGTERM, without waiting for the end.
    pub(crate) fn signal_term(&self) -> Checked {
        self.run.signal_term()
    }

    /// SIGTERM; waits for the end and gives the exit code.
    pub(crate) async fn terminate(&mut self) -> Checked<i32> {
        self.run.signal_term()?;
        self.run.exit_code().await
    }

    /// Starts it again, after [`Gateway::kill`] or [`Gateway::terminate`], with the same folder and ports, and
    /// waits until it serves.
    pub(crate) async fn restart(&mut self) -> Checked {
        let (out, err) = (&self.run.stdout, &self.run.stderr);
        err.lock().unwrap_or_else(PoisonError::into_inner).push(RESTARTED.to_owned());
        self.run.child = spawn(&[], self.folder.path(), &["run"], &self.variables, out, err)?;
        match self.is_ready().await? {
            true => Ok(()),
            false => Err(format!("the gateway did not start again: {:?}", self.stderr()).into()),
        }
    }

    /// Writes another configuration for the next start.
    pub(crate) fn reconfigure(&self, config: &Config) -> Checked {
        Ok(std::fs::write(self.folder.path().join("teamgate.yaml"), config.text())?)
    }
}

fn stream(lines: &[String], stream: &str) -> Vec<Value> {
    let values = lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    values.filter(|value| value["stream"] == stream).collect()
}
