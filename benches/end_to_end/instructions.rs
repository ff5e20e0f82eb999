//! How many instructions a request costs in user space, counted by valgrind's callgrind.
//!
//! Owns: [`Counted`], the counting. Must not know: what is counted, what is too many.
//!
//! Times on a shared machine differ by half from run to run; this number by a hundredth. Only the thread that serves is
//! counted, and there is one: what others do beside it once a second depends on how slow the machine is.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::Checked;

/// Requests before counting begins: connections are made, caches and buffers have their size.
const WARM_UP: usize = 100;
/// Requests that are counted. What goes on beside them, once a second or so, is divided by as many.
const COUNTED: usize = 300;

/// A program that runs under callgrind.
pub(crate) struct Counted {
    process: u32,
    folder: PathBuf,
}

/// How to start a program under callgrind: the words before it, what it prints going to a file in `folder`.
pub(crate) fn under(folder: &Path) -> [String; 3] {
    let words = format!(
        "exec taskset -c {} valgrind --tool=callgrind --separate-threads=yes --callgrind-out-file={} \"$0\" \"$@\" >{}",
        super::GATE_CORE,
        folder.join("callgrind").display(),
        folder.join("lines").display()
    );
    ["sh".to_owned(), "-c".to_owned(), words]
}

impl Counted {
    /// The process that was started so.
    pub(crate) fn new(process: u32, folder: &Path) -> Counted {
        Counted { process, folder: folder.to_owned() }
    }

    /// Instructions for each request on one connection, every one answered with `status`.
    pub(crate) async fn per_request(&self, address: SocketAddr, request: &str, status: &str) -> Checked<u64> {
        let mut connection = TcpStream::connect(address).await?;
        ask(&mut connection, request, status, WARM_UP).await?;
        self.control("--zero").await?;
        ask(&mut connection, request, status, COUNTED).await?;
        self.control("--dump").await?;
        Ok(self.busiest()?.0 / COUNTED as u64)
    }

    /// What the busiest thread did, and the file that says so.
    pub(crate) fn busiest(&self) -> Checked<(u64, PathBuf)> {
        let mut found = None;
        for entry in std::fs::read_dir(&self.folder)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            // The first dump: one file for each thread.
            if !name.starts_with("callgrind.1-") {
                continue;
            }
            let text = std::fs::read_to_string(&path)?;
            let total = text.lines().find_map(|line| line.strip_prefix("totals: ")).ok_or("no totals")?;
            found = found.max(Some((total.trim().parse::<u64>()?, path)));
        }
        found.ok_or_else(|| "callgrind wrote nothing".into())
    }

    async fn control(&self, what: &'static str) -> Checked {
        let mut command = Command::new("callgrind_control");
        command.args([what, &self.process.to_string()]);
        let output = tokio::task::spawn_blocking(move || command.output()).await?;
        let output = output.map_err(|error| format!("callgrind_control: {error}; install valgrind"))?;
        match output.status.success() {
            true => Ok(()),
            false => Err(format!("callgrind_control: {}", String::from_utf8_lossy(&output.stdout)).into()),
        }
    }
}

async fn ask(connection: &mut TcpStream, request: &str, status: &str, times: usize) -> Checked {
    let mut answer = Vec::with_capacity(16 * 1024);
    for _ in 0..times {
        connection.write_all(request.as_bytes()).await?;
        answer.clear();
        while !is_whole(&answer) {
            if connection.read_buf(&mut answer).await? == 0 {
                return Err("the connection was closed".into());
            }
        }
        if !answer.starts_with(format!("HTTP/1.1 {status} ").as_bytes()) {
            return Err(format!("not {status}: {}", String::from_utf8_lossy(&answer)).into());
        }
    }
    Ok(())
}

/// Whether an answer with a `Content-Length` is here to its end.
fn is_whole(answer: &[u8]) -> bool {
    let Some(end) = answer.windows(4).position(|window| window == b"\r\n\r\n") else { return false };
    let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    let length = length.and_then(|length| length.trim().parse::<usize>().ok()).unwrap_or(0);
    answer.len() >= end + 4 + length
}
