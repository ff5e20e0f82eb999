//! Every metric: name, unit, labels, meaning. One table, in [`Metrics::new`].
//!
//! Owns: the registry, [`Metrics`], [`RouteMetrics`], [`InFlight`].
//! Must not know: who counts, and what for. `docs/metrics.md` is rendered from this file by [`reference()`].
//!
//! Series that a request touches are resolved beforehand: counting takes no lock and allocates nothing.

use std::fmt;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry,
    TextEncoder,
};

use super::labels::{
    AssertionSource, CallOutcome, CallRight, CertificateReload, ConnectionRefusal, CookieFault, Decision,
    EndReason, Ending, Endpoint, Finding, Freshness, HandOverOutcome, HoldReason, KeyReload, Labels,
    LogStream, One, OpenKind, RefreshOutcome, RequeryOutcome, SignInOutcome, StatusClass, StoreOperation,
    Throttled, UpstreamFault,
};
use super::process::Process;
use super::reference::Row;
use super::table::{Alone, Counters, Gauges, Histograms, LADDER, SLOW_LADDER, Table, Unit};
use crate::clock::Timestamp;

/// The `route` of a request for the gateway's own pages. No configured name has parentheses.
pub const OWN: &str = "(own)";

/// The `route` of a request that got no route: none matches, or it was refused before.
pub const NO_ROUTE: &str = "(none)";

/// The content type of [`Metrics::render`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A metric that cannot be made or rendered: a mistake in this file.
#[derive(Debug, thiserror::Error)]
#[error("a metric is defined wrongly; please report this")]
pub struct Error(#[from] prometheus::Error);

/// All metrics of the process.
pub struct Metrics {
    requests: IntCounterVec,
    gate: HistogramVec,
    first_byte: HistogramVec,
    total: HistogramVec,
    in_flight: IntGauge,
    /// Requests of signed-in people that stay open.
    pub open_connections: Gauges<OpenKind>,
    /// Those that were ended because they lost their pass.
    pub connections_closed: Counters<Ending>,
    /// Cookies under our name that were of no use.
    pub bad_cookies: Counters<CookieFault>,

    upstreams_healthy: IntGaugeVec,
    upstream_failures: IntCounterVec,
    upstream_retries: IntCounterVec,
    upstream_ejections: IntCounterVec,

    /// Connections of clients.
    pub connections: IntGauge,
    /// Connections that were closed before their first request.
    pub connections_refused: Counters<ConnectionRefusal>,

    /// Browsers sent to Bitbucket.
    pub sign_in_starts: IntCounter,
    /// Ends of sign-ins.
    pub sign_ins: Counters<SignInOutcome>,
    /// Ends of hand-overs to other hosts.
    pub hand_overs: Counters<HandOverOutcome>,
    /// What was refused because somebody did it too often.
    pub throttled: Counters<Throttled>,
    /// Sessions that count.
    pub sessions: IntGauge,
    /// Ends of sessions.
    pub sessions_ended: Counters<EndReason>,

    /// Memberships in memory, by age.
    pub memberships: Gauges<Freshness>,
    /// Age of the oldest membership that an account in use has, in seconds.
    pub oldest_membership: Gauge,
    /// Ends of re-queries.
    pub requeries: Counters<RequeryOutcome>,
    /// How many times longer than `refresh_after` it is between two questions about an account.
    pub interval_stretch: Gauge,
    /// Accounts that are asked about in the background.
    pub accounts_in_use: IntGauge,
    /// Slugs that turned up with another uuid.
    pub slug_changes_refused: IntCounter,

    /// Calls to Bitbucket.
    pub bitbucket_calls: Counters<(Endpoint, CallOutcome)>,
    /// How long they took.
    pub bitbucket_call_seconds: Histograms<Endpoint>,
    /// How many calls an hour may have, with what was learned.
    pub bitbucket_budget: IntGauge,
    /// How many of them are left.
    pub bitbucket_budget_left: IntGauge,
    /// Who made the others.
    pub bitbucket_budget_used: Gauges<CallRight>,
    /// Calls that were not made.
    pub bitbucket_calls_held: Counters<(CallRight, HoldReason)>,
    /// For how many more seconds nobody calls, after a 429.
    pub bitbucket_closed: Gauge,
    /// 1 while an endpoint is left alone.
    pub bitbucket_circuit_open: Gauges<Endpoint>,
    /// What the doctor found.
    pub bitbucket_findings: Gauges<Finding>,
    /// How far Bitbucket's clock is ahead of ours, in seconds.
    pub bitbucket_clock_skew: Gauge,
    /// Ends of token refreshes.
    pub token_refreshes: Counters<RefreshOutcome>,

    /// Assertions sent to upstreams.
    pub assertions: Counters<AssertionSource>,

    /// What was asked of the store.
    pub store_operations: Counters<StoreOperation>,
    /// What of that failed.
    pub store_errors: Counters<StoreOperation>,
    /// How long it took.
    pub store_seconds: Histograms<StoreOperation>,
    /// Records that could not be read.
    pub corrupted_records: IntCounter,
    /// Sessions and accounts that are over, and the store does not know yet.
    pub revocations_owed: IntGauge,
    /// What came of changes of the secret file.
    pub key_reloads: Counters<KeyReload>,
    /// 1 while the secret file is not the one in use.
    pub secret_file_refused: IntGauge,

    certificate_ends: GaugeVec,
    certificate_trouble: IntGaugeVec,
    /// Certificate files that changed.
    pub certificate_reloads: Counters<CertificateReload>,

    /// Log lines that were dropped.
    pub log_lines_dropped: Counters<LogStream>,
    config_info: IntGaugeVec,
    config_routes: IntGauge,
    process: Process,

    registry: Registry,
    rows: Vec<Row>,
    at_scrape: RwLock<Vec<AtScrape>>,
}

type AtScrape = Box<dyn Fn(&Metrics) + Send + Sync>;

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    /// Makes all metrics, each at zero, in a registry of their own. `version` and `commit` are what was built.
    ///
    /// # Errors
    ///
    /// Only by a mistake in this file, which a test would notice.
    pub fn new(version: &str, commit: &str) -> Result<Metrics, Error> {
        let mut t = Table { registry: Registry::new(), rows: Vec::new() };

        t.section("Requests");
        let requests = t.requests(
            "teamgate_requests_total",
            "Requests answered.",
            "`error` or `cannot_tell` rising means people are kept out by us, not by a rule; `deny` rising on \
             one route means a rule or a team changed.",
        )?;
        let gate = t.by_route(
            "teamgate_gate_seconds",
            "Time from the request's arrival to the decision.",
            &LADDER,
            "This is what teamgate adds to every request. Microseconds from memory; milliseconds mean that \
             requests wait for memberships or for the store.",
        )?;
        let first_byte = t.by_route(
            "teamgate_upstream_first_byte_seconds",
            "Time from the decision to the first byte of the upstream's answer.",
            &SLOW_LADDER,
            "Slow here and fast in `teamgate_gate_seconds`: the app is slow, not the gateway.",
        )?;
        let total = t.by_route(
            "teamgate_request_seconds",
            "Time from the request's arrival to the last byte of the answer. WebSockets and event streams count \
             with their whole life.",
            &SLOW_LADDER,
            "This is what people feel.",
        )?;
        let in_flight = t.gauge(
            "teamgate_requests_in_flight",
            "Requests being served, open streams among them.",
            "A level that only rises is an upstream that hangs, or a client that reads slowly on purpose.",
        )?;
        let open_connections = t.gauges(
            "teamgate_open_connections",
            "Requests of signed-in people that stay open and are decided on again and again: WebSockets, event \
             streams, gRPC calls, and whatever else takes longer than 5 s.",
            "What a restart would cut.",
        )?;
        let connections_closed = t.counters(
            "teamgate_connections_closed_total",
            "Open connections that lost their pass and were ended.",
            "`cannot_tell` means that people are cut off by Bitbucket's silence, not by a rule; many \
             `not_allowed` at once mean that a team or a rule changed.",
        )?;
        let bad_cookies = t.counters(
            "teamgate_bad_cookies_total",
            "Requests with a session cookie that was of no use.",
            "`forged` without a key rotation behind it is somebody guessing, or a replica with another \
             `secret_file`.",
        )?;

        t.section("Upstreams");
        let upstreams_healthy = t.upstreams(
            "teamgate_upstream_healthy",
            "Addresses of an upstream that get requests: those that its checks found well and that are not left \
             alone. 1 for one that is an address itself, more for a name that has several.",
            "0 is an app that people miss, or one of several that does not do its share.",
        )?;
        let upstream_failures = t.by_upstream::<UpstreamFault>(
            "teamgate_upstream_failures_total",
            "Attempts to get an answer from an upstream that failed. One that was made good elsewhere counts, too.",
            "`closed` alone, and rarely, is an app that closes idle connections sooner than \
             `upstream_timeouts.keep_alive` says; `header_timeout` is an app that hangs.",
        )?;
        let upstream_retries = t.by_upstream::<Alone>(
            "teamgate_upstream_retries_total",
            "Requests that had been sent to an upstream, got no answer and were sent again.",
            "Nobody noticed these. Many are an app that breaks connections.",
        )?;
        let upstream_ejections = t.by_upstream::<Alone>(
            "teamgate_upstream_ejections_total",
            "Times that an upstream was left alone because requests to it kept failing.",
            "An app that comes and goes.",
        )?;

        t.section("Connections");
        let connections = t.gauge(
            "teamgate_connections",
            "Connections of clients that are open.",
            "Near `limits.connections` new ones are about to be refused. Many connections and few requests are \
             clients that hold on to them.",
        )?;
        let connections_refused = t.counters(
            "teamgate_connections_refused_total",
            "Connections that were closed before their first request.",
            "`full` rising keeps people out: raise `limits.connections`, or find out who holds them. \
             `address_full` is one client, or an office behind one address. `not_a_proxy` and `proxy_header` \
             mean that something reaches a listener around the proxy, or that proxy and listener disagree \
             about the PROXY protocol. `tls` is scanners, clients older than `min_version`, and clients without the \
             certificate that `client_ca` asks for; the log says which at the level `debug`.",
        )?;

        t.section("Signing in");
        let sign_in_starts = t.counter(
            "teamgate_sign_in_starts_total",
            "Browsers sent to Bitbucket.",
            "Many starts with few ends in `teamgate_sign_ins_total` mean that people do not come back: a wrong \
             redirect URI, or Bitbucket's page failing.",
        )?;
        let sign_ins = t.counters(
            "teamgate_sign_ins_total",
            "Sign-ins that ended, one way or the other.",
            "`misconfigured` needs the operator at once; `bitbucket_failed` is Bitbucket's; `loop` is a browser \
             that refuses cookies.",
        )?;
        let hand_overs = t.counters(
            "teamgate_hand_overs_total",
            "Sessions handed over to hosts that the gateway's own cookie does not reach.",
            "`no_cookies` is a browser that refuses the other host's cookies. `forged` and `other_browser` rising is \
             somebody trying; a few are links that were copied from the address bar.",
        )?;
        let throttled = t.counters(
            "teamgate_throttled_total",
            "Requests answered with 429 because their address had too many of the kind.",
            "A rise is somebody trying, or an office behind one address that is larger than \
             `limits.sign_ins` or `limits.callbacks` allow for.",
        )?;
        let sessions = t.gauge(
            "teamgate_sessions",
            "Sessions that count.",
            "A sudden fall is a mass sign-out: a lost secret file, a lost store, or a revocation.",
        )?;

        let sessions_ended = t.counters(
            "teamgate_sessions_ended_total",
            "Sessions that ended.",
            "`revoked` is an operator, and the audit log says who; many `grant_withdrawn` at once mean that the \
             client was changed at Bitbucket.",
        )?;

        t.section("Memberships");
        let memberships = t.gauges(
            "teamgate_memberships",
            "Memberships in memory, by age.",
            "`stale` above zero for accounts in use means that requests wait or get 503.",
        )?;
        let oldest_membership = t.seconds(
            "teamgate_membership_oldest_age_seconds",
            "Age of the oldest membership among the accounts in use.",
            "It should stay below `directory.refresh_after` plus a minute. Near `directory.max_age` people are \
             about to be kept out.",
        )?;
        let requeries = t.counters(
            "teamgate_requeries_total",
            "Re-queries of memberships.",
            "`throttled` means that Bitbucket's limit is reached: lower `directory.budget`; `no_budget` means that \
             ours is: raise `directory.refresh_after`; `misconfigured` and `removed` need you now, the log says what for; \
             `unexpected` means that Bitbucket changed its API.",
        )?;
        let interval_stretch = t.float(
            "teamgate_requery_interval_stretch",
            "How many times longer than `directory.refresh_after` it is between two background questions about an \
             account, because the budget does not reach.",
            Unit::None,
            "1 is as configured. Times `directory.refresh_after` it is how late a change at Bitbucket is noticed; \
             when that comes near `directory.max_age`, raise the budget, or both ages.",
        )?;
        let accounts_in_use = t.gauge(
            "teamgate_accounts_in_use",
            "Accounts that are asked about in the background: used within `directory.max_age`.",
            "Times the calls of a re-query, divided by `directory.refresh_after`, it is the demand on the budget.",
        )?;
        let slug_changes_refused = t.counter(
            "teamgate_slug_changes_refused_total",
            "Times that a configured slug turned up with another uuid than before, and was not believed.",
            "Anything above zero: a workspace was renamed and its name taken by somebody else. Look at the \
             audit log before you pin.",
        )?;

        t.section("Bitbucket");
        let bitbucket_calls = t.counters(
            "teamgate_bitbucket_calls_total",
            "Calls to Bitbucket.",
            "`429` and `5xx` are weather; `410` is the end of an endpoint; `401` on `token` is a wrong client \
             secret.",
        )?;
        let bitbucket_call_seconds = t.histograms(
            "teamgate_bitbucket_call_seconds",
            "Duration of calls to Bitbucket, to the end of the body.",
            "Sign-ins cannot be faster than this.",
        )?;
        let bitbucket_budget = t.gauge(
            "teamgate_bitbucket_budget",
            "Calls that an hour may have: `directory.budget`, or less while Bitbucket's 429s are remembered.",
            "Below what is configured, Bitbucket allows less, or somebody else uses the same client.",
        )?;
        let bitbucket_budget_left = t.gauge(
            "teamgate_bitbucket_budget_left",
            "Calls of `teamgate_bitbucket_budget` that the last hour has left.",
            "Near a quarter of the budget the background stands still; at zero nobody can sign in.",
        )?;
        let bitbucket_budget_used = t.gauges(
            "teamgate_bitbucket_budget_used",
            "Calls in the last hour, by on whose behalf.",
            "`waiting` high and `background` low: memberships grow old before the background gets to them.",
        )?;
        let bitbucket_calls_held = t.counters(
            "teamgate_bitbucket_calls_held_total",
            "Calls to Bitbucket that were not made.",
            "`sign_in` or `waiting` with `budget` are people who are kept out by our own budget; `failing` is \
             Bitbucket's trouble.",
        )?;
        let bitbucket_closed = t.seconds(
            "teamgate_bitbucket_closed_seconds",
            "For how much longer nobody calls, since Bitbucket answered 429; else 0.",
            "Often above zero: Bitbucket's limit is lower than `directory.budget`.",
        )?;
        let bitbucket_circuit_open = t.gauges(
            "teamgate_bitbucket_circuit_open",
            "1 while an endpoint is left alone because it kept failing, else 0.",
            "1 means that Bitbucket is the problem, not the gateway.",
        )?;
        let bitbucket_findings = t.gauges(
            "teamgate_bitbucket_findings",
            "What is wrong between the configuration and Bitbucket, as `teamgate doctor` reports it; looked at once a minute.",
            "Anything above zero: `teamgate doctor` says what, and what to do. `leaving` means that there is time.",
        )?;
        let bitbucket_clock_skew = t.seconds(
            "teamgate_bitbucket_clock_skew_seconds",
            "How far Bitbucket's clock was ahead of ours at its last answer, at least; below 0 where it was behind.",
            "Beyond 30 in either direction, set the clock: apps refuse assertions of another time.",
        )?;
        let token_refreshes = t.counters(
            "teamgate_token_refreshes_total",
            "Refreshes of access tokens.",
            "`lost` after a crash is expected, and only then; `refused` is people withdrawing the app, unless \
             all do so at once; `doubtful` means that Bitbucket refuses our client: its secret was changed, or it is \
             locked out for some minutes.",
        )?;

        t.section("Assertions");
        let assertions = t.counters(
            "teamgate_assertions_total",
            "Assertions sent to upstreams, by where they came from.",
            "`signed` near the rate of requests means that the cache is no use and every request pays for a \
             signature.",
        )?;

        t.section("Store");
        let store_operations = t.counters(
            "teamgate_store_operations_total",
            "What was asked of the store.",
            "The base of rates.",
        )?;
        let store_errors = t.counters(
            "teamgate_store_errors_total",
            "What was asked of the store and failed.",
            "While it rises, sign-ins get 503 and sessions that are not in memory are not found.",
        )?;
        let store_seconds = t.histograms(
            "teamgate_store_operation_seconds",
            "Duration of what was asked of the store.",
            "A slow disk or a far Redis shows here first.",
        )?;
        let corrupted_records = t.counter(
            "teamgate_corrupted_records_total",
            "Records of the store that could not be opened or read, and were passed over.",
            "Anything above zero: a wrong secret file, a damaged disk, or somebody writing into the store.",
        )?;

        let revocations_owed = t.gauge(
            "teamgate_revocations_owed",
            "Sessions, and accounts with all of theirs, that were ended and that the store has not taken yet.",
            "Above zero the store fails: they are over here, and would come back if the process ended now.",
        )?;

        let key_reloads = t.counters(
            "teamgate_key_reloads_total",
            "Changes of the secret file, by what came of them.",
            "`refused`: the log says why, and the keys before it stay in use.",
        )?;
        let secret_file_refused = t.gauge(
            "teamgate_secret_file_refused",
            "1 while the secret file is not good and the keys before it stay in use, else 0.",
            "At 1 the next start fails, or replicas come to differ: mend the file.",
        )?;

        t.section("Certificates");
        let certificate_ends = t.by_certificate(
            "teamgate_certificate_expiry_timestamp_seconds",
            "When a certificate that is shown to browsers expires, in seconds since 1970.",
            "Alert on `… - time() < 7 * 86400`, or on a quarter of the life of certificates that live shorter.",
        )?;
        let certificate_trouble = t.flag_by_certificate(
            "teamgate_certificate_problem",
            "1 while the files of a certificate, or of the CAs of client certificates, cannot be used, so that \
             what was read before is used on; else 0.",
            "1 for longer than a deployment takes: the log says which file, what is wrong, and the cure. A \
             restart would fail.",
        )?;
        let certificate_reloads = t.counters(
            "teamgate_certificate_reloads_total",
            "Changes of certificate files that were noticed.",
            "`refused` rising is a deployment that writes broken files.",
        )?;

        t.section("The gateway itself");
        let log_lines_dropped = t.counters(
            "teamgate_log_lines_dropped_total",
            "Log lines that were dropped because they came faster than they could be written.",
            "`audit` above zero is a gap in the record: whoever reads the log is too slow, or the disk is full.",
        )?;
        let config_info = t.info(
            "teamgate_config_info",
            "Always 1; the label is the start of the SHA-256 of the configuration in force.",
            &[("hash", "16 hexadecimal digits")],
            "Replicas with different hashes run different configurations.",
        )?;
        let config_routes =
            t.gauge("teamgate_config_routes", "Routes in the configuration in force.", "A sudden fall.")?;
        let build_info = t.info(
            "teamgate_build_info",
            "Always 1; the labels say what runs.",
            &[("version", "the version"), ("commit", "the commit, or `unknown`")],
            "It marks deployments on a graph.",
        )?;
        build_info.with_label_values(&[version, commit]).set(1);

        t.section("The process");
        let process = Process::register(&mut t)?;

        let Table { registry, rows } = t;
        let metrics = Metrics {
            requests,
            gate,
            first_byte,
            total,
            in_flight,
            open_connections,
            connections_closed,
            bad_cookies,
            upstreams_healthy,
            upstream_failures,
            upstream_retries,
            upstream_ejections,
            connections,
            connections_refused,
            sign_in_starts,
            sign_ins,
            hand_overs,
            throttled,
            sessions,
            sessions_ended,
            memberships,
            oldest_membership,
            requeries,
            interval_stretch,
            accounts_in_use,
            slug_changes_refused,
            bitbucket_calls,
            bitbucket_call_seconds,
            bitbucket_budget,
            bitbucket_budget_left,
            bitbucket_budget_used,
            bitbucket_calls_held,
            bitbucket_closed,
            bitbucket_circuit_open,
            bitbucket_findings,
            bitbucket_clock_skew,
            token_refreshes,
            assertions,
            store_operations,
            store_errors,
            store_seconds,
            corrupted_records,
            revocations_owed,
            key_reloads,
            secret_file_refused,
            certificate_ends,
            certificate_trouble,
            certificate_reloads,
            log_lines_dropped,
            config_info,
            config_routes,
            process,
            registry,
            rows,
            at_scrape: RwLock::new(Vec::new()),
        };
        metrics.for_route(NO_ROUTE);
        metrics.for_route(OWN);
        Ok(metrics)
    }

    /// The series of one route. Asked for once per route when routes are compiled, never per request: `name`
    /// must come from the configuration, or be [`OWN`] or [`NO_ROUTE`].
    pub fn for_route(&self, name: &str) -> Arc<RouteMetrics> {
        let metrics = RouteMetrics {
            name: name.into(),
            cells: (0..CELLS).map(|_| OnceLock::new()).collect(),
            requests: self.requests.clone(),
            gate: self.gate.with_label_values(&[name]),
            first_byte: self.first_byte.with_label_values(&[name]),
            total: self.total.with_label_values(&[name]),
        };
        for (decision, status) in usual(name) {
            metrics.cell(*decision, *status);
        }
        Arc::new(metrics)
    }

    /// The series of one upstream, by its URL as configured. Asked for once per upstream.
    pub fn for_upstream(&self, url: &str) -> Arc<UpstreamMetrics> {
        Arc::new(UpstreamMetrics {
            url: url.into(),
            failures: self.upstream_failures.clone(),
            retries: self.upstream_retries.with_label_values(&[url]),
            ejections: self.upstream_ejections.with_label_values(&[url]),
        })
    }

    /// Says of each upstream how many of its addresses get requests; others are not shown any more.
    pub fn upstreams_healthy<'u>(&self, upstreams: impl Iterator<Item = (&'u str, i64)>) {
        self.upstreams_healthy.reset();
        for (url, available) in upstreams {
            self.upstreams_healthy.with_label_values(&[url]).set(available);
        }
    }

    /// Counts one more request in flight until the guard is dropped: a panic skips every hook, not this.
    pub fn request_in_flight(&self) -> InFlight {
        InFlight::enter(&self.in_flight)
    }

    /// Says which configuration is in force: the start of its hash, and its number of routes.
    pub fn config_in_force(&self, hash: &str, routes: usize) {
        self.config_info.reset();
        self.config_info.with_label_values(&[hash]).set(1);
        self.config_routes.set(i64::try_from(routes).unwrap_or(i64::MAX));
    }

    /// Says until when the certificate in `file` is valid. `file` is its name in the configuration.
    pub fn certificate_ends(&self, file: &str, at: Timestamp) {
        self.certificate_ends.with_label_values(&[file]).set(at.unix_seconds() as f64);
    }

    /// Says whether the files behind `file`, its name in the configuration, are of no use at present.
    pub fn certificate_in_trouble(&self, file: &str, trouble: bool) {
        self.certificate_trouble.with_label_values(&[file]).set(trouble.into());
    }

    /// Has `refresh` called before each scrape, for gauges that change by mere waiting (ages) or are costly
    /// to keep current. It must be quick and must not call [`Metrics::render`].
    pub fn at_scrape(&self, refresh: impl Fn(&Metrics) + Send + Sync + 'static) {
        self.at_scrape.write().unwrap_or_else(PoisonError::into_inner).push(Box::new(refresh));
    }

    /// All metrics in Prometheus' text format 0.0.4; its content type is [`CONTENT_TYPE`].
    ///
    /// # Errors
    ///
    /// Only by a mistake in this file.
    pub fn render(&self) -> Result<String, Error> {
        self.process.refresh();
        for refresh in self.at_scrape.read().unwrap_or_else(PoisonError::into_inner).iter() {
            refresh(self);
        }
        Ok(TextEncoder::new().encode_to_string(&self.registry.gather())?)
    }

    pub(super) fn rows(&self) -> &[Row] {
        &self.rows
    }
}

/// What is counted of one upstream.
pub struct UpstreamMetrics {
    url: Box<str>,
    failures: IntCounterVec,
    /// Requests that were sent again after this upstream gave no answer.
    pub retries: IntCounter,
    /// Times that it was left alone.
    pub ejections: IntCounter,
}

impl UpstreamMetrics {
    /// An attempt failed.
    pub fn failed(&self, kind: UpstreamFault) {
        self.failures.with_label_values(&[&*self.url, kind.as_str()]).inc();
    }
}

/// The page `docs/metrics.md`.
///
/// # Errors
///
/// Only by a mistake in this file.
pub fn reference() -> Result<String, Error> {
    Ok(super::reference::render(Metrics::new("", "")?.rows()))
}

const CELLS: usize = Decision::COUNT * StatusClass::COUNT;

/// What a route usually answers. These series exist from the start, so that the first denial is a rise from
/// zero to one, which `rate()` sees, and not an appearance, which it does not. Others appear when they happen:
/// all 60 for each of a few hundred routes would be a long page of zeros.
fn usual(route: &str) -> &'static [(Decision, StatusClass)] {
    use Decision::{Allow, BadRequest, CannotTell, Deny, Error, NoRoute, Own, Redirect, SignIn};
    use StatusClass::{ClientError, Redirection, ServerError, Success};
    match route {
        OWN => &[
            (Own, Success),
            (Own, Redirection),
            (Own, ClientError),
            (Own, ServerError),
            (Error, ServerError),
        ],
        NO_ROUTE => &[
            (NoRoute, ClientError),
            (BadRequest, ClientError),
            (Redirect, Redirection),
            (Error, ServerError),
        ],
        _ => &[
            (Allow, Success),
            (Allow, ServerError),
            (SignIn, Redirection),
            (SignIn, ClientError),
            (Deny, ClientError),
            (CannotTell, ServerError),
            (Error, ServerError),
        ],
    }
}

/// The series of one route, resolved.
pub struct RouteMetrics {
    name: Box<str>,
    cells: Box<[OnceLock<IntCounter>]>,
    requests: IntCounterVec,
    gate: Histogram,
    first_byte: Histogram,
    total: Histogram,
}

impl RouteMetrics {
    /// Counts one request that is over. `first_byte` is `None` when no upstream answered. Takes no lock and
    /// allocates nothing, but for the first time of an unusual pair of decision and status.
    pub fn record(
        &self,
        decision: Decision,
        status: StatusClass,
        gate: Duration,
        first_byte: Option<Duration>,
        total: Duration,
    ) {
        self.cell(decision, status).inc();
        self.gate.observe(gate.as_secs_f64());
        if let Some(first_byte) = first_byte {
            self.first_byte.observe(first_byte.as_secs_f64());
        }
        self.total.observe(total.as_secs_f64());
    }

    /// The name of the route.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn cell(&self, decision: Decision, status: StatusClass) -> &IntCounter {
        self.cells[(decision, status).index()].get_or_init(|| {
            self.requests.with_label_values(&[&*self.name, decision.as_str(), status.as_str()])
        })
    }
}

impl fmt::Debug for RouteMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RouteMetrics").field(&self.name).finish()
    }
}

/// Something that goes on: a gauge is one higher until this is dropped.
#[derive(Debug)]
#[must_use = "dropping it says that the thing is over"]
pub struct InFlight(IntGauge);

impl InFlight {
    fn enter(gauge: &IntGauge) -> InFlight {
        gauge.inc();
        InFlight(gauge.clone())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line<'a>(page: &'a str, series: &str) -> Option<&'a str> {
        page.lines().find_map(|line| line.strip_prefix(series)).map(str::trim)
    }

    #[test]
    fn a_request_counts_once_with_its_route_decision_and_status() -> Result<(), Error> {
        let metrics = Metrics::new("1.2.3", "abc")?;
        let wiki = metrics.for_route("wiki");
        wiki.record(
            Decision::Allow,
            StatusClass::of(204),
            Duration::from_micros(7),
            Some(Duration::from_millis(3)),
            Duration::from_millis(4),
        );
        wiki.record(
            Decision::Public,
            StatusClass::of(0),
            Duration::from_micros(7),
            None,
            Duration::from_millis(4),
        );
        let page = metrics.render()?;
        for (series, value) in [
            (r#"teamgate_requests_total{decision="allow",route="wiki",status="2xx"}"#, Some("1")),
            (r#"teamgate_requests_total{decision="public",route="wiki",status="other"}"#, Some("1")),
            (r#"teamgate_requests_total{decision="deny",route="wiki",status="4xx"}"#, Some("0")),
            (r#"teamgate_requests_total{decision="deny",route="wiki",status="2xx"}"#, None),
            (r#"teamgate_gate_seconds_bucket{route="wiki",le="0.000005"}"#, Some("0")),
            (r#"teamgate_gate_seconds_bucket{route="wiki",le="0.00001"}"#, Some("2")),
            (r#"teamgate_upstream_first_byte_seconds_count{route="wiki"}"#, Some("1")),
            (r#"teamgate_request_seconds_count{route="wiki"}"#, Some("2")),
            (r#"teamgate_build_info{commit="abc",version="1.2.3"}"#, Some("1")),
        ] {
            assert_eq!(line(&page, series), value, "{series}");
        }
        Ok(())
    }

    #[test]
    fn asking_for_a_route_again_gives_the_same_series() -> Result<(), Error> {
        let metrics = Metrics::new("", "")?;
        for _ in 0..2 {
            let route = metrics.for_route("wiki");
            route.record(Decision::Deny, StatusClass::of(403), Duration::ZERO, None, Duration::ZERO);
        }
        let series = r#"teamgate_requests_total{decision="deny",route="wiki",status="4xx"}"#;
        assert_eq!(line(&metrics.render()?, series), Some("2"));
        Ok(())
    }

    #[test]
    fn a_request_in_flight_is_over_even_when_it_panics() -> Result<(), Error> {
        let metrics = Arc::new(Metrics::new("", "")?);
        let outer = metrics.request_in_flight();
        let inner = Arc::clone(&metrics);
        let died = std::thread::spawn(move || {
            let _guard = inner.request_in_flight();
            std::panic::resume_unwind(Box::new(()));
        });
        assert!(died.join().is_err());
        assert_eq!(metrics.in_flight.get(), 1);
        drop(outer);
        assert_eq!(metrics.in_flight.get(), 0);
        Ok(())
    }

    #[test]
    fn a_gauge_that_changes_by_waiting_is_current_at_each_scrape() -> Result<(), Error> {
        let metrics = Metrics::new("", "")?;
        metrics.at_scrape(|m| m.oldest_membership.set(m.oldest_membership.get() + 1.5));
        assert_eq!(line(&metrics.render()?, "teamgate_membership_oldest_age_seconds"), Some("1.5"));
        assert_eq!(line(&metrics.render()?, "teamgate_membership_oldest_age_seconds"), Some("3"));
        Ok(())
    }

    #[test]
    fn only_the_configuration_in_force_is_shown() -> Result<(), Error> {
        let metrics = Metrics::new("", "")?;
        metrics.config_in_force("aa", 3);
        metrics.config_in_force("bb", 4);
        let page = metrics.render()?;
        assert_eq!(line(&page, r#"teamgate_config_info{hash="aa"}"#), None);
        assert_eq!(line(&page, r#"teamgate_config_info{hash="bb"}"#), Some("1"));
        assert_eq!(line(&page, "teamgate_config_routes"), Some("4"));
        Ok(())
    }
}
