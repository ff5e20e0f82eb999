//! Bitbucket's OAuth 2: where to sign in, a code for tokens, a refresh token for new ones.
//!
//! Owns: the authorization URL, the two token requests, what a refusal of either means.
//! Must not know: `state`'s meaning, where tokens are kept, who refreshes when.
//!
//! `oauth2` builds the requests and reads the answers; ours travel by the same road as every other call.

use std::pin::Pin;
use std::sync::OnceLock;
use std::time::Duration;

use http::header::AUTHORIZATION;
use http::{Method, StatusCode};
use oauth2::basic::{
    BasicErrorResponse, BasicErrorResponseType, BasicRevocationErrorResponse,
    BasicTokenIntrospectionResponse, BasicTokenType,
};
use oauth2::{
    AsyncHttpClient, AuthUrl, AuthorizationCode, ClientId, ClientSecret, CsrfToken, EndpointNotSet,
    EndpointSet, HttpRequest, HttpResponse, PkceCodeVerifier, RedirectUrl, RefreshToken, RequestTokenError,
    StandardRevocableToken, TokenUrl,
};
use url::Url;

use super::error::{Error, Kind, Place};
use super::transport::Deadline;
use super::wire::{self, TokenAnswer};
use super::{Bitbucket, Endpoint, Tokens, below};
use crate::secret::Secret;

/// What a token may weigh. Those of 2026 have about 2.5 kB.
const TOKEN_LIMIT: usize = 8 << 10;

/// How long an access token lives when Bitbucket does not say.
const USUAL_LIFETIME: Duration = Duration::from_secs(2 * 60 * 60);

type Client = oauth2::Client<
    BasicErrorResponse,
    TokenAnswer,
    BasicTokenIntrospectionResponse,
    StandardRevocableToken,
    BasicRevocationErrorResponse,
    EndpointSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointSet,
>;

impl Bitbucket {
    /// Where to send a browser that wants to sign in. `state` comes back on the callback; `challenge` is the
    /// S256 challenge of a PKCE verifier (RFC 7636 §4.2). The redirect URI is always sent, since the exchange
    /// then has to repeat it; a scope never, since Bitbucket fixes scopes on the client.
    pub fn authorize_url(&self, state: &str, challenge: &str) -> Url {
        let (url, _) = self
            .client()
            .authorize_url(|| CsrfToken::new(state.to_owned()))
            .add_extra_param("code_challenge", challenge)
            .add_extra_param("code_challenge_method", "S256")
            .url();
        url
    }

    /// Exchanges the code of a callback for tokens.
    ///
    /// # Errors
    ///
    /// As [`Error::remedy`] says; a refused client or redirect URI is a matter of configuration, a refused
    /// code means another round through Bitbucket. The code may be used up even if the answer was lost.
    pub async fn exchange(&self, code: &str, verifier: &Secret<String>) -> Result<Tokens, Error> {
        let road = self.road(Endpoint::Exchange);
        let answer = self
            .client()
            .exchange_code(AuthorizationCode::new(code.to_owned()))
            .set_pkce_verifier(PkceCodeVerifier::new(verifier.expose().clone()))
            .request_async(&road)
            .await;
        road.tokens(answer)
    }

    /// Exchanges a refresh token, which is good for one use, for new tokens.
    ///
    /// # Errors
    ///
    /// As [`Error::remedy`] says. Bitbucket answers alike to a dead grant and, perhaps, to a wrong client
    /// secret: [`Error::may_be_about_the_client`], and [`Bitbucket::check_client`] tells them apart. After an error for which [`Error::is_unsent`] is false the
    /// old token may be used up.
    pub async fn refresh(&self, refresh_token: &Secret<String>) -> Result<Tokens, Error> {
        let road = self.road(Endpoint::Refresh);
        let answer = self
            .client()
            .exchange_refresh_token(&RefreshToken::new(refresh_token.expose().clone()))
            .request_async(&road)
            .await;
        road.tokens(answer)
    }

    /// Whether Bitbucket accepts our client, by a code that nobody has: it refuses the client first, and the code only
    /// of a client that it accepts. Costs one call and changes nothing.
    ///
    /// # Errors
    ///
    /// When the client is refused, or when nobody can tell.
    pub async fn check_client(&self) -> Result<(), Error> {
        let verifier = Secret::new("teamgate-asks-whether-its-client-is-accepted".to_owned());
        match self.exchange("teamgate-client-check", &verifier).await {
            Ok(_) => Ok(()),
            Err(error) if matches!(error.kind(), Kind::CodeRefused | Kind::RedirectRefused) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Whether Bitbucket's sign-in page takes our redirect URI, by asking for the page as a browser would in which
    /// nobody is signed in. It shows a page of its own where it does not. Costs one call and changes nothing.
    ///
    /// # Errors
    ///
    /// When the redirect URI is refused, or the page is not there. That there is no error is no promise: Bitbucket may
    /// want somebody to sign in before it looks.
    pub async fn check_redirect(&self) -> Result<(), Error> {
        // Of the length that a challenge has; nobody has its verifier.
        let url = self.authorize_url("teamgate-doctor", &"0".repeat(43));
        let place = Place::of(Endpoint::Authorize, &Method::GET, &url);
        let request = reqwest::Request::new(Method::GET, url);
        let verdict = match self.send(Endpoint::Authorize, request, self.deadline()).await {
            // On to the form for name and password.
            Err(error) if *error.kind() == Kind::Redirected => Ok(()),
            Err(error) => Err(error),
            Ok(answer) => match page(answer.status, &answer.body) {
                None => Ok(()),
                Some(kind) => {
                    let place = Place { status: Some(answer.status), ..place };
                    Err(Error::new(kind, place))
                }
            },
        };
        self.inner.traffic.judged(Endpoint::Authorize, verdict.as_ref().copied());
        verdict
    }

    /// Made anew for each use, so that the secret rests in its [`Secret`] only.
    fn client(&self) -> Client {
        let settings = &self.inner.settings;
        oauth2::Client::new(ClientId::new(settings.client_id.clone()))
            .set_client_secret(ClientSecret::new(settings.client_secret.expose().clone()))
            .set_auth_uri(AuthUrl::from_url(self.web("authorize")))
            .set_token_uri(TokenUrl::from_url(self.web("access_token")))
            .set_redirect_uri(RedirectUrl::from_url(settings.redirect_uri.clone()))
    }

    fn web(&self, page: &str) -> Url {
        below(&self.inner.settings.web_url, &["site", "oauth2", page])
    }

    fn road(&self, endpoint: Endpoint) -> Road<'_> {
        Road { bitbucket: self, endpoint, deadline: self.deadline(), status: OnceLock::new() }
    }
}

/// Carries one token request of `oauth2` by our transport.
struct Road<'a> {
    bitbucket: &'a Bitbucket,
    endpoint: Endpoint,
    deadline: Deadline,
    /// Of the answer, once there is one.
    status: OnceLock<StatusCode>,
}

impl<'c> AsyncHttpClient<'c> for Road<'_> {
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<HttpResponse, Error>> + Send + 'c>>;

    fn call(&'c self, request: HttpRequest) -> Self::Future {
        Box::pin(async move {
            let mut request =
                reqwest::Request::try_from(request).map_err(|_| self.error(Kind::Unexpected))?;
            if let Some(basic) = request.headers_mut().get_mut(AUTHORIZATION) {
                basic.set_sensitive(true);
            }
            let answer = self.bitbucket.send(self.endpoint, request, self.deadline).await?;
            let _ = self.status.set(answer.status);
            let mut response = HttpResponse::new(answer.body);
            // `oauth2` takes 200 alone for a yes. The headers stay behind: the body is judged by what it is.
            *response.status_mut() = if answer.status.is_success() { StatusCode::OK } else { answer.status };
            Ok(response)
        })
    }
}

impl Road<'_> {
    fn error(&self, kind: Kind) -> Error {
        let mut place = Place::of(self.endpoint, &Method::POST, &self.bitbucket.web("access_token"));
        place.status = self.status.get().copied();
        Error::new(kind, place)
    }

    fn tokens(
        &self,
        answer: Result<TokenAnswer, RequestTokenError<Error, BasicErrorResponse>>,
    ) -> Result<Tokens, Error> {
        let tokens = self.read(answer);
        let traffic = &self.bitbucket.inner.traffic;
        traffic.judged(self.endpoint, tokens.as_ref().map(|_| ()));
        if let Some(scopes) = tokens.as_ref().ok().and_then(|tokens| tokens.scopes.as_deref()) {
            traffic.granted(scopes);
        }
        tokens
    }

    fn read(
        &self,
        answer: Result<TokenAnswer, RequestTokenError<Error, BasicErrorResponse>>,
    ) -> Result<Tokens, Error> {
        let kind = match answer {
            Ok(answer) => return tokens(answer).map_err(|kind| self.error(kind)),
            Err(RequestTokenError::Request(error)) => return Err(error),
            Err(RequestTokenError::ServerResponse(said)) => refusal(self.endpoint, &said),
            // Some servers refuse with a 200. The body is looked at and dropped; it may hold a token.
            Err(RequestTokenError::Parse(error, body)) => match serde_json::from_slice(&body) {
                Ok(said) => refusal(self.endpoint, &said),
                Err(_) => wire::unreadable(error.inner(), "token answer"),
            },
            Err(RequestTokenError::Other(_)) => Kind::CutShort,
        };
        Err(self.error(kind))
    }
}

/// What is wrong with the sign-in page, if anything. Another refusal than these may be about who asks: a browser
/// without cookies that is none.
fn page(status: StatusCode, body: &[u8]) -> Option<Kind> {
    let text = String::from_utf8_lossy(body).to_ascii_lowercase();
    match status.as_u16() {
        _ if text.contains("invalid redirect_uri") => Some(Kind::RedirectRefused),
        400 => Some(Kind::Unexpected),
        404 => Some(Kind::NotFound),
        _ => None,
    }
}

/// What a refusal means. It is decided by `error`; the status is 400 for nearly all of them.
fn refusal(endpoint: Endpoint, said: &BasicErrorResponse) -> Kind {
    use BasicErrorResponseType as Said;

    let text = said.error_description().map(|text| text.to_ascii_lowercase()).unwrap_or_default();
    let about = |word: &str| text.contains(word);
    match (said.error(), endpoint) {
        // Ours to mend: what we sent did not arrive as a form.
        (Said::InvalidGrant, _) if about("unsupported grant type") => Kind::Unexpected,
        (Said::InvalidClient, _) => Kind::ClientRefused,
        // What Bitbucket says to a client that did not authenticate, whatever it asked for: every session would
        // end over a mistyped secret if this were read as the end of a grant.
        (Said::UnauthorizedClient, _) if about("must be authenticated") => Kind::ClientRefused,
        (Said::InvalidGrant, Endpoint::Refresh) => Kind::GrantDead,
        (Said::UnauthorizedClient, Endpoint::Refresh) => Kind::GrantOrClient,
        (Said::InvalidRequest, Endpoint::Refresh) if about("refresh_token") || about("refresh token") => {
            Kind::GrantDead
        }
        (Said::UnauthorizedClient, _) => Kind::ClientRefused,
        // RFC 6749 §5.2 files a redirect URI other than the one sent before under `invalid_grant`.
        (Said::InvalidGrant | Said::InvalidRequest, _) if about("redirect") || about("callback") => {
            Kind::RedirectRefused
        }
        (Said::InvalidGrant, _) => Kind::CodeRefused,
        (Said::Extension(code), _) if matches!(code.as_str(), "server_error" | "temporarily_unavailable") => {
            Kind::Unavailable(None)
        }
        _ => Kind::Unexpected,
    }
}

fn tokens(answer: TokenAnswer) -> Result<Tokens, Kind> {
    if answer.token_type != BasicTokenType::Bearer {
        return Err(Kind::Shape("token type"));
    }
    let scopes = answer.granted();
    let refresh_token = answer.refresh_token.map(RefreshToken::into_secret).filter(|token| !token.is_empty());
    Ok(Tokens {
        access_token: opaque(answer.access_token.into_secret())?,
        refresh_token: refresh_token.map(opaque).transpose()?,
        expires_in: answer.expires_in.map_or(USUAL_LIFETIME, Duration::from_secs),
        scopes,
    })
}

/// Takes a token as it is, unless it could not stand in a header or a record.
fn opaque(token: String) -> Result<Secret<String>, Kind> {
    let token = Secret::new(token);
    let length = token.expose().len();
    if (1..=TOKEN_LIMIT).contains(&length) && token.expose().bytes().all(|byte| byte.is_ascii_graphic()) {
        Ok(token)
    } else {
        Err(Kind::BadToken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_means_what_was_asked() -> Result<(), serde_json::Error> {
        let (exchange, refresh) = (Endpoint::Exchange, Endpoint::Refresh);
        for (endpoint, error, description, kind) in [
            (exchange, "unauthorized_client", "Requests must be authenticated", Kind::ClientRefused),
            (refresh, "unauthorized_client", "Invalid OAuth client credentials", Kind::GrantOrClient),
            (
                refresh,
                "unauthorized_client",
                "Requests must be authenticated using OAuth client credentials",
                Kind::ClientRefused,
            ),
            (exchange, "invalid_client", "", Kind::ClientRefused),
            (refresh, "invalid_client", "", Kind::ClientRefused),
            (exchange, "invalid_grant", "", Kind::CodeRefused),
            (refresh, "invalid_grant", "", Kind::GrantDead),
            (exchange, "invalid_grant", "redirect_uri does not match", Kind::RedirectRefused),
            (
                exchange,
                "invalid_request",
                "No callback uri defined for the OAuth client.",
                Kind::RedirectRefused,
            ),
            (refresh, "invalid_request", "Invalid refresh_token", Kind::GrantDead),
            (refresh, "invalid_request", "Something else", Kind::Unexpected),
            (refresh, "invalid_grant", "Unsupported grant type: None", Kind::Unexpected),
            (refresh, "server_error", "", Kind::Unavailable(None)),
            (exchange, "invalid_scope", "", Kind::Unexpected),
        ] {
            let body = serde_json::json!({ "error": error, "error_description": description });
            let said: BasicErrorResponse = serde_json::from_value(body)?;
            assert_eq!(refusal(endpoint, &said), kind, "{endpoint:?} {error} {description}");
        }
        Ok(())
    }

    #[test]
    fn a_token_is_visible_text_of_at_most_8_kib() {
        for (token, fit) in [
            ("a".repeat(TOKEN_LIMIT), true),
            ("a".repeat(TOKEN_LIMIT + 1), false),
            (String::new(), false),
            ("a b".to_owned(), false),
            ("a\r\nb".to_owned(), false),
            ("ä".to_owned(), false),
        ] {
            assert_eq!(opaque(token.clone()).is_ok(), fit, "{}", token.len());
        }
    }
}
