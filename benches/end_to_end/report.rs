//! What was measured, as a table for people, as JSON and as a picture.
//!
//! Owns: medians, ratios, the files in `docs/benchmarks/`. Must not know: how anything was measured.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::json;

use crate::load::Round;
use crate::support::Checked;

/// One contender's rounds.
pub(crate) struct Row {
    name: String,
    pub(crate) rounds: Vec<Round>,
    /// KiB, at the end.
    pub(crate) memory: u64,
}

impl Row {
    pub(crate) fn new(name: &str) -> Row {
        Row { name: name.to_owned(), rounds: Vec::new(), memory: 0 }
    }

    fn all(&self, figure: fn(&Round) -> f64) -> Spread {
        Spread::of(self.rounds.iter().map(figure).collect())
    }

    /// Each round over the same round of `yardstick`.
    fn over(&self, yardstick: &Row, figure: fn(&Round) -> f64) -> Spread {
        let pairs = self.rounds.iter().zip(&yardstick.rounds);
        Spread::of(pairs.map(|(own, other)| figure(own) / figure(other)).collect())
    }
}

/// The least, the middle and the most of some figures.
#[derive(Clone, Copy)]
struct Spread {
    min: f64,
    median: f64,
    max: f64,
}

impl Spread {
    fn of(mut figures: Vec<f64>) -> Spread {
        figures.sort_by(f64::total_cmp);
        let at = |place: usize| figures.get(place).copied().unwrap_or(f64::NAN);
        let middle = figures.len() / 2;
        let median = if figures.len().is_multiple_of(2) && middle > 0 {
            f64::midpoint(at(middle - 1), at(middle))
        } else {
            at(middle)
        };
        Spread { min: at(0), median, max: at(figures.len().saturating_sub(1)) }
    }

    fn json(self) -> serde_json::Value {
        json!({ "min": self.min, "median": self.median, "max": self.max })
    }
}

/// What a scenario came to. The first row is the yardstick.
pub(crate) struct Table {
    scenario: String,
    rows: Vec<Row>,
    how: String,
}

impl Table {
    pub(crate) fn new(scenario: &str, rows: Vec<Row>, rounds: usize, span: Duration) -> Table {
        let how = format!("{rounds} rounds of {} s, interleaved, in alternating order", span.as_secs());
        Table { scenario: scenario.to_owned(), rows, how }
    }

    /// For people.
    pub(crate) fn print(&self) {
        println!("{}", self.text());
    }

    fn text(&self) -> String {
        let mut text = String::from(
            "| | CPU a request, µs | × | requests/s | × | p99, ms | MiB |\n|---|---|---|---|---|---|---|\n",
        );
        let Some(yardstick) = self.rows.first() else { return text };
        for row in &self.rows {
            let (cpu, rate) = (row.all(|round| round.cpu), row.all(|round| round.rate));
            let (dearer, faster) =
                (row.over(yardstick, |round| round.cpu), row.over(yardstick, |round| round.rate));
            // Writing into a String cannot fail.
            let _ = writeln!(
                text,
                "| {} | {:.1} – **{:.1}** – {:.1} | {:.2} – **{:.2}** – {:.2} | {:.0} – **{:.0}** – {:.0} | \
                 {:.2} – **{:.2}** – {:.2} | {:.2} | {:.0} |",
                row.name,
                cpu.min,
                cpu.median,
                cpu.max,
                dearer.min,
                dearer.median,
                dearer.max,
                rate.min,
                rate.median,
                rate.max,
                faster.min,
                faster.median,
                faster.max,
                row.all(|round| round.p99).median / 1e3,
                row.memory as f64 / 1024.0
            );
        }
        text
    }

    /// `NAME.md`, `NAME.json` and `NAME.svg`.
    pub(crate) fn write(&self, folder: &Path) -> Checked {
        let Some(yardstick) = self.rows.first() else { return Ok(()) };
        let rows: Vec<_> = (self.rows.iter())
            .map(|row| {
                json!({
                    "name": row.name,
                    "cpu_microseconds": row.all(|round| round.cpu).json(),
                    "cpu_ratio": row.over(yardstick, |round| round.cpu).json(),
                    "requests_per_second": row.all(|round| round.rate).json(),
                    "rate_ratio": row.over(yardstick, |round| round.rate).json(),
                    "p99_microseconds": row.all(|round| round.p99).json(),
                    "memory_kib": row.memory,
                })
            })
            .collect();
        let machine = machine();
        let all = json!({ "scenario": self.scenario, "how": self.how, "machine": machine, "rows": rows });
        let file = |kind: &str| folder.join(format!("{}.{kind}", self.scenario));
        fs::write(file("json"), format!("{}\n", serde_json::to_string_pretty(&all)?))?;
        fs::write(file("md"), format!("{}\n{}; {machine}\n", self.text(), self.how))?;
        Ok(fs::write(file("svg"), self.picture(yardstick))?)
    }

    /// Bars: the CPU of a request over the yardstick's, with its spread.
    fn picture(&self, yardstick: &Row) -> String {
        let ratios: Vec<(&str, Spread)> =
            self.rows.iter().map(|row| (&*row.name, row.over(yardstick, |round| round.cpu))).collect();
        let longest = ratios.iter().map(|(_, ratio)| ratio.max).fold(1.0, f64::max);
        let scale = 380.0 / longest;
        let height = 40 + 34 * ratios.len();
        let mut bars = String::new();
        for (place, (name, ratio)) in ratios.iter().enumerate() {
            let y = 34 + 34 * place;
            let (end, low, high) = (ratio.median * scale, ratio.min * scale, ratio.max * scale);
            let _ = writeln!(
                bars,
                r##"<text class="t" x="8" y="{text}">{name}</text><rect class="b" x="230" y="{y}" width="{end:.1}" height="20" rx="3"/><path class="w" d="M{from:.1} {mid}H{to:.1}"/><text class="t" x="{after:.1}" y="{text}">{value:.2}</text>"##,
                text = y + 15,
                mid = y + 10,
                from = 230.0 + low,
                to = 230.0 + high,
                after = 238.0 + high,
                value = ratio.median
            );
        }
        format!(
            r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 680 {height}" role="img" aria-label="CPU of a request, {first} = 1"><style>.t{{font:13px system-ui,sans-serif;fill:#1f2937}}.b{{fill:#2563eb}}.w{{stroke:#1f2937;stroke-width:1.5}}@media(prefers-color-scheme:dark){{.t{{fill:#e5e7eb}}.b{{fill:#60a5fa}}.w{{stroke:#e5e7eb}}}}</style><text class="t" x="8" y="20">CPU of a request: median and range of the rounds, {first} = 1</text>
{bars}</svg>
"##,
            first = yardstick.name
        )
    }
}

/// What it was measured on.
fn machine() -> String {
    let said = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output().ok()?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("an unknown CPU");
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    format!(
        "{}, {cores} cores, Linux {}, {}",
        model.trim_start_matches([' ', '\t', ':']),
        said("uname", &["-r"]).unwrap_or_default(),
        said("rustc", &["--version"]).unwrap_or_default()
    )
}

/// Instructions of a request in user space.
pub(crate) struct Instructions {
    /// The bare forwarder's.
    pub(crate) bare: u64,
    /// teamgate's, with everything on.
    pub(crate) full: u64,
}

/// How much more than the reference is let pass: compilers and libraries differ a little from machine to machine.
const MARGIN: f64 = 0.08;

impl Instructions {
    /// For people.
    pub(crate) fn print(&self) {
        let more = self.full.saturating_sub(self.bare);
        println!("instructions a request: bare {}, teamgate {}, {more} more", self.bare, self.full);
    }

    fn ratio(&self) -> f64 {
        self.full as f64 / self.bare as f64
    }

    /// Writes down what was counted as what is expected of builds with `profile`.
    pub(crate) fn renew(&self, file: &Path, profile: &str) -> Checked {
        let mut all: serde_json::Value = serde_json::from_str(&fs::read_to_string(file)?)?;
        all[profile] = json!({ "bare": self.bare, "teamgate": self.full });
        Ok(fs::write(file, format!("{}\n", serde_json::to_string_pretty(&all)?))?)
    }

    /// Holds what was counted against what is expected of builds with `profile`.
    pub(crate) fn check(&self, file: &Path, profile: &str) -> Checked {
        let all: serde_json::Value = serde_json::from_str(&fs::read_to_string(file)?)?;
        let figure = |name: &str| all[profile][name].as_u64().ok_or_else(|| format!("no {profile}.{name}"));
        let expected = Instructions { bare: figure("bare")?, full: figure("teamgate")? };
        match self.ratio() <= expected.ratio() * (1.0 + MARGIN) {
            true => Ok(()),
            false => Err(format!(
                "a request costs {:.2} × the instructions of the bare forwarder's, and {:.2} × was expected; make it \
                 cheaper, or run this with `instructions --renew` and say in the commit what it buys",
                self.ratio(),
                expected.ratio()
            )
            .into()),
        }
    }
}
