//! What deciding on a request costs, without the network: the spelling of its target, the route, the rule.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use http::Method;

use teamgate::clock::Timestamp;
use teamgate::identity::{AccountId, Claims, TeamId, VerifiedIdentity};
use teamgate::membership::{Membership, Role, Team};
use teamgate::policy::condition::{Condition, Conditions};
use teamgate::policy::{Policy, Subject, decide};
use teamgate::route::Table;
use teamgate::route::host::canonical_host;
use teamgate::route::pattern::{HostPattern, Methods, PathPattern, Pattern};
use teamgate::route::target::canonical;

fn spelling(c: &mut Criterion) {
    let mut group = c.benchmark_group("canonical");
    for (name, raw) in [
        ("plain", "/api/v2/projects/platform/repositories?page=2&sort=name"),
        ("escapes", "/wiki/%C3%9Cberblick%20f%C3%BCr%20alle?v=2"),
        ("dots", "/static/../api/./v2//projects"),
        ("refused", "/public/%252e%252e/admin"),
    ] {
        group.bench_function(name, |b| b.iter(|| canonical(black_box(raw.as_bytes()))));
    }
    group.bench_function("host", |b| b.iter(|| canonical_host(black_box("wiki.example.com:8443"))));
    group.finish();
}

/// `count` routes: ten to a host, as many hosts as that makes.
fn table(count: usize) -> Option<Table<usize>> {
    let entry = |place: usize| {
        let (host, path) = (place / 10, place % 10);
        Some((
            Pattern {
                host: HostPattern::Exact(format!("app-{host}.example.com").into()),
                path: PathPattern::prefix(&format!("/area-{path}/part")).ok()?,
                methods: Methods::Any,
            },
            place,
        ))
    };
    Table::build((0..count).map(entry).collect::<Option<Vec<_>>>()?).ok()
}

/// `count` routes of one host.
fn one_host(count: usize) -> Option<Table<usize>> {
    let entry = |place: usize| {
        let path = PathPattern::prefix(&format!("/area-{place}/part")).ok()?;
        Some((Pattern { host: HostPattern::Any, path, methods: Methods::Any }, place))
    };
    Table::build((0..count).map(entry).collect::<Option<Vec<_>>>()?).ok()
}

fn finding(c: &mut Criterion) {
    let mut group = c.benchmark_group("find");
    for count in [10, 1_000, 10_000] {
        let (Some(many), Some(one)) = (table(count), one_host(count)) else { continue };
        // Another place each time, so that neither cache nor branch predictor knows it already.
        let requests: Vec<(String, String, String)> = (0..1024)
            .map(|turn| {
                let place = turn * 7919 % count;
                let host = format!("app-{}.example.com", place / 10);
                (host, format!("/area-{}/part/x/y", place % 10), format!("/area-{place}/part/x/y"))
            })
            .collect();
        let mut turn = 0;
        group.bench_function(BenchmarkId::new("many_hosts", count), |b| {
            b.iter(|| {
                turn = (turn + 1) % requests.len();
                let (host, path, _) = &requests[turn];
                many.find(black_box(host), black_box(path), &Method::GET)
            });
        });
        group.bench_function(BenchmarkId::new("one_host", count), |b| {
            b.iter(|| {
                turn = (turn + 1) % requests.len();
                let (host, _, path) = &requests[turn];
                one.find(black_box(host), black_box(path), &Method::GET)
            });
        });
        let miss = "/nowhere/at/all";
        group.bench_function(BenchmarkId::new("miss", count), |b| {
            b.iter(|| many.find(black_box("app-0.example.com"), black_box(miss), &Method::GET));
        });
    }
    group.finish();
}

fn deciding(c: &mut Criterion) {
    let identity = VerifiedIdentity::vouched_for(Claims {
        account: AccountId::from_bytes([1; 16]),
        display_name: "Ada".into(),
        nickname: None,
        email: None,
    });
    let teams = (0..31_u8).map(|id| Team {
        slug: format!("team-{id}").into(),
        id: TeamId::from_bytes([id; 16]),
        role: Role::Member,
        confirmed: true,
    });
    let membership = Membership::new(Timestamp::from_unix_seconds(0), teams.collect());
    let groups = |names: &[&str]| {
        let conditions = names.iter().filter_map(|name| name.parse().ok()).map(Condition::Group);
        Conditions::new(conditions.collect()).unwrap_or_default()
    };
    let rules = |allow: &[&str], deny: &[&str]| Policy::Rules { allow: groups(allow), deny: groups(deny) };
    let mut group = c.benchmark_group("decide");
    for (name, policy) in [
        ("first_of_one", rules(&["team-17"], &[])),
        ("last_of_five", rules(&["a", "b", "c", "d", "team-17/members"], &[])),
        ("allow_and_deny", rules(&["team-17"], &["interns", "team-3/administrators"])),
        ("nothing_matches", rules(&["a", "b", "c", "d", "e"], &[])),
    ] {
        let subject = Subject::Account { identity: &identity, membership: &membership };
        group.bench_function(name, |b| b.iter(|| decide(black_box(&policy), black_box(subject))));
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(1));
    targets = spelling, finding, deciding
}
criterion_main!(benches);
