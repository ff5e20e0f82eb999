//! Where the requests of a route end: with an app.
//!
//! Owns: [`Destination`]. Must not know: how an app is reached, what is told to it.

use super::upstream::Upstream;

/// What becomes of an admitted request.
#[derive(Clone, PartialEq, Debug)]
pub enum Destination {
    /// It is forwarded.
    App(Upstream),
}

impl Destination {
    /// The app, where there is one.
    pub fn app(&self) -> Option<&Upstream> {
        match self {
            Destination::App(upstream) => Some(upstream),
        }
    }
}
