//! What the operating system says of this process: memory, processor time, descriptors, start.
//!
//! Owns: [`Process`], the `process_…` metrics that every Prometheus client exports. Linux only: elsewhere
//! `/proc` is missing and they stay at zero.

use std::fs;

use prometheus::{Counter, IntGauge};

use super::metrics::Error;
use super::table::{Table, Unit};

/// `/proc` counts processor time in hundredths of a second on every architecture we build for: `USER_HZ` is
/// part of the kernel's interface and does not follow its configuration. Asking `sysconf` would need `unsafe`.
const TICKS_PER_SECOND: u64 = 100;

pub(super) struct Process {
    cpu: Counter,
    resident: IntGauge,
    virtual_size: IntGauge,
    open_fds: IntGauge,
    max_fds: IntGauge,
    threads: IntGauge,
    start: IntGauge,
}

impl Process {
    pub(super) fn register(t: &mut Table) -> Result<Process, Error> {
        Ok(Process {
            cpu: t.seconds_counter(
                "process_cpu_seconds_total",
                "Processor time used, in user and in system mode.",
                "Near the number of cores it is the limit of what this machine can serve.",
            )?,
            resident: t.gauge_in(
                "process_resident_memory_bytes",
                "Memory in use.",
                Unit::Bytes,
                "Every cache of ours is bounded: steady growth is a bug.",
            )?,
            virtual_size: t.gauge_in(
                "process_virtual_memory_bytes",
                "Address space in use.",
                Unit::Bytes,
                "Of little use by itself.",
            )?,
            open_fds: t.gauge(
                "process_open_fds",
                "Open file descriptors.",
                "Near `process_max_fds` no connection is accepted any more.",
            )?,
            max_fds: t.gauge(
                "process_max_fds",
                "Limit of open file descriptors.",
                "It should be twice the connections you expect.",
            )?,
            threads: t.gauge("process_threads", "Threads.", "It does not change while serving.")?,
            start: t.gauge_in(
                "process_start_time_seconds",
                "When the process began, since 1970.",
                Unit::Seconds,
                "A change that you did not make is a crash.",
            )?,
        })
    }

    /// Reads `/proc` and sets what it says. What cannot be read keeps its value.
    pub(super) fn refresh(&self) {
        let read = |file: &str| fs::read_to_string(file).unwrap_or_default();
        if let Some(stat) = parse_stat(&read("/proc/self/stat")) {
            let seconds = stat.cpu_ticks as f64 / TICKS_PER_SECOND as f64;
            self.cpu.inc_by((seconds - self.cpu.get()).max(0.0));
            self.threads.set(signed(stat.threads));
            if let Some(boot) = number_after(&read("/proc/stat"), "btime ") {
                self.start.set(signed(boot.saturating_add(stat.start_ticks / TICKS_PER_SECOND)));
            }
        }
        let status = read("/proc/self/status");
        for (gauge, key) in [(&self.resident, "VmRSS:"), (&self.virtual_size, "VmSize:")] {
            if let Some(kib) = number_after(&status, key) {
                gauge.set(signed(kib.saturating_mul(1024)));
            }
        }
        if let Some(limit) = number_after(&read("/proc/self/limits"), "Max open files") {
            self.max_fds.set(signed(limit));
        }
        if let Ok(open) = fs::read_dir("/proc/self/fd") {
            // one of them is the directory that is being read
            self.open_fds.set(signed((open.count() as u64).saturating_sub(1)));
        }
    }
}

#[derive(PartialEq, Eq, Debug)]
struct Stat {
    cpu_ticks: u64,
    threads: u64,
    start_ticks: u64,
}

/// Fields 14, 15, 20 and 22 of `/proc/self/stat` (proc(5)). The second is the name of the program in
/// parentheses and may contain anything, so counting begins behind the last one.
fn parse_stat(text: &str) -> Option<Stat> {
    let (_, behind_name) = text.rsplit_once(')')?;
    let fields: Vec<&str> = behind_name.split_ascii_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    Some(Stat {
        cpu_ticks: field(14)?.saturating_add(field(15)?),
        threads: field(20)?,
        start_ticks: field(22)?,
    })
}

/// The number that follows `key` in the line that begins with it; `None` for words such as `unlimited`.
fn number_after(text: &str, key: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(key))?;
    rest.split_ascii_whitespace().next()?.parse().ok()
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_with_a_parenthesis_in_its_name_is_read_right() {
        let line = "42 (a) b) S 1 42 42 0 -1 4194560 900 0 0 0 150 50 0 0 20 0 7 0 123456 1000 200";
        assert_eq!(parse_stat(line), Some(Stat { cpu_ticks: 200, threads: 7, start_ticks: 123_456 }));
        assert_eq!(parse_stat(""), None);
        assert_eq!(parse_stat("42 (a) S 1"), None);
    }

    #[test]
    fn numbers_are_read_from_the_line_that_begins_with_their_name() {
        let status = "Name:\tteamgate\nVmSize:\t  2048 kB\nVmRSS:\t    512 kB\n";
        assert_eq!(number_after(status, "VmRSS:"), Some(512));
        assert_eq!(number_after(status, "VmSwap:"), None);
        let limits = "Max open files            1024                 524288               files\n";
        assert_eq!(number_after(limits, "Max open files"), Some(1024));
        assert_eq!(number_after("Max open files unlimited", "Max open files"), None);
    }
}
