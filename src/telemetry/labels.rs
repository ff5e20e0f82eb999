//! The values that metric labels can have.
//!
//! Owns: one enum per label, [`Labels`]. A label value comes from one of these or is the name of a configured
//! route, never from a client: a label that a client chooses is memory that a client can fill.

/// One label, or two: what tells the series of a metric family apart.
pub trait Labels: Copy + 'static {
    /// Names of the labels, in order, each with every value that it can have.
    fn columns() -> Vec<(&'static str, Vec<&'static str>)>;

    /// Every combination of values, in the order of [`Labels::index`].
    fn all() -> Vec<Self>;

    /// The values of this combination, in the order of [`Labels::columns`].
    fn values(self) -> Vec<&'static str>;

    /// The place of this combination in [`Labels::all`].
    fn index(self) -> usize;
}

macro_rules! label {
    ($(#[$doc:meta])* $enum:ident is $name:literal { $($(#[$vdoc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum $enum {
            $($(#[$vdoc])* $variant,)+
        }

        impl $enum {
            /// Every value, in the order of their definition.
            pub const ALL: &'static [$enum] = &[$($enum::$variant,)+];

            /// As it stands in metrics and logs.
            pub const fn as_str(self) -> &'static str {
                match self { $($enum::$variant => $text,)+ }
            }
        }

        impl serde::Serialize for $enum {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl Labels for $enum {
            fn columns() -> Vec<(&'static str, Vec<&'static str>)> {
                vec![($name, vec![$($text,)+])]
            }

            fn all() -> Vec<$enum> {
                $enum::ALL.to_vec()
            }

            fn values(self) -> Vec<&'static str> {
                vec![self.as_str()]
            }

            fn index(self) -> usize {
                self as usize
            }
        }
    };
}

impl<A: Labels + One, B: Labels + One> Labels for (A, B) {
    fn columns() -> Vec<(&'static str, Vec<&'static str>)> {
        [A::columns(), B::columns()].concat()
    }

    fn all() -> Vec<(A, B)> {
        A::all().into_iter().flat_map(|a| B::all().into_iter().map(move |b| (a, b))).collect()
    }

    fn values(self) -> Vec<&'static str> {
        [self.0.values(), self.1.values()].concat()
    }

    fn index(self) -> usize {
        self.0.index() * B::COUNT + self.1.index()
    }
}

/// A single label. Only the enums of this file are: a pair knows by it how wide its rows are.
pub trait One {
    /// How many values there are.
    const COUNT: usize;
}

macro_rules! one {
    ($($enum:ident)+) => {
        $(impl One for $enum { const COUNT: usize = $enum::ALL.len(); })+
    };
}

one! {
    AssertionSource CallOutcome CallRight CertificateReload ConnectionRefusal CookieFault Decision EndReason Ending Endpoint Finding Freshness
    HandOverOutcome HoldReason KeyReload LogStream OpenKind RefreshOutcome RequeryOutcome SignInOutcome StatusClass StoreOperation Throttled UpstreamFault
}

label! {
    /// Why a connection was closed before its first request.
    ConnectionRefusal is "reason" {
        /// As many were open as `limits.connections`.
        Full = "full",
        /// As many were open from its address as `limits.connections_per_address`.
        AddressFull = "address_full",
        /// It came to a listener with `proxy_protocol` and not from `trusted_proxies`.
        NotAProxy = "not_a_proxy",
        /// It came to a listener with `proxy_protocol` and did not begin with a header of that protocol.
        ProxyHeader = "proxy_header",
        /// It was not ready for a request within `limits.handshake_timeout`.
        Slow = "slow",
        /// The two sides agreed on no TLS, or the client showed no certificate of `client_ca`.
        Tls = "tls",
    }
}

label! {
    /// What somebody did too often.
    Throttled is "what" {
        /// Begin to sign in: `limits.sign_ins`.
        SignIn = "sign_in",
        /// Come back from Bitbucket: `limits.callbacks`.
        Callback = "callback",
    }
}

label! {
    /// What the gateway decided about a request.
    Decision is "decision" {
        /// A signed-in account was let through by a rule.
        Allow = "allow",
        /// The route is public; nobody was asked who they are.
        Public = "public",
        /// Nobody was signed in: sent to sign in, or told to.
        SignIn = "sign_in",
        /// The rule of the route says no.
        Deny = "deny",
        /// The membership is too old and no younger one was to be had: neither yes nor no.
        CannotTell = "cannot_tell",
        /// No route has this host, path and method.
        NoRoute = "no_route",
        /// The request is malformed or ambiguous.
        BadRequest = "bad_request",
        /// One of the gateway's own pages.
        Own = "own",
        /// Sent to https by a listener that does nothing else.
        Redirect = "redirect",
        /// Something of ours failed.
        Error = "error",
    }
}

label! {
    /// The first digit of the status that the client got.
    StatusClass is "status" {
        /// 100–199, of which only 101 ends a request.
        Informational = "1xx",
        /// 200–299.
        Success = "2xx",
        /// 300–399.
        Redirection = "3xx",
        /// 400–499.
        ClientError = "4xx",
        /// 500–599.
        ServerError = "5xx",
        /// No answer was sent, or one with a status beyond these.
        Other = "other",
    }
}

impl StatusClass {
    /// The class of `status`; 0 stands for "no answer was sent".
    pub const fn of(status: u16) -> StatusClass {
        match status / 100 {
            1 => StatusClass::Informational,
            2 => StatusClass::Success,
            3 => StatusClass::Redirection,
            4 => StatusClass::ClientError,
            5 => StatusClass::ServerError,
            _ => StatusClass::Other,
        }
    }
}

label! {
    /// How a sign-in ended.
    SignInOutcome is "outcome" {
        /// A session began.
        Ok = "ok",
        /// The account is in none of the configured teams.
        NotInTeams = "not_in_teams",
        /// The person pressed *Cancel* at Bitbucket.
        Declined = "declined",
        /// The account is no person, or has no uuid.
        NoPerson = "no_person",
        /// The `state` is not ours, or of another browser, or was used before.
        BadState = "bad_state",
        /// The `state` is older than ten minutes.
        StateExpired = "state_expired",
        /// The third round in a minute: cookies are blocked.
        Loop = "loop",
        /// Bitbucket refuses our client or the redirect URI: the operator must act.
        Misconfigured = "misconfigured",
        /// Bitbucket did not answer, or not with what was asked for.
        BitbucketFailed = "bitbucket_failed",
        /// The session could not be stored.
        StoreFailed = "store_failed",
    }
}

label! {
    /// How handing a session over to another host ended.
    HandOverOutcome is "outcome" {
        /// The other host has it.
        Ok = "ok",
        /// The request or the ticket is not ours, was changed, or came to another host.
        Forged = "forged",
        /// The ticket is older than 30 seconds, or the request than ten minutes.
        Expired = "expired",
        /// The browser sent no cookie of ours back.
        NoCookies = "no_cookies",
        /// The ticket is another browser's.
        OtherBrowser = "other_browser",
        /// The ticket was used before.
        Spent = "spent",
        /// The session ended in between.
        SessionOver = "session_over",
        /// The store did not answer.
        StoreFailed = "store_failed",
    }
}

label! {
    /// How young a membership is.
    Freshness is "freshness" {
        /// Younger than `refresh_after`.
        Fresh = "fresh",
        /// Older than that, and still believed.
        Due = "due",
        /// Older than `max_age`: not believed, unless Bitbucket is down.
        Stale = "stale",
    }
}

label! {
    /// How a re-query of a membership ended.
    RequeryOutcome is "outcome" {
        /// The same groups as before.
        Unchanged = "unchanged",
        /// Other groups than before.
        Changed = "changed",
        /// The account withdrew the grant, or is deactivated: its sessions end.
        GrantGone = "grant_gone",
        /// Bitbucket answered 429, or had done so and is left alone.
        Throttled = "throttled",
        /// Not asked: `directory.budget` is used up, or what is left is kept for sign-ins and waiting requests.
        NoBudget = "no_budget",
        /// No answer, or a 5xx, or half of one. The previous membership stays.
        Unavailable = "unavailable",
        /// In none of the teams that may use this gateway: nothing opens, and no sign-in helps.
        Denied = "denied",
        /// Bitbucket refuses our client, or the client lacks a scope. The previous membership stays.
        Misconfigured = "misconfigured",
        /// An endpoint is no more. The previous membership stays.
        Removed = "removed",
        /// An answer that we cannot read.
        Unexpected = "unexpected",
        /// Another replica had asked.
        Elsewhere = "elsewhere",
        /// Our own store was in the way.
        StoreFailed = "store_failed",
    }
}

label! {
    /// How a refresh of an access token ended.
    RefreshOutcome is "outcome" {
        /// A new pair of tokens is on disk.
        Ok = "ok",
        /// Another replica had done it.
        DoneElsewhere = "done_elsewhere",
        /// Refused: the grant is withdrawn.
        Refused = "refused",
        /// Refused, and our client with it: nobody's grant is believed gone before the client is accepted again.
        Doubtful = "doubtful",
        /// Refused after a crash between the answer and the write: the token is lost, not the grant.
        Lost = "lost",
        /// No answer.
        Unavailable = "unavailable",
    }
}

label! {
    /// On whose behalf Bitbucket is called.
    CallRight is "right" {
        /// For somebody who signs in.
        SignIn = "sign_in",
        /// For a request that waits.
        Waiting = "waiting",
        /// To keep young what is in use.
        Background = "background",
    }
}

label! {
    /// Why a call to Bitbucket was not made.
    HoldReason is "reason" {
        /// `directory.budget` is used up, or what is left is kept for those with a better right.
        Budget = "budget",
        /// Bitbucket had answered 429.
        Throttled = "throttled",
        /// The endpoint kept failing.
        Failing = "failing",
    }
}

label! {
    /// What was asked of Bitbucket.
    Endpoint is "endpoint" {
        /// Code or refresh token for tokens.
        Token = "token",
        /// `/2.0/user`.
        User = "user",
        /// `/2.0/user/emails`.
        Emails = "emails",
        /// `/2.0/user/workspaces`.
        Workspaces = "workspaces",
        /// `/2.0/user/workspaces/{team}/permission`.
        WorkspacePermission = "workspace_permission",
        /// `/2.0/user/workspaces/{team}/permissions/repositories`.
        RepositoryPermissions = "repository_permissions",
        /// Anything else.
        Other = "other",
    }
}

label! {
    /// What is wrong between the gateway and Bitbucket.
    Finding is "kind" {
        /// A scope is missing.
        Scope = "scope",
        /// Our client, or its secret, is refused.
        Client = "client",
        /// The redirect URI is refused.
        RedirectUri = "redirect_uri",
        /// An address in the configuration leads elsewhere.
        Address = "address",
        /// An endpoint is no more.
        Removed = "removed",
        /// An endpoint is going to be removed.
        Leaving = "leaving",
        /// Bitbucket warns.
        Warning = "warning",
        /// The clocks are apart.
        Clock = "clock",
        /// No good answer for ten minutes.
        Away = "away",
        /// An answer that we do not know.
        Unexpected = "unexpected",
    }
}

label! {
    /// What came of a call to Bitbucket.
    CallOutcome is "status" {
        /// 200–299.
        Success = "2xx",
        /// 300–399; never followed.
        Redirection = "3xx",
        /// 400, among them OAuth's errors.
        BadRequest = "400",
        /// 401.
        Unauthorized = "401",
        /// 403.
        Forbidden = "403",
        /// 404.
        NotFound = "404",
        /// 410: the endpoint has been removed.
        Gone = "410",
        /// 429.
        TooMany = "429",
        /// 500–599.
        ServerError = "5xx",
        /// No answer in time.
        Timeout = "timeout",
        /// No connection, or one that broke.
        Unreachable = "unreachable",
        /// The body is not what was asked for, or too long.
        Malformed = "malformed",
        /// Any other status.
        Other = "other",
    }
}

impl CallOutcome {
    /// What an answer with `status` counts as.
    pub const fn of(status: u16) -> CallOutcome {
        match status {
            200..=299 => CallOutcome::Success,
            300..=399 => CallOutcome::Redirection,
            400 => CallOutcome::BadRequest,
            401 => CallOutcome::Unauthorized,
            403 => CallOutcome::Forbidden,
            404 => CallOutcome::NotFound,
            410 => CallOutcome::Gone,
            429 => CallOutcome::TooMany,
            500..=599 => CallOutcome::ServerError,
            _ => CallOutcome::Other,
        }
    }
}

label! {
    /// Where the assertion of a request came from.
    AssertionSource is "source" {
        /// Signed now.
        Signed = "signed",
        /// Signed before and still good.
        Cache = "cache",
    }
}

label! {
    /// What was asked of the store.
    StoreOperation is "operation" {
        /// Read a session.
        SessionRead = "session_read",
        /// Begin or touch sessions.
        SessionWrite = "session_write",
        /// End sessions.
        SessionEnd = "session_end",
        /// List sessions.
        SessionList = "session_list",
        /// Read a grant.
        GrantRead = "grant_read",
        /// Write a grant.
        GrantWrite = "grant_write",
        /// Read what is known of an account.
        AccountRead = "account_read",
        /// Write what is known of an account.
        AccountWrite = "account_write",
        /// Use up a `state` or a hand-over ticket.
        Redeem = "redeem",
        /// Read or write signing keys.
        Keys = "keys",
        /// Read or write which uuid a slug had.
        SlugPins = "slug_pins",
        /// Take, keep or give up what one replica does at a time.
        Lease = "lease",
        /// Remove what has expired.
        Sweep = "sweep",
        /// Seal anew under a new key, or see what each key opens.
        Renew = "renew",
    }
}

label! {
    /// What came of a certificate file that changed.
    CertificateReload is "outcome" {
        /// What it holds is used.
        Loaded = "loaded",
        /// It is of no use; what was read before is used on.
        Refused = "refused",
    }
}

label! {
    /// Why a session cookie was of no use.
    CookieFault is "fault" {
        /// It has not the shape of ours.
        Malformed = "malformed",
        /// It has the shape of ours and no key of ours made it.
        Forged = "forged",
        /// It is ours, and the session is over or unknown.
        NoSession = "no_session",
    }
}

label! {
    /// Why a session ended.
    EndReason is "reason" {
        /// The person signed out, here or from another browser of theirs.
        SignedOut = "signed_out",
        /// The same browser signed in anew.
        Replaced = "replaced",
        /// An operator ended it.
        Revoked = "revoked",
        /// The account withdrew the app at Bitbucket.
        GrantWithdrawn = "grant_withdrawn",
        /// The account is deactivated at Bitbucket.
        AccountDeactivated = "account_deactivated",
        /// Another replica has ended it, and has the reason in its audit log.
        Elsewhere = "elsewhere",
        /// It was too old, or unused for too long. Counted when it is swept away.
        Expired = "expired",
    }
}

impl From<EndReason> for Ending {
    fn from(reason: EndReason) -> Ending {
        match reason {
            EndReason::SignedOut | EndReason::Replaced => Ending::SignedOut,
            EndReason::Revoked
            | EndReason::GrantWithdrawn
            | EndReason::AccountDeactivated
            | EndReason::Elsewhere => Ending::Revoked,
            EndReason::Expired => Ending::Expired,
        }
    }
}

label! {
    /// What came of a changed secret file.
    KeyReload is "outcome" {
        /// Its keys are in use.
        Taken = "taken",
        /// It is not good, or would lose what is sealed; the keys before it stay in use.
        Refused = "refused",
    }
}

label! {
    /// What a request that stays open is.
    OpenKind is "kind" {
        /// A WebSocket.
        WebSocket = "websocket",
        /// A stream of events (`text/event-stream`).
        Events = "events",
        /// A gRPC call.
        Grpc = "grpc",
        /// Anything else that takes long: a poll, a download, an upload.
        Stream = "stream",
    }
}

label! {
    /// Why a connection that was open lost its pass.
    Ending is "reason" {
        /// Its session was signed out.
        SignedOut = "signed_out",
        /// Its account's sessions were ended: the grant was withdrawn, or the account deactivated.
        Revoked = "revoked",
        /// Its session was too old, or unused for too long.
        Expired = "expired",
        /// The rule of its route admits the account no more.
        NotAllowed = "not_allowed",
        /// The membership became too old to be believed and no younger one was to be had.
        CannotTell = "cannot_tell",
    }
}

label! {
    /// One of the log streams.
    LogStream is "stream" {
        /// A line for each request.
        Access = "access",
        /// A line for each event that matters to security.
        Audit = "audit",
    }
}

label! {
    /// What went wrong with an upstream.
    UpstreamFault is "kind" {
        /// Nobody listens there.
        ConnectRefused = "connect_refused",
        /// It took no connection in time.
        ConnectTimeout = "connect_timeout",
        /// It took no connection.
        Connect = "connect",
        /// TLS did not come about: a certificate that nobody vouches for, another name.
        Tls = "tls",
        /// No answer began in time.
        HeaderTimeout = "header_timeout",
        /// An answer fell silent.
        IdleTimeout = "idle_timeout",
        /// An answer did not end in time.
        TotalTimeout = "total_timeout",
        /// It took nothing of a request's body.
        WriteTimeout = "write_timeout",
        /// It closed or reset the connection.
        Closed = "closed",
        /// What it said is no HTTP, or more than an answer may hold.
        Garbage = "garbage",
        /// Its name has no address.
        Dns = "dns",
        /// It has as many requests as it may.
        Full = "full",
        /// A WebSocket was asked of an app that is spoken to in HTTP/2.
        WebSocketOverHttp2 = "websocket_over_http2",
        /// Something else.
        Other = "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_combination_stands_at_its_index() {
        let all = <(Endpoint, CallOutcome)>::all();
        assert_eq!(all.len(), Endpoint::COUNT * CallOutcome::COUNT);
        for (place, pair) in all.into_iter().enumerate() {
            assert_eq!(pair.index(), place);
        }
    }

    #[test]
    fn a_status_beyond_the_known_is_other() {
        for (status, class, call) in [
            (101, "1xx", "other"),
            (200, "2xx", "2xx"),
            (302, "3xx", "3xx"),
            (410, "4xx", "410"),
            (418, "4xx", "other"),
            (503, "5xx", "5xx"),
            (0, "other", "other"),
            (999, "other", "other"),
        ] {
            assert_eq!(StatusClass::of(status).as_str(), class, "{status}");
            assert_eq!(CallOutcome::of(status).as_str(), call, "{status}");
        }
    }
}
