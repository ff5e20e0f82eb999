//! The pages about oneself: who am I, sign out, signed out. For people only; programs read `userinfo`.
//!
//! Owns: what a person sees of account, groups and sessions. Must not know: where these are kept.

use std::net::IpAddr;

use askama::Template;
use bytes::Bytes;
use http::{Response, StatusCode};

use super::super::reply::{Common, Forms};
use super::super::words;
use super::{Action, Notice, NoticePage, Person, html};
use crate::clock::Timestamp;

/// One signed-in browser, for the eyes of the person.
#[derive(Clone, Copy, Debug)]
pub struct ThisSession<'a> {
    /// When it was begun.
    pub begun_at: Timestamp,
    /// When it was last used.
    pub last_used_at: Timestamp,
    /// When it ends if it is not used again.
    pub ends_at: Timestamp,
    /// What the browser called itself at sign-in.
    pub user_agent: Option<&'a str>,
    /// Where it was at sign-in.
    pub address: Option<IpAddr>,
    /// The hosts that it was handed over to.
    pub hosts: &'a [Box<str>],
    /// Where *sign out* for this one posts to.
    pub sign_out: &'a str,
}

/// Everything that somebody signed in may see about themselves.
#[derive(Clone, Copy, Debug)]
pub struct Profile<'a> {
    /// Who it is.
    pub person: Person<'a>,
    /// The short name at Bitbucket.
    pub nickname: Option<&'a str>,
    /// The primary and confirmed address.
    pub email: Option<&'a str>,
    /// The groups, and as of when; `None` when they are not known right now.
    pub groups: Option<(&'a [String], Timestamp)>,
    /// The session of this browser.
    pub session: ThisSession<'a>,
    /// The person's other sessions.
    pub others: &'a [ThisSession<'a>],
    /// How many more there are than are shown.
    pub more: usize,
    /// Where *sign out everywhere else* posts to.
    pub sign_out_others: &'a str,
}

/// What `/.teamgate/` has to tell.
#[derive(Clone, Copy, Debug)]
pub enum WhoAmI<'a> {
    /// Somebody is signed in.
    Somebody(&'a Profile<'a>),
    /// Nobody is.
    Nobody {
        /// Where a sign-in starts.
        sign_in: &'a str,
    },
}

/// 200: who am I.
pub fn who_am_i(common: &Common<'_>, who: &WhoAmI<'_>) -> Response<Bytes> {
    match who {
        WhoAmI::Somebody(view) => {
            let page = AccountPage {
                common,
                title: "Your account",
                view,
                initial: words::initial(view.person.name),
                groups: view.groups.map(|(groups, as_of)| Groups {
                    names: groups,
                    as_of,
                    age: words::ago(common.now, as_of),
                }),
                session: Browser::of(&view.session, common.now),
                others: view.others.iter().map(|session| Browser::of(session, common.now)).collect(),
            };
            html(common, StatusCode::OK, &page, Forms::Post)
        }
        WhoAmI::Nobody { sign_in } => {
            let view = Notice {
                action: Some(Action { label: "Sign in with Bitbucket", href: sign_in }),
                ..Notice::from(
                    "Sign in, and this page shows who you are here, which groups you have and when your \
                                session ends.",
                )
            };
            html(
                common,
                StatusCode::OK,
                &NoticePage { common, title: "You’re not signed in", view },
                Forms::None,
            )
        }
    }
}

#[derive(Template)]
#[template(path = "account.html")]
struct AccountPage<'a> {
    common: &'a Common<'a>,
    title: &'a str,
    view: &'a Profile<'a>,
    initial: String,
    groups: Option<Groups<'a>>,
    session: Browser<'a>,
    others: Vec<Browser<'a>>,
}

struct Groups<'a> {
    names: &'a [String],
    as_of: Timestamp,
    age: String,
}

/// A session in words.
struct Browser<'a> {
    name: String,
    address: Option<IpAddr>,
    hosts: &'a [Box<str>],
    sign_out: &'a str,
    begun_at: Timestamp,
    begun: String,
    used_at: Timestamp,
    used: String,
    ends_at: Timestamp,
    ends: String,
}

impl<'a> Browser<'a> {
    fn of(session: &ThisSession<'a>, now: Timestamp) -> Browser<'a> {
        Browser {
            name: words::browser(session.user_agent),
            address: session.address,
            hosts: session.hosts,
            sign_out: session.sign_out,
            begun_at: session.begun_at,
            begun: words::ago(now, session.begun_at),
            used_at: session.last_used_at,
            used: words::ago(now, session.last_used_at),
            ends_at: session.ends_at,
            ends: words::ahead(now, session.ends_at),
        }
    }
}

/// The question before signing out.
#[derive(Clone, Copy, Debug)]
pub struct SignOut<'a> {
    /// Who is signed in.
    pub person: Person<'a>,
    /// Where *sign out* posts to.
    pub action: &'a str,
    /// Where *stay signed in* leads.
    pub stay: &'a str,
}

/// 200: asks before it signs out, so that a link or an image cannot do it.
pub fn sign_out(common: &Common<'_>, view: &SignOut<'_>) -> Response<Bytes> {
    html(common, StatusCode::OK, &SignOutPage { common, title: "Sign out?", view }, Forms::Post)
}

#[derive(Template)]
#[template(path = "sign_out.html")]
struct SignOutPage<'a> {
    common: &'a Common<'a>,
    title: &'a str,
    view: &'a SignOut<'a>,
}

/// What was ended, and what may come next.
#[derive(Clone, Copy, Debug)]
pub enum SignedOut<'a> {
    /// The person signed out, or was not signed in to begin with.
    Done {
        /// Where a new sign-in starts.
        sign_in: &'a str,
        /// Where one signs out of Bitbucket.
        bitbucket_sign_out: &'a str,
    },
    /// The person wants to come back as somebody else.
    Switching {
        /// Where a new sign-in starts, to where the person wanted to go.
        sign_in: &'a str,
        /// Where one signs out of Bitbucket.
        bitbucket_sign_out: &'a str,
    },
}

/// 200: signed out here; Bitbucket is another matter.
pub fn signed_out(common: &Common<'_>, view: &SignedOut<'_>) -> Response<Bytes> {
    match *view {
        SignedOut::Done { sign_in, bitbucket_sign_out } => {
            let page = SignedOutPage { common, title: "You’re signed out", sign_in, bitbucket_sign_out };
            html(common, StatusCode::OK, &page, Forms::None)
        }
        SignedOut::Switching { sign_in, bitbucket_sign_out } => {
            let page = SwitchPage { common, title: "Switch account", sign_in, bitbucket_sign_out };
            html(common, StatusCode::OK, &page, Forms::None)
        }
    }
}

#[derive(Template)]
#[template(path = "signed_out.html")]
struct SignedOutPage<'a> {
    common: &'a Common<'a>,
    title: &'a str,
    sign_in: &'a str,
    bitbucket_sign_out: &'a str,
}

#[derive(Template)]
#[template(path = "switch.html")]
struct SwitchPage<'a> {
    common: &'a Common<'a>,
    title: &'a str,
    sign_in: &'a str,
    bitbucket_sign_out: &'a str,
}
