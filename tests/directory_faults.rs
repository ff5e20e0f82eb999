//! The directory before a Bitbucket at which everything goes wrong that can: a randomised run, by seed.
//!
//! The library and the simulator share one process and a clock that is moved by hand, so that hours pass in seconds.
//! Each step moves it on, changes something at Bitbucket, lets people ask, and lets the background do what the
//! plan says; then what must always hold is checked. A seed that fails is printed: put it into `SEEDS`.
//!
//! The long form: `TEAMGATE_FAULT_SEEDS=100 TEAMGATE_FAULT_STEPS=3000 cargo test --test directory_faults`.

#![expect(clippy::print_stderr, reason = "the seed of a failed run is what one needs")]

use std::collections::{HashMap, HashSet, VecDeque};
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use bitbucket_sim::{
    Clock as SimulatorClock, EXAMPLE_CLIENT_ID, EXAMPLE_CLIENT_SECRET, Fault, FaultKind, Permission,
    Simulator, User, World,
};
use futures_util::future::join_all;
use teamgate::bitbucket::{self, Bitbucket, Right, identity};
use teamgate::clock::{Clock, Timestamp};
use teamgate::directory::background::Next;
use teamgate::directory::plan::{Ages, Bounds, Weather};
use teamgate::directory::{Account, Condition, Directory, Known, Settings};
use teamgate::entropy::Entropy;
use teamgate::keys::{self, Keyring};
use teamgate::membership::Group;
use teamgate::secret::Secret;
use teamgate::store::{Grant, Store};
use teamgate::telemetry::{self, Telemetry};
use teamgate::throttle::Rate;
use time::OffsetDateTime;
use tokio::runtime::Handle;

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

/// Seeds of every run, with their steps; those that once failed stay here.
const SEEDS: &[(u64, u64)] = &[
    (1, 400),
    // A refresh whose answer was lost, then one that was turned away with 429, then a refusal: lost, not withdrawn.
    (2, 1_000),
    (3, 400),
];
const STEPS: u64 = 500;

const HOUR: Duration = Duration::from_secs(3600);
/// By seed: enough for the people of a run even when 429s have made a tenth of it; just enough; too little.
const BUDGETS: [u32; 3] = [3_000, 300, 60];
/// A call that is slow is in the simulator's log a step later than it left.
const WINDOW: Duration = Duration::from_secs(3600 - 130);
const CALLBACK: &str = "http://127.0.0.1:1/.teamgate/callback";

const AGES: Ages = Ages {
    refresh_after: Duration::from_secs(300),
    profile_after: Duration::from_secs(3_000),
    max_age: Duration::from_secs(1_200),
    outage_grace: Duration::from_secs(4_800),
};

/// SplitMix64: the same run for the same seed.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, most: u64) -> u64 {
        self.next() % most
    }

    fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len() as u64) as usize]
    }
}

struct Run {
    simulator: Simulator,
    directory: Directory,
    settings: Arc<Settings>,
    clock: Clock,
    accounts: HashMap<&'static str, Arc<Account>>,
    /// Who withdrew the app and has not signed in since: their sessions may end.
    withdrawn: HashSet<&'static str>,
    /// When whoever is not in `acme` was taken out of it.
    out_since: HashMap<&'static str, Timestamp>,
    calls: VecDeque<Timestamp>,
    /// Requests of the simulator's log that were counted.
    counted: usize,
    /// Refreshes that Bitbucket may have answered without our hearing it.
    lost: usize,
    budget: u32,
    _folder: tempfile::TempDir,
}

const PEOPLE: [&str; 6] = ["ann", "ben", "fay", "gus", "hal", "ida"];

impl Run {
    async fn new(budget: u32) -> Outcome<Run> {
        keys::install_crypto_providers();
        let start = OffsetDateTime::from_unix_timestamp(1_800_000_000)?;
        let mut world = World::example();
        world.clock = SimulatorClock::standing_at(start);
        world.set_callback(EXAMPLE_CLIENT_ID, CALLBACK)?;
        for name in &PEOPLE[2..] {
            world.add_user(User::new(name, name));
            world.add_member(name, "acme", Permission::Member, false)?;
        }
        let simulator = Simulator::start(([127, 0, 0, 1], 0).into(), world).await?;
        let folder = tempfile::tempdir()?;
        let telemetry = Telemetry::start(&telemetry::Settings {
            access: telemetry::Switch::Off,
            level: tracing::Level::ERROR,
            audit_file: Some(folder.path().join("audit")),
            ..telemetry::Settings::default()
        })?;
        let clock = Clock::manual(Timestamp::from_unix_seconds(1_800_000_000));
        let entropy = Entropy::system();
        let ring = Arc::new(Keyring::ephemeral(&entropy)?);
        let store = Store::open(&folder.path().join("state"), ring, entropy, telemetry.metrics.clone())?;
        let directory = Directory::new(store, clock.clone(), telemetry, Handle::current());
        directory.traffic().adopt(Rate::new(budget, HOUR));
        let settings = bitbucket::Settings {
            client_id: EXAMPLE_CLIENT_ID.to_owned(),
            client_secret: Arc::new(Secret::new(EXAMPLE_CLIENT_SECRET.to_owned())),
            redirect_uri: CALLBACK.parse()?,
            web_url: simulator.url().parse()?,
            api_url: simulator.api_url().parse()?,
            timeout: Duration::from_millis(400),
        };
        let settings = Arc::new(Settings {
            bitbucket: Bitbucket::new(settings, directory.traffic())?,
            teams: None,
            named: vec!["acme".parse()?],
            ages: AGES,
        });
        Ok(Run {
            simulator,
            directory,
            settings,
            clock,
            accounts: HashMap::new(),
            withdrawn: HashSet::new(),
            out_since: HashMap::new(),
            calls: VecDeque::new(),
            counted: 0,
            lost: 0,
            budget,
            _folder: folder,
        })
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn advance(&self, by: Duration) {
        self.clock.advance(by);
        self.simulator.with(|world| world.advance(by));
    }

    /// Through Bitbucket and back, as `login` does it. False where Bitbucket did not play along.
    async fn sign_in(&mut self, name: &'static str) -> Outcome<bool> {
        self.simulator.with(|world| world.auto_sign_in = Some(name.to_owned()));
        let bitbucket = &self.settings.bitbucket;
        let verifier = "a-verifier-of-the-forty-three-characters-that-it-takes";
        let url = format!(
            "{}/site/oauth2/authorize?client_id={EXAMPLE_CLIENT_ID}&response_type=code&state=s&redirect_uri={CALLBACK}",
            self.simulator.url()
        );
        let Ok(answer) = http_client()?.get(url).send().await else { return Ok(false) };
        let location = answer.headers().get("location").and_then(|value| value.to_str().ok());
        let Some(code) =
            location.and_then(|to| to.split("code=").nth(1)).and_then(|rest| rest.split('&').next())
        else {
            return Ok(false);
        };
        let now = self.now();
        let Ok(tokens) = bitbucket.exchange(code, &Secret::new(verifier.to_owned())).await else {
            return Ok(false);
        };
        let (profile, email) = (
            bitbucket.profile(&tokens.access_token).await,
            bitbucket.primary_email(&tokens.access_token).await,
        );
        let membership = self.directory.ask_teams(&self.settings, &tokens.access_token, now).await;
        let (Ok(profile), Ok(email), Ok(membership)) = (profile, email, membership) else { return Ok(false) };
        let known = Known { identity: identity(profile, email), profile_as_of: now, membership };
        let grant = Grant {
            access_token: tokens.access_token,
            refresh_token: tokens.refresh_token,
            expires_at: now.plus(tokens.expires_in),
            scopes: tokens.scopes,
            obtained_at: now,
            refreshing_since: None,
        };
        let account = self.directory.learn(known, &grant, now).await?;
        self.accounts.insert(name, account);
        self.withdrawn.remove(name);
        Ok(true)
    }

    /// Somebody asks for something. Whether it was answered.
    async fn visit(&self, name: &str) -> bool {
        let Some(account) = self.accounts.get(name) else { return false };
        let now = self.now();
        account.touch(now);
        if self.directory.believed(account, &self.settings, Bounds::default(), now).is_some() {
            return true;
        }
        // Three tabs at once.
        let asked = (0..3).map(|_| self.directory.answer(account, &self.settings, Bounds::default(), now));
        join_all(asked).await;
        self.directory.believed(account, &self.settings, Bounds::default(), now).is_some()
    }

    /// What the background does now.
    async fn background(&self) {
        for _ in 0..12 {
            let Next::Ask(account) = self.directory.next(&self.settings, self.now()) else { return };
            let mut done = self.directory.requery(&account, &self.settings, Right::Background);
            // It reports once, or its task is gone; either way it is over.
            let _ = done.wait_for(|done| *done).await;
            self.directory.asked(&account, &self.settings);
        }
    }

    fn check(&mut self) -> Outcome {
        let now = self.now();
        let group: Group = "acme".parse()?;
        for (name, account) in &self.accounts {
            let condition = account.condition();
            if condition == Condition::Ended && !self.withdrawn.contains(name) {
                return Err(format!("{name} was signed out and had withdrawn nothing").into());
            }
            let Some(known) = self.directory.believed(account, &self.settings, Bounds::default(), now) else {
                continue;
            };
            let age = now.since(known.membership.as_of());
            let down = account.trouble().is_some_and(|trouble| trouble.weather == Weather::Outage);
            let most = if down { AGES.outage_grace } else { AGES.max_age };
            if age >= most {
                return Err(format!("{name} passes with a membership of {age:?}, down: {down}").into());
            }
            let out = self.out_since.get(name).is_some_and(|since| *since < known.membership.as_of());
            if out && known.membership.holds(&group) {
                return Err(format!("{name} holds a team that was lost before Bitbucket was asked").into());
            }
        }
        let requests = self.simulator.requests();
        let calls = requests.iter().skip(self.counted).filter(|request| request.endpoint != "authorize");
        self.calls.extend(calls.map(|_| now));
        self.counted = requests.len();
        while self.calls.front().is_some_and(|first| now.since(*first) >= WINDOW) {
            self.calls.pop_front();
        }
        if self.calls.len() > self.budget as usize {
            return Err(format!("{} calls within an hour", self.calls.len()).into());
        }
        // Refresh tokens have no grace here: of two refreshes at once for one account the second is refused. So is one
        // after an answer that was lost, or a withdrawal.
        let refused = requests.iter().filter(|r| r.endpoint == "token.refresh" && r.status == 400).count();
        if refused > self.lost {
            return Err(format!("{refused} refreshes were refused, {} with a reason", self.lost).into());
        }
        Ok(())
    }

    /// Something changes at Bitbucket, or with it.
    fn mischief(&mut self, dice: &mut Dice) -> Outcome {
        if dice.once_in(12) {
            self.simulator.with(World::clear_faults);
        }
        if dice.once_in(12) {
            let endpoint = *dice.pick(&["*", "permission", "workspaces", "token.refresh", "user", "emails"]);
            let kinds = [
                FaultKind::Status(401),
                FaultKind::Status(403),
                FaultKind::Status(404),
                FaultKind::Status(500),
                FaultKind::Status(503),
                FaultKind::Gone,
                FaultKind::RateLimited { retry_after: None, json: false },
                FaultKind::RateLimited { retry_after: Some(dice.below(90)), json: true },
                FaultKind::Html200,
                FaultKind::Truncated,
                FaultKind::Oversized,
                FaultKind::Slow(Duration::from_millis(500)),
                FaultKind::SlowBody(Duration::from_millis(150)),
                FaultKind::Drop,
                FaultKind::LostAnswer,
                FaultKind::ForeignNext,
                FaultKind::EndlessNext,
                FaultKind::MissingScope { required: vec!["account".into()], granted: vec!["email".into()] },
            ];
            let kind = dice.pick(&kinds).clone();
            let times = 1 + dice.below(6) as u32;
            // What the token endpoint rotates and does not tell is refused the next time.
            let loses = matches!(
                kind,
                FaultKind::LostAnswer
                    | FaultKind::Truncated
                    | FaultKind::Slow(_)
                    | FaultKind::SlowBody(_)
                    | FaultKind::EndlessNext
                    | FaultKind::ForeignNext
            );
            if loses && matches!(endpoint, "*" | "token.refresh") {
                self.lost += 2 * times as usize;
            }
            let fault = Fault::new(endpoint, kind);
            // Some last until they are cleared: outages.
            let lasting = dice.once_in(3) && !loses;
            self.simulator.with(|world| world.fault(if lasting { fault } else { fault.times(times) }));
        }
        let name = *dice.pick(&PEOPLE);
        if dice.once_in(25) {
            let now = self.now();
            match self.out_since.remove(name) {
                Some(_) => {
                    self.simulator.with(|world| world.add_member(name, "acme", Permission::Member, false))?
                }
                None => {
                    self.simulator.with(|world| world.remove_member(name, "acme"))?;
                    self.out_since.insert(name, now);
                }
            }
        }
        if dice.once_in(60) && self.accounts.contains_key(name) && self.withdrawn.insert(name) {
            // It may be refused several times before the check of our client, which faults hit as well, says why.
            self.lost += 4;
            self.simulator.with(|world| world.revoke_grant(name))?;
        }
        if dice.once_in(40) {
            self.simulator.with(World::expire_access_tokens);
        }
        Ok(())
    }

    async fn people(&mut self, dice: &mut Dice) -> Outcome {
        for name in PEOPLE {
            let gone = self.accounts.get(name).is_none_or(|account| account.condition() != Condition::Good);
            if gone && dice.once_in(3) {
                self.sign_in(name).await?;
            } else if !dice.once_in(3) {
                self.visit(name).await;
            }
        }
        Ok(())
    }

    /// The faults stop. What is left of silences passes, and then everything is young.
    async fn recovers(&mut self) -> Outcome {
        self.simulator.with(World::clear_faults);
        let settled = self.now().plus(Duration::from_secs(700));
        let until = settled.plus(AGES.refresh_after + Duration::from_secs(60));
        while self.now() < until {
            self.advance(Duration::from_secs(10));
            for name in PEOPLE {
                let gone =
                    self.accounts.get(name).is_none_or(|account| account.condition() != Condition::Good);
                if gone {
                    self.sign_in(name).await?;
                }
                self.visit(name).await;
            }
            self.background().await;
            self.check()?;
        }
        for (name, account) in &self.accounts {
            let age = self.now().since(account.known().membership.as_of());
            if age > AGES.refresh_after + Duration::from_secs(20) {
                return Err(
                    format!("{name} is {age:?} old after everything went well for an interval").into()
                );
            }
        }
        if self.accounts.len() != PEOPLE.len() {
            return Err("somebody could not sign in".into());
        }
        Ok(())
    }
}

fn http_client() -> Outcome<reqwest::Client> {
    Ok(reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build()?)
}

async fn run(seed: u64, steps: u64) -> Outcome {
    let mut dice = Dice(seed);
    let mut run = Run::new(BUDGETS[seed as usize % BUDGETS.len()]).await?;
    for step in 0..steps {
        run.advance(Duration::from_secs(1 + dice.below(60)));
        run.mischief(&mut dice)?;
        run.people(&mut dice).await?;
        run.background().await;
        run.check().map_err(|broken| format!("step {step}: {broken}"))?;
    }
    // What the budget does not reach cannot be young.
    if run.budget == BUDGETS[0] { run.recovers().await } else { Ok(()) }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_goes_wrong_nobody_passes_too_long_and_nobody_is_signed_out_for_it() -> Outcome {
    let steps = number("TEAMGATE_FAULT_STEPS").unwrap_or(STEPS);
    let more = 1_000..1_000 + number("TEAMGATE_FAULT_SEEDS").unwrap_or(0);
    for (seed, steps) in SEEDS.iter().copied().chain(more.map(|seed| (seed, steps))) {
        eprintln!("seed {seed}, {steps} steps");
        run(seed, steps).await.map_err(|broken| format!("seed {seed}: {broken}"))?;
    }
    Ok(())
}
