//! The answer to a request that the gate does not let through.
//!
//! Owns: from [`Verdict`] to response. Must not know: how a verdict came about, how pages look.

use bytes::Bytes;
use http::{HeaderValue, Response};

use super::render::{
    self, AskToSignIn, CannotTell as CannotTellView, CookieTrouble, Needs, Person, RELOADS, Refused, Trouble,
};
use super::reply::Common;
use super::sign_in::sent_to;
use super::{Asked, Services, with_cookies};
use crate::assertion::TeamParts;
use crate::directory::Cause;
use crate::facts::Shape;
use crate::gate::cookie::SameSite;
use crate::gate::{CannotTell, Denied, Missing, Nobody, Outside, SignIn, Verdict, cookie};
use crate::login::{ReturnTo, Start};
use crate::membership::Names;
use crate::snapshot::{Requirements, Snapshot};
use crate::telemetry::labels::{Decision, SignInOutcome};

/// What goes to the client instead of an app's answer, and what it counts as.
pub fn answer(services: &Services, asked: &Asked, verdict: &Verdict) -> (Decision, Response<Bytes>) {
    let common = asked.common();
    let shape = asked.shape();
    match verdict {
        Verdict::NoRoute => (Decision::NoRoute, render::no_route(&common, shape)),
        Verdict::OddPath(_, refusal) => {
            (Decision::BadRequest, render::bad_request(&common, &refusal.to_string(), shape))
        }
        Verdict::ForeignOrigin(_) => {
            let sentence = "A page of another site tried to open a connection as you.";
            (Decision::Deny, render::foreign_origin(&common, sentence, shape))
        }
        Verdict::SignIn(sign_in) => {
            (Decision::SignIn, ask_to_sign_in(services, asked, &common, sign_in, shape))
        }
        Verdict::Deny(denied) => {
            (Decision::Deny, refuse(asked, denied, &services.gate.directory.names(), shape))
        }
        Verdict::CannotTell(missing) => (Decision::CannotTell, cannot_tell(asked, &common, missing, shape)),
        // Not ours to answer; whoever asks has a bug, and the client gets a page for it.
        Verdict::Forward(_) => (Decision::Error, render::internal(&common, shape)),
    }
}

fn ask_to_sign_in(
    services: &Services,
    asked: &Asked,
    common: &Common<'_>,
    sign_in: &SignIn,
    shape: Shape,
) -> Response<Bytes> {
    let cookies = &asked.snapshot.gate.cookie;
    // What is no longer any good is taken away, but only where a browser is being answered as a browser:
    // scripts and images get no cookie at all, or ten tabs would take each other's away.
    let mut set = match (sign_in.why, shape) {
        (Nobody::DeadCookie, Shape::Navigation) => vec![cookies.clear(cookies.name())],
        _ => Vec::new(),
    };
    let login = format!("{}://{}/.teamgate/login", asked.arrival.scheme, asked.arrival.authority);
    if shape != Shape::Navigation {
        let ask = AskToSignIn { location: &login, sign_in: &login };
        return render::ask_to_sign_in(common, &ask, shape);
    }
    let facts = asked.facts();
    let return_to = ReturnTo::page(&asked.snapshot.login, &facts);
    match services.login.start(&asked.snapshot.login, &facts, &return_to) {
        Start::Go { location, cookies } => {
            set.extend(cookies);
            let ask = AskToSignIn { location: location.as_str(), sign_in: &login };
            with_cookies(render::ask_to_sign_in(common, &ask, shape), set)
        }
        Start::Loop { cookies, rounds } => {
            services.login.telemetry.metrics.sign_ins.inc(SignInOutcome::Loop);
            set.extend(cookies);
            let again = sign_in_link(&return_to);
            let trouble = CookieTrouble::Loop { rounds, by: sent_to(asked) };
            with_cookies(render::cookies_blocked(common, trouble, &again, shape), set)
        }
        Start::TooOften { wait } => {
            with_cookies(render::too_many(common, &asked.arrival.link(), wait, shape), set)
        }
    }
}

fn refuse(asked: &Asked, denied: &Denied, names: &Names, shape: Shape) -> Response<Bytes> {
    let snapshot = &asked.snapshot;
    let mut common = asked.common();
    let web = snapshot.edge.bitbucket_web.origin().ascii_serialization();
    common.form_origin = Some(&web);
    let known = &denied.who.known;
    let parts = snapshot.assertion.parts == TeamParts::Included;
    let groups = known.membership.groups(parts, |_| true);
    let wanted = match denied.outside {
        Outside::OfThisRule => denied.route.policy.wanted(names),
        Outside::OfEveryTeam => {
            snapshot.login.directory.teams.iter().flatten().map(|team| team.called(names)).collect()
        }
    };
    let again = asked.arrival.link();
    let switch = format!("/.teamgate/logout?{}", query(&[("switch", "1"), ("rd", &again)]));
    let view = Refused {
        person: Person { account: known.identity.account(), name: known.identity.display_name() },
        needs: needs_of(snapshot, &wanted),
        groups: &groups,
        as_of: known.membership.as_of(),
        again: &again,
        switch: &switch,
    };
    render::refused(&common, &view, shape)
}

/// Who may, as far as it may be told.
pub(super) fn needs_of<'a>(snapshot: &Snapshot, wanted: &'a [String]) -> Needs<'a> {
    match snapshot.edge.requirements {
        Requirements::Shown if !wanted.is_empty() => Needs::AnyOf(wanted),
        _ => Needs::Untold,
    }
}

fn cannot_tell(asked: &Asked, common: &Common<'_>, view: &CannotTell, shape: Shape) -> Response<Bytes> {
    let again = asked.arrival.link();
    match view.missing {
        Missing::Store => render::unavailable(common, &again, view.retry_after, shape),
        Missing::Membership { last_answer, cause } => {
            let cookies = &asked.snapshot.gate.cookie;
            let name = format!("{}-reloads", cookies.name());
            let reloads = cookie::find(&asked.headers, &name)
                .next()
                .and_then(|value| std::str::from_utf8(value).ok()?.parse().ok())
                .unwrap_or(0_u8)
                .min(RELOADS);
            let page = CannotTellView {
                last_answer: Some(last_answer),
                trouble: match cause {
                    Cause::Unanswered => Trouble::Silence,
                    Cause::NoBudget => Trouble::Busy,
                    Cause::Misconfigured | Cause::Removed => Trouble::Operator,
                    Cause::RepositoryScope => Trouble::Scope,
                    Cause::Unusable | Cause::FreshTokenRefused => Trouble::Garbled,
                },
                reloads,
                next: &again,
                again: &again,
                retry_after: view.retry_after,
            };
            let response = render::cannot_tell(common, &page, shape);
            let count = match shape {
                // The count rides in a cookie of ours, so that the app's address stays as it is. It is
                // forgotten a while after the last reload.
                Shape::Navigation => vec![count_cookie(cookies, &name, reloads)],
                _ => Vec::new(),
            };
            with_cookies(response, count)
        }
    }
}

fn count_cookie(cookies: &cookie::Settings, name: &str, reloads: u8) -> HeaderValue {
    cookies.set(
        name,
        &(reloads + 1).min(RELOADS).to_string(),
        std::time::Duration::from_secs(45),
        SameSite::Lax,
    )
}

/// A link that starts a sign-in and comes back to `return_to`.
pub(super) fn sign_in_link(return_to: &ReturnTo) -> String {
    format!("/.teamgate/login?{}", query(&[("rd", return_to.as_str())]))
}

fn query(pairs: &[(&str, &str)]) -> String {
    url::form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
}
