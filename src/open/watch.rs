//! Decides again on what is open, and ends what has lost its pass.
//!
//! Owns: [`Watch`], one round of it and the time between two; that nobody's silence is a yes.
//! Must not know: rules (the gate decides), how a client is told.
//!
//! Every open request keeps its account in use, so that its membership goes on being asked for. Only what its client
//! says keeps its session in use.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, sleep, timeout};

use super::{Ending, Open, Request};
use crate::clock::Timestamp;
use crate::directory::PATIENCE;
use crate::gate::{Gate, Recheck, Settings};
use crate::live::LiveSession;
use crate::store;
use crate::telemetry::Telemetry;
use crate::telemetry::audit::Event;

/// How long a round is away from the next, unless somebody lost something.
const EVERY: Duration = Duration::from_millis(500);
/// How long it waits for more when somebody lost something: a thousand changes in a second are not a thousand rounds.
const GATHER: Duration = Duration::from_millis(50);
/// How long a round waits for the store.
const STORE_PATIENCE: Duration = Duration::from_millis(500);

/// Goes over what is open. Cheap to clone.
#[derive(Clone)]
pub struct Watch {
    /// What is open.
    pub open: Open,
    /// Who decides.
    pub gate: Gate,
    /// Where endings are counted and recorded.
    pub telemetry: Telemetry,
}

/// Whether a round still asks the store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum StoreIs {
    Asked,
    Away,
}

impl Watch {
    /// Says when the next round is due: every half second, and at once when somebody signed out or lost a team.
    pub fn pace(&self) -> Pace {
        let mut tick = tokio::time::interval(EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Pace { watch: self.clone(), tick }
    }

    /// One round: every open request is decided on at `now`, and those are ended that would not be admitted.
    pub async fn round(&self, settings: &Settings, now: Timestamp) {
        let mut store = StoreIs::Asked;
        for request in self.open.watched(now) {
            let ending = match self.session_of(&request, &mut store, now).await {
                Some(session) => self.judge(&request, &session, settings, now),
                None => Some(Ending::Revoked),
            };
            if let Some(ending) = ending {
                self.end(&request, ending, now);
            }
        }
    }

    fn judge(
        &self,
        request: &Request,
        session: &LiveSession,
        settings: &Settings,
        now: Timestamp,
    ) -> Option<Ending> {
        if request.heard.swap(false, Ordering::Relaxed) && session.is_live(&settings.session, now) {
            session.touch(now);
        }
        session.account.touch(now);
        match self.gate.recheck(settings, &request.admitted(session), now) {
            Recheck::Stands => {
                request.doubt(None);
                None
            }
            Recheck::Lost(ending) => Some(ending),
            Recheck::Doubtful => {
                let since = request.doubtful_since().unwrap_or(now);
                request.doubt(Some(since));
                (now.since(since) >= PATIENCE).then_some(Ending::CannotTell)
            }
        }
    }

    /// The session of a request as it is now; `None` when the store has ended it and memory does not know.
    async fn session_of(
        &self,
        request: &Request,
        store: &mut StoreIs,
        now: Timestamp,
    ) -> Option<Arc<LiveSession>> {
        let session = self.gate.live.hold(&request.session);
        if !session.account.is_evicted() || *store == StoreIs::Away {
            return Some(session);
        }
        match timeout(STORE_PATIENCE, self.gate.live.renew(&session, now)).await {
            Ok(Ok(renewed)) => renewed,
            // What is known goes on growing old, and is not believed for ever.
            Ok(Err(error)) => {
                *store = StoreIs::Away;
                self.warn(&error, now);
                Some(session)
            }
            Err(_) => {
                *store = StoreIs::Away;
                Some(session)
            }
        }
    }

    fn warn(&self, error: &store::Error, now: Timestamp) {
        self.telemetry.warn_limited("store", now, error);
    }

    fn end(&self, request: &Request, ending: Ending, now: Timestamp) {
        request.line.end(ending);
        self.telemetry.metrics.connections_closed.inc(ending);
        let event = Event::ConnectionEnded {
            account: request.session.account.id(),
            session: request.session.key,
            route: request.route.name.to_string(),
            kind: request.kind(),
            reason: ending,
            open_seconds: now.since(request.since).as_secs(),
            client: request.client,
            request_id: request.request_id.to_string(),
        };
        self.telemetry.audit.record(now, &event);
    }
}

/// When rounds are due.
pub struct Pace {
    watch: Watch,
    tick: tokio::time::Interval,
}

impl Pace {
    /// Waits for the next round.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.tick.tick() => {}
            () = self.watch.gate.directory.stirred() => sleep(GATHER).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use http::header::COOKIE;
    use http::{HeaderMap, HeaderValue, Method};
    use tokio::runtime::Handle;

    use super::*;
    use crate::bitbucket::{self, Bitbucket, Right};
    use crate::clock::Clock;
    use crate::directory::plan::Ages;
    use crate::directory::{self, Account, Directory, Known};
    use crate::entropy::Entropy;
    use crate::facts::Arrival;
    use crate::gate::Verdict;
    use crate::gate::cookie::{self, SameSite, Secure, SessionId};
    use crate::identity::{AccountId, Claims, TeamId, VerifiedIdentity};
    use crate::keys::{self, Keyring};
    use crate::live::{Browser, Live};
    use crate::membership::{Membership, Role, Team};
    use crate::open::{Entered, Kind, LONG, Line};
    use crate::policy::Policy;
    use crate::policy::condition::{Condition, Conditions};
    use crate::route::destination::Destination;
    use crate::route::pattern::{HostPattern, Methods, PathPattern, Pattern};
    use crate::route::target::canonical;
    use crate::route::{Route, Table};
    use crate::secret::Secret;
    use crate::session;
    use crate::store::{Grant, Store};
    use crate::telemetry::audit::EndReason;

    type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_unix_seconds(1_000_000 + seconds)
    }

    /// A gateway with two routes, `/wiki` for `acme` and `/public`, in front of a Bitbucket that nobody answers for.
    struct Place {
        watch: Watch,
        settings: Settings,
        clock: Clock,
        entropy: Entropy,
        _folder: tempfile::TempDir,
    }

    fn route(name: &str, policy: Policy) -> Outcome<(Pattern, Arc<Route>)> {
        let path = PathPattern::prefix(&format!("/{name}"))?;
        let route = Route::new(name, policy, Destination::App(Arc::new("http://10.0.0.5:8080".parse()?)));
        Ok((Pattern { host: HostPattern::Any, path, methods: Methods::Any }, Arc::new(route)))
    }

    fn routes(wiki: Option<&str>) -> Outcome<Arc<Table<Arc<Route>>>> {
        let mut routes = vec![route("public", Policy::Public)?];
        if let Some(team) = wiki {
            let allow = Conditions::new(vec![Condition::Group(team.parse()?)])?;
            routes.push(route("wiki", Policy::Rules { allow, deny: Conditions::new(Vec::new())? })?);
        }
        Table::build(routes).map(Arc::new).map_err(|overlaps| format!("{overlaps:?}").into())
    }

    fn place(outage_grace: Duration) -> Outcome<Place> {
        keys::install_crypto_providers();
        let folder = tempfile::tempdir()?;
        let (entropy, telemetry, clock) = (Entropy::system(), Telemetry::unheard()?, Clock::manual(at(0)));
        let keyring = Arc::new(Keyring::ephemeral(&entropy)?);
        let store = Store::open(folder.path(), keyring.clone(), entropy.clone(), telemetry.metrics.clone())?;
        let nowhere = bitbucket::Settings {
            client_id: "id".to_owned(),
            client_secret: Arc::new(Secret::new("secret".to_owned())),
            redirect_uri: "http://127.0.0.1:1/.teamgate/callback".parse()?,
            // Nothing listens on port 1: connections are refused at once.
            web_url: "http://127.0.0.1:1".parse()?,
            api_url: "http://127.0.0.1:1/2.0".parse()?,
            timeout: Duration::from_secs(5),
        };
        let settings = Settings {
            routes: routes(Some("acme"))?,
            session: session::Settings {
                lifetime: Duration::from_secs(50_000),
                idle: Duration::from_secs(20_000),
            },
            cookie: cookie::Settings::new(None, Secure::LoopbackHttp, SameSite::Lax),
            directory: Arc::new(directory::Settings {
                bitbucket: Bitbucket::new(nowhere, Arc::new(|_: &bitbucket::Call| {}))?,
                teams: None,
                named: vec!["acme".parse()?],
                ages: Ages {
                    refresh_after: Duration::from_secs(300),
                    profile_after: Duration::from_secs(21_600),
                    max_age: Duration::from_secs(3_600),
                    outage_grace,
                },
            }),
        };
        let directory = Directory::new(store.clone(), clock.clone(), telemetry.clone(), Handle::current());
        let live = Live::new(store, directory.clone());
        let gate = Gate { keyring, live, directory, telemetry: telemetry.clone() };
        let watch = Watch { open: Open::default(), gate, telemetry };
        Ok(Place { watch, settings, clock, entropy, _folder: folder })
    }

    impl Place {
        /// What Bitbucket says of Ann at `now`.
        async fn learn(&self, teams: &[&str], now: Timestamp) -> Outcome<Arc<Account>> {
            let claims = Claims {
                account: AccountId::from_bytes([1; 16]),
                display_name: "Ann".into(),
                nickname: None,
                email: None,
            };
            let teams = teams
                .iter()
                .map(|slug| {
                    let id = TeamId::from_bytes([2; 16]);
                    Ok(Team { slug: (*slug).into(), id, role: Role::Member, confirmed: true })
                })
                .collect::<Outcome<Vec<_>>>()?;
            let known = Known {
                identity: VerifiedIdentity::vouched_for(claims),
                profile_as_of: now,
                membership: Membership::new(now, teams),
            };
            let grant = Grant {
                access_token: Secret::new("access".to_owned()),
                refresh_token: None,
                expires_at: at(1_000_000),
                scopes: None,
                obtained_at: now,
                refreshing_since: None,
            };
            Ok(self.watch.gate.directory.learn(known, &grant, now).await?)
        }

        async fn session(&self, account: Arc<Account>) -> Outcome<(SessionId, Arc<LiveSession>)> {
            let id = SessionId::draw(&self.entropy);
            let session = self.watch.gate.live.begin(id.key(), account, Browser::default(), at(0)).await?;
            Ok((id, session))
        }

        /// A request to `path` that the gate admits, at the beginning of time.
        async fn opened(
            &self,
            id: &SessionId,
            path: &str,
            kind: Kind,
        ) -> Outcome<(Arc<Line>, Option<Entered>)> {
            let arrival = Arrival {
                now: at(0),
                scheme: "http",
                host: "wiki.example.com".into(),
                authority: "wiki.example.com".into(),
                path: path.into(),
                query: None,
                client: std::net::IpAddr::from([127, 0, 0, 1]),
                request_id: "r-1".into(),
            };
            let mut headers = HeaderMap::new();
            let cookie = format!(
                "{}={}",
                self.settings.cookie.name(),
                id.seal(&self.watch.gate.keyring, "wiki.example.com")
            );
            headers.insert(COOKIE, HeaderValue::from_str(&cookie)?);
            let target = canonical(path.as_bytes())?;
            let facts = arrival.facts(&Method::GET, &headers);
            let Verdict::Forward(pass) = self.watch.gate.check(&self.settings, &facts, &target).await else {
                return Err("not admitted".into());
            };
            let line = Line::new();
            let entered = self.watch.open.enter(&pass, &arrival, &Method::GET, kind, &line);
            Ok((line, entered))
        }

        async fn round(&self, seconds: u64) {
            let now = at(seconds);
            self.clock.advance(now.since(self.clock.now()));
            self.watch.round(&self.settings, now).await;
        }

        fn counts(&self, seconds: u64) -> Vec<i64> {
            self.watch.open.census(at(seconds)).map(|(_, count)| count).collect()
        }
    }

    #[tokio::test]
    async fn what_would_be_admitted_goes_on_and_what_would_not_ends() -> Outcome {
        for what in ["nothing", "sign-out", "account", "age", "team", "rule", "route", "opened to all"] {
            let mut place = place(Duration::ZERO)?;
            let ann = place.learn(&["acme"], at(0)).await?;
            let (id, _) = place.session(ann.clone()).await?;
            let (line, _entered) = place.opened(&id, "/wiki/page", Kind::WebSocket).await?;
            place.round(1).await;
            assert_eq!(line.ending(), None, "{what}");
            let (seconds, expected) = match what {
                "nothing" => (2, None),
                "sign-out" => {
                    place.watch.gate.live.end(id.key(), EndReason::SignedOut, at(2)).await?;
                    (2, Some(Ending::SignedOut))
                }
                "account" => {
                    place.watch.gate.directory.end(&ann, EndReason::GrantWithdrawn).await?;
                    (2, Some(Ending::Revoked))
                }
                "age" => {
                    place.learn(&["acme"], at(20_000)).await?;
                    (20_000, Some(Ending::Expired))
                }
                "team" => {
                    place.learn(&["globex"], at(2)).await?;
                    (2, Some(Ending::NotAllowed))
                }
                "rule" => {
                    place.settings.routes = routes(Some("globex"))?;
                    (2, Some(Ending::NotAllowed))
                }
                "route" => {
                    place.settings.routes = routes(None)?;
                    (2, Some(Ending::NotAllowed))
                }
                _ => {
                    place.watch.gate.live.end(id.key(), EndReason::SignedOut, at(2)).await?;
                    place.settings.routes = Table::build(vec![route("wiki", Policy::Public)?])
                        .map(Arc::new)
                        .map_err(|_| "overlaps")?;
                    (2, None)
                }
            };
            place.round(seconds).await;
            assert_eq!(line.ending(), expected, "{what}");
            let closed = &place.watch.telemetry.metrics.connections_closed;
            // Counted once, however often it is looked at.
            place.round(seconds + 1).await;
            let counted: u64 = Ending::ALL.iter().map(|ending| closed.of(*ending).get()).sum();
            assert_eq!(counted, u64::from(expected.is_some()), "{what}");
        }
        Ok(())
    }

    #[tokio::test]
    async fn what_is_short_is_left_alone_and_what_is_over_is_forgotten() -> Outcome {
        let place = place(Duration::ZERO)?;
        let (id, _) = place.session(place.learn(&["acme"], at(0)).await?).await?;
        let (stream, entered) = place.opened(&id, "/wiki", Kind::Stream).await?;
        let (events, becoming) = place.opened(&id, "/wiki", Kind::Stream).await?;
        let (_, nobodys) = place.opened(&id, "/public", Kind::WebSocket).await?;
        assert!(nobodys.is_none());
        becoming.as_ref().ok_or("entered")?.becomes(Kind::Events);
        assert_eq!(place.counts(1), [0, 1, 0, 0]);
        assert_eq!(place.counts(LONG.as_secs()), [0, 1, 0, 1]);
        place.watch.gate.live.end(id.key(), EndReason::SignedOut, at(1)).await?;
        place.round(1).await;
        assert_eq!((stream.ending(), events.ending()), (None, Some(Ending::SignedOut)));
        place.round(LONG.as_secs()).await;
        assert_eq!(stream.ending(), Some(Ending::SignedOut));
        drop((entered, becoming));
        assert!(place.watch.open.0.iter().all(|part| part.requests().is_empty()));
        Ok(())
    }

    #[tokio::test]
    async fn what_a_client_says_is_a_use_of_its_session_and_what_is_open_is_one_of_its_account() -> Outcome {
        let place = place(Duration::from_secs(100_000))?;
        let ann = place.learn(&["acme"], at(0)).await?;
        let (id, session) = place.session(ann.clone()).await?;
        let (_line, entered) = place.opened(&id, "/wiki", Kind::WebSocket).await?;
        let entered = entered.ok_or("entered")?;
        place.round(100).await;
        assert_eq!(session.used_at(), at(0));
        entered.heard();
        place.round(200).await;
        place.round(300).await;
        assert_eq!(session.used_at(), at(200));
        let in_use = place.watch.gate.directory.census(&place.settings.directory, at(3_800)).oldest_in_use;
        assert_eq!(in_use, Duration::from_secs(3_800), "its account was last used at 300");
        // Forgotten by the tidying for want of memory, it is put back: whoever ends it must find it.
        place.watch.gate.live.forget(&id.key());
        place.round(301).await;
        assert!(place.watch.gate.live.in_memory(&id.key(), &place.settings.session, at(301)).is_some());
        // What is said after the end comes too late.
        entered.heard();
        place.round(30_000).await;
        assert_eq!(session.used_at(), at(301));
        Ok(())
    }

    #[tokio::test]
    async fn silence_is_waited_out_for_as_long_as_a_request_would_wait_and_is_never_a_yes() -> Outcome {
        // Nobody answers, and it is known at once: no grace.
        let silent = place(Duration::ZERO)?;
        let ann = silent.learn(&["acme"], at(0)).await?;
        let (id, _) = silent.session(ann.clone()).await?;
        let (line, _entered) = silent.opened(&id, "/wiki", Kind::WebSocket).await?;
        silent.round(3_599).await;
        assert_eq!(line.ending(), None);
        silent.round(3_600).await;
        let mut asked = silent.watch.gate.directory.requery(&ann, &silent.settings.directory, Right::Waiting);
        asked.wait_for(|done| *done).await?;
        silent.round(3_600).await;
        assert_eq!(line.ending(), Some(Ending::CannotTell));

        // The same within the grace of an outage.
        let graced = place(Duration::from_secs(7_200))?;
        let ann = graced.learn(&["acme"], at(0)).await?;
        let (id, _) = graced.session(ann.clone()).await?;
        let (line, _entered) = graced.opened(&id, "/wiki", Kind::WebSocket).await?;
        graced.round(3_600).await;
        let mut asked = graced.watch.gate.directory.requery(&ann, &graced.settings.directory, Right::Waiting);
        asked.wait_for(|done| *done).await?;
        graced.round(7_199).await;
        assert_eq!(line.ending(), None);
        Ok(())
    }

    #[tokio::test]
    async fn a_question_without_an_answer_is_waited_for_and_no_longer_than_a_request_would() -> Outcome {
        let place = place(Duration::ZERO)?;
        let (id, _) = place.session(place.learn(&["acme"], at(0)).await?).await?;
        let (line, entered) = place.opened(&id, "/wiki", Kind::WebSocket).await?;
        let entered = entered.ok_or("entered")?;
        let patience = PATIENCE.as_secs();
        // The runtime has one thread, which is ours until we wait: the question is under way and goes nowhere.
        place.watch.round(&place.settings, at(3_600)).now_or_never().ok_or("it waited")?;
        assert_eq!(entered.request.doubtful_since(), Some(at(3_600)));
        place.watch.round(&place.settings, at(3_600 + patience - 1)).now_or_never().ok_or("it waited")?;
        assert_eq!(line.ending(), None);
        place.watch.round(&place.settings, at(3_600 + patience)).now_or_never().ok_or("it waited")?;
        assert_eq!(line.ending(), Some(Ending::CannotTell));
        Ok(())
    }

    #[tokio::test]
    async fn an_answer_that_came_later_than_the_doubt_ends_it() -> Outcome {
        let place = place(Duration::ZERO)?;
        let ann = place.learn(&["acme"], at(0)).await?;
        let (id, _) = place.session(ann).await?;
        let (line, entered) = place.opened(&id, "/wiki", Kind::WebSocket).await?;
        let entered = entered.ok_or("entered")?;
        place.watch.round(&place.settings, at(3_600)).now_or_never().ok_or("it waited")?;
        assert!(entered.request.doubtful_since().is_some());
        // However long it was on its way, and however little of its time was left on arrival: a request that had
        // waited for it would be let through.
        place.learn(&["acme"], at(3_601)).await?;
        place.round(7_500).await;
        assert_eq!((line.ending(), entered.request.doubtful_since()), (None, None));
        Ok(())
    }

    #[tokio::test]
    async fn what_is_open_follows_its_account_when_that_is_forgotten_and_read_back() -> Outcome {
        let place = place(Duration::ZERO)?;
        let ann = place.learn(&["acme"], at(0)).await?;
        let (id, _) = place.session(ann.clone()).await?;
        let (line, _entered) = place.opened(&id, "/wiki", Kind::WebSocket).await?;
        place.watch.gate.directory.evict(&ann);
        place.round(10).await;
        assert_eq!(line.ending(), None);
        // It is another object now, and what it loses is lost here.
        let now = place.watch.gate.live.in_memory(&id.key(), &place.settings.session, at(11));
        assert_eq!(now.as_ref().map(|session| session.used_at()), Some(at(11)));
        assert!(now.is_some_and(|session| !Arc::ptr_eq(&session.account, &ann)));
        place.learn(&[], at(12)).await?;
        place.round(12).await;
        assert_eq!(line.ending(), Some(Ending::NotAllowed));

        // One that the store has ended meanwhile is over.
        let (id, _) = place.session(place.learn(&["acme"], at(13)).await?).await?;
        let (line, _entered) = place.opened(&id, "/wiki", Kind::WebSocket).await?;
        let ann = place.learn(&["acme"], at(14)).await?;
        place.watch.gate.directory.evict(&ann);
        place.watch.gate.live.forget(&id.key());
        place.watch.gate.live.end(id.key(), EndReason::SignedOut, at(15)).await?;
        place.round(15).await;
        assert!(matches!(line.ending(), Some(Ending::Revoked | Ending::SignedOut)), "{:?}", line.ending());
        Ok(())
    }
}
