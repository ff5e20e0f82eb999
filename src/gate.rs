//! The one place that admits a request.
//!
//! Owns: [`Gate::check`], from [`Facts`] to a [`Verdict`]; [`Pass`], the proof of admission; [`Gate::recheck`],
//! whether one that was given before would be given again.
//! Must not know: Pingora, axum, how people sign in, what a page looks like.
//!
//! Everything that is not a clear yes is something else: no route, sign in, no, or cannot tell.

pub mod cookie;
pub mod preflight;

use std::sync::Arc;
use std::time::Duration;

use http::Method;
use http::header::ORIGIN;

use crate::clock::Timestamp;
use crate::directory::plan::Bounds;
use crate::directory::{self, Account, Answer, Cause, Condition, Directory, Known, Watched};
use crate::facts::{Facts, Shape, shape};
use crate::gate::cookie::{NotOurs, SessionId};
use crate::gate::preflight::is_preflight;
use crate::keys::Keyring;
use crate::live::{Live, LiveSession, Over};
use crate::membership::Names;
use crate::membership::repository::RepositoryName;
use crate::policy::{self, Decision, Subject};
use crate::route::refusal::Refusal;
use crate::route::target::Target;
use crate::route::{Preflights, Route, Table};
use crate::session;
use crate::telemetry::Telemetry;
use crate::telemetry::labels::{CookieFault, Ending};

/// What the gate is told by the configuration.
pub struct Settings {
    /// Every route.
    pub routes: Arc<Table<Arc<Route>>>,
    /// How long sessions live.
    pub session: session::Settings,
    /// How the cookie looks.
    pub cookie: cookie::Settings,
    /// Whose memberships are believed for how long.
    pub directory: Arc<directory::Settings>,
}

/// What becomes of a request.
pub enum Verdict {
    /// No route matches: 404, before anything else is looked at.
    NoRoute,
    /// The path holds something that this route did not opt into: 400.
    OddPath(Arc<Route>, Refusal),
    /// It goes to the app.
    Forward(Pass),
    /// Nobody is signed in: 302 for a navigation, 401 for anything else.
    SignIn(SignIn),
    /// Somebody is signed in and may not.
    Deny(Denied),
    /// Nobody can say right now: 503.
    CannotTell(CannotTell),
    /// A WebSocket that another site's page opened with our visitor's cookie: 403.
    ForeignOrigin(Arc<Route>),
}

impl Verdict {
    /// The route that the request met; `None` if it met none.
    pub fn route(&self) -> Option<&Arc<Route>> {
        match self {
            Verdict::NoRoute => None,
            Verdict::OddPath(route, _) | Verdict::ForeignOrigin(route) => Some(route),
            Verdict::Forward(pass) => Some(&pass.route),
            Verdict::SignIn(sign_in) => Some(&sign_in.route),
            Verdict::Deny(denied) => Some(&denied.route),
            Verdict::CannotTell(doubt) => Some(&doubt.route),
        }
    }

    /// Why it does not go on, as the log says it, with the slugs of teams that are named by their uuid.
    pub fn reason(&self, names: &Names) -> Option<Box<str>> {
        match self {
            Verdict::NoRoute | Verdict::Forward(_) => None,
            Verdict::OddPath(_, refusal) => Some(refusal.to_string().into()),
            Verdict::ForeignOrigin(_) => Some("a WebSocket opened by a page of another origin".into()),
            Verdict::SignIn(sign_in) => Some(match sign_in.why {
                Nobody::NoCookie => "no session cookie".into(),
                Nobody::DeadCookie => "a session cookie that is over or not ours".into(),
                Nobody::GrantLost => "a refresh token was lost; one trip through Bitbucket mends it".into(),
            }),
            Verdict::Deny(denied) => Some(denied.reason(names)),
            Verdict::CannotTell(doubt) => Some(match doubt.missing {
                Missing::Membership { last_answer, cause } => {
                    let cause = match cause {
                        Cause::Unanswered => "bitbucket does not answer",
                        Cause::NoBudget => "directory.budget is used up",
                        Cause::Misconfigured => "bitbucket refuses our client, or it lacks a scope",
                        Cause::RepositoryScope => {
                            "our client lacks the scope `repository`; tick it on the client's page at Bitbucket"
                        }
                        Cause::Removed => "bitbucket removed what teamgate asks",
                        Cause::Unusable | Cause::FreshTokenRefused => "bitbucket's answer is of no use",
                    };
                    format!("the last answer about the account is of {last_answer}; {cause}").into()
                }
                Missing::Store => "the session store does not answer".into(),
            }),
        }
    }
}

/// Proof that a request was admitted, by which rule. Only [`Gate::check`] makes it.
pub struct Pass {
    route: Arc<Route>,
    who: Option<Who>,
    by: By,
}

/// What admitted a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum By {
    /// The rule of its route.
    Rule,
    /// Its route lets CORS preflights pass, and it is one. The app must get nothing with it that says who asks.
    Preflight,
}

/// Who was admitted.
#[derive(Clone)]
pub struct Who {
    /// The session.
    pub session: Arc<LiveSession>,
    /// What was known of the account when it was admitted.
    pub known: Arc<Known>,
}

impl Who {
    fn subject(&self) -> Subject<'_> {
        Subject::Account { identity: &self.known.identity, membership: &self.known.membership }
    }
}

impl Pass {
    /// Where the request goes.
    pub fn route(&self) -> &Arc<Route> {
        &self.route
    }

    /// Who was admitted; `None` on a public route, and for a preflight.
    pub fn who(&self) -> Option<&Who> {
        self.who.as_ref()
    }

    /// What admitted it.
    pub fn by(&self) -> By {
        self.by
    }

    /// By which rule. Decided on again, since deciding is pure and costs less than keeping a copy.
    pub fn decision(&self) -> Decision<'_> {
        policy::decide(&self.route.policy, self.who.as_ref().map_or(Subject::Anonymous, Who::subject))
    }
}

/// A request that needs somebody.
pub struct SignIn {
    /// Where it was going.
    pub route: Arc<Route>,
    /// Why there is nobody.
    pub why: Nobody,
}

/// Why there is nobody.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Nobody {
    /// No cookie of ours.
    NoCookie,
    /// A cookie under our name that we did not make, or whose session is over: it is taken away.
    DeadCookie,
    /// The session stands, but its Bitbucket tokens were lost: one silent trip through Bitbucket mends it.
    GrantLost,
}

/// A request that was refused.
pub struct Denied {
    /// Where it was going.
    pub route: Arc<Route>,
    /// Who asked.
    pub who: Who,
    /// Whether the account is in none of the teams that may use this gateway at all.
    pub outside: Outside,
}

impl Denied {
    /// Why not, as the log says it, with the slugs of teams that are named by their uuid.
    pub fn reason(&self, names: &Names) -> Box<str> {
        if self.outside == Outside::OfEveryTeam {
            return "in none of the teams that may use this gateway".into();
        }
        match policy::decide(&self.route.policy, self.who.subject()) {
            Decision::Deny(reason) => reason.worded(names).to_string().into(),
            // Deciding is pure; on the same values it does not change its mind.
            _ => "".into(),
        }
    }
}

/// Whether a refusal is about the route or about the gateway.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outside {
    /// The account is in none of the configured teams any more.
    OfEveryTeam,
    /// This route's rule did not admit it.
    OfThisRule,
}

/// A request nobody can decide on.
pub struct CannotTell {
    /// Where it was going.
    pub route: Arc<Route>,
    /// What is missing.
    pub missing: Missing,
    /// When it is worth asking again.
    pub retry_after: Duration,
}

/// What is missing for a decision.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Missing {
    /// A membership that is young enough.
    Membership {
        /// When Bitbucket last answered about the account.
        last_answer: Timestamp,
        /// Why there is no later answer.
        cause: Cause,
    },
    /// The session store does not answer.
    Store,
}

/// Admits requests. Cheap to clone.
#[derive(Clone)]
pub struct Gate {
    /// Which keys open cookies.
    pub keyring: Arc<Keyring>,
    /// The live sessions.
    pub live: Live,
    /// Who is in which team.
    pub directory: Directory,
    /// Where bad cookies are counted.
    pub telemetry: Telemetry,
}

impl Gate {
    /// Decides on one request. In steady state nothing is awaited: a session that is in memory with a
    /// membership young enough is decided on with one look-up.
    pub async fn check(&self, settings: &Settings, facts: &Facts<'_>, target: &Target<'_>) -> Verdict {
        let Some(route) = settings.routes.find(facts.host, facts.path, facts.method) else {
            return Verdict::NoRoute;
        };
        if let Err(refusal) = target.allowed_by(route.allow_in_path) {
            return Verdict::OddPath(route.clone(), refusal);
        }
        if let Decision::Allow(_) = policy::decide(&route.policy, Subject::Anonymous) {
            return Verdict::Forward(Pass { route: route.clone(), who: None, by: By::Rule });
        }
        if route.preflights == Preflights::Pass && is_preflight(facts.method, facts.headers) {
            return Verdict::Forward(Pass { route: route.clone(), who: None, by: By::Preflight });
        }
        let session = match self.session(settings, facts).await {
            Found::Session { session, .. } => session,
            Found::Nobody(why) => return Verdict::SignIn(SignIn { route: route.clone(), why }),
            Found::StoreAway => {
                return Verdict::CannotTell(CannotTell {
                    route: route.clone(),
                    missing: Missing::Store,
                    retry_after: Duration::from_secs(5),
                });
            }
        };
        if is_foreign_websocket(facts) {
            return Verdict::ForeignOrigin(route.clone());
        }
        if session.account.condition() == Condition::GrantLost
            && shape(facts.method, facts.headers) == Shape::Navigation
        {
            return Verdict::SignIn(SignIn { route: route.clone(), why: Nobody::GrantLost });
        }
        let known = match self.known(settings, &session, bounds(route, facts.method), facts.now).await {
            Answer::Known(known) => known,
            Answer::Ended => {
                return Verdict::SignIn(SignIn { route: route.clone(), why: Nobody::DeadCookie });
            }
            Answer::CannotTell { last_answer, retry_after, cause } => {
                let missing = Missing::Membership { last_answer, cause };
                return Verdict::CannotTell(CannotTell { route: route.clone(), missing, retry_after });
            }
        };
        let unasked = unasked(settings, route, &session.account, &known, facts.now);
        if unasked.is_empty() {
            return self.decide(settings, route, Who { session, known });
        }
        let account = &session.account;
        match self.directory.answer_repositories(account, &settings.directory, &unasked, facts.now).await {
            Answer::Known(known) => self.decide(settings, route, Who { session, known }),
            Answer::Ended => Verdict::SignIn(SignIn { route: route.clone(), why: Nobody::DeadCookie }),
            Answer::CannotTell { last_answer, retry_after, cause } => {
                let missing = Missing::Membership { last_answer, cause };
                Verdict::CannotTell(CannotTell { route: route.clone(), missing, retry_after })
            }
        }
    }

    fn decide(&self, settings: &Settings, route: &Arc<Route>, who: Who) -> Verdict {
        let route = route.clone();
        if !settings.directory.admits(&who.known.membership) {
            return Verdict::Deny(Denied { route, who, outside: Outside::OfEveryTeam });
        }
        match policy::decide(&route.policy, who.subject()) {
            Decision::Allow(_) => Verdict::Forward(Pass { route, who: Some(who), by: By::Rule }),
            Decision::Deny(_) => Verdict::Deny(Denied { route, who, outside: Outside::OfThisRule }),
            Decision::CannotTell(_) => {
                let last_answer = who.known.membership.as_of();
                let missing = Missing::Membership { last_answer, cause: Cause::Unanswered };
                Verdict::CannotTell(CannotTell { route, missing, retry_after: Duration::from_secs(10) })
            }
            Decision::AskSignIn => Verdict::SignIn(SignIn { route, why: Nobody::DeadCookie }),
        }
    }

    /// Decides again on a request that was admitted before and is still under way. Nothing is awaited.
    ///
    /// The route is looked for anew: a request that a changed configuration would send elsewhere is judged by the
    /// rule that it would meet there.
    pub fn recheck(&self, settings: &Settings, admitted: &Admitted<'_>, now: Timestamp) -> Recheck {
        let Some(route) = settings.routes.find(admitted.host, admitted.path, admitted.method) else {
            return Recheck::Lost(Ending::NotAllowed);
        };
        if let Decision::Allow(_) = policy::decide(&route.policy, Subject::Anonymous) {
            return Recheck::Stands;
        }
        match admitted.session.over(&settings.session, now) {
            None => {}
            Some(Over::Ended(why)) => return Recheck::Lost(why.into()),
            Some(Over::AccountEnded) => return Recheck::Lost(Ending::Revoked),
            Some(Over::Expired) => return Recheck::Lost(Ending::Expired),
        }
        let account = &admitted.session.account;
        let times = (admitted.doubtful_since.unwrap_or(now), now);
        let known =
            match self.directory.watched(account, &settings.directory, bounds(route, admitted.method), times)
            {
                Watched::Known(known) => known,
                Watched::Asking => return Recheck::Doubtful,
                Watched::Silence => return Recheck::Lost(Ending::CannotTell),
            };
        if !settings.directory.admits(&known.membership) {
            return Recheck::Lost(Ending::NotAllowed);
        }
        let subject = Subject::Account { identity: &known.identity, membership: &known.membership };
        match policy::decide(&route.policy, subject) {
            Decision::Allow(_) => {
                account.meets(route.policy.repositories(), now);
                Recheck::Stands
            }
            Decision::Deny(_) | Decision::AskSignIn => Recheck::Lost(Ending::NotAllowed),
            Decision::CannotTell(_) => {
                let unasked = unasked(settings, route, account, &known, now);
                if !unasked.is_empty() {
                    self.directory.watch_repositories(account, &settings.directory, &unasked, now);
                }
                Recheck::Doubtful
            }
        }
    }

    /// Who is asking, by cookie. Of several cookies under our name the first that is a live session counts:
    /// a sibling host can add cookies, but not make one.
    pub async fn session(&self, settings: &Settings, facts: &Facts<'_>) -> Found {
        let mut why = Nobody::NoCookie;
        for value in cookie::find(facts.headers, settings.cookie.name()).take(8) {
            why = Nobody::DeadCookie;
            let id = match SessionId::open(value, &self.keyring, settings.cookie.scope(facts.host)) {
                Ok(id) => id,
                Err(not_ours) => {
                    self.telemetry.metrics.bad_cookies.inc(match not_ours {
                        NotOurs::Malformed => CookieFault::Malformed,
                        NotOurs::Forged => CookieFault::Forged,
                    });
                    continue;
                }
            };
            let key = id.key();
            if let Some(session) = self.live.in_memory(&key, &settings.session, facts.now) {
                return Found::Session { id, session };
            }
            match self.live.find(key, &settings.session, facts.now).await {
                Ok(Some(session)) => return Found::Session { id, session },
                Ok(None) => self.telemetry.metrics.bad_cookies.inc(CookieFault::NoSession),
                Err(error) => {
                    self.telemetry.warn_limited("store", facts.now, &error);
                    return Found::StoreAway;
                }
            }
        }
        Found::Nobody(why)
    }

    async fn known(
        &self,
        settings: &Settings,
        session: &LiveSession,
        bounds: Bounds,
        now: Timestamp,
    ) -> Answer {
        match self.directory.believed(&session.account, &settings.directory, bounds, now) {
            Some(known) => Answer::Known(known),
            None => self.directory.answer(&session.account, &settings.directory, bounds, now).await,
        }
    }
}

/// The repositories on which the decision hangs and about which nobody has asked yet. Those that were asked about are
/// kept young from now on. Costs nothing on a route whose rule names none.
fn unasked(
    settings: &Settings,
    route: &Route,
    account: &Account,
    known: &Known,
    now: Timestamp,
) -> Vec<RepositoryName> {
    let names = route.policy.repositories();
    if names.clone().next().is_none() || !settings.directory.admits(&known.membership) {
        return Vec::new();
    }
    account.meets(names.clone(), now);
    let subject = Subject::Account { identity: &known.identity, membership: &known.membership };
    match policy::decide(&route.policy, subject) {
        Decision::CannotTell(_) => {
            names.filter(|name| known.membership.repository(name).is_none()).cloned().collect()
        }
        _ => Vec::new(),
    }
}

/// How young a membership a route wants for a request with this method.
fn bounds(route: &Route, method: &Method) -> Bounds {
    let outage_grace = route.outage_grace.as_ref().map(|grace| match grace.methods.admit(method) {
        true => grace.span,
        false => Duration::ZERO,
    });
    Bounds { max_age: route.max_age, outage_grace }
}

/// A request that was admitted, as far as deciding on it again goes.
pub struct Admitted<'a> {
    /// See [`Facts::host`].
    pub host: &'a str,
    /// See [`Facts::path`].
    pub path: &'a str,
    /// See [`Facts::method`].
    pub method: &'a Method,
    /// Whose session it came with, as it is now.
    pub session: &'a LiveSession,
    /// Since when nobody can say whether it may go on, if so.
    pub doubtful_since: Option<Timestamp>,
}

/// What deciding again comes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Recheck {
    /// It would be admitted.
    Stands,
    /// It would not.
    Lost(Ending),
    /// Nobody can say yet. A request would wait for as long as [`directory::PATIENCE`], and be refused then.
    Doubtful,
}

/// What the cookies of a request come to.
pub enum Found {
    /// A live session.
    Session {
        /// What only this browser knows of it.
        id: SessionId,
        /// The session.
        session: Arc<LiveSession>,
    },
    /// Nobody.
    Nobody(Nobody),
    /// The store does not answer, so nobody can say.
    StoreAway,
}

/// Browsers send cookies with any page's WebSocket, and no CORS stands in the way: one that names another
/// origin is refused. Programs that send no `Origin` are not browsers and carry the cookie on purpose.
fn is_foreign_websocket(facts: &Facts<'_>) -> bool {
    let upgrades = facts
        .headers
        .get(http::header::UPGRADE)
        .is_some_and(|to| to.as_bytes().eq_ignore_ascii_case(b"websocket"));
    upgrades
        && facts.headers.get(ORIGIN).is_some_and(|origin| {
            let ours = format!("{}://{}", facts.scheme, facts.authority);
            !origin.as_bytes().eq_ignore_ascii_case(ours.as_bytes())
        })
}
