//! What an admitted request pays for saying who is asking: reading the cookie, and the assertion, kept or new.

use std::error::Error;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::Criterion;
use http::HeaderName;

use teamgate::assertion::{Assertions, Cache, Occasion, Settings, TeamParts, UserClaim};
use teamgate::clock::Timestamp;
use teamgate::directory::Known;
use teamgate::entropy::Entropy;
use teamgate::gate::cookie::SessionId;
use teamgate::identity::{AccountId, Claims, Email, TeamId, VerifiedIdentity};
use teamgate::keys::{self, Algorithm, Keyring};
use teamgate::membership::{Membership, Role, Team};
use teamgate::policy::Policy;
use teamgate::policy::condition::Conditions;
use teamgate::route::Route;
use teamgate::route::destination::Destination;
use teamgate::store::Store;
use teamgate::telemetry::{self, Telemetry};

const NOW: Timestamp = Timestamp::from_unix_seconds(1_800_000_000);

fn main() -> Result<(), Box<dyn Error>> {
    let mut criterion = Criterion::default().configure_from_args();
    keys::install_crypto_providers();
    let entropy = Entropy::system();
    let ring = Arc::new(Keyring::ephemeral(&entropy)?);

    let id = SessionId::draw(&entropy);
    let (cookie, forged) = (id.seal(&ring, "wiki.example.com"), "A".repeat(64));
    criterion.bench_function("cookie open", |b| {
        b.iter(|| SessionId::open(black_box(cookie.as_bytes()), &ring, "wiki.example.com"))
    });
    criterion.bench_function("cookie refuse", |b| {
        b.iter(|| SessionId::open(black_box(forged.as_bytes()), &ring, "wiki.example.com"))
    });

    let telemetry = Telemetry::start(&telemetry::Settings {
        format: telemetry::Format::Text,
        level: tracing::Level::ERROR,
        access: telemetry::Switch::Off,
        audit_file: None,
    })?;
    let (route, known, session) = (Arc::new(route()?), Arc::new(known()), id.key());
    let occasion = Occasion {
        route: &route,
        audience: "https://wiki.example.com",
        known: &known,
        session: &session,
        session_ends_at: NOW.plus(Duration::from_secs(86_400)),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    for algorithm in [Algorithm::Es256, Algorithm::EdDsa, Algorithm::Rs256] {
        let folder = tempfile::tempdir()?;
        let store = Store::open(folder.path(), ring.clone(), entropy.clone(), telemetry.metrics.clone())?;
        let settings = settings(algorithm);
        let loading = Assertions::load(store, telemetry.clone(), entropy.clone(), &settings, NOW);
        let assertions = runtime.block_on(loading)?;
        let cache = Cache::default();
        assertions.outgoing(&cache, &settings, &occasion, NOW)?;
        let mut group = criterion.benchmark_group(format!("assertion {}", algorithm.name()));
        group.bench_function("from cache", |b| {
            b.iter(|| assertions.outgoing(&cache, &settings, black_box(&occasion), NOW));
        });
        group.bench_function("fresh", |b| {
            b.iter(|| assertions.outgoing(&Cache::default(), &settings, black_box(&occasion), NOW));
        });
        group.finish();
    }
    criterion.final_summary();
    Ok(())
}

fn settings(algorithm: Algorithm) -> Settings {
    Settings {
        header: HeaderName::from_static("x-teamgate-assertion"),
        issuer: "https://gate.example.com".into(),
        algorithm,
        lifetime: Duration::from_secs(300),
        rotate_every: Duration::from_secs(30 * 86_400),
        user_claim: UserClaim::Uuid,
        parts: TeamParts::Included,
    }
}

fn route() -> Result<Route, Box<dyn Error>> {
    let policy = Policy::SignedIn { deny: Conditions::new(Vec::new())? };
    let app = Destination::App(Arc::new("http://10.0.0.5:8080".parse()?));
    Ok(Route::new("wiki", policy, app))
}

/// Somebody in five teams.
fn known() -> Known {
    let identity = VerifiedIdentity::vouched_for(Claims {
        account: AccountId::from_bytes([1; 16]),
        display_name: "Ada Lovelace".into(),
        nickname: Some("ada".into()),
        email: Email::parse("ada@example.com"),
    });
    let team = |number: u8| Team {
        slug: format!("team-{number}").into(),
        id: TeamId::from_bytes([number; 16]),
        role: Role::Administrator,
        confirmed: true,
    };
    Known { identity, profile_as_of: NOW, membership: Membership::new(NOW, (1..=5).map(team).collect()) }
}
