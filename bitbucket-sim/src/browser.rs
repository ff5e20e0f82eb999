//! What browsers tell about themselves.
//!
//! Owns: the sign-in cookie of the pretend Bitbucket, and the same-origin rule: a page elsewhere must not move
//! people between the pretend teams, or answer the consent page, of somebody who only has the simulator running.
//! Must not know: what is done for whoever is signed in.

use axum::response::Response;
use http::{HeaderMap, HeaderValue, header};
use url::form_urlencoded;

use crate::world::World;

const COOKIE: &str = "bitbucket_sim_user";

/// True for a request that a browser says comes from our own page, and for one that no browser sent.
pub(crate) fn same_origin(headers: &HeaderMap) -> bool {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or("unreadable"));
    if let Some(site) = text("sec-fetch-site") {
        return site == "same-origin" || site == "none";
    }
    match (text(header::ORIGIN.as_str()), text(header::HOST.as_str())) {
        (None, _) => true,
        (Some(origin), Some(host)) => origin.strip_prefix("http://") == Some(host),
        (Some(_), None) => false,
    }
}

/// Who the browser says it is. Anybody may be anybody here.
pub(crate) fn signed_in(world: &World, headers: &HeaderMap) -> Option<String> {
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = cookies.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let (_, value) = pairs.find(|(name, _)| *name == COOKIE)?;
    let (id, _) = form_urlencoded::parse(value.as_bytes()).next()?;
    world.user(&id).ok().map(|user| user.id.clone())
}

/// The browser is `user` from now on.
pub(crate) fn remembering(response: Response, user: &str) -> Response {
    // As a form field without a value: the id, whatever is in it, in characters a cookie may have.
    let user: String = form_urlencoded::byte_serialize(user.as_bytes()).collect();
    with_cookie(response, &format!("{COOKIE}={user}; Path=/; HttpOnly; SameSite=Lax"))
}

/// The browser is nobody from now on.
pub(crate) fn forgetting(response: Response) -> Response {
    with_cookie(response, &format!("{COOKIE}=; Path=/; HttpOnly; SameSite=Lax; Max-Age=0"))
}

fn with_cookie(mut response: Response, cookie: &str) -> Response {
    if let Ok(cookie) = HeaderValue::from_str(cookie) {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_pages_and_programs_are_believed() {
        for (site, origin, expected) in [
            (None, None, true),
            (Some("same-origin"), Some("http://127.0.0.1:7990"), true),
            (Some("none"), None, true),
            (Some("cross-site"), None, false),
            (Some("same-site"), Some("http://127.0.0.1:7990"), false),
            (None, Some("http://127.0.0.1:7990"), true),
            (None, Some("http://127.0.0.1:8080"), false),
            (None, Some("https://127.0.0.1:7990"), false),
            (None, Some("null"), false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, http::HeaderValue::from_static("127.0.0.1:7990"));
            for (name, value) in [("sec-fetch-site", site), ("origin", origin)] {
                if let Some(value) = value {
                    headers.insert(name, http::HeaderValue::from_static(value));
                }
            }
            assert_eq!(same_origin(&headers), expected, "{site:?} {origin:?}");
        }
    }
}
