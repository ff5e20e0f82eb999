//! Codes and tokens: what is good, what rotates, what expires.
//!
//! Owns: redeeming, refreshing, and who a token belongs to.
//! Must not know: how each answer is spelled (`oauth.rs`, `rest.rs`).
//! Start reading at [`World::redeem`].

use std::time::Duration;

use serde_json::json;
use time::OffsetDateTime;

use super::{Client, Grant, Inactive, Regime, User, World};

const CODE_LIFE: Duration = Duration::from_secs(600);

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
    /// Every access token is expired from now on; refresh tokens are as they were.
    pub fn expire_access_tokens(&mut self) {
        let now = self.now();
        for token in self.access_tokens.values_mut() {
            token.expires_at = token.expires_at.min(now);
        }
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
        if self.lockouts.get(&client.id).is_some_and(|until| now < *until) {
            return Err(TokenRefusal::BadRefreshToken);
        }
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
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use sha2::{Digest as _, Sha256};

    use super::super::{Asked, AuthorizeRefusal, EXAMPLE_CLIENT_ID, EXAMPLE_CLIENT_SECRET};
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
