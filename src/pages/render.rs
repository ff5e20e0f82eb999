//! The page, the JSON and the gRPC status of everything that the gateway answers itself.
//!
//! Owns: what each answer says and offers; one function per event, from a plain view to a response.
//! Must not know: axum, Pingora, the clock, why something happened.
//!
//! A function that takes a [`Shape`] answers in that shape; one that does not is for people only. Every link
//! given in a view has been checked by its caller. The simplest start reading is [`no_route`].

use std::time::Duration;

use askama::Template;
use bytes::Bytes;
use http::header::ALLOW;
use http::{HeaderValue, Response, StatusCode};

use super::problem::{Event, Problem, whole_seconds};
use super::reply::{Common, Forms, reply};
use super::words::{self, Contact};
use crate::facts::Shape;
use crate::identity::AccountId;

mod access;
mod account;
mod sign_in;

pub use access::{
    CannotTell, NoTeam, RELOAD_EVERY, RELOADS, Refused, Trouble, cannot_tell, no_team, refused,
};
pub use account::{Profile, SignOut, SignedOut, ThisSession, WhoAmI, sign_out, signed_out, who_am_i};
pub use sign_in::{
    AccountTrouble, AskToSignIn, BitbucketTrouble, CookieTrouble, account_refused, ask_to_sign_in,
    bitbucket_trouble, cancelled, cookies_blocked, misconfigured, sign_in_expired,
};

/// Who is asking, as Bitbucket and the person say.
#[derive(Clone, Copy, Debug)]
pub struct Person<'a> {
    /// The key.
    pub account: AccountId,
    /// What the person is called.
    pub name: &'a str,
}

/// Who may, as far as it may be told.
#[derive(Clone, Copy, Debug)]
pub enum Needs<'a> {
    /// Any one of these.
    AnyOf(&'a [String]),
    /// Not told: `hide_requirements`, or a rule that says who may *not*.
    Untold,
}

/// 404: no route serves this.
pub fn no_route(common: &Common<'_>, shape: Shape) -> Response<Bytes> {
    let lead = "The link may be old, or a letter may have gone missing from it.";
    notice(common, Problem::new(Event::NoRoute, lead), Notice { action: Some(ACCOUNT), ..lead.into() }, shape)
}

/// 400: `reason` is a whole sentence of ours that says what cannot be accepted.
pub fn bad_request(common: &Common<'_>, reason: &str, shape: Shape) -> Response<Bytes> {
    let notes = ["If you followed a link here, the link itself is at fault."];
    let view = Notice { notes: &notes, action: Some(ACCOUNT), ..reason.into() };
    notice(common, Problem::new(Event::BadRequest, reason), view, shape)
}

/// 421: the request came over a connection that is for another host. A new one leads to the right place.
pub fn misdirected(common: &Common<'_>, again: &str, shape: Shape) -> Response<Bytes> {
    let lead = "It was opened for another address. Most browsers open a new one by themselves.";
    let view = Notice { action: Some(try_again(again)), ..lead.into() };
    notice(common, Problem::new(Event::Misdirected, lead), view, shape)
}

/// 405: `allowed` are the methods that would do.
pub fn method_not_allowed(common: &Common<'_>, allowed: &[&str], shape: Shape) -> Response<Bytes> {
    let allowed = allowed.join(", ");
    let lead = format!("It takes {allowed}.");
    let view = Notice { action: Some(ACCOUNT), ..lead.as_str().into() };
    let mut response = notice(common, Problem::new(Event::MethodNotAllowed, lead.as_str()), view, shape);
    if let Ok(allowed) = HeaderValue::from_str(&allowed) {
        response.headers_mut().insert(ALLOW, allowed);
    }
    response
}

/// 413: the body is longer than this route takes.
pub fn too_large(common: &Common<'_>, shape: Shape) -> Response<Bytes> {
    let lead = "What was sent is larger than the app behind this address may be sent.";
    notice(
        common,
        Problem::new(Event::TooLarge, lead),
        Notice { action: Some(ACCOUNT), ..lead.into() },
        shape,
    )
}

/// 431: too many headers, or too long ones.
pub fn headers_too_large(common: &Common<'_>, shape: Shape) -> Response<Bytes> {
    let lead = "Usually these are old cookies. Clearing the cookies of this site in your browser helps.";
    let view = Notice { action: Some(ACCOUNT), ..lead.into() };
    notice(common, Problem::new(Event::HeadersTooLarge, lead), view, shape)
}

/// 414: the address is too long.
pub fn target_too_long(common: &Common<'_>, shape: Shape) -> Response<Bytes> {
    let lead = "The address, with everything behind the question mark, is longer than fits through here.";
    let view = Notice { action: Some(ACCOUNT), ..lead.into() };
    notice(common, Problem::new(Event::TargetTooLong, lead), view, shape)
}

/// 408: the rest of the request did not come in time.
pub fn request_timeout(common: &Common<'_>, again: &str, shape: Shape) -> Response<Bytes> {
    let lead = "A part of what you were sending didn’t arrive in time.";
    let notes = ["If you were saving something, look whether it arrived before you do it again."];
    let view = Notice { notes: &notes, action: Some(try_again(again)), ..lead.into() };
    notice(common, Problem::new(Event::RequestTimeout, lead), view, shape)
}

/// 403: `reason` is a whole sentence of ours that says what another site's page tried.
pub fn foreign_origin(common: &Common<'_>, reason: &str, shape: Shape) -> Response<Bytes> {
    let notes = ["Nothing was done. You can do it yourself, here."];
    let view = Notice { notes: &notes, action: Some(ACCOUNT), ..reason.into() };
    notice(common, Problem::new(Event::ForeignOrigin, reason), view, shape)
}

/// 429: too many from one address.
pub fn too_many(common: &Common<'_>, again: &str, wait: Duration, shape: Shape) -> Response<Bytes> {
    let lead = format!(
        "More came from your network than we answer in so short a time. Please try again in {}.",
        words::span(Duration::from_secs(whole_seconds(wait)))
    );
    let problem = Problem { retry_after: Some(wait), ..Problem::new(Event::TooMany, lead.as_str()) };
    notice(common, problem, Notice { action: Some(try_again(again)), ..lead.as_str().into() }, shape)
}

/// 500: a bug.
pub fn internal(common: &Common<'_>, shape: Shape) -> Response<Bytes> {
    let lead = "It isn’t anything you did. The request number below tells the operator where to look.";
    notice(
        common,
        Problem::new(Event::Internal, lead),
        Notice { action: Some(ACCOUNT), ..lead.into() },
        shape,
    )
}

/// 503: something of our own that this needs is away.
pub fn unavailable(common: &Common<'_>, again: &str, wait: Duration, shape: Shape) -> Response<Bytes> {
    let lead = "A part of the gateway that this needs isn’t there at the moment. Nothing is wrong with your account.";
    let problem = Problem { retry_after: Some(wait), ..Problem::new(Event::Unavailable, lead) };
    notice(common, problem, Notice { action: Some(try_again(again)), ..lead.into() }, shape)
}

/// 502: the app of `route` cannot be reached. Its address stays with us.
pub fn app_down(common: &Common<'_>, route: &str, again: &str, shape: Shape) -> Response<Bytes> {
    let lead = "The gateway works, but the app behind it can’t be reached just now.";
    let problem = Problem::new(Event::AppDown, format!("{route} isn’t answering."));
    let view =
        Notice { subject: Some((route, "isn’t answering")), action: Some(try_again(again)), ..lead.into() };
    notice(common, problem, view, shape)
}

/// 503: the app of `route` has as many requests as it may; nothing was sent to it.
pub fn app_busy(
    common: &Common<'_>,
    route: &str,
    again: &str,
    wait: Duration,
    shape: Shape,
) -> Response<Bytes> {
    let lead = "The app has all the requests that it can take. Yours was not sent to it.";
    let detail = format!("{route} has as many requests as it may.");
    let problem = Problem { retry_after: Some(wait), ..Problem::new(Event::AppBusy, detail) };
    let view = Notice { subject: Some((route, "is full")), action: Some(try_again(again)), ..lead.into() };
    notice(common, problem, view, shape)
}

/// 504: the app of `route` took the request and did not answer in time.
pub fn app_slow(common: &Common<'_>, route: &str, again: &str, shape: Shape) -> Response<Bytes> {
    let lead = "The app got your request, but its answer didn’t come in time.";
    let notes = ["If you were saving something, look whether it arrived before you do it again."];
    let problem = Problem::new(Event::AppSlow, format!("{route} took too long to answer."));
    let view = Notice {
        subject: Some((route, "is taking too long")),
        notes: &notes,
        action: Some(try_again(again)),
        ..lead.into()
    };
    notice(common, problem, view, shape)
}

/// The one thing a page offers first.
#[derive(Clone, Copy, Debug)]
struct Action<'a> {
    label: &'a str,
    href: &'a str,
}

/// Where everybody can go, on every host.
const ACCOUNT: Action<'static> = Action { label: "Go to your account", href: "/.teamgate/" };

fn try_again(href: &str) -> Action<'_> {
    Action { label: "Try again", href }
}

/// A page that says one thing: heading, sentence, notes, action.
#[derive(Clone, Copy, Debug)]
struct Notice<'a> {
    /// What the heading is about and what it says of it; the event's title if `None`.
    subject: Option<(&'a str, &'a str)>,
    lead: &'a str,
    heading: Option<&'a str>,
    notes: &'a [&'a str],
    /// Somebody else's words.
    quote: Option<&'a str>,
    action: Option<Action<'a>>,
}

impl<'a> From<&'a str> for Notice<'a> {
    fn from(lead: &'a str) -> Notice<'a> {
        Notice { subject: None, lead, heading: None, notes: &[], quote: None, action: None }
    }
}

fn notice(common: &Common<'_>, problem: Problem<'_>, view: Notice<'_>, shape: Shape) -> Response<Bytes> {
    let page = NoticePage { common, title: problem.event.title(), view };
    answer(common, &problem, &page, Forms::None, shape)
}

#[derive(Template)]
#[template(path = "notice.html")]
struct NoticePage<'a> {
    common: &'a Common<'a>,
    title: &'a str,
    view: Notice<'a>,
}

fn answer(
    common: &Common<'_>,
    problem: &Problem<'_>,
    page: &impl Template,
    forms: Forms,
    shape: Shape,
) -> Response<Bytes> {
    match shape {
        Shape::Navigation => {
            let mut response = html(common, problem.event.status(), page, forms);
            problem.mark(&mut response);
            response
        }
        Shape::Program => problem.json(common),
        Shape::Grpc => problem.grpc(common),
    }
}

fn html(common: &Common<'_>, status: StatusCode, page: &impl Template, forms: Forms) -> Response<Bytes> {
    match page.render() {
        Ok(text) => reply(common, status, "text/html; charset=utf-8", text.into(), forms),
        // Writing into a String does not fail; if it ever does, the status still says what matters.
        Err(_) => reply(common, status, "text/plain; charset=utf-8", Bytes::new(), Forms::None),
    }
}

fn contact<'a>(common: &Common<'a>) -> Option<Contact<'a>> {
    common.contact.map(Contact::read)
}

impl<'a> Common<'a> {
    /// For the foot of every page.
    fn whom_to_ask(&self) -> Option<Contact<'a>> {
        contact(self)
    }

    /// The moment of the request, for people.
    fn moment(&self) -> String {
        words::moment(self.now)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::clock::Timestamp;

    const EVIL: &str = "<script>alert('\"')</script>";

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_unix_seconds(1_795_508_523 + seconds)
    }

    fn common() -> Common<'static> {
        Common {
            request_id: "01JDF3W2Q8ZK",
            now: at(0),
            contact: Some("mailto:platform@example.com"),
            gateway: "wiki.example.com",
            form_origin: None,
        }
    }

    fn groups(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn person(name: &str) -> Person<'_> {
        Person { account: AccountId::from_bytes([7; 16]), name }
    }

    /// Every answer that has all three shapes, about somebody called `name`.
    fn events(common: &Common<'_>, name: &str, shape: Shape) -> Vec<(Event, Response<Bytes>)> {
        let person = person(name);
        let wanted = groups(&["ops/administrators", name]);
        let needs = Needs::AnyOf(&wanted);
        let wait = Duration::from_secs(12);
        let (again, sign_out) = ("/x?y=1&z=2", "https://bitbucket.org/account/signout/");
        let sign_in = "https://wiki.example.com/.teamgate/login?rd=%2F";
        let ask = AskToSignIn { location: "https://bitbucket.org/site/oauth2/authorize?a=b&c=d", sign_in };
        let switch = "/.teamgate/logout?switch&rd=%2Fx";
        let refusal = Refused { person, needs, groups: &wanted, as_of: at(0), again, switch };
        let unknown = CannotTell {
            last_answer: Some(at(0).minus(Duration::from_secs(840))),
            trouble: Trouble::Silence,
            reloads: 1,
            next: "/x?r=2",
            again,
            retry_after: wait,
        };
        let away = BitbucketTrouble::Away { retry_after: wait };
        vec![
            (Event::SignInNeeded, ask_to_sign_in(common, &ask, shape)),
            (Event::Refused, refused(common, &refusal, shape)),
            (
                Event::NoTeam,
                no_team(common, &NoTeam { person, teams: needs, again, bitbucket_sign_out: sign_out }, shape),
            ),
            (Event::CannotTell, cannot_tell(common, &unknown, shape)),
            (Event::NoRoute, no_route(common, shape)),
            (Event::BadRequest, bad_request(common, name, shape)),
            (Event::SignInExpired, sign_in_expired(common, again, shape)),
            (Event::Cancelled, cancelled(common, again, Some(name), shape)),
            (
                Event::CookiesBlocked,
                cookies_blocked(common, CookieTrouble::Loop { rounds: 3, by: "Bitbucket" }, again, shape),
            ),
            (Event::Misconfigured, misconfigured(common, shape)),
            (Event::BitbucketAway, bitbucket_trouble(common, away, again, shape)),
            (Event::BitbucketGarbled, bitbucket_trouble(common, BitbucketTrouble::Garbled, again, shape)),
            (
                Event::NotAPerson,
                account_refused(common, AccountTrouble::NotAPerson, Some(name), again, shape),
            ),
            (Event::Deactivated, account_refused(common, AccountTrouble::Deactivated, None, again, shape)),
            (Event::TooMany, too_many(common, again, wait, shape)),
            (Event::TooLarge, too_large(common, shape)),
            (Event::Misdirected, misdirected(common, again, shape)),
            (Event::HeadersTooLarge, headers_too_large(common, shape)),
            (Event::TargetTooLong, target_too_long(common, shape)),
            (Event::RequestTimeout, request_timeout(common, again, shape)),
            (Event::ForeignOrigin, foreign_origin(common, name, shape)),
            (Event::Unavailable, unavailable(common, again, wait, shape)),
            (Event::AppDown, app_down(common, name, again, shape)),
            (Event::AppSlow, app_slow(common, name, again, shape)),
            (Event::AppBusy, app_busy(common, name, again, wait, shape)),
            (Event::MethodNotAllowed, method_not_allowed(common, &["GET", "HEAD"], shape)),
            (Event::Internal, internal(common, shape)),
        ]
    }

    /// Every page for people, about somebody called `name`.
    fn pages(common: &Common<'_>, name: &str) -> Vec<(String, StatusCode, Response<Bytes>)> {
        let mut pages: Vec<_> = events(common, name, Shape::Navigation)
            .into_iter()
            .filter(|(event, _)| *event != Event::SignInNeeded)
            .map(|(event, response)| (event.name().to_owned(), event.status(), response))
            .collect();
        let (sign_in, bitbucket_sign_out) = ("/.teamgate/login", "https://bitbucket.org/account/signout/");
        let session = ThisSession {
            begun_at: at(0).minus(Duration::from_secs(7_200)),
            last_used_at: at(0),
            ends_at: at(28_800),
            user_agent: Some("Mozilla/5.0 (X11; Linux x86_64; rv:142.0) Gecko/20100101 Firefox/142.0"),
            address: Some(std::net::Ipv4Addr::new(203, 0, 113, 7).into()),
            hosts: &[],
            sign_out: "/.teamgate/logout?session=0123456789abcdef",
        };
        let names = groups(&["acme", "acme/members", name]);
        let profile = Profile {
            person: person(name),
            nickname: Some(name),
            email: Some(name),
            groups: Some((&names, at(0).minus(Duration::from_secs(41)))),
            session,
            others: &[session],
            more: 3,
            sign_out_others: "/.teamgate/logout?others",
        };
        let question = SignOut { person: person(name), action: "/.teamgate/logout", stay: "/.teamgate/" };
        for (what, response) in [
            ("account", who_am_i(common, &WhoAmI::Somebody(&profile))),
            ("nobody", who_am_i(common, &WhoAmI::Nobody { sign_in })),
            ("sign-out", sign_out(common, &question)),
            ("signed-out", signed_out(common, &SignedOut::Done { sign_in, bitbucket_sign_out })),
            ("switch", signed_out(common, &SignedOut::Switching { sign_in, bitbucket_sign_out })),
        ] {
            pages.push((what.to_owned(), StatusCode::OK, response));
        }
        pages
    }

    fn text(response: &Response<Bytes>) -> &str {
        std::str::from_utf8(response.body()).unwrap_or("not UTF-8")
    }

    fn header<'r>(response: &'r Response<Bytes>, name: &str) -> &'r str {
        response.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or("")
    }

    #[test]
    fn every_page_is_one_sound_document_that_fetches_nothing_from_elsewhere() {
        let mut titles = BTreeMap::new();
        for (what, status, response) in pages(&common(), "Ann Example") {
            let html = text(&response);
            assert_eq!(response.status(), status, "{what}");
            assert!(html.starts_with("<!doctype html>\n<html lang=\"en\">"), "{what}");
            for (once, count) in [("<h1", 1), ("<title>", 1), ("<header>", 1), ("<main>", 1), ("<footer>", 1)]
            {
                assert_eq!(html.matches(once).count(), count, "{what}: {once}\n{html}");
            }
            assert_eq!(html.matches("class=\"button\"").count(), 1, "{what} offers one thing first");
            for never in ["<script", "style=", "<style", "<img", "src=", "javascript:", "onclick", "<iframe"]
            {
                assert!(!html.contains(never), "{what} has {never}");
            }
            assert_eq!(html.matches("<link ").count(), 1, "{what}");
            assert!(html.contains(&format!("<link rel=\"stylesheet\" href=\"{}\">", common().style_path())));
            for given in
                html.split("http").skip(1).filter(|rest| rest.starts_with("://") || rest.starts_with("s://"))
            {
                assert!(given.starts_with("s://bitbucket.org/"), "{what} leads to {given:.40}");
            }
            assert!(html.contains("01JDF3W2Q8ZK") && html.contains("24 Nov 2026, 08:22:03 UTC"), "{what}");
            assert!(html.contains("href=\"mailto:platform@example.com"), "{what} says whom to ask");
            let title = html.split("<title>").nth(1).and_then(|t| t.split("</title>").next()).unwrap_or("");
            assert!(title.ends_with(" · wiki.example.com"), "{what}: {title}");
            if let Some(other) = titles.insert(title.to_owned(), what.clone()) {
                assert_eq!(other, what, "two pages are called {title}");
            }
        }
        assert_eq!(titles.len(), Event::ALL.len() - 1 + 5, "every event has a page");
    }

    #[test]
    fn every_answer_carries_the_protecting_headers() {
        let common = common();
        let mut answers: Vec<_> = pages(&common, "Ann").into_iter().map(|(what, _, r)| (what, r)).collect();
        for shape in [Shape::Navigation, Shape::Program, Shape::Grpc] {
            answers.extend(events(&common, "Ann", shape).into_iter().map(|(e, r)| (e.name().to_owned(), r)));
        }
        for (what, response) in answers {
            let forms = text(&response).contains("<form");
            for (name, value) in [
                ("cache-control", "no-store"),
                ("x-content-type-options", "nosniff"),
                ("x-request-id", "01JDF3W2Q8ZK"),
                ("referrer-policy", if forms { "same-origin" } else { "no-referrer" }),
                (
                    "content-security-policy",
                    "default-src 'none'; style-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
                ),
            ] {
                assert_eq!(header(&response, name), value, "{what}: {name}");
            }
            if header(&response, "content-type") != "application/grpc" {
                assert_eq!(header(&response, "content-length"), response.body().len().to_string(), "{what}");
            }
            assert!(!response.headers().contains_key("set-cookie"), "{what}");
        }
    }

    #[test]
    fn what_others_wrote_is_text_on_every_page() {
        let evil = Common { gateway: EVIL, contact: Some(EVIL), request_id: EVIL, ..common() };
        let mut seen = 0;
        for (what, _, response) in pages(&evil, EVIL) {
            let html = text(&response);
            assert!(!html.contains("<script") && !html.contains("alert('\""), "{what}\n{html}");
            seen += html.matches("&#60;script&#62;").count();
        }
        assert!(seen > 60, "the name was shown {seen} times only");
    }

    #[test]
    fn a_program_hears_the_same_as_json() -> Result<(), serde_json::Error> {
        for (event, response) in events(&common(), EVIL, Shape::Program) {
            assert_eq!(response.status(), event.status(), "{event:?}");
            assert_eq!(header(&response, "content-type"), "application/problem+json");
            let body: serde_json::Value = serde_json::from_slice(response.body())?;
            assert_eq!(body["type"], format!("urn:teamgate:problem:{}", event.name()));
            assert_eq!(body["title"], event.title());
            assert_eq!(body["status"], event.status().as_u16());
            assert_eq!(body["request_id"], "01JDF3W2Q8ZK");
            assert!(body["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{event:?}");
            let has = |key: &str| !body[key].is_null();
            let waits = matches!(
                event,
                Event::CannotTell
                    | Event::BitbucketAway
                    | Event::TooMany
                    | Event::Unavailable
                    | Event::AppBusy
            );
            assert_eq!(has("retry_after"), waits, "{event:?}");
            assert_eq!(header(&response, "retry-after"), if waits { "12" } else { "" }, "{event:?}");
            let about = matches!(event, Event::Refused | Event::NoTeam);
            assert_eq!((has("account"), has("needs")), (about, about), "{event:?}");
            let signs_in = matches!(
                event,
                Event::SignInNeeded
                    | Event::SignInExpired
                    | Event::Cancelled
                    | Event::CookiesBlocked
                    | Event::BitbucketAway
                    | Event::BitbucketGarbled
                    | Event::NotAPerson
                    | Event::Deactivated
            );
            assert_eq!(has("sign_in"), signs_in, "{event:?}");
        }
        Ok(())
    }

    #[test]
    fn grpc_hears_a_status_and_no_body() {
        for (event, response) in events(&common(), "für Ann", Shape::Grpc) {
            assert_eq!(response.status(), StatusCode::OK, "{event:?}");
            assert_eq!(header(&response, "content-type"), "application/grpc");
            assert!(
                header(&response, "grpc-status").parse().is_ok_and(|status: u8| (1..=16).contains(&status))
            );
            assert!(!header(&response, "grpc-message").is_empty(), "{event:?}");
            assert!(response.body().is_empty() && !response.headers().contains_key("refresh"), "{event:?}");
        }
    }

    #[test]
    fn a_method_that_is_not_allowed_is_told_which_are() {
        for shape in [Shape::Navigation, Shape::Program, Shape::Grpc] {
            assert_eq!(header(&method_not_allowed(&common(), &["GET", "HEAD"], shape), "allow"), "GET, HEAD");
        }
    }

    #[test]
    fn an_app_that_is_down_is_known_by_its_route_alone() {
        let response = app_down(&common(), "wiki", "/", Shape::Navigation);
        assert!(text(&response).contains("<h1><b>wiki</b> isn’t answering</h1>"), "{}", text(&response));
    }
}
