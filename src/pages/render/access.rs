//! What a signed-in visitor hears who is not let in, or of whom it cannot be told.
//!
//! Owns: the words of a refusal and of a "cannot tell", and the way on. Must not know: the rule that decided.

use std::borrow::Cow;
use std::time::Duration;

use askama::Template;
use bytes::Bytes;
use http::header::REFRESH;
use http::{HeaderValue, Response};

use super::super::problem::{Account, Event, Problem, whole_seconds};
use super::super::reply::{Common, Forms};
use super::super::words::{self, Contact};
use super::{Needs, Person, answer, contact};
use crate::clock::Timestamp;
use crate::facts::Shape;

/// A signed-in account that the route does not admit.
#[derive(Clone, Copy, Debug)]
pub struct Refused<'a> {
    /// Who is asking.
    pub person: Person<'a>,
    /// Who may.
    pub needs: Needs<'a>,
    /// The groups that the account has.
    pub groups: &'a [String],
    /// As of when.
    pub as_of: Timestamp,
    /// The page that was asked for, as a link to try it again.
    pub again: &'a str,
    /// Where *switch account* posts to.
    pub switch: &'a str,
}

/// 403: signed in, but not let in here.
pub fn refused(common: &Common<'_>, refused: &Refused<'_>, shape: Shape) -> Response<Bytes> {
    let Person { account: id, name } = refused.person;
    let needs = told(refused.needs);
    let detail = match needs {
        Some(needs) => format!("You’re signed in as {name}, and this is for {}.", either(needs)),
        None => format!("You’re signed in as {name}, and this isn’t open to that account."),
    };
    let problem =
        Problem { needs, account: Some(Account { id, name }), ..Problem::new(Event::Refused, detail) };
    let subject = format!("Access to {}", common.gateway);
    let letter = format!(
        "Hello,\n\nI’d like to open {}{} as {name} ({id}).\n\nRequest {}\n",
        common.gateway, refused.again, common.request_id
    );
    let page = RefusedPage {
        common,
        title: Event::Refused.title(),
        view: refused,
        needs: needs.unwrap_or_default(),
        ask: contact(common).map(|c| c.asking(&subject, &letter)).filter(|c| c.href.is_some()),
        age: words::ago(common.now, refused.as_of),
    };
    answer(common, &problem, &page, Forms::Post, shape)
}

#[derive(Template)]
#[template(path = "refused.html")]
struct RefusedPage<'a> {
    common: &'a Common<'a>,
    title: &'a str,
    view: &'a Refused<'a>,
    needs: &'a [String],
    ask: Option<Contact<'a>>,
    age: String,
}

/// An account that is in none of the teams that may sign in, and so was not signed in.
#[derive(Clone, Copy, Debug)]
pub struct NoTeam<'a> {
    /// Who it is.
    pub person: Person<'a>,
    /// The teams that may sign in.
    pub teams: Needs<'a>,
    /// Where a new sign-in starts, to the same place.
    pub again: &'a str,
    /// Where one signs out of Bitbucket.
    pub bitbucket_sign_out: &'a str,
}

/// 403: known at Bitbucket, but in no team that may use the gateway.
pub fn no_team(common: &Common<'_>, view: &NoTeam<'_>, shape: Shape) -> Response<Bytes> {
    let Person { account: id, name } = view.person;
    let needs = told(view.teams);
    let problem = Problem {
        needs,
        account: Some(Account { id, name }),
        ..Problem::new(Event::NoTeam, format!("{name} isn’t in a team that may use this gateway."))
    };
    let subject = format!("Access to {}", common.gateway);
    let letter = format!(
        "Hello,\n\nI’d like to use {} as {name} ({id}).\n\nRequest {}\n",
        common.gateway, common.request_id
    );
    let page = NoTeamPage {
        common,
        title: Event::NoTeam.title(),
        view,
        needs: needs.unwrap_or_default(),
        ask: contact(common).map(|c| c.asking(&subject, &letter)).filter(|c| c.href.is_some()),
    };
    answer(common, &problem, &page, Forms::None, shape)
}

#[derive(Template)]
#[template(path = "no_team.html")]
struct NoTeamPage<'a> {
    common: &'a Common<'a>,
    title: &'a str,
    view: &'a NoTeam<'a>,
    needs: &'a [String],
    ask: Option<Contact<'a>>,
}

/// How often a page tries again by itself before it leaves that to the visitor.
pub const RELOADS: u8 = 6;
/// How long it waits between two tries.
pub const RELOAD_EVERY: Duration = Duration::from_secs(10);

/// Memberships that cannot be had in time.
#[derive(Clone, Copy, Debug)]
pub struct CannotTell<'a> {
    /// When Bitbucket last said something about this account; `None` when it never did.
    pub last_answer: Option<Timestamp>,
    /// Why there is no later one.
    pub trouble: Trouble,
    /// How many times this page has reloaded itself so far.
    pub reloads: u8,
    /// The page that was asked for, with the count one higher: where the page goes by itself.
    pub next: &'a str,
    /// The page that was asked for, with the count at zero: where the button goes.
    pub again: &'a str,
    /// When a program should ask again.
    pub retry_after: Duration,
}

/// Why memberships cannot be had.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trouble {
    /// Bitbucket does not answer.
    Silence,
    /// We have asked it as often as we may.
    Busy,
    /// It does not take our questions any more: the operator has to act.
    Operator,
    /// Our client lacks the scope `repository`: the operator has to act, and then the person.
    Scope,
    /// It says something of no use.
    Garbled,
}

impl Trouble {
    fn lead(self) -> &'static str {
        match self {
            Trouble::Silence => "Bitbucket isn’t answering, and we’d rather not guess.",
            Trouble::Busy => "We have asked Bitbucket as often as we may for now, and we’d rather not guess.",
            Trouble::Operator => {
                "Bitbucket doesn’t take our questions any more, and we’d rather not guess. The operator has to put \
                 that right; the log says how."
            }
            Trouble::Scope => {
                "This page depends on what you may do with a repository, and our Bitbucket client lacks the scope \
                 “repository”. The operator has to tick it at Bitbucket; then sign out and in again."
            }
            Trouble::Garbled => "Bitbucket’s answer makes no sense to us, and we’d rather not guess.",
        }
    }
}

/// 503: neither yes nor no.
pub fn cannot_tell(common: &Common<'_>, view: &CannotTell<'_>, shape: Shape) -> Response<Bytes> {
    let problem = Problem {
        retry_after: Some(view.retry_after),
        ..Problem::new(
            Event::CannotTell,
            "We can’t reach Bitbucket to check your teams right now. Nothing is wrong with your account.",
        )
    };
    let by_itself = view.reloads < RELOADS;
    let page = CannotTellPage {
        common,
        title: Event::CannotTell.title(),
        lead: view.trouble.lead(),
        view,
        last: view.last_answer.map(|at| (at, words::ago(common.now, at))),
        by_itself,
        every: words::span(RELOAD_EVERY),
        round: view.reloads.saturating_add(1),
        rounds: RELOADS,
    };
    let mut response = answer(common, &problem, &page, Forms::None, shape);
    if by_itself
        && shape == Shape::Navigation
        && let Ok(value) =
            HeaderValue::from_str(&format!("{}; url={}", whole_seconds(RELOAD_EVERY), view.next))
    {
        response.headers_mut().insert(REFRESH, value);
    }
    response
}

#[derive(Template)]
#[template(path = "cannot_tell.html")]
struct CannotTellPage<'a> {
    common: &'a Common<'a>,
    title: &'a str,
    lead: &'a str,
    view: &'a CannotTell<'a>,
    last: Option<(Timestamp, String)>,
    by_itself: bool,
    every: String,
    round: u8,
    rounds: u8,
}

fn told(needs: Needs<'_>) -> Option<&[String]> {
    match needs {
        Needs::AnyOf(groups) if !groups.is_empty() => Some(groups),
        Needs::AnyOf(_) | Needs::Untold => None,
    }
}

/// `a`, `a or b`, `a, b or c`.
fn either(groups: &[String]) -> Cow<'_, str> {
    match groups {
        [] => Cow::Borrowed("nobody"),
        [one] => Cow::Borrowed(one),
        [rest @ .., last] => Cow::Owned(format!("{} or {last}", rest.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;
    use crate::identity::AccountId;

    fn common(contact: Option<&'static str>) -> Common<'static> {
        Common {
            request_id: "r-1",
            now: Timestamp::from_unix_seconds(10_000),
            contact,
            gateway: "wiki.example.com",
            form_origin: Some("https://bitbucket.org"),
        }
    }

    fn text(response: &Response<Bytes>) -> &str {
        std::str::from_utf8(response.body()).unwrap_or("not UTF-8")
    }

    fn page_for(
        needs: Needs<'_>,
        groups: &[String],
        contact: Option<&'static str>,
        shape: Shape,
    ) -> Response<Bytes> {
        let person = Person { account: AccountId::from_bytes([7; 16]), name: "Alice Example" };
        let as_of = Timestamp::from_unix_seconds(9_959);
        let view =
            Refused { person, needs, groups, as_of, again: "/x", switch: "/.teamgate/logout?switch&rd=%2Fx" };
        refused(&common(contact), &view, shape)
    }

    #[test]
    fn the_wanted_groups_are_named_unless_they_are_hidden() {
        let names =
            |n: usize| ["ops/administrators", "acme", "sales"][..n].iter().map(|s| (*s).to_owned()).collect();
        let (one, two, three): (Vec<String>, Vec<String>, Vec<String>) = (names(1), names(2), names(3));
        for (needs, heading, named) in [
            (Needs::AnyOf(&one), "<h1>This page is for <b>ops/<wbr>administrators</b></h1>", 1),
            (
                Needs::AnyOf(&two),
                "<h1>This page is for <b>ops/<wbr>administrators</b> or <b>acme</b></h1>",
                2,
            ),
            (Needs::AnyOf(&three), "<h1>This page is for a few groups only</h1>", 3),
            (Needs::Untold, "<h1>This page isn’t open to your account</h1>", 0),
            (Needs::AnyOf(&[]), "<h1>This page isn’t open to your account</h1>", 0),
        ] {
            let page = page_for(needs, &[], None, Shape::Navigation);
            let html = text(&page);
            assert!(html.contains(heading), "{heading}\n{html}");
            assert!(html.contains("You’re signed in as <b>Alice Example</b>, "), "{html}");
            for (place, name) in three.iter().enumerate() {
                assert_eq!(
                    html.replace("<wbr>", "").contains(name.as_str()),
                    place < named,
                    "{heading}: {name}"
                );
            }
        }
        let hidden = page_for(Needs::Untold, &one, None, Shape::Program);
        assert!(!text(&hidden).contains("ops"), "JSON tells neither the wanted groups nor the account's");
    }

    #[test]
    fn a_refusal_shows_the_accounts_groups_and_their_age() {
        let groups = ["acme".to_owned(), "acme/members".to_owned()];
        let page = page_for(Needs::Untold, &groups, None, Shape::Navigation);
        let html = text(&page);
        assert!(html.contains("<li><code>acme/<wbr>members</code></li>"), "{html}");
        assert!(html.contains(">41 seconds ago</time></summary>"), "{html}");
    }

    #[test]
    fn a_refusal_offers_to_ask_and_to_switch_and_always_a_first_thing() {
        for (contact, first, asks) in [
            (Some("mailto:ops@example.com"), "Ask for access</a>", true),
            (Some("https://chat.example.com/"), "Ask for access</a>", true),
            (Some("the third floor"), "Switch account</button>", false),
            (None, "Switch account</button>", false),
        ] {
            let page = page_for(Needs::Untold, &[], contact, Shape::Navigation);
            let html = text(&page);
            let button = html.split("class=\"button\"").nth(1).and_then(|rest| rest.split('\n').next());
            assert!(button.is_some_and(|b| b.contains(first)), "{contact:?}: {button:?}");
            assert_eq!(
                html.contains("?subject=Access%20to%20wiki.example.com&#38;body="),
                contact == Some("mailto:ops@example.com")
            );
            assert!(
                html.contains("method=\"post\" action=\"/.teamgate/logout?switch&#38;rd=%2Fx\""),
                "{html}"
            );
            assert_eq!(html.contains("Ask for access"), asks);
        }
    }

    #[test]
    fn switching_may_lead_on_to_bitbucket_and_only_pages_with_a_form_say_so() {
        let policy = |response: &Response<Bytes>| {
            response
                .headers()
                .get("content-security-policy")
                .and_then(|v| v.to_str().ok())
                .unwrap_or("")
                .to_owned()
        };
        assert!(
            policy(&page_for(Needs::Untold, &[], None, Shape::Navigation))
                .contains("'self' https://bitbucket.org;")
        );
        assert!(!policy(&page_for(Needs::Untold, &[], None, Shape::Program)).contains("bitbucket"));
    }

    #[test]
    fn a_page_that_cannot_tell_tries_six_times_by_itself_and_then_stops() {
        let at = |reloads| {
            let last_answer = Some(Timestamp::from_unix_seconds(9_160));
            let retry_after = Duration::from_secs(10);
            let (next, again, trouble) = ("/x?n=next", "/x", Trouble::Silence);
            let view = CannotTell { last_answer, trouble, reloads, next, again, retry_after };
            cannot_tell(&common(None), &view, Shape::Navigation)
        };
        for (reloads, refresh, says) in [
            (0, Some("10; url=/x?n=next"), "by itself in 10 seconds: 1 of 6."),
            (5, Some("10; url=/x?n=next"), "by itself in 10 seconds: 6 of 6."),
            (6, None, "has tried 6 times by itself and has stopped."),
            (u8::MAX, None, "has tried 6 times by itself and has stopped."),
        ] {
            let page = at(reloads);
            assert_eq!(page.status(), StatusCode::SERVICE_UNAVAILABLE);
            assert_eq!(page.headers().get("refresh").and_then(|v| v.to_str().ok()), refresh, "{reloads}");
            assert!(page.headers().get("retry-after").is_some_and(|v| v == "10"));
            assert!(text(&page).contains(says), "{reloads}\n{}", text(&page));
            assert!(text(&page).contains(">14 minutes ago</time>"));
            assert!(text(&page).contains("class=\"button\" href=\"/x\""), "a button in any case");
        }
    }
}
