//! Asking for a sign-in, and what can go wrong on the way to Bitbucket and back.
//!
//! Owns: the words for each way a sign-in fails, and the way on. Must not know: what decides that it failed.

use std::time::Duration;

use bytes::Bytes;
use http::Response;

use super::super::problem::{Event, Problem};
use super::super::reply::{Common, Redirect, redirect};
use super::{ACCOUNT, Action, Notice, contact, internal, notice, try_again};
use crate::facts::Shape;

/// How to sign in.
#[derive(Clone, Copy, Debug)]
pub struct AskToSignIn<'a> {
    /// Where a navigation is sent at once: Bitbucket's authorize address, or our own `login`.
    pub location: &'a str,
    /// The absolute URL of our own `login`, told to programs.
    pub sign_in: &'a str,
}

/// Asks for a sign-in: 302 for a navigation, 401 for a program. Sets no cookie; the caller may.
pub fn ask_to_sign_in(common: &Common<'_>, ask: &AskToSignIn<'_>, shape: Shape) -> Response<Bytes> {
    let problem = Problem {
        sign_in: Some(ask.sign_in),
        ..Problem::new(Event::SignInNeeded, "Nobody is signed in here. Open `sign_in` in a browser.")
    };
    match shape {
        Shape::Navigation => {
            redirect(common, Redirect::Found, ask.location).unwrap_or_else(|| internal(common, shape))
        }
        Shape::Program => problem.json(common),
        Shape::Grpc => problem.grpc(common),
    }
}

/// 400: a sign-in that is too old, used up or not this browser's.
pub fn sign_in_expired(common: &Common<'_>, again: &str, shape: Shape) -> Response<Bytes> {
    let lead = "It took too long, or was started in another window. Nothing is lost: start again, and you’ll come \
                back to the same place.";
    let action = Action { label: "Sign in again", href: again };
    let problem = Problem { sign_in: Some(again), ..Problem::new(Event::SignInExpired, lead) };
    notice(common, problem, Notice { action: Some(action), ..lead.into() }, shape)
}

/// 403: the person said no at Bitbucket. `said` is Bitbucket's own sentence, if it gave one.
pub fn cancelled(common: &Common<'_>, again: &str, said: Option<&str>, shape: Shape) -> Response<Bytes> {
    let lead = "Bitbucket told us that you’d rather not, so nothing was shared with us.";
    let notes = [
        "Signing in asks Bitbucket for your name, your e-mail address and the workspaces you are in, to know \
         which pages to open for you.",
        "It changes nothing at Bitbucket, and you can take it back there at any time.",
    ];
    let problem = Problem { sign_in: Some(again), ..Problem::new(Event::Cancelled, lead) };
    let view = Notice {
        heading: Some("What signing in asks for"),
        notes: &notes,
        quote: said,
        action: Some(try_again(again)),
        ..lead.into()
    };
    notice(common, problem, view, shape)
}

/// How it showed that the browser does not keep our cookie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CookieTrouble<'a> {
    /// It came back without the cookie that it was given.
    Missing {
        /// From where: Bitbucket, or the gateway's own host.
        from: &'a str,
    },
    /// It went round this often in a minute, and was nobody each time.
    Loop {
        /// How often.
        rounds: u8,
        /// By way of whom.
        by: &'a str,
    },
}

/// 400: explained instead of going round once more.
pub fn cookies_blocked(
    common: &Common<'_>,
    trouble: CookieTrouble<'_>,
    again: &str,
    shape: Shape,
) -> Response<Bytes> {
    let lead = match trouble {
        CookieTrouble::Missing { from } => format!(
            "Signing in needs one small cookie. Your browser was given it, and came back from {from} without it."
        ),
        CookieTrouble::Loop { rounds, by } => format!(
            "You went to {by} and back {rounds} times within a minute, and each time our cookie was gone. So we \
             stopped, to tell you why."
        ),
    };
    let blocked =
        format!("Cookies are blocked. In the browser’s privacy settings, allow them for {}.", common.gateway);
    let notes = [
        blocked.as_str(),
        "A private window or an extension throws them away. Try an ordinary window, or pause the extension here.",
        "The page was opened under another address than the one you came back to: http instead of https, or \
         another name for the same machine. Use the address you were given.",
    ];
    let problem = Problem { sign_in: Some(again), ..Problem::new(Event::CookiesBlocked, lead.as_str()) };
    let view = Notice {
        heading: Some("It’s usually one of these"),
        notes: &notes,
        action: Some(try_again(again)),
        ..lead.as_str().into()
    };
    notice(common, problem, view, shape)
}

/// 500: Bitbucket refuses our client, or its redirect address. The cause is in the log, not here.
pub fn misconfigured(common: &Common<'_>, shape: Shape) -> Response<Bytes> {
    let lead = "Its settings and Bitbucket’s don’t match. It isn’t anything you did, and it will work again once \
                the operator has put it right.";
    let notes = ["The gateway’s log tells the operator what to change, under the request number below."];
    let subject = format!("{} can’t sign anyone in", common.gateway);
    let letter =
        format!("Hello,\n\nsigning in doesn’t work. The log says why, at request {}.\n", common.request_id);
    let ask = contact(common).map(|c| c.asking(&subject, &letter)).and_then(|c| c.href);
    let action = match &ask {
        Some(href) => Action { label: "Tell the operator", href },
        None => ACCOUNT,
    };
    let view = Notice { notes: &notes, action: Some(action), ..lead.into() };
    notice(common, Problem::new(Event::Misconfigured, lead), view, shape)
}

/// What is wrong with Bitbucket while someone signs in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BitbucketTrouble {
    /// 503: no answer, or one that asks us to come later.
    Away {
        /// When to try again.
        retry_after: Duration,
    },
    /// 502: an answer that cannot be used.
    Garbled,
}

/// 503 or 502: nobody can sign in for the moment.
pub fn bitbucket_trouble(
    common: &Common<'_>,
    trouble: BitbucketTrouble,
    again: &str,
    shape: Shape,
) -> Response<Bytes> {
    let (event, retry_after) = match trouble {
        BitbucketTrouble::Away { retry_after } => (Event::BitbucketAway, Some(retry_after)),
        BitbucketTrouble::Garbled => (Event::BitbucketGarbled, None),
    };
    let lead = "So we can’t sign you in at the moment. Nothing is wrong with your account; please try again in a \
                little while.";
    let problem = Problem { retry_after, sign_in: Some(again), ..Problem::new(event, lead) };
    notice(common, problem, Notice { action: Some(try_again(again)), ..lead.into() }, shape)
}

/// Why an account cannot sign in, whatever its teams.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AccountTrouble {
    /// It is a team's or an app's.
    NotAPerson,
    /// It is switched off at Bitbucket.
    Deactivated,
}

/// 403: an account that cannot sign in at all. `name` is what Bitbucket calls it.
pub fn account_refused(
    common: &Common<'_>,
    trouble: AccountTrouble,
    name: Option<&str>,
    again: &str,
    shape: Shape,
) -> Response<Bytes> {
    let name = name.unwrap_or("This account");
    let (event, lead) = match trouble {
        AccountTrouble::NotAPerson => {
            (Event::NotAPerson, format!("{name} is the account of an app or a team, as Bitbucket tells it."))
        }
        AccountTrouble::Deactivated => (
            Event::Deactivated,
            format!(
                "{name} is switched off at Bitbucket. Whoever administers it there can switch it on again."
            ),
        ),
    };
    let action = Action { label: "Use another account", href: again };
    let problem = Problem { sign_in: Some(again), ..Problem::new(event, lead.as_str()) };
    notice(common, problem, Notice { action: Some(action), ..lead.as_str().into() }, shape)
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;
    use crate::clock::Timestamp;

    const COMMON: Common<'static> = Common {
        request_id: "r-1",
        now: Timestamp::from_unix_seconds(0),
        contact: None,
        gateway: "gate.example.com",
        form_origin: None,
    };

    #[test]
    fn nobody_is_redirected_or_told_but_never_both() {
        let ask = AskToSignIn {
            location: "https://bitbucket.org/site/oauth2/authorize?client_id=a",
            sign_in: "https://wiki.example.com/.teamgate/login?rd=%2Fx",
        };
        for (shape, status, location, challenge) in [
            (Shape::Navigation, StatusCode::FOUND, true, false),
            (Shape::Program, StatusCode::UNAUTHORIZED, false, true),
            (Shape::Grpc, StatusCode::OK, false, false),
        ] {
            let response = ask_to_sign_in(&COMMON, &ask, shape);
            assert_eq!(response.status(), status, "{shape:?}");
            assert_eq!(response.headers().contains_key("location"), location, "{shape:?}");
            assert_eq!(response.headers().contains_key("www-authenticate"), challenge, "{shape:?}");
            assert!(!response.headers().contains_key("set-cookie"), "{shape:?}");
        }
        let split = AskToSignIn { location: "/\r\nset-cookie: a=b", ..ask };
        assert_eq!(
            ask_to_sign_in(&COMMON, &split, Shape::Navigation).status(),
            StatusCode::INTERNAL_SERVER_ERROR
        );
    }

    #[test]
    fn the_operators_fault_is_told_to_the_operator_and_to_nobody_else() {
        for (contact, first) in
            [(Some("mailto:ops@example.com"), "Tell the operator"), (None, "Go to your account")]
        {
            let page = misconfigured(&Common { contact, ..COMMON }, Shape::Navigation);
            let html = String::from_utf8_lossy(page.body()).into_owned();
            assert!(html.contains(&format!(">{first}</a>")), "{html}");
            for hidden in ["client", "redirect", "secret", "OAuth"] {
                assert!(!html.contains(hidden), "{hidden}\n{html}");
            }
        }
    }
}
