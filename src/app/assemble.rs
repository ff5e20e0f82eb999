//! From the compiled configuration to what each module is told.
//!
//! Owns: [`snapshot`], [`log_settings`]: the translation between the file's words and the modules' own, which
//! know nothing of the file. Must not know: sockets, threads; nothing is started here.

use std::sync::Arc;

use crate::assertion::{self, TeamParts, UserClaim};
use crate::bitbucket::{self, Bitbucket};
use crate::config;
use crate::config::compile::Compiled;
use crate::directory;
use crate::directory::plan::Ages;
use crate::directory::traffic::Governor;
use crate::gate;
use crate::gate::cookie::{self, SameSite, Secure};
use crate::listener::tls::Terminator;
use crate::listener::{self, H2c, Listen, ProxyProtocol, Purpose};
use crate::login;
use crate::snapshot::{Callback, Edge, Limits, Requirements, RouteTable, Snapshot, Stripped};
use crate::telemetry::{self, Telemetry, metrics};

/// Everything that the configuration decides, ready for the request path.
///
/// # Errors
///
/// When the Bitbucket client cannot be built.
pub(super) fn snapshot(
    compiled: &Compiled,
    telemetry: &Telemetry,
    traffic: Arc<Governor>,
) -> Result<Snapshot, bitbucket::Error> {
    let told = &compiled.directory;
    traffic.adopt(told.budget);
    let directory = Arc::new(directory::Settings {
        bitbucket: Bitbucket::new(compiled.bitbucket.clone(), traffic)?,
        teams: told.teams.clone(),
        named: told.asked.clone(),
        ages: Ages {
            refresh_after: told.refresh_after,
            profile_after: told.profile_after,
            max_age: told.max_age,
            outage_grace: told.outage_grace,
        },
    });
    let secure = if compiled.cookie.secure { Secure::Yes } else { Secure::LoopbackHttp };
    let same_site = match compiled.cookie.same_site {
        config::document::SameSite::Lax => SameSite::Lax,
        config::document::SameSite::None => SameSite::None,
    };
    let cookie = cookie::Settings::new(compiled.cookie.domain.clone(), secure, same_site);
    let serves = compiled.table.clone();
    let own_host = compiled.external_url.host_str().unwrap_or_default().to_owned();
    let route_metrics = |name: &str| telemetry.metrics.for_route(name);
    Ok(Snapshot {
        gate: gate::Settings {
            routes: compiled.table.clone(),
            session: compiled.session,
            cookie: cookie.clone(),
            directory: directory.clone(),
        },
        login: login::Settings {
            external_url: compiled.external_url.clone(),
            redirect_uri: compiled.bitbucket.redirect_uri.clone(),
            cookie,
            session: compiled.session,
            directory,
            serves: Box::new(move |host| host == own_host || serves.names(host)),
            limits: login::Limits {
                sign_ins: compiled.limits.sign_ins,
                callbacks: compiled.limits.callbacks,
                exempt: compiled.trusted_proxies.clone(),
            },
        },
        assertion: assertion::Settings {
            header: compiled.assertion.header.clone(),
            issuer: compiled.external_url.origin().ascii_serialization().into(),
            algorithm: compiled.assertion.algorithm,
            lifetime: compiled.assertion.lifetime,
            rotate_every: compiled.assertion.rotate_every,
            user_claim: match compiled.assertion.user_claim {
                config::document::UserClaim::Uuid => UserClaim::Uuid,
                config::document::UserClaim::Email => UserClaim::Email,
                config::document::UserClaim::Nickname => UserClaim::Nickname,
            },
            parts: if told.include_team_groups { TeamParts::Included } else { TeamParts::Left },
        },
        edge: edge(compiled),
        metrics: RouteTable {
            routes: compiled
                .routes
                .iter()
                .map(|(_, route)| (route.name.clone(), route_metrics(&route.name)))
                .collect(),
            own: route_metrics(metrics::OWN),
            none: route_metrics(metrics::NO_ROUTE),
        },
    })
}

fn edge(compiled: &Compiled) -> Edge {
    let redirect_uri = &compiled.bitbucket.redirect_uri;
    // What we set ourselves is taken off first, on every route, whether or not this route sets it.
    let mapped = compiled
        .routes
        .iter()
        .flat_map(|(_, route)| route.identity.headers.iter().map(|(name, _)| name.as_str()));
    let ours = [
        "x-forwarded-user",
        "x-forwarded-email",
        "x-forwarded-groups",
        "x-forwarded-preferred-username",
        "x-teamgate-*",
    ];
    let names = ours.into_iter().chain([compiled.assertion.header.as_str()]).chain(mapped);
    Edge {
        external_url: compiled.external_url.clone(),
        callback: Callback {
            host: redirect_uri.host_str().unwrap_or_default().into(),
            path: redirect_uri.path().into(),
        },
        trusted_proxies: compiled.trusted_proxies.clone(),
        stripped: Stripped::new(names.chain(compiled.strip.iter().map(|name| &**name))),
        contact: compiled.contact.as_ref().map(|contact| contact.as_str().into()),
        requirements: if compiled.hide_requirements { Requirements::Hidden } else { Requirements::Shown },
        bitbucket_web: compiled.bitbucket.web_url.clone(),
        limits: compiled.limits,
    }
}

/// A listener as the accept loop wants it.
///
/// # Errors
///
/// When rustls knows no such configuration.
pub(super) fn listener(told: &config::compile::listen::Listen) -> Result<Listen, rustls::Error> {
    Ok(Listen {
        address: told.address,
        tls: told.tls.as_ref().map(Terminator::new).transpose()?,
        h2c: if told.h2c { H2c::Spoken } else { H2c::Unknown },
        proxy_protocol: if told.proxy_protocol { ProxyProtocol::Required } else { ProxyProtocol::Unknown },
        purpose: if told.redirect_to_https { Purpose::RedirectToHttps } else { Purpose::Serve },
        hsts: told.hsts.clone(),
    })
}

/// What connections may cost.
pub(super) fn listener_limits(limits: &Limits) -> listener::Limits {
    // What a head has besides its target and what its fields say: a method, a version, and for each field a colon, a
    // space and an end of line. Within this a request that is too large is read to its end and gets a page of ours.
    let spelling = 256 + 4 * limits.header_fields;
    listener::Limits {
        ready_within: limits.handshake_timeout,
        head_within: limits.header_timeout,
        head_bytes: 2 * (limits.header_bytes + limits.target_bytes + spelling),
        requests: limits.requests_per_connection,
        streams: limits.http2_streams,
        idle: limits.keep_alive,
    }
}

/// What the log is told.
pub(super) fn log_settings(log: &config::compile::Log) -> telemetry::Settings {
    use config::document::{LogFormat, LogLevel};
    telemetry::Settings {
        format: match log.format {
            LogFormat::Auto => telemetry::Format::Auto,
            LogFormat::Json => telemetry::Format::Json,
            LogFormat::Text => telemetry::Format::Text,
        },
        level: match log.level {
            LogLevel::Error => tracing::Level::ERROR,
            LogLevel::Warn => tracing::Level::WARN,
            LogLevel::Info => tracing::Level::INFO,
            LogLevel::Debug => tracing::Level::DEBUG,
            LogLevel::Trace => tracing::Level::TRACE,
        },
        access: if log.access { telemetry::Switch::On } else { telemetry::Switch::Off },
        audit_file: log.audit_file.clone(),
    }
}
