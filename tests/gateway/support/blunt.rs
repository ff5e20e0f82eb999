//! An app that says what it is told to say, whatever it hears, and remembers every byte it heard.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{Checked, PATIENCE};

/// What it answers to the head of a request.
#[derive(Clone, Debug)]
enum Answer {
    /// These bytes; then it waits for the next head.
    Stays(Vec<u8>),
    /// These bytes, and the end.
    Closes(Vec<u8>),
    /// These bytes, and then those over and over, until nobody reads them.
    Floods(Vec<u8>, Vec<u8>),
    /// These bytes, and these as well once [`Blunt::go_on`] is called.
    Waits(Vec<u8>, Vec<u8>),
}

struct Shared {
    answer: Mutex<Answer>,
    /// One of each connection.
    heard: Mutex<Vec<Vec<u8>>>,
    goes_on: watch::Sender<bool>,
    /// How many have something to say yet.
    owing: watch::Sender<usize>,
    open: AtomicUsize,
}

/// The app. Gone, with its connections, when dropped.
pub(crate) struct Blunt {
    address: SocketAddr,
    shared: Arc<Shared>,
    _serving: JoinSet<()>,
}

impl Blunt {
    /// One that answers with nothing.
    pub(crate) async fn start() -> Checked<Blunt> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            answer: Mutex::new(Answer::Stays(Vec::new())),
            heard: Mutex::default(),
            goes_on: watch::Sender::new(false),
            owing: watch::Sender::new(0),
            open: AtomicUsize::new(0),
        });
        let mut serving = JoinSet::new();
        let serve = shared.clone();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let number = {
                    let mut heard = serve.heard.lock().unwrap_or_else(PoisonError::into_inner);
                    heard.push(Vec::new());
                    heard.len() - 1
                };
                let shared = serve.clone();
                connections.spawn(async move {
                    // It ends in an error when the gateway closes it.
                    shared.open.fetch_add(1, Ordering::AcqRel);
                    let _ = converse(stream, number, &shared).await;
                    shared.open.fetch_sub(1, Ordering::AcqRel);
                });
            }
        });
        Ok(Blunt { address, shared, _serving: serving })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// A public route to it, `/{name}`: the inside of a `{ }`.
    pub(crate) fn route(&self, name: &str) -> String {
        format!("name: {name}, path: /{name}, access: public, upstream: \"http://{}\"", self.address)
    }

    fn says(&self, answer: Answer) {
        *self.shared.answer.lock().unwrap_or_else(PoisonError::into_inner) = answer;
    }

    /// From now on every head is answered with `bytes`, and the connection stays.
    pub(crate) fn answers(&self, bytes: impl Into<Vec<u8>>) {
        self.says(Answer::Stays(bytes.into()));
    }

    /// From now on every head is answered with `bytes` and the end of the connection.
    pub(crate) fn answers_and_closes(&self, bytes: impl Into<Vec<u8>>) {
        self.says(Answer::Closes(bytes.into()));
    }

    /// From now on every head is answered with `first`, and then with `bytes` without end.
    pub(crate) fn floods(&self, first: impl Into<Vec<u8>>, bytes: impl Into<Vec<u8>>) {
        self.says(Answer::Floods(first.into(), bytes.into()));
    }

    /// From now on every head is answered with `first`, and with `then` once [`Blunt::go_on`] is called.
    pub(crate) fn answers_in_two(&self, first: impl Into<Vec<u8>>, then: impl Into<Vec<u8>>) {
        self.shared.goes_on.send_replace(false);
        self.says(Answer::Waits(first.into(), then.into()));
    }

    /// Says what waits to be said, on every connection where something does: when this returns, all of it has
    /// arrived at the other end's machine, or the other end has closed.
    pub(crate) async fn go_on(&self) -> Checked {
        self.shared.goes_on.send_replace(true);
        timeout(PATIENCE, self.shared.owing.subscribe().wait_for(|owing| *owing == 0)).await??;
        Ok(())
    }

    /// What was heard so far, one of each connection.
    pub(crate) fn heard(&self) -> Vec<String> {
        let heard = self.shared.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.iter().map(|bytes| String::from_utf8_lossy(bytes).into_owned()).collect()
    }

    /// How many connections are open.
    pub(crate) fn open(&self) -> usize {
        self.shared.open.load(Ordering::Acquire)
    }

    /// Forgets what was heard. Connections that are open go on under their number.
    pub(crate) fn forget(&self) {
        let mut heard = self.shared.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.iter_mut().for_each(Vec::clear);
    }
}

async fn in_two(stream: &mut TcpStream, first: &[u8], then: &[u8], shared: &Shared) -> Checked {
    stream.write_all(first).await?;
    timeout(PATIENCE, shared.goes_on.subscribe().wait_for(|goes_on| *goes_on)).await??;
    stream.write_all(then).await?;
    Ok(())
}

async fn converse(mut stream: TcpStream, number: usize, shared: &Shared) -> Checked {
    stream.set_nodelay(true)?;
    let (mut buffer, mut answered) = (Vec::new(), 0);
    loop {
        let before = buffer.len();
        if stream.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
        if let Some(heard) = shared.heard.lock().unwrap_or_else(PoisonError::into_inner).get_mut(number) {
            heard.extend_from_slice(&buffer[before..]);
        }
        while let Some(at) = buffer[answered..].windows(4).position(|window| window == b"\r\n\r\n") {
            answered += at + 4;
            let answer = shared.answer.lock().unwrap_or_else(PoisonError::into_inner).clone();
            match answer {
                Answer::Stays(bytes) => stream.write_all(&bytes).await?,
                Answer::Closes(bytes) => {
                    stream.write_all(&bytes).await?;
                    stream.shutdown().await?;
                    // Closing with something unread would be a reset, which overtakes what was said.
                    let _ = timeout(Duration::from_secs(1), stream.read_to_end(&mut buffer)).await;
                    return Ok(());
                }
                Answer::Floods(first, bytes) => {
                    stream.write_all(&first).await?;
                    let much = bytes.repeat(1 + 64 * 1024 / bytes.len().max(1));
                    loop {
                        stream.write_all(&much).await?;
                    }
                }
                Answer::Waits(first, then) => {
                    // Counted before the other end can know of the answer: `go_on` comes after that.
                    shared.owing.send_modify(|owing| *owing += 1);
                    let said = in_two(&mut stream, &first, &then, shared).await;
                    shared.owing.send_modify(|owing| *owing -= 1);
                    said?;
                }
            }
        }
    }
}
