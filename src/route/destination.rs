//! Where the requests of a route end: with an app, or in an answer of the route's own.
//!
//! Owns: [`Destination`]; what each kind of answer consists of is in [`redirect`], [`respond`] and [`files`].
//! Must not know: how an app is reached, what is told to it, how an answer is written.

pub mod files;
pub mod redirect;
pub mod respond;

use std::fmt;
use std::sync::Arc;

use super::upstream::app::App;
use files::Files;
use redirect::Redirect;
use respond::Respond;

/// What becomes of an admitted request.
#[derive(Clone, PartialEq, Debug)]
pub enum Destination {
    /// It is forwarded.
    App(Arc<App>),
    /// It is sent elsewhere.
    Redirect(Redirect),
    /// It is answered with the same words each time.
    Respond(Respond),
    /// It is answered with a file of a folder.
    Files(Files),
}

impl Destination {
    /// The app, where there is one.
    pub fn app(&self) -> Option<&Arc<App>> {
        match self {
            Destination::App(app) => Some(app),
            Destination::Redirect(_) | Destination::Respond(_) | Destination::Files(_) => None,
        }
    }
}

/// For people: what `explain` says of it.
impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Destination::App(app) => write!(f, "forwarded to {app}"),
            Destination::Redirect(redirect) => write!(f, "redirected with {}", redirect.status.as_u16()),
            Destination::Respond(respond) => write!(f, "answered with {}", respond.status.as_u16()),
            Destination::Files(files) => write!(f, "answered with a file below {}", files.root.display()),
        }
    }
}
