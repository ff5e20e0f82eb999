//! Applications, what users granted them, and the codes and tokens that follow.
//!
//! Owns: every rule of OAuth that needs no HTTP: which callback is right, which code is good, what rotates,
//! what expires. How each answer is spelled is up to `oauth.rs` and `rest.rs`.
//! Must not know: cookies, pages, status codes.
//! Start reading at [`World::examine`] and [`World::redeem`].

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;
use url::Url;

use super::{Inactive, Regime, Unknown, User, World};

const CODE_LIFE: Duration = Duration::from_secs(600);

/// An application that is registered with the pretend Bitbucket.
#[derive(Clone, Debug)]
pub struct Client {
    /// Sent as `client_id`.
    pub id: String,
    /// Its secret.
    pub secret: String,
    /// The one callback URL; empty when none was registered.
    pub callback: String,
    /// Shown on the consent page.
    pub name: String,
    /// What every grant to it covers, for example `account` and `email`.
    pub scopes: Vec<String>,
}

impl Client {
    /// With the scopes `account` and `email`, named like its id.
    pub fn new(id: &str, secret: &str, callback: &str) -> Client {
        Client {
            id: id.to_owned(),
            secret: secret.to_owned(),
            callback: callback.to_owned(),
            name: id.to_owned(),
            scopes: vec!["account".to_owned(), "email".to_owned()],
        }
    }
}

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
    grant: Grant,
    redirect_uri: Option<String>,
    challenge: Option<Challenge>,
    issued_at: OffsetDateTime,
}

#[derive(Clone, Debug)]
pub(super) struct AccessToken {
    grant: u64,
    expires_at: OffsetDateTime,
}

#[derive(Clone, Debug)]
pub(super) struct RefreshToken {
    grant: u64,
    issued_at: OffsetDateTime,
    used_at: Option<OffsetDateTime>,
}

#[derive(Clone, Debug)]
enum Challenge {
    Plain(String),
    S256(String),
}

impl Challenge {
    fn met_by(&self, verifier: &str) -> bool {
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

/// What the token endpoint hands out.
#[derive(Clone, Debug)]
pub(crate) struct Issued {
    pub(crate) access_token: String,
    pub(crate) refresh_token: String,
    pub(crate) expires_in: u64,
    pub(crate) scopes: Vec<String>,
    pub(crate) user: String,
}

/// Why the token endpoint hands nothing out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TokenRefusal {
    /// No or wrong client id and secret.
    ClientAuth,
    /// The client never registered a callback.
    NoCallback,
    /// Unknown, used, expired or somebody else's code, or one whose grant was withdrawn.
    BadCode,
    /// Not the redirect_uri of the authorize request.
    RedirectMismatch,
    /// Not the verifier of the challenge.
    BadVerifier,
    /// Unknown, used, expired or somebody else's refresh token, or one whose grant was withdrawn.
    BadRefreshToken,
}

/// Who is calling the API.
#[derive(Clone, Debug)]
pub(crate) enum Bearer {
    Known { user: Box<User>, client: String, scopes: Vec<String> },
    Expired,
    Invalid,
}

impl World {
    /// Registers an application; one with the same id is replaced and its grants stand.
    pub fn register_client(&mut self, client: Client) {
        self.clients.retain(|known| known.id != client.id);
        self.clients.push(client);
    }

    /// Takes an application away, with everything that was granted to it.
    ///
    /// # Errors
    /// [`Unknown::Client`].
    pub fn remove_client(&mut self, id: &str) -> Result<(), Unknown> {
        self.client(id)?;
        self.clients.retain(|client| client.id != id);
        self.grants.retain(|grant| grant.client != id);
        Ok(())
    }

    /// Every application.
    pub fn clients(&self) -> &[Client] {
        &self.clients
    }

    /// The application with this id.
    ///
    /// # Errors
    /// [`Unknown::Client`].
    pub fn client(&self, id: &str) -> Result<&Client, Unknown> {
        self.clients.iter().find(|client| client.id == id).ok_or_else(|| Unknown::Client(id.to_owned()))
    }

    /// The same, to change any of its fields.
    ///
    /// # Errors
    /// [`Unknown::Client`].
    pub fn client_mut(&mut self, id: &str) -> Result<&mut Client, Unknown> {
        self.clients.iter_mut().find(|client| client.id == id).ok_or_else(|| Unknown::Client(id.to_owned()))
    }

    /// Registers another callback URL for an application.
    ///
    /// # Errors
    /// [`Unknown::Client`].
    pub fn set_callback(&mut self, client: &str, callback: &str) -> Result<(), Unknown> {
        self.client_mut(client)?.callback = callback.to_owned();
        Ok(())
    }

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

    /// Every access token is expired from now on; refresh tokens are as they were.
    pub fn expire_access_tokens(&mut self) {
        let now = self.now();
        for token in self.access_tokens.values_mut() {
            token.expires_at = token.expires_at.min(now);
        }
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

    /// The application that these credentials belong to.
    pub(crate) fn authenticate(&self, id: &str, secret: &str) -> Result<Client, TokenRefusal> {
        let client = self.client(id).map_err(|_| TokenRefusal::ClientAuth)?;
        if client.secret != secret {
            return Err(TokenRefusal::ClientAuth);
        }
        Ok(client.clone())
    }

    /// Tokens for a code. A good code is spent by this; a wrong attempt leaves it.
    pub(crate) fn redeem(
        &mut self,
        client: &Client,
        code: &str,
        redirect_uri: Option<&str>,
        verifier: Option<&str>,
    ) -> Result<Issued, TokenRefusal> {
        if client.callback.is_empty() {
            return Err(TokenRefusal::NoCallback);
        }
        let now = self.now();
        let found = self.codes.get(code).ok_or(TokenRefusal::BadCode)?;
        let stands = self.grants.iter().any(|grant| grant.id == found.grant.id);
        if found.grant.client != client.id || now - found.issued_at >= CODE_LIFE || !stands {
            return Err(TokenRefusal::BadCode);
        }
        if found.redirect_uri.as_deref() != redirect_uri {
            return Err(TokenRefusal::RedirectMismatch);
        }
        if let Some(challenge) = &found.challenge
            && !verifier.is_some_and(|verifier| challenge.met_by(verifier))
        {
            return Err(TokenRefusal::BadVerifier);
        }
        let grant = found.grant.clone();
        self.codes.remove(code);
        let refresh_token = self.new_refresh_token(&grant);
        Ok(self.issue(&grant, refresh_token))
    }

    /// Tokens for a refresh token.
    pub(crate) fn refresh(&mut self, client: &Client, token: &str) -> Result<Issued, TokenRefusal> {
        let now = self.now();
        if self.lockouts.get(&client.id).is_some_and(|until| now < *until) {
            return Err(TokenRefusal::BadRefreshToken);
        }
        let (idle, grace) = (self.refresh_token_idle, self.rotation_grace);
        let found = self.refresh_tokens.get_mut(token).ok_or(TokenRefusal::BadRefreshToken)?;
        let grant = self.grants.iter().find(|grant| grant.id == found.grant && grant.client == client.id);
        let grant = grant.ok_or(TokenRefusal::BadRefreshToken)?.clone();
        if now - found.issued_at >= idle {
            return Err(TokenRefusal::BadRefreshToken);
        }
        if self.regime == Regime::Legacy {
            // Lasting: it is handed out again, and its idle time starts anew.
            found.issued_at = now;
            return Ok(self.issue(&grant, token.to_owned()));
        }
        match found.used_at {
            None => found.used_at = Some(now),
            Some(at) if now - at < grace => {}
            Some(_) => {
                if let Some(lockout) = self.lockout_after_reuse {
                    self.lockouts.insert(client.id.clone(), now + lockout);
                }
                return Err(TokenRefusal::BadRefreshToken);
            }
        }
        let refresh_token = self.new_refresh_token(&grant);
        Ok(self.issue(&grant, refresh_token))
    }

    /// Who may call the API with this token.
    pub(crate) fn bearer(&self, token: &str) -> Bearer {
        let Some(found) = self.access_tokens.get(token) else { return Bearer::Invalid };
        let Some(grant) = self.grants.iter().find(|grant| grant.id == found.grant) else {
            return Bearer::Invalid;
        };
        if self.now() >= found.expires_at {
            return Bearer::Expired;
        }
        match self.user(&grant.user) {
            Ok(user) if user.is_active() || self.inactive == Inactive::Shown => Bearer::Known {
                user: Box::new(user.clone()),
                client: grant.client.clone(),
                scopes: grant.scopes.clone(),
            },
            _ => Bearer::Invalid,
        }
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

    fn new_refresh_token(&mut self, grant: &Grant) -> String {
        let issued_at = self.now();
        let token = match self.regime {
            Regime::New => {
                let claims =
                    json!({"typ": "refresh", "sub": self.subject(grant), "iat": issued_at.unix_timestamp()});
                self.mint.jwt(claims)
            }
            Regime::Legacy => self.mint.short().chars().take(18).collect(),
        };
        self.refresh_tokens.insert(token.clone(), RefreshToken { grant: grant.id, issued_at, used_at: None });
        token
    }

    fn issue(&mut self, grant: &Grant, refresh_token: String) -> Issued {
        let now = self.now();
        let expires_at = now + self.access_token_life;
        let access_token = match self.regime {
            Regime::New => {
                let claims = json!({
                    "typ": "access", "sub": self.subject(grant), "aud": grant.client, "scope": grant.scopes.join(" "),
                    "iat": now.unix_timestamp(), "exp": expires_at.unix_timestamp(),
                });
                self.mint.jwt(claims)
            }
            Regime::Legacy => format!("{}=", self.mint.short()),
        };
        self.access_tokens.insert(access_token.clone(), AccessToken { grant: grant.id, expires_at });
        Issued {
            access_token,
            refresh_token,
            expires_in: self.access_token_life.as_secs(),
            scopes: grant.scopes.clone(),
            user: grant.user.clone(),
        }
    }

    fn subject(&self, grant: &Grant) -> String {
        self.user(&grant.user).map(|user| user.uuid.clone()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{EXAMPLE_CLIENT_ID, EXAMPLE_CLIENT_SECRET};
    use super::*;

    type Outcome = Result<(), Box<dyn std::error::Error>>;

    const CALLBACK: &str = "http://127.0.0.1:8080/.teamgate/callback";

    fn asked() -> Asked {
        Asked {
            client_id: Some(EXAMPLE_CLIENT_ID.to_owned()),
            response_type: Some("code".to_owned()),
            redirect_uri: Some(CALLBACK.to_owned()),
            ..Asked::default()
        }
    }

    fn client(world: &World) -> Result<Client, String> {
        world.authenticate(EXAMPLE_CLIENT_ID, EXAMPLE_CLIENT_SECRET).map_err(|refusal| format!("{refusal:?}"))
    }

    fn code(world: &mut World, asked: &Asked, user: &str) -> Result<String, String> {
        let request = world.examine(asked).map_err(|refusal| format!("{refusal:?}"))?;
        world.agree(user, &request).map_err(|unknown| unknown.to_string())
    }

    fn tokens(world: &mut World, user: &str) -> Result<Issued, String> {
        let code = code(world, &asked(), user)?;
        let client = client(world)?;
        world.redeem(&client, &code, Some(CALLBACK), None).map_err(|refusal| format!("{refusal:?}"))
    }

    fn works(world: &World, token: &str) -> bool {
        matches!(world.bearer(token), Bearer::Known { .. })
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

    #[test]
    fn a_code_works_once() -> Outcome {
        let mut world = World::example();
        let code = code(&mut world, &asked(), "ann")?;
        let client = client(&world)?;
        assert!(world.redeem(&client, &code, Some(CALLBACK), None).is_ok());
        let again = world.redeem(&client, &code, Some(CALLBACK), None);
        assert_eq!(again.map(|_| ()), Err(TokenRefusal::BadCode));
        Ok(())
    }

    #[test]
    fn a_code_dies_after_ten_minutes() -> Outcome {
        let mut world = World::example();
        world.clock = crate::Clock::standing_at(OffsetDateTime::UNIX_EPOCH);
        let client = client(&world)?;
        let (first, second) = (code(&mut world, &asked(), "ann")?, code(&mut world, &asked(), "ann")?);
        world.advance(Duration::from_secs(599));
        assert!(world.redeem(&client, &first, Some(CALLBACK), None).is_ok());
        world.advance(Duration::from_secs(1));
        let late = world.redeem(&client, &second, Some(CALLBACK), None);
        assert_eq!(late.map(|_| ()), Err(TokenRefusal::BadCode));
        Ok(())
    }

    #[test]
    fn a_code_is_good_for_its_client_and_its_redirect_uri_only() -> Outcome {
        let mut world = World::example();
        world.register_client(Client::new("other", "secret", "http://other.example/cb"));
        let code = code(&mut world, &asked(), "ann")?;
        let (own, other) = (client(&world)?, world.client("other")?.clone());
        let outcome = |result: Result<Issued, TokenRefusal>| result.map(|_| ());
        assert_eq!(outcome(world.redeem(&other, &code, Some(CALLBACK), None)), Err(TokenRefusal::BadCode));
        assert_eq!(outcome(world.redeem(&own, &code, None, None)), Err(TokenRefusal::RedirectMismatch));
        assert_eq!(outcome(world.redeem(&own, &code, Some(CALLBACK), None)), Ok(()));

        let unsent = Asked { redirect_uri: None, ..asked() };
        let code = self::code(&mut world, &unsent, "ann")?;
        assert_eq!(
            outcome(world.redeem(&own, &code, Some(CALLBACK), None)),
            Err(TokenRefusal::RedirectMismatch)
        );
        assert_eq!(outcome(world.redeem(&own, &code, None, None)), Ok(()));
        Ok(())
    }

    #[test]
    fn a_challenge_must_be_met_when_there_was_one() -> Outcome {
        let mut world = World::example();
        let own = client(&world)?;
        let verifier = "a-verifier-of-at-least-forty-three-characters-long";
        let s256 = URL_SAFE_NO_PAD.encode(Sha256::digest(verifier));
        for (challenge, method, offered, expected) in [
            (Some(s256.as_str()), Some("S256"), Some(verifier), Ok(())),
            (Some(s256.as_str()), Some("S256"), Some("another"), Err(TokenRefusal::BadVerifier)),
            (Some(s256.as_str()), Some("S256"), None, Err(TokenRefusal::BadVerifier)),
            (Some(verifier), Some("plain"), Some(verifier), Ok(())),
            (Some(verifier), None, Some("another"), Err(TokenRefusal::BadVerifier)),
            (None, None, Some(verifier), Ok(())),
            (None, None, None, Ok(())),
        ] {
            let request = Asked {
                code_challenge: challenge.map(str::to_owned),
                code_challenge_method: method.map(str::to_owned),
                ..asked()
            };
            let code = code(&mut world, &request, "ann")?;
            let result = world.redeem(&own, &code, Some(CALLBACK), offered);
            assert_eq!(result.map(|_| ()), expected, "{method:?} {offered:?}");
        }
        Ok(())
    }

    #[test]
    fn a_client_without_a_callback_gets_no_tokens() -> Outcome {
        let mut world = World::example();
        let code = code(&mut world, &asked(), "ann")?;
        world.set_callback(EXAMPLE_CLIENT_ID, "")?;
        let own = client(&world)?;
        let result = world.redeem(&own, &code, Some(CALLBACK), None);
        assert_eq!(result.map(|_| ()), Err(TokenRefusal::NoCallback));
        assert!(matches!(world.examine(&asked()), Err(AuthorizeRefusal::Page)));
        Ok(())
    }

    #[test]
    fn a_refresh_token_works_once_and_is_replaced() -> Outcome {
        let mut world = World::example();
        let own = client(&world)?;
        let first = tokens(&mut world, "ann")?;
        let second = world.refresh(&own, &first.refresh_token).map_err(|r| format!("{r:?}"))?;
        assert_ne!(first.refresh_token, second.refresh_token);
        assert!(works(&world, &first.access_token) && works(&world, &second.access_token));
        assert!(world.refresh(&own, &first.refresh_token).is_err());
        assert!(world.refresh(&own, &second.refresh_token).is_ok(), "reuse does not kill the family");
        Ok(())
    }

    #[test]
    fn within_the_grace_a_used_refresh_token_still_works() -> Outcome {
        let mut world = World::example();
        world.rotation_grace = Duration::from_secs(600);
        let own = client(&world)?;
        let first = tokens(&mut world, "ann")?;
        assert!(world.refresh(&own, &first.refresh_token).is_ok());
        world.advance(Duration::from_secs(590));
        assert!(world.refresh(&own, &first.refresh_token).is_ok());
        world.advance(Duration::from_secs(11));
        assert!(world.refresh(&own, &first.refresh_token).is_err(), "counted from the first use");
        Ok(())
    }

    #[test]
    fn reuse_can_lock_the_client_out_for_a_while() -> Outcome {
        let mut world = World::example();
        world.lockout_after_reuse = Some(Duration::from_secs(120));
        let own = client(&world)?;
        let (ann, ben) = (tokens(&mut world, "ann")?, tokens(&mut world, "ben")?);
        assert!(world.refresh(&own, &ann.refresh_token).is_ok());
        assert!(world.refresh(&own, &ann.refresh_token).is_err());
        assert!(world.refresh(&own, &ben.refresh_token).is_err(), "a valid token is refused too");
        world.advance(Duration::from_secs(121));
        assert!(world.refresh(&own, &ben.refresh_token).is_ok(), "and was not used up by that");
        Ok(())
    }

    #[test]
    fn a_refresh_token_dies_unused_after_ninety_days() -> Outcome {
        let mut world = World::example();
        let own = client(&world)?;
        let (early, late) = (tokens(&mut world, "ann")?, tokens(&mut world, "ann")?);
        world.advance(Duration::from_secs(89 * 86_400));
        assert!(world.refresh(&own, &early.refresh_token).is_ok());
        world.advance(Duration::from_secs(2 * 86_400));
        assert!(world.refresh(&own, &late.refresh_token).is_err());
        Ok(())
    }

    #[test]
    fn legacy_tokens_are_short_and_the_refresh_token_lasts() -> Outcome {
        let mut world = World::example();
        world.regime = Regime::Legacy;
        let own = client(&world)?;
        let first = tokens(&mut world, "ann")?;
        assert!(first.access_token.len() < 100 && first.refresh_token.len() == 18);
        for _ in 0..2 {
            let again = world.refresh(&own, &first.refresh_token).map_err(|r| format!("{r:?}"))?;
            assert_eq!(again.refresh_token, first.refresh_token);
        }
        Ok(())
    }

    #[test]
    fn a_refresh_token_is_good_for_its_client_only() -> Outcome {
        let mut world = World::example();
        world.register_client(Client::new("other", "secret", "http://other.example/cb"));
        let other = world.client("other")?.clone();
        let ann = tokens(&mut world, "ann")?;
        assert!(world.refresh(&other, &ann.refresh_token).is_err());
        let own = client(&world)?;
        assert!(world.refresh(&own, &ann.refresh_token).is_ok(), "and was not used up by that");
        Ok(())
    }

    #[test]
    fn an_access_token_lives_two_hours() -> Outcome {
        let mut world = World::example();
        let ann = tokens(&mut world, "ann")?;
        assert_eq!(ann.expires_in, 7200);
        world.advance(Duration::from_secs(7190));
        assert!(works(&world, &ann.access_token));
        world.advance(Duration::from_secs(11));
        assert!(matches!(world.bearer(&ann.access_token), Bearer::Expired));

        let fresh = tokens(&mut world, "ann")?;
        world.expire_access_tokens();
        assert!(matches!(world.bearer(&fresh.access_token), Bearer::Expired));
        let own = client(&world)?;
        assert!(world.refresh(&own, &fresh.refresh_token).is_ok());
        Ok(())
    }

    #[test]
    fn a_withdrawn_grant_takes_every_token_along_and_a_new_one_does_not_revive_them() -> Outcome {
        let mut world = World::example();
        let own = client(&world)?;
        let ann = tokens(&mut world, "ann")?;
        let pending = code(&mut world, &asked(), "ann")?;
        assert!(world.granted("ann", &own));
        world.revoke_grant("ann")?;
        assert!(!world.granted("ann", &own));
        let _ = tokens(&mut world, "ann")?;
        assert!(!works(&world, &ann.access_token));
        assert!(world.refresh(&own, &ann.refresh_token).is_err());
        assert!(world.redeem(&own, &pending, Some(CALLBACK), None).is_err());
        Ok(())
    }

    #[test]
    fn more_scopes_need_a_new_consent() -> Outcome {
        let mut world = World::example();
        let _ = tokens(&mut world, "ann")?;
        world.client_mut(EXAMPLE_CLIENT_ID)?.scopes.push("repository".to_owned());
        let own = client(&world)?;
        assert!(!world.granted("ann", &own));
        assert!(tokens(&mut world, "ann")?.scopes.contains(&"repository".to_owned()));
        Ok(())
    }

    #[test]
    fn an_inactive_account_is_shown_or_refused() -> Outcome {
        let mut world = World::example();
        let ann = tokens(&mut world, "ann")?;
        world.set_account_status("ann", "inactive")?;
        assert!(works(&world, &ann.access_token));
        world.inactive = Inactive::Refused;
        assert!(!works(&world, &ann.access_token));
        Ok(())
    }
}
