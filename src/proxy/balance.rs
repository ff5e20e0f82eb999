//! Which upstream gets a request, by what is known of them now.
//!
//! Owns: [`Pools`] and what is below it: a `Pool` for each app of the configuration, a `State` for each
//! upstream, an `Endpoint` for each of its addresses, with what is under way there, whether its checks are good,
//! whether it is left alone. Must not know: requests, why one failed.
//!
//! Choosing takes no lock: pools look at a list of who is available and make a new one when something has changed,
//! which `Changes` tells by a number.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use arc_swap::{ArcSwap, Guard};
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::health::{self, Prober};
use super::peer::{Spot, Template};
use super::resolver;
use crate::route::Route;
use crate::route::upstream::Place;
use crate::route::upstream::app::{App, Balance, Target};
use crate::route::upstream::balance::{Key, Name, schedule, score};
use crate::route::upstream::condition::{Checked, Eject, Outcome, Standing, Streak};
use crate::telemetry::Telemetry;
use crate::telemetry::metrics::UpstreamMetrics;

/// Counts what has changed about any upstream.
#[derive(Default, Debug)]
pub(super) struct Changes(AtomicU64);

impl Changes {
    fn now(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    fn another(&self) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }
}

/// Every app of the configuration in force. Cheap to clone.
#[derive(Clone)]
pub struct Pools(Arc<Inner>);

struct Inner {
    /// By the app's place in memory, which each pool keeps taken.
    pools: ArcSwap<HashMap<usize, Arc<Pool>>>,
    /// One for each upstream, as long as some pool has it.
    states: Mutex<HashMap<Arc<Target>, Weak<State>>>,
    runtime: Handle,
    telemetry: Telemetry,
    changes: Arc<Changes>,
    prober: Arc<Prober>,
}

impl Pools {
    /// None yet. Names are resolved and checks are made on `runtime`.
    pub fn new(runtime: Handle, telemetry: Telemetry) -> Pools {
        Pools(Arc::new(Inner {
            pools: ArcSwap::default(),
            states: Mutex::default(),
            runtime,
            telemetry,
            changes: Arc::default(),
            prober: Arc::default(),
        }))
    }

    /// Those of these routes from now on. What is known of upstreams that stay is kept; checks of those that go
    /// end with the last request that uses them.
    pub fn adopt<'r>(&self, routes: impl Iterator<Item = &'r Arc<Route>>) {
        let apps = routes.filter_map(|route| route.destination.app());
        let pools = apps.map(|app| (place(app), self.of(app))).collect();
        self.0.pools.store(Arc::new(pools));
        self.states().retain(|_, state| state.strong_count() > 0);
    }

    /// The pool of an app. One of a configuration that is not in force any more is made for whoever asks.
    pub(super) fn of(&self, app: &Arc<App>) -> Arc<Pool> {
        match self.0.pools.load().get(&place(app)) {
            Some(pool) => pool.clone(),
            None => Arc::new(Pool::new(
                app.clone(),
                app.members.iter().map(|member| (self.state(&member.target), member.weight)).collect(),
                self.0.changes.clone(),
            )),
        }
    }

    fn states(&self) -> std::sync::MutexGuard<'_, HashMap<Arc<Target>, Weak<State>>> {
        self.0.states.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self, target: &Arc<Target>) -> Arc<State> {
        let mut states = self.states();
        if let Some(state) = states.get(target).and_then(Weak::upgrade) {
            return state;
        }
        let state = Arc::new(State::new(target.clone(), &self.0));
        match &target.upstream.place {
            Place::Socket(path) => {
                state.is_at(vec![Spot::Socket(path.as_path().into())]);
            }
            Place::Network { host, port } => match host.parse::<IpAddr>() {
                Ok(ip) => {
                    state.is_at(vec![Spot::Address(SocketAddr::new(ip, *port))]);
                }
                Err(_) => {
                    let resolving = resolver::keep_resolved(Arc::downgrade(&state), host.clone(), *port);
                    self.0.runtime.spawn(resolving);
                }
            },
        }
        states.insert(target.clone(), Arc::downgrade(&state));
        state
    }

    /// Says of each upstream how many of its addresses get requests.
    pub fn report(&self) {
        let states: Vec<Arc<State>> = self.states().values().filter_map(Weak::upgrade).collect();
        let mut available: HashMap<&str, i64> = HashMap::new();
        for state in &states {
            let count = state.endpoints.load().iter().filter(|endpoint| endpoint.is_available()).count();
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            // The same URL with other settings: what the one that knows least good of it says.
            available
                .entry(&state.target.upstream.url_text)
                .and_modify(|known| *known = count.min(*known))
                .or_insert(count);
        }
        self.0.telemetry.metrics.upstreams_healthy(available.into_iter());
    }
}

fn place(app: &Arc<App>) -> usize {
    Arc::as_ptr(app).addr()
}

/// What is known of one upstream.
pub(super) struct State {
    pub(super) target: Arc<Target>,
    endpoints: ArcSwap<Vec<Arc<Endpoint>>>,
    /// Whether its addresses have been asked for, with whatever result.
    resolved: watch::Sender<bool>,
    metrics: Arc<UpstreamMetrics>,
    changes: Arc<Changes>,
    runtime: Handle,
    prober: Arc<Prober>,
}

impl State {
    fn new(target: Arc<Target>, inner: &Inner) -> State {
        State {
            metrics: inner.telemetry.metrics.for_upstream(&target.upstream.url_text),
            target,
            endpoints: ArcSwap::default(),
            resolved: watch::Sender::new(false),
            changes: inner.changes.clone(),
            runtime: inner.runtime.clone(),
            prober: inner.prober.clone(),
        }
    }

    /// Notes where it is now. Addresses that stay keep what is known of them. Says whether anything is new.
    pub(super) fn is_at(&self, spots: Vec<Spot>) -> bool {
        let known = self.endpoints.load();
        let same = known.len() == spots.len() && known.iter().zip(&spots).all(|(e, spot)| e.spot == *spot);
        if !same {
            let endpoints = spots.into_iter().filter_map(|spot| {
                match known.iter().find(|endpoint| endpoint.spot == spot) {
                    Some(endpoint) => Some(endpoint.clone()),
                    None => self.endpoint(spot),
                }
            });
            self.endpoints.store(Arc::new(endpoints.collect()));
            self.changes.another();
        }
        self.resolved.send_replace(true);
        !same
    }

    /// Its addresses are not to be had; those that were are kept.
    pub(super) fn is_nowhere(&self) {
        self.resolved.send_replace(true);
    }

    fn endpoint(&self, spot: Spot) -> Option<Arc<Endpoint>> {
        let template = match Template::new(&self.target, &spot) {
            Ok(template) => template,
            Err(error) => {
                tracing::error!(upstream = &*self.target.upstream.url_text, %error, "this upstream cannot be used");
                return None;
            }
        };
        let text = spot.to_string();
        let upstream = &self.target.upstream;
        let says_all = match &upstream.place {
            Place::Socket(_) => true,
            Place::Network { host, .. } => host.parse::<IpAddr>().is_ok(),
        };
        let endpoint = Arc::new(Endpoint {
            name: Name::of(&text),
            label: if says_all { upstream.url_text.clone() } else { format!("{upstream} ({text})").into() },
            target: self.target.clone(),
            template,
            spot,
            in_flight: AtomicU32::new(0),
            checked: Mutex::default(),
            ill: AtomicBool::new(false),
            ejected: AtomicBool::new(false),
            streak: AtomicU32::new(0),
            metrics: self.metrics.clone(),
            changes: self.changes.clone(),
            runtime: self.runtime.clone(),
        });
        if let Some(check) = &self.target.health_check {
            let checking =
                health::keep_checked(Arc::downgrade(&endpoint), check.clone(), self.prober.clone());
            self.runtime.spawn(checking);
        }
        Some(endpoint)
    }
}

/// One address of an upstream.
pub(super) struct Endpoint {
    pub(super) target: Arc<Target>,
    /// For logs: the URL, and the address where the URL does not say it.
    pub(super) label: Box<str>,
    pub(super) template: Template,
    pub(super) metrics: Arc<UpstreamMetrics>,
    spot: Spot,
    name: Name,
    in_flight: AtomicU32,
    /// Only its checks lock it.
    checked: Mutex<Checked>,
    ill: AtomicBool,
    ejected: AtomicBool,
    streak: AtomicU32,
    changes: Arc<Changes>,
    runtime: Handle,
}

impl Endpoint {
    fn is_available(&self) -> bool {
        !self.ill.load(Ordering::Acquire) && !self.ejected.load(Ordering::Acquire)
    }

    fn is_full(&self) -> bool {
        self.target.max_connections.is_some_and(|most| self.in_flight.load(Ordering::Acquire) >= most)
    }

    /// Counts one more request, if there is room.
    fn take(self: &Arc<Endpoint>) -> Option<Taken> {
        let before = self.in_flight.fetch_add(1, Ordering::AcqRel);
        let taken = Taken(self.clone());
        // Counted first: two that come at once must not both see the last place.
        self.target.max_connections.is_none_or(|most| before < most).then_some(taken)
    }

    /// Notes the result of a check; `said` is what was seen.
    pub(super) fn observe(&self, outcome: Outcome, said: &str) {
        let Some(check) = &self.target.health_check else { return };
        let change = self.checked.lock().unwrap_or_else(PoisonError::into_inner).observe(outcome, check);
        let Some(standing) = change else { return };
        let ill = standing == Standing::Unhealthy;
        self.ill.store(ill, Ordering::Release);
        self.changes.another();
        if ill {
            tracing::warn!(upstream = &*self.label, said, "an upstream is unhealthy; it gets no requests");
        } else {
            tracing::info!(upstream = &*self.label, said, "an upstream is healthy again");
        }
    }

    /// A request was answered.
    pub(super) fn answered(&self) {
        if self.streak.load(Ordering::Relaxed) != 0 {
            self.streak.store(0, Ordering::Relaxed);
        }
    }

    /// A request failed. The last one that is available is never left alone.
    pub(super) fn failed(self: &Arc<Endpoint>, pool: &Pool) {
        let Some(ejection) = &self.target.ejection else { return };
        let mut eject = Eject::No;
        let _ = self.streak.fetch_update(Ordering::AcqRel, Ordering::Acquire, |streak| {
            let (next, verdict) = Streak(streak).failed(ejection);
            eject = verdict;
            Some(next.0)
        });
        if eject == Eject::No || !pool.has_another(self) || self.ejected.swap(true, Ordering::AcqRel) {
            return;
        }
        self.changes.another();
        self.metrics.ejections.inc();
        tracing::warn!(
            upstream = &*self.label,
            seconds = ejection.span.as_secs(),
            "requests to an upstream keep failing; it is left alone for a while"
        );
        let (endpoint, span) = (Arc::downgrade(self), ejection.span);
        self.runtime.spawn(async move {
            tokio::time::sleep(span).await;
            let Some(endpoint) = endpoint.upgrade() else { return };
            endpoint.ejected.store(false, Ordering::Release);
            endpoint.changes.another();
            tracing::info!(
                upstream = &*endpoint.label,
                "an upstream that was left alone gets requests again"
            );
        });
    }
}

/// A request that is under way at an endpoint, until it is dropped: panic or not.
pub(super) struct Taken(Arc<Endpoint>);

impl Taken {
    pub(super) fn endpoint(&self) -> &Arc<Endpoint> {
        &self.0
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::AcqRel);
    }
}

/// An app's upstreams, and whose turn it is.
pub(super) struct Pool {
    pub(super) app: Arc<App>,
    states: Vec<(Arc<State>, u16)>,
    members: ArcSwap<Members>,
    turn: AtomicUsize,
    changes: Arc<Changes>,
}

/// Who gets requests.
struct Members {
    as_of: u64,
    list: Vec<Member>,
    /// Places in `list`, as they take turns.
    turns: Vec<u16>,
    /// Whether nobody is available, so that all are tried.
    desperate: bool,
}

struct Member {
    endpoint: Arc<Endpoint>,
    weight: u16,
}

/// Why no upstream can be had.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum NoneLeft {
    /// No address is known.
    Nowhere,
    /// All that are left are as busy as they may be.
    Full,
    /// All have been tried.
    Tried,
}

impl Pool {
    fn new(app: Arc<App>, states: Vec<(Arc<State>, u16)>, changes: Arc<Changes>) -> Pool {
        // No count of changes is that high: the first request makes the list.
        let members = Members { as_of: u64::MAX, list: Vec::new(), turns: Vec::new(), desperate: false };
        Pool { app, states, members: ArcSwap::from_pointee(members), turn: AtomicUsize::new(0), changes }
    }

    /// Waits until the addresses of all upstreams have been asked for once.
    pub(super) async fn resolved(&self) {
        for (state, _) in &self.states {
            // The sender is in the state.
            let _ = state.resolved.subscribe().wait_for(|resolved| *resolved).await;
        }
    }

    /// Takes the next upstream that is none of `tried`.
    pub(super) fn take(&self, key: Option<Key>, tried: &[Arc<Endpoint>]) -> Result<Taken, NoneLeft> {
        let members = self.members();
        let untried = |member: &&Member| !tried.iter().any(|tried| Arc::ptr_eq(tried, &member.endpoint));
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let taken = match (self.app.balance, key) {
            (Balance::Account | Balance::ClientAddress, Some(key)) => {
                best(&members.list, turn, untried, |m| score(key, m.endpoint.name, m.weight))
            }
            (Balance::LeastConnections, _) => best(&members.list, turn, untried, |m| {
                let busy = f64::from(m.endpoint.in_flight.load(Ordering::Acquire)) + 1.0;
                -busy / f64::from(m.weight)
            }),
            _ => (0..members.turns.len())
                .filter_map(|step| {
                    let place = members.turns[(turn % members.turns.len() + step) % members.turns.len()];
                    members.list.get(usize::from(place))
                })
                .filter(untried)
                .find_map(|member| member.endpoint.take()),
        };
        match taken {
            Some(taken) => Ok(taken),
            None if members.list.is_empty() => Err(NoneLeft::Nowhere),
            None if members.list.iter().any(|member| untried(&member)) => Err(NoneLeft::Full),
            None => Err(NoneLeft::Tried),
        }
    }

    /// Whether somebody is left who is none of `tried`.
    pub(super) fn has_untried(&self, tried: &[Arc<Endpoint>]) -> bool {
        let members = self.members();
        members.list.iter().any(|member| !tried.iter().any(|tried| Arc::ptr_eq(tried, &member.endpoint)))
    }

    fn has_another(&self, than: &Arc<Endpoint>) -> bool {
        let members = self.members();
        !members.desperate && members.list.iter().any(|member| !Arc::ptr_eq(&member.endpoint, than))
    }

    fn members(&self) -> Guard<Arc<Members>> {
        let members = self.members.load();
        let as_of = self.changes.now();
        if members.as_of == as_of {
            return members;
        }
        let everybody: Vec<Member> = self
            .states
            .iter()
            .flat_map(|(state, weight)| {
                let endpoints = state.endpoints.load();
                endpoints
                    .iter()
                    .map(|endpoint| Member { endpoint: endpoint.clone(), weight: *weight })
                    .collect::<Vec<_>>()
            })
            .collect();
        let desperate = !everybody.is_empty() && !everybody.iter().any(|m| m.endpoint.is_available());
        if desperate && !members.desperate {
            tracing::warn!(upstreams = %self.app, "no upstream of an app is available; all of them are tried");
        }
        let list: Vec<Member> =
            everybody.into_iter().filter(|member| desperate || member.endpoint.is_available()).collect();
        let turns = schedule(&list.iter().map(|member| member.weight).collect::<Vec<_>>());
        self.members.store(Arc::new(Members { as_of, list, turns, desperate }));
        self.members.load()
    }
}

/// Takes the member with the highest score; of equals the one whose turn it is.
fn best<'m>(
    list: &'m [Member],
    turn: usize,
    wanted: impl Fn(&&'m Member) -> bool,
    score: impl Fn(&Member) -> f64,
) -> Option<Taken> {
    // As often as somebody else is faster with the last place.
    for _ in 0..list.len() {
        let from = turn % list.len();
        let rotated = list[from..].iter().chain(&list[..from]);
        let best = rotated
            .filter(|member| wanted(member) && !member.endpoint.is_full())
            .map(|member| (score(member), member))
            .reduce(|best, next| if next.0 > best.0 { next } else { best });
        if let Some(taken) = best?.1.endpoint.take() {
            return Some(taken);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::error::Error;
    use std::time::Duration;

    use super::*;
    use crate::route::upstream::app::{Ejection, HealthCheck, Member as Configured, Probe, ServerErrors};

    type Tested<T = ()> = Result<T, Box<dyn Error>>;

    fn pools() -> Tested<Pools> {
        Ok(Pools::new(Handle::current(), Telemetry::unheard()?))
    }

    /// An app at 10.0.0.1, 10.0.0.2 and so on, with these weights.
    fn app(weights: &[u16], change: impl Fn(&mut Target)) -> Tested<App> {
        let mut app: App = "http://10.0.0.1".parse()?;
        app.members = (1..)
            .zip(weights)
            .map(|(number, weight)| -> Tested<Configured> {
                let one: App = format!("http://10.0.0.{number}").parse()?;
                let mut target = one.members[0].target.as_ref().clone();
                change(&mut target);
                Ok(Configured { target: Arc::new(target), weight: *weight })
            })
            .collect::<Tested<_>>()?;
        Ok(app)
    }

    fn pool(pools: &Pools, app: App) -> Arc<Pool> {
        pools.of(&Arc::new(app))
    }

    fn url(taken: &Taken) -> String {
        taken.endpoint().label.to_string()
    }

    fn ejects(target: &mut Target) {
        target.ejection =
            Some(Ejection { after: 2, span: Duration::from_secs(3600), server_errors: ServerErrors::Pass });
    }

    #[tokio::test]
    async fn turns_are_taken_by_weight_among_those_who_are_available() -> Tested {
        let pool = pool(&pools()?, app(&[3, 1, 2], ejects)?);
        let count = |rounds: usize| -> Result<HashMap<String, usize>, NoneLeft> {
            let mut counts = HashMap::new();
            for _ in 0..rounds {
                *counts.entry(url(&pool.take(None, &[])?)).or_default() += 1;
            }
            Ok(counts)
        };
        let named = |counts: [usize; 3]| -> HashMap<String, usize> {
            let names = (1..).map(|number| format!("http://10.0.0.{number}"));
            names.zip(counts).filter(|(_, count)| *count > 0).collect()
        };
        assert_eq!(count(60).map_err(|none| format!("{none:?}"))?, named([30, 10, 20]));
        let first = pool.take(None, &[]).map_err(|none| format!("{none:?}"))?.endpoint().clone();
        assert_eq!(&*first.label, "http://10.0.0.1");
        first.failed(&pool);
        first.failed(&pool);
        // Exact among those who are left, too.
        assert_eq!(count(30).map_err(|none| format!("{none:?}"))?, named([0, 10, 20]));
        Ok(())
    }

    #[tokio::test]
    async fn the_last_one_is_never_left_alone_and_when_all_are_ill_all_are_tried() -> Tested {
        let check = HealthCheck {
            probe: Probe::Tcp,
            interval: Duration::from_secs(3600),
            timeout: Duration::from_secs(1),
            healthy_after: 1,
            unhealthy_after: 1,
        };
        let pools = pools()?;
        let pool = pool(
            &pools,
            app(&[1, 1], |target| {
                ejects(target);
                target.health_check = Some(check.clone());
            })?,
        );
        let take = |tried: &[Arc<Endpoint>]| pool.take(None, tried).map_err(|none| format!("{none:?}"));
        let one = take(&[])?.endpoint().clone();
        let other = take(std::slice::from_ref(&one))?.endpoint().clone();
        for _ in 0..2 {
            one.failed(&pool);
        }
        for _ in 0..5 {
            other.failed(&pool);
            assert!(Arc::ptr_eq(take(&[])?.endpoint(), &other));
        }
        // Now the other is ill, and nobody is left.
        other.observe(Outcome::Bad, "in a test");
        let seen = [take(&[])?, take(&[])?].map(|taken| url(&taken));
        assert_ne!(seen[0], seen[1]);
        other.observe(Outcome::Good, "in a test");
        assert!(Arc::ptr_eq(take(&[])?.endpoint(), &other));
        Ok(())
    }

    #[tokio::test]
    async fn what_is_under_way_is_counted_until_it_is_over() -> Tested {
        let pool = pool(&pools()?, app(&[1, 1], |target| target.max_connections = Some(2))?);
        let mut under_way = Vec::new();
        for _ in 0..4 {
            under_way.push(pool.take(None, &[]).map_err(|none| format!("{none:?}"))?);
        }
        assert_eq!(pool.take(None, &[]).err(), Some(NoneLeft::Full));
        under_way.pop();
        assert!(pool.take(None, &[]).is_ok());
        // A panic drops what it unwinds through.
        let unwound = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _taken = pool.take(None, &[]);
            std::panic::resume_unwind(Box::new("a bug"));
        }));
        assert!(unwound.is_err());
        assert!(pool.take(None, &[]).is_ok());
        Ok(())
    }

    #[tokio::test]
    async fn the_least_busy_one_by_weight_is_next() -> Tested {
        let mut app = app(&[1, 3], |_| {})?;
        app.balance = Balance::LeastConnections;
        let pool = pool(&pools()?, app);
        let mut counts: HashMap<String, usize> = HashMap::new();
        let mut under_way = Vec::new();
        for _ in 0..40 {
            let taken = pool.take(None, &[]).map_err(|none| format!("{none:?}"))?;
            *counts.entry(url(&taken)).or_default() += 1;
            under_way.push(taken);
        }
        assert_eq!((counts["http://10.0.0.1"], counts["http://10.0.0.2"]), (10, 30));
        Ok(())
    }

    #[tokio::test]
    async fn a_visitor_stays_with_an_upstream_while_it_is_available() -> Tested {
        let mut app = app(&[1, 1, 1], ejects)?;
        app.balance = Balance::ClientAddress;
        let pool = pool(&pools()?, app);
        let key = |number: u8| Some(Key::of_address(IpAddr::from([203, 0, 113, number])));
        let home = |number: u8| pool.take(key(number), &[]).map_err(|none| format!("{none:?}"));
        let before: Vec<String> = (0..60).map(|n| home(n).map(|t| url(&t))).collect::<Result<_, _>>()?;
        assert_eq!(before, (0..60).map(|n| home(n).map(|t| url(&t))).collect::<Result<Vec<_>, _>>()?);
        let gone = home(0)?.endpoint().clone();
        gone.failed(&pool);
        gone.failed(&pool);
        for (number, before) in (0..60).zip(&before) {
            let now = url(&home(number)?);
            assert!(if *before == *gone.label { now != *before } else { now == *before });
        }
        Ok(())
    }

    #[tokio::test]
    async fn what_has_been_tried_is_not_taken_again() -> Tested {
        for balance in [Balance::RoundRobin, Balance::LeastConnections, Balance::ClientAddress] {
            let mut app = app(&[1, 5, 1], |_| {})?;
            app.balance = balance;
            let pool = pool(&pools()?, app);
            let key =
                (balance == Balance::ClientAddress).then(|| Key::of_address(IpAddr::from([203, 0, 113, 7])));
            let mut tried: Vec<Arc<Endpoint>> = Vec::new();
            for _ in 0..3 {
                assert!(pool.has_untried(&tried));
                let taken = pool.take(key, &tried).map_err(|none| format!("{none:?}"))?;
                assert!(!tried.iter().any(|tried| Arc::ptr_eq(tried, taken.endpoint())));
                tried.push(taken.endpoint().clone());
            }
            assert_eq!(pool.take(key, &tried).err(), Some(NoneLeft::Tried));
            assert!(!pool.has_untried(&tried));
        }
        Ok(())
    }

    /// One check for each upstream, not one for each route.
    #[tokio::test]
    async fn routes_to_the_same_upstream_share_what_is_known_of_it() -> Tested {
        let pools = pools()?;
        let (one, two) = (app(&[1, 1], ejects)?, app(&[1], ejects)?);
        let (one, two, three) = (pool(&pools, one), pool(&pools, two), pool(&pools, app(&[1], |_| {})?));
        assert!(Arc::ptr_eq(&one.states[0].0, &two.states[0].0));
        // Other settings, another state.
        assert!(!Arc::ptr_eq(&one.states[0].0, &three.states[0].0));
        Ok(())
    }

    #[tokio::test]
    async fn an_address_that_stays_keeps_what_is_known_of_it() -> Tested {
        let pool = pool(&pools()?, app(&[1], ejects)?);
        let state = &pool.states[0].0;
        let spot = |number: u8| Spot::Address(SocketAddr::from(([10, 0, 1, number], 80)));
        assert!(state.is_at(vec![spot(1), spot(2)]));
        let first = state.endpoints.load()[0].clone();
        assert!(!state.is_at(vec![spot(1), spot(2)]));
        assert!(state.is_at(vec![spot(1), spot(3)]));
        assert!(Arc::ptr_eq(&first, &state.endpoints.load()[0]));
        let mut seen: Vec<String> = Vec::new();
        for _ in 0..2 {
            let taken = pool.take(None, &[]).map_err(|none| format!("{none:?}"))?;
            seen.push(taken.endpoint().spot.to_string());
        }
        seen.sort();
        assert_eq!(seen, ["10.0.1.1:80", "10.0.1.3:80"]);
        Ok(())
    }

    #[tokio::test]
    async fn nothing_is_kept_of_an_upstream_that_no_route_leads_to() -> Tested {
        let pools = pools()?;
        let pool = pool(&pools, app(&[1, 1], ejects)?);
        let state = Arc::downgrade(&pool.states[0].0);
        pools.adopt(std::iter::empty());
        assert_eq!(pools.states().len(), 2);
        drop(pool);
        pools.adopt(std::iter::empty());
        assert_eq!(pools.states().len(), 0);
        assert!(state.upgrade().is_none());
        Ok(())
    }
}
