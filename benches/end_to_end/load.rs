//! One round of load on one contender, and what the kernel says that it cost.
//!
//! Owns: wrk, the CPU time of processes. Must not know: what is measured, what is made of it.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::Checked;

/// What a client sends.
pub(crate) struct Ask {
    /// Where to.
    pub(crate) address: SocketAddr,
    /// A script of wrk's that sends it.
    pub(crate) script: String,
    /// What every answer must be.
    pub(crate) expected: u16,
}

/// What a round came to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Round {
    /// Answers in a second.
    pub(crate) rate: f64,
    /// Microseconds of CPU of all the contender's processes for each answer, user and system.
    pub(crate) cpu: f64,
    /// Of the slowest answer but one in a hundred: microseconds.
    pub(crate) p99: f64,
}

/// What a person's browser accepts.
pub(crate) const PAGES: &str = "text/html,application/xhtml+xml,*/*;q=0.8";
/// What a program accepts.
pub(crate) const ANYTHING: &str = "*/*";

/// The script that sends these fields, with `cookies` one after the other at random.
pub(crate) fn script(
    folder: &Path,
    name: &str,
    host: &str,
    cookies: &[String],
    accept: &str,
) -> Checked<String> {
    let list = folder.join(format!("{name}.cookies"));
    fs::write(&list, cookies.join("\n"))?;
    let text = format!(
        r#"
local cookies = {{}}
for line in io.lines("{}") do cookies[#cookies + 1] = line end
math.randomseed(os.time())
local head = "GET /page?x=1 HTTP/1.1\r\nHost: {host}\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64)\r\n" ..
  "Accept: {accept}\r\nAccept-Language: en\r\n"
local tail = "; theme=dark\r\n\r\n"
local one = #cookies == 1 and head .. "Cookie: " .. cookies[1] .. tail
local none = #cookies == 0 and head .. "\r\n"
request = function()
  return none or one or head .. "Cookie: " .. cookies[math.random(#cookies)] .. tail
end
done = function(summary, latency)
  local errors = summary.errors
  io.write(string.format("RESULT %d %d %d %d %f\n", summary.requests, summary.duration, errors.status,
    errors.connect + errors.read + errors.write + errors.timeout, latency:percentile(99)))
end
"#,
        list.display()
    );
    let script = folder.join(format!("{name}.lua"));
    fs::write(&script, text)?;
    Ok(script.display().to_string())
}

/// 64 connections from the client's core for as long as `span`.
pub(crate) fn round(ask: &Ask, processes: &[u32], span: Duration) -> Checked<Round> {
    let before = cpu_time(processes)?;
    let output = Command::new("taskset")
        .args(["-c", &super::CLIENT_CORE.to_string(), "wrk", "-t1", "-c64", "--timeout", "10s"])
        .args(["-d", &format!("{}s", span.as_secs()), "-s", &ask.script, &format!("http://{}/", ask.address)])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("wrk: {error}; install Debian's packages wrk and util-linux"))?;
    let spent = cpu_time(processes)? - before;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = said
        .lines()
        .find_map(|line| line.strip_prefix("RESULT "))
        .ok_or_else(|| format!("wrk said nothing: {said}{}", String::from_utf8_lossy(&output.stderr)))?;
    let numbers: Vec<f64> = line.split(' ').map(str::parse).collect::<Result<_, _>>()?;
    let [requests, duration, bad, failed, p99] = numbers[..] else { return Err(line.to_owned().into()) };
    // wrk counts as wrong what is over 399.
    let refused = if ask.expected >= 400 { requests } else { 0.0 };
    if failed > 0.0 || (bad - refused).abs() > 0.5 || requests < 1.0 {
        return Err(format!(
            "{}: {bad} of {requests} answers are not {}, {failed} failed",
            ask.address, ask.expected
        )
        .into());
    }
    Ok(Round { rate: requests / duration * 1e6, cpu: spent * 1e6 / requests, p99 })
}

/// Seconds of CPU that these processes have had, threads that are over included.
fn cpu_time(processes: &[u32]) -> Checked<f64> {
    let mut ticks = 0;
    for process in processes {
        let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        // Counted from the state, which is the third field: utime is the 14th, stime the 15th (proc(5)).
        for place in [11, 12] {
            ticks += fields.get(place).ok_or("a short stat")?.parse::<u64>()?;
        }
    }
    // USER_HZ is 100 on every architecture that Linux and we run on.
    Ok(ticks as f64 / 100.0)
}

/// Memory that a process has, in KiB.
pub(crate) fn memory(process: u32) -> Checked<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse()?)
}
