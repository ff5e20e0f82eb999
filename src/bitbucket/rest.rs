//! Who someone is and which teams they are in, by Bitbucket's REST API.
//!
//! Owns: the five questions, paging, what a refusal means.
//! Must not know: how a request travels, how often to ask.

use http::StatusCode;
use http::header::{ACCEPT, AUTHORIZATION, HeaderValue};
use reqwest::Request;
use serde::de::DeserializeOwned;
use url::Url;

use super::error::{Error, Kind, Place, Refusal};
use super::transport::{Answer, Deadline};
use super::wire::{self, ApiError, Page};
use super::{Bitbucket, Endpoint, Level, Listed, Permission, Profile, RepositoryAccess, Status, below};
use crate::identity::Email;
use crate::membership::TeamName;
use crate::membership::repository::{Access, RepositoryName};
use crate::secret::Secret;

/// How many pages of one list are read.
const PAGES: usize = 20;

impl Bitbucket {
    /// Who the token's account is. Needs the scope `account`.
    ///
    /// # Errors
    ///
    /// A [`Refusal`] when the account is no person's, has no uuid or is not active; otherwise as
    /// [`Error::remedy`] says.
    pub async fn profile(&self, access_token: &Secret<String>) -> Result<Profile, Error> {
        let answer = self.ask(Endpoint::User, self.api(&["user"]), access_token, self.deadline()).await?;
        wire::read(&answer.body, "user").and_then(profile).map_err(|kind| answer.error(kind))
    }

    /// The address that Bitbucket calls primary **and** confirmed, if there is exactly one that is fit for a
    /// header. Needs the scope `email`.
    ///
    /// # Errors
    ///
    /// As [`Error::remedy`] says; never because there is no such address.
    pub async fn primary_email(&self, access_token: &Secret<String>) -> Result<Option<Email>, Error> {
        let url = self.api(&["user", "emails"]);
        let addresses: Vec<wire::Address> = self.pages(Endpoint::Emails, url, access_token).await?;
        Ok(primary(&addresses))
    }

    /// The workspaces that the account may see: all of them or an error. Needs the scope `account`.
    ///
    /// # Errors
    ///
    /// As [`Error::remedy`] says; also when any page or any entry cannot be read: a list with a gap would
    /// take teams away.
    pub async fn workspaces(&self, access_token: &Secret<String>) -> Result<Vec<Listed>, Error> {
        let mut url = self.api(&["user", "workspaces"]);
        // A fixed order, so that a list that changes while it is read skips nothing that stays.
        url.query_pairs_mut().append_pair("sort", "slug");
        let place = Place::of(Endpoint::Workspaces, &http::Method::GET, &url);
        let entries: Vec<wire::Access> = self.pages(Endpoint::Workspaces, url, access_token).await?;
        entries
            .into_iter()
            .map(|entry| listed(entry).map_err(|kind| Error::new(kind, place.clone())))
            .collect()
    }

    /// What the account is in `team`, by Bitbucket's own word. Needs the scope `account`.
    ///
    /// # Errors
    ///
    /// As [`Error::remedy`] says. A refusal that Bitbucket itself words (403, 404) is no error but
    /// [`Permission::None`]; one for want of a scope is an error, since it says nothing about the account, and
    /// so is one that only a machine in between can have written.
    pub async fn permission(
        &self,
        access_token: &Secret<String>,
        team: &TeamName,
    ) -> Result<Permission, Error> {
        // Dots alone would be taken for a way up in the path. No workspace is called so.
        if matches!(team, TeamName::Slug(slug) if matches!(&**slug, "." | "..")) {
            return Ok(Permission::None);
        }
        let url = self.api(&["user", "workspaces", &team.to_string(), "permission"]);
        let asked = self.ask(Endpoint::Permission, url, access_token, self.deadline()).await;
        match asked {
            Ok(answer) => wire::read(&answer.body, "permission")
                .and_then(|granted| permission(granted, team))
                .map_err(|kind| answer.error(kind)),
            Err(error) if matches!(error.kind(), Kind::Forbidden | Kind::NotFound) => Ok(Permission::None),
            Err(error) => Err(error),
        }
    }

    /// What the account may do with those of `names` that belong to `team`; one that is not in the answer it may not
    /// use at all, or it is public and nobody gave access to it. Needs the scopes `account` and `repository`.
    ///
    /// # Errors
    ///
    /// As for [`Bitbucket::permission`]; also when any page or any entry cannot be read.
    pub async fn repositories(
        &self,
        access_token: &Secret<String>,
        team: &str,
        names: &[&RepositoryName],
    ) -> Result<Vec<RepositoryAccess>, Error> {
        let mut url = self.api(&["user", "workspaces", team, "permissions", "repositories"]);
        let wanted: Vec<String> =
            names.iter().map(|name| format!("repository.full_name=\"{name}\"")).collect();
        url.query_pairs_mut().append_pair("q", &wanted.join(" OR "));
        let place = Place::of(Endpoint::Repositories, &http::Method::GET, &url);
        match self.pages::<wire::RepositoryPermission>(Endpoint::Repositories, url, access_token).await {
            Ok(entries) => {
                let entries = entries.into_iter().map(repository).collect::<Result<Vec<_>, _>>();
                entries.map_err(|kind| Error::new(kind, place))
            }
            Err(error) if matches!(error.kind(), Kind::Forbidden | Kind::NotFound) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    fn api(&self, segments: &[&str]) -> Url {
        below(&self.inner.settings.api_url, segments)
    }

    /// All entries of a list.
    async fn pages<T: DeserializeOwned>(
        &self,
        endpoint: Endpoint,
        first: Url,
        access_token: &Secret<String>,
    ) -> Result<Vec<T>, Error> {
        let deadline = self.deadline();
        let mut url = first;
        url.query_pairs_mut().append_pair("pagelen", "100");
        let mut place = Place::of(endpoint, &http::Method::GET, &url);
        let mut entries = Vec::new();
        for _ in 0..PAGES {
            let answer = self.ask(endpoint, url, access_token, deadline).await?;
            let page: Page<T> =
                wire::read(&answer.body, "page of a list").map_err(|kind| answer.error(kind))?;
            entries.extend(page.values);
            let Some(next) = page.next else { return Ok(entries) };
            url = next_page(&self.inner.settings.api_url, &next)
                .ok_or_else(|| answer.error(Kind::ForeignNext))?;
            place = answer.place;
        }
        Err(Error::new(Kind::TooManyPages, place))
    }

    /// Asks with the token; any answer but 2xx is an error.
    async fn ask(
        &self,
        endpoint: Endpoint,
        url: Url,
        access_token: &Secret<String>,
        deadline: Deadline,
    ) -> Result<Answer, Error> {
        let mut request = Request::new(http::Method::GET, url);
        let Some(bearer) = bearer(access_token) else {
            let place = Place::of(endpoint, request.method(), request.url());
            return Err(Error::new(Kind::BadToken, place));
        };
        request.headers_mut().insert(AUTHORIZATION, bearer);
        request.headers_mut().insert(ACCEPT, HeaderValue::from_static("application/json"));
        let answer = self.send(endpoint, request, deadline).await.and_then(|answer| {
            match refusal(answer.status, &answer.body) {
                None => Ok(answer),
                Some(kind) => Err(answer.error(kind)),
            }
        });
        // That somebody is no member is an answer.
        let says_no = |error: &Error| {
            endpoint == Endpoint::Permission && matches!(error.kind(), Kind::Forbidden | Kind::NotFound)
        };
        let fault = answer.as_ref().err().filter(|error| !says_no(error));
        self.inner.traffic.judged(endpoint, fault.map_or(Ok(()), Err));
        answer
    }
}

/// The only form in which an access token leaves us; kept out of HTTP/2 header tables and debug prints.
fn bearer(access_token: &Secret<String>) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(&format!("Bearer {}", access_token.expose())).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// What an answer refuses, if it does.
fn refusal(status: StatusCode, body: &[u8]) -> Option<Kind> {
    let said = || ApiError::read(body);
    Some(match status.as_u16() {
        200..=299 => return None,
        401 => said().map_or(Kind::Unexplained401, |_| Kind::Unauthorized),
        // Without Bitbucket's own words, it is a firewall or a cache that said no, which says nothing.
        403 => said().map_or_else(|kind| kind, |error| error.missing_scope().unwrap_or(Kind::Forbidden)),
        404 => match said() {
            Ok(error) if error.is_about_the_path() => Kind::Gone(None),
            Ok(_) => Kind::NotFound,
            Err(kind) => kind,
        },
        410 => Kind::Gone(said().ok().and_then(|error| error.announcement())),
        _ => Kind::Unexpected,
    })
}

/// Where a list goes on, if that is below our API: a link elsewhere would carry the token there.
fn next_page(api: &Url, next: &str) -> Option<Url> {
    let next = Url::parse(next).ok()?;
    let prefix = api.path().trim_end_matches('/');
    let below = next.path().strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/'));
    let same = next.scheme() == api.scheme()
        && next.host() == api.host()
        && next.port_or_known_default() == api.port_or_known_default();
    (same && below && next.username().is_empty() && next.password().is_none()).then_some(next)
}

fn profile(user: wire::User) -> Result<Profile, Kind> {
    if user.kind.as_deref() != Some("user") {
        return Err(Kind::Refused(Refusal::NotAPerson));
    }
    let account = user.uuid.and_then(|uuid| uuid.parse().ok()).ok_or(Kind::Refused(Refusal::NoUuid))?;
    let status = match user.account_status.as_deref() {
        Some("active") => Status::Active,
        None => Status::Unstated,
        Some(_) => return Err(Kind::Refused(Refusal::Inactive)),
    };
    let cut = |text: String| text.chars().take(256).collect::<Box<str>>();
    let nickname = user.nickname.map(cut);
    let display_name = user.display_name.map(cut).or_else(|| nickname.clone()).unwrap_or_default();
    Ok(Profile { account, display_name, nickname, status })
}

/// Two primary addresses are as good as none: nobody said which is the person's.
fn primary(addresses: &[wire::Address]) -> Option<Email> {
    let mut candidates = addresses.iter().filter(|address| address.is_primary && address.is_confirmed);
    let first = candidates.next()?;
    candidates.all(|other| other.email == first.email).then(|| Email::parse(&first.email)).flatten()
}

fn listed(entry: wire::Access) -> Result<Listed, Kind> {
    let slug = slug(&entry.workspace.slug)?;
    let id = entry.workspace.uuid.parse().map_err(|_| Kind::Shape("workspace uuid"))?;
    Ok(Listed { slug, id, administrator: entry.administrator })
}

/// A slug that a rule can name: it ends up in group lists, where a comma or a slash would make two of one.
fn slug(text: &str) -> Result<Box<str>, Kind> {
    match text.parse() {
        Ok(TeamName::Slug(slug)) => Ok(slug),
        _ => Err(Kind::Shape("workspace slug")),
    }
}

fn repository(entry: wire::RepositoryPermission) -> Result<RepositoryAccess, Kind> {
    let name = entry.repository.full_name.parse().map_err(|_| Kind::Shape("repository name"))?;
    let id = entry.repository.uuid.parse().map_err(|_| Kind::Shape("repository uuid"))?;
    Ok(RepositoryAccess { name, id, access: Access::named(&entry.permission) })
}

fn permission(granted: wire::Granted, asked: &TeamName) -> Result<Permission, Kind> {
    let level = match granted.permission.as_str() {
        "owner" => Level::Owner,
        "create-project" => Level::CreateProject,
        "member" => Level::Member,
        // `collaborator`: may write to some repository, is not in the workspace. Others: not known to be more.
        _ => return Ok(Permission::None),
    };
    let workspace = granted.workspace.unwrap_or_default();
    let slug = workspace.slug.as_deref().map(slug).transpose()?;
    let id =
        workspace.uuid.map(|uuid| uuid.parse().map_err(|_| Kind::Shape("workspace uuid"))).transpose()?;
    match (asked, id) {
        (TeamName::Id(asked), Some(answered)) if *asked != answered => Err(Kind::Shape("another workspace")),
        (TeamName::Id(asked), _) => Ok(Permission::Member { slug, id: Some(*asked), level }),
        (TeamName::Slug(_), id) => Ok(Permission::Member { slug, id, level }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::TeamId;

    type Checked = Result<(), Box<dyn std::error::Error>>;

    #[test]
    fn a_list_goes_on_below_our_api_and_nowhere_else() -> Checked {
        let api = Url::parse("https://api.bitbucket.org/2.0")?;
        for (next, followed) in [
            ("https://api.bitbucket.org/2.0/user/workspaces?page=2", true),
            ("https://api.bitbucket.org:443/2.0/user/workspaces?page=2", true),
            ("https://API.bitbucket.org/2.0/user/workspaces?page=2", true),
            ("http://api.bitbucket.org/2.0/user", false),
            ("https://api.bitbucket.org:8443/2.0/user", false),
            ("https://evil.example/2.0/user", false),
            ("https://api.bitbucket.org.evil.example/2.0/user", false),
            ("https://api.bitbucket.org@evil.example/2.0/user", false),
            ("https://user@api.bitbucket.org/2.0/user", false),
            ("https://:pass@api.bitbucket.org/2.0/user", false),
            ("https://api.bitbucket.org/2.0", false),
            ("https://api.bitbucket.org/2.0x/user", false),
            ("https://api.bitbucket.org/2.0/../1.0/user", false),
            ("https://api.bitbucket.org/2.0/%2e%2e/1.0/user", false),
            ("https://api.bitbucket.org\\@evil.example/2.0/user", false),
            ("//evil.example/2.0/user", false),
            ("/2.0/user?page=2", false),
            ("", false),
        ] {
            assert_eq!(next_page(&api, next).is_some(), followed, "{next}");
        }
        let root = Url::parse("http://127.0.0.1:7990/")?;
        assert!(next_page(&root, "http://127.0.0.1:7990/user?page=2").is_some());
        Ok(())
    }

    #[test]
    fn a_team_is_one_segment_of_the_path() -> Checked {
        let api = Url::parse("https://api.bitbucket.org/2.0/")?;
        let id: TeamId = "{a15fb181-db1f-48f7-b41f-aaaaaaaaaaaa}".parse()?;
        for (team, path) in [
            ("acme".parse()?, "/2.0/user/workspaces/acme/permission"),
            (TeamName::Id(id), "/2.0/user/workspaces/%7Ba15fb181-db1f-48f7-b41f-aaaaaaaaaaaa%7D/permission"),
        ] {
            assert_eq!(below(&api, &["user", "workspaces", &team.to_string(), "permission"]).path(), path);
        }
        Ok(())
    }

    #[test]
    fn only_one_primary_and_confirmed_address_counts() {
        let address = |email: &str, is_primary, is_confirmed| wire::Address {
            email: email.to_owned(),
            is_primary,
            is_confirmed,
        };
        for (addresses, expected) in [
            (vec![], None),
            (vec![address("a@x", true, false), address("b@x", false, true)], None),
            (vec![address("a@x", false, true), address("b@x", true, true)], Some("b@x")),
            (vec![address("a@x", true, true), address("b@x", true, true)], None),
            (vec![address("a,b@x", true, true)], None),
        ] {
            assert_eq!(primary(&addresses).as_ref().map(Email::as_str), expected);
        }
    }

    #[test]
    fn a_token_is_hidden_from_debug_prints_and_cannot_smuggle_a_header() {
        let header = bearer(&Secret::new("hunter2".to_owned()));
        assert!(
            header.is_some_and(|value| value.is_sensitive() && !format!("{value:?}").contains("hunter2"))
        );
        assert!(bearer(&Secret::new("a\r\nX-Evil: 1".to_owned())).is_none());
    }
}
