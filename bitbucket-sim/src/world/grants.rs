//! What users granted to applications, and how they are asked.
//!
//! Owns: which authorize request may be answered, the grants, the codes that are handed out for them.
//! Must not know: cookies, pages, what becomes of a code (`world/tokens.rs`).
//! Start reading at [`World::examine`].

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;
use url::Url;

use super::{Client, Regime, Unknown, World};

/// That a user agreed to an application.
#[derive(Clone, Debug)]
pub struct Grant {
    /// Differs from every other grant, also an earlier one of the same user to the same client.
    pub id: u64,
    /// The client's id.
    pub client: String,
    /// The user's id.
    pub user: String,
    /// What the user agreed to.
    pub scopes: Vec<String>,
}

#[derive(Clone, Debug)]
pub(super) struct Code {
    pub(super) grant: Grant,
    pub(super) redirect_uri: Option<String>,
    pub(super) challenge: Option<Challenge>,
    pub(super) issued_at: OffsetDateTime,
}

#[derive(Clone, Debug)]
pub(super) enum Challenge {
    Plain(String),
    S256(String),
}

impl Challenge {
    pub(super) fn met_by(&self, verifier: &str) -> bool {
        match self {
            Challenge::Plain(expected) => verifier == expected,
            Challenge::S256(expected) => URL_SAFE_NO_PAD.encode(Sha256::digest(verifier)) == *expected,
        }
    }
}

/// An authorize request as it was sent.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asked {
    pub(crate) client_id: Option<String>,
    pub(crate) response_type: Option<String>,
    pub(crate) redirect_uri: Option<String>,
    pub(crate) scope: Option<String>,
    pub(crate) code_challenge: Option<String>,
    pub(crate) code_challenge_method: Option<String>,
}

/// An authorize request that may be answered. Only [`World::examine`] makes one.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) client: Client,
    /// Where the browser goes back to.
    pub(crate) callback: Url,
    sent_redirect_uri: Option<String>,
    challenge: Option<Challenge>,
}

/// Why an authorize request is not answered with a code.
#[derive(Clone, Debug)]
pub(crate) enum AuthorizeRefusal {
    /// Nowhere safe to send the browser to: a page of our own.
    Page,
    /// The application is told.
    Redirect { callback: Url, error: &'static str, description: &'static str },
}

impl World {
    /// What users have agreed to.
    pub fn grants(&self) -> &[Grant] {
        &self.grants
    }

    /// A user withdraws the access of every application. Their tokens are dead at once.
    ///
    /// # Errors
    /// [`Unknown::User`].
    pub fn revoke_grant(&mut self, user: &str) -> Result<(), Unknown> {
        self.user(user)?;
        self.grants.retain(|grant| grant.user != user);
        Ok(())
    }

    /// Decides whether an authorize request may be answered, before anybody is asked anything.
    pub(crate) fn examine(&self, asked: &Asked) -> Result<Request, AuthorizeRefusal> {
        let client = asked.client_id.as_deref().and_then(|id| self.client(id).ok());
        let client = client.ok_or(AuthorizeRefusal::Page)?.clone();
        let callback = asked.redirect_uri.as_deref().unwrap_or(&client.callback);
        if !self.callback_fits(&client.callback, callback) {
            return Err(AuthorizeRefusal::Page);
        }
        let callback = Url::parse(callback).map_err(|_| AuthorizeRefusal::Page)?;

        let refuse = |error, description| AuthorizeRefusal::Redirect {
            callback: callback.clone(),
            error,
            description,
        };
        if asked.response_type.as_deref() != Some("code") {
            return Err(refuse("unsupported_response_type", "Only response_type=code is supported"));
        }
        let mut scopes = asked.scope.as_deref().unwrap_or_default().split_whitespace();
        if scopes.any(|scope| !client.scopes.iter().any(|fixed| fixed == scope)) {
            return Err(refuse("invalid_scope", "The client does not have a scope that was requested"));
        }
        let challenge = match (&asked.code_challenge, asked.code_challenge_method.as_deref()) {
            (None, _) => None,
            (Some(challenge), Some("S256")) => Some(Challenge::S256(challenge.clone())),
            (Some(challenge), None | Some("plain")) => Some(Challenge::Plain(challenge.clone())),
            (Some(_), Some(_)) => {
                return Err(refuse("invalid_request", "code_challenge_method must be S256 or plain"));
            }
        };
        Ok(Request { client, callback, sent_redirect_uri: asked.redirect_uri.clone(), challenge })
    }

    /// Whether the user already agreed to all that the application now wants.
    pub(crate) fn granted(&self, user: &str, client: &Client) -> bool {
        let mut grants = self.grants.iter();
        grants.any(|grant| {
            grant.user == user
                && grant.client == client.id
                && client.scopes.iter().all(|scope| grant.scopes.contains(scope))
        })
    }

    /// The user agrees (again): a code for the application.
    ///
    /// # Errors
    /// [`Unknown::User`].
    pub(crate) fn agree(&mut self, user: &str, request: &Request) -> Result<String, Unknown> {
        let user = self.user(user)?.id.clone();
        let scopes = request.client.scopes.clone();
        let standing =
            self.grants.iter_mut().find(|grant| grant.user == user && grant.client == request.client.id);
        let grant = match standing {
            Some(grant) => {
                grant.scopes = scopes;
                grant.clone()
            }
            None => {
                let grant = Grant { id: self.next_grant, client: request.client.id.clone(), user, scopes };
                self.next_grant += 1;
                self.grants.push(grant.clone());
                grant
            }
        };
        let code = self.mint.short();
        let issued_at = self.now();
        let redirect_uri = request.sent_redirect_uri.clone();
        let challenge = request.challenge.clone();
        self.codes.insert(code.clone(), Code { grant, redirect_uri, challenge, issued_at });
        Ok(code)
    }

    fn callback_fits(&self, registered: &str, sent: &str) -> bool {
        if registered.is_empty() {
            return false;
        }
        match (self.regime, Url::parse(registered), Url::parse(sent)) {
            (Regime::New, _, _) => registered == sent,
            (Regime::Legacy, Ok(registered), Ok(sent)) => {
                registered.origin() == sent.origin() && sent.path().starts_with(registered.path())
            }
            (Regime::Legacy, _, _) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::EXAMPLE_CLIENT_ID;
    use super::*;

    const CALLBACK: &str = "http://127.0.0.1:8080/.teamgate/callback";

    fn asked() -> Asked {
        Asked {
            client_id: Some(EXAMPLE_CLIENT_ID.to_owned()),
            response_type: Some("code".to_owned()),
            redirect_uri: Some(CALLBACK.to_owned()),
            ..Asked::default()
        }
    }

    #[test]
    fn the_callback_is_exact_now_and_was_a_prefix_before() {
        let mut world = World::example();
        for (sent, new, legacy) in [
            (CALLBACK, true, true),
            ("http://127.0.0.1:8080/.teamgate/callback/more", false, true),
            ("http://127.0.0.1:8080/.teamgate/callback?x=1", false, true),
            ("http://127.0.0.1:8080/.teamgate", false, false),
            ("http://127.0.0.1:8081/.teamgate/callback", false, false),
            ("http://localhost:8080/.teamgate/callback", false, false),
            ("https://127.0.0.1:8080/.teamgate/callback", false, false),
            ("http://127.0.0.1:8080.evil.example/.teamgate/callback", false, false),
            ("nonsense", false, false),
        ] {
            let request = Asked { redirect_uri: Some(sent.to_owned()), ..asked() };
            world.regime = Regime::New;
            assert_eq!(world.examine(&request).is_ok(), new, "new {sent}");
            world.regime = Regime::Legacy;
            assert_eq!(world.examine(&request).is_ok(), legacy, "legacy {sent}");
        }
    }

    #[test]
    fn a_request_that_cannot_be_trusted_gets_a_page_and_any_other_fault_a_redirect() {
        let world = World::example();
        let some = |text: &str| Some(text.to_owned());
        for (request, expected) in [
            (Asked { client_id: None, ..asked() }, None),
            (Asked { client_id: some("nobody"), ..asked() }, None),
            (Asked { response_type: None, ..asked() }, Some("unsupported_response_type")),
            (Asked { response_type: some("token"), ..asked() }, Some("unsupported_response_type")),
            (Asked { scope: some("account repository"), ..asked() }, Some("invalid_scope")),
            (
                Asked { code_challenge: some("x"), code_challenge_method: some("S512"), ..asked() },
                Some("invalid_request"),
            ),
        ] {
            match world.examine(&request) {
                Err(AuthorizeRefusal::Page) => assert_eq!(expected, None, "{request:?}"),
                Err(AuthorizeRefusal::Redirect { error, .. }) => assert_eq!(expected, Some(error)),
                Ok(_) => assert_eq!(Some("accepted"), None, "{request:?}"),
            }
        }
        assert!(world.examine(&Asked { scope: some("account"), ..asked() }).is_ok(), "fewer have no effect");
    }
}
