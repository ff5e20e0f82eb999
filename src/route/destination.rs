//! Where the requests of a route end: with an app.
//!
//! Owns: [`Destination`]. Must not know: how an app is reached, what is told to it.

use std::sync::Arc;

use super::upstream::app::App;

/// What becomes of an admitted request.
#[derive(Clone, PartialEq, Debug)]
pub enum Destination {
    /// It is forwarded.
    App(Arc<App>),
}

impl Destination {
    /// The app, where there is one.
    pub fn app(&self) -> Option<&Arc<App>> {
        match self {
            Destination::App(app) => Some(app),
        }
    }
}
