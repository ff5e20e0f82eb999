//! Programs that a test starts, and ends again.

use std::error::Error as StdError;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

/// Ports that were free a moment ago, all different.
pub(crate) fn free_addresses<const N: usize>() -> Result<[SocketAddr; N], Box<dyn StdError>> {
    let mut listeners = Vec::new();
    for _ in 0..N {
        listeners.push(TcpListener::bind(("127.0.0.1", 0))?);
    }
    let addresses: Vec<SocketAddr> =
        listeners.iter().map(TcpListener::local_addr).collect::<Result<_, _>>()?;
    addresses.try_into().map_err(|_| "as many addresses as listeners".into())
}

/// A process that ends with this value.
pub(crate) struct Serving(Child);

impl Serving {
    /// Starts it and waits until it accepts at `address`.
    pub(crate) fn start(command: &mut Command, address: SocketAddr) -> Result<Serving, Box<dyn StdError>> {
        let mut serving = Serving(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?);
        let deadline = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect(address).is_err() {
            if let Some(status) = serving.0.try_wait()? {
                return Err(format!("{command:?} ended with {status}").into());
            }
            if Instant::now() > deadline {
                return Err(format!("{command:?} does not listen on {address}").into());
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(serving)
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a program to its end with `input` on its standard input, and gives what it printed, or fails with that.
pub(crate) fn run(
    command: &mut Command,
    input: &str,
    patience: Duration,
) -> Result<String, Box<dyn StdError>> {
    let mut child = Serving(
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("{command:?} cannot be run: {error}"))?,
    );
    let (sender, lines) = channel();
    let (stdin, input) = (child.0.stdin.take(), input.to_owned());
    let stdout = child.0.stdout.take().map(BufReader::new);
    let stderr = child.0.stderr.take().map(BufReader::new);
    let other = sender.clone();
    // A program that does not read its input to the end says why in what it prints.
    thread::spawn(move || stdin.map(|mut stdin| stdin.write_all(input.as_bytes())));
    thread::spawn(move || {
        stdout
            .into_iter()
            .flat_map(BufRead::lines)
            .map_while(Result::ok)
            .try_for_each(|line| sender.send(line))
    });
    thread::spawn(move || {
        stderr
            .into_iter()
            .flat_map(BufRead::lines)
            .map_while(Result::ok)
            .try_for_each(|line| other.send(line))
    });
    let (text, in_time) = collect(&lines, Instant::now() + patience);
    if !in_time {
        return Err(format!("{command:?} did not end in {patience:?}:\n{text}").into());
    }
    let status = child.0.wait()?;
    if status.success() { Ok(text) } else { Err(format!("{command:?} ended with {status}:\n{text}").into()) }
}

fn collect(lines: &Receiver<String>, deadline: Instant) -> (String, bool) {
    let mut text = String::new();
    loop {
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => text.extend([&line, "\n"]),
            Err(end) => return (text, end == RecvTimeoutError::Disconnected),
        }
    }
}

/// Tells whoever runs the test with `--nocapture`.
#[expect(clippy::print_stdout, reason = "what a test did is for whoever runs it with --nocapture")]
pub(crate) fn say(text: &str) {
    println!("{text}");
}
