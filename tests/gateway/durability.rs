//! What was answered is there afterwards, whatever happens to the process and to its disk.

#![expect(
    clippy::print_stderr,
    reason = "a seed, and what could not be tried here, are for whoever reads the log"
)]

use std::collections::VecDeque;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use bitbucket_sim::{Fault, FaultKind, Permission, User};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use teamgate::clock::Clock;
use teamgate::entropy::Entropy;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::support::{Browser, Checked, Config, Request, Setup, eventually, send};

/// Chance that can be had again: the seed is printed, and `TEAMGATE_SEED` sets it.
struct Chance(u64);

impl Chance {
    fn new() -> Chance {
        let given = std::env::var("TEAMGATE_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = given.unwrap_or_else(|| u64::from(u32::from_be_bytes(Entropy::system().bytes())));
        eprintln!("TEAMGATE_SEED={seed}");
        Chance(seed)
    }

    /// Below `bound` (SplitMix64).
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

/// A person with some browsers.
struct Person {
    name: String,
    /// Whether they only ask for pages: a sign-in brings younger tokens, and then none are refreshed.
    stays: bool,
    chance: Chance,
    /// Signed in, as they were told.
    signed_in: VecDeque<Browser>,
    /// Cookies of sessions that they were told are over.
    signed_out: VecDeque<String>,
}

/// How many browsers and dead cookies of a person are kept and looked at.
const KEPT: usize = 4;

impl Person {
    /// Signs in, asks for pages and signs out, until the gateway is gone.
    async fn live(&mut self, setup: &Setup) {
        while self.step(setup).await.is_ok() {}
    }

    async fn step(&mut self, setup: &Setup) -> Checked {
        match self.chance.below(4) {
            _ if self.stays && !self.signed_in.is_empty() => self.ask(setup).await,
            _ if self.signed_in.len() > KEPT => self.sign_out(setup).await,
            0 | 1 => self.sign_in(setup).await,
            2 => self.sign_out(setup).await,
            _ => self.ask(setup).await,
        }
    }

    async fn ask(&self, setup: &Setup) -> Checked {
        let Some(browser) = self.signed_in.front() else { return Ok(()) };
        browser.script(&setup.url("/lobby")).await?.expect(200).map(|_| ())
    }

    async fn sign_in(&mut self, setup: &Setup) -> Checked {
        let browser = Browser::new();
        let outcome = browser.sign_in(&setup.url("/lobby"), &self.name).await;
        // The cookie came with the answer to the callback: that is what was acknowledged.
        if browser.session().is_ok() {
            self.signed_in.push_back(browser);
        }
        outcome?.expect(200).map(|_| ())
    }

    async fn sign_out(&mut self, setup: &Setup) -> Checked {
        let Some(browser) = self.signed_in.pop_front() else { return Ok(()) };
        let session = browser.session()?;
        // Without an answer nobody knows whether it was done, and nothing is asked of it any more.
        browser.post(&setup.url("/.teamgate/logout"), &[]).await?.expect(200)?;
        self.signed_out.push_back(session);
        self.signed_out.truncate(KEPT);
        Ok(())
    }

    /// What must hold after a restart.
    async fn check(&self, setup: &Setup) -> Checked {
        for browser in &self.signed_in {
            let answer = browser.script(&setup.url("/lobby")).await?;
            answer.expect(200).map_err(|error| format!("{}, who is signed in: {error}", self.name))?;
        }
        for session in &self.signed_out {
            let thief = Browser::new();
            thief.plant("teamgate", session);
            let answer = thief.script(&setup.url("/lobby")).await?;
            answer.expect(401).map_err(|error| format!("{}, who signed out: {error}", self.name))?;
        }
        Ok(())
    }

    /// The next page of everybody works without a click, by way of Bitbucket if a token was lost, and what is known of
    /// them is asked for again.
    async fn heal(&self, setup: &Setup) -> Checked {
        for browser in &self.signed_in {
            // More crashes in a minute than a person would sit through.
            browser.forget("teamgate-rounds");
            eventually("a page is served and a younger membership is had", async || {
                let page = browser.follow(browser.get(&setup.url("/lobby")).await?).await?;
                page.expect(200)?;
                let info = browser.script(&setup.url("/.teamgate/userinfo")).await?;
                let as_of = info.expect(200)?.json()?["groups_as_of"].as_u64().unwrap_or(0);
                let now = Clock::system().now().unix_seconds();
                Ok(now.saturating_sub(as_of) <= 3)
            })
            .await
            .map_err(|error| format!("{}: {error}", self.name))?;
        }
        Ok(())
    }
}

/// Kills the gateway `kills` times in the midst of sign-ins, refreshes and sign-outs, or until `time` is over, and
/// looks after each restart whether it remembers what it said. How often it was killed, and how many tokens were lost.
pub(crate) async fn killed_often(kills: usize, time: Duration) -> Checked<(usize, usize)> {
    let mut chance = Chance::new();
    let mut setup =
        Setup::with(Config::default().top("directory: { refresh_after: 1s, budget: none }")).await?;
    let mut people = Vec::new();
    for number in 0..6 {
        let name = format!("p{number}");
        setup.simulator.with(|world| {
            world.add_user(User::new(&name, &name));
            // Each re-query refreshes: less than a minute is left from the beginning.
            world.access_token_life = Duration::from_secs(2);
            world.add_member(&name, "acme", Permission::Member, false)
        })?;
        let (chance, stays) = (Chance(chance.below(u64::MAX)), number < 3);
        people.push(Person { name, stays, chance, signed_in: VecDeque::new(), signed_out: VecDeque::new() });
    }
    let (began, mut killed) = (Instant::now(), 0);
    while killed < kills && (began.elapsed() < time || killed < 2) {
        // Every other time between a rotation at Bitbucket and the write of the new token; else whenever.
        let after = Duration::from_millis(chance.below(1_200));
        let at_rotation = chance.below(2) == 0;
        let load = futures_util::future::join_all(people.iter_mut().map(|person| person.live(&setup)));
        let simulator = &setup.simulator;
        let pid = setup.gateway.pid();
        let kill = async {
            sleep(after).await;
            if at_rotation {
                // Its answer never comes, so the moment is long enough to be met.
                simulator
                    .with(|world| world.fault(Fault::new("token.refresh", FaultKind::LostAnswer).times(1)));
            }
            let waited = Instant::now();
            while at_rotation
                && simulator.with(|world| !world.faults().iter().all(|fault| fault.times == Some(0)))
                && waited.elapsed() < Duration::from_secs(4)
            {
                sleep(Duration::from_millis(1)).await;
            }
            simulator.with(|world| world.clear_faults());
            Command::new("kill").args(["-KILL", &pid.to_string()]).status()
        };
        let (_, sent) = tokio::join!(load, kill);
        assert!(sent?.success());
        setup.gateway.kill().await?;
        setup.gateway.restart().await?;
        killed += 1;
        for person in &people {
            person.check(&setup).await.map_err(|error| format!("after kill {killed}: {error}"))?;
        }
        for person in &people {
            person.heal(&setup).await.map_err(|error| format!("after kill {killed}: {error}"))?;
        }
        if killed % 10 == 0 {
            eprintln!("{killed} kills in {:.0?}", began.elapsed());
        }
        setup.simulator.clear_requests();
    }
    // Nobody was ever taken for somebody who withdrew, and nothing on disk was spoiled.
    assert!(setup.gateway.audited("sessions_ended").is_empty());
    assert_eq!(metric(&setup, "teamgate_corrupted_records_total").await?, 0);
    let lost = setup.gateway.stderr().iter().filter(|line| line.contains("a refresh token was lost")).count();
    Ok((killed, lost))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whenever_it_is_killed_it_remembers_what_it_said() -> Checked {
    let (killed, lost) = killed_often(9, Duration::from_secs(35)).await?;
    eprintln!("killed {killed} times; {lost} tokens were lost and had again");
    Ok(())
}

async fn metric(setup: &Setup, series: &str) -> Checked<u64> {
    let page = send(&Request::get(&setup.gateway.admin_url("/metrics"))).await?.text();
    let value = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    Ok(value.ok_or_else(|| format!("no {series} in\n{page}"))?.parse()?)
}

/// How often the store was asked for `operation`.
async fn asked(setup: &Setup, operation: &str) -> Checked<u64> {
    metric(setup, &format!("teamgate_store_operations_total{{operation=\"{operation}\"}}")).await
}

#[tokio::test]
async fn requests_of_people_who_are_signed_in_wait_for_no_disk() -> Checked {
    let setup = Setup::new().await?;
    let browsers = [setup.signed_in("ann").await?, setup.signed_in("ben").await?];
    let operations = [
        "session_read",
        "session_end",
        "session_list",
        "grant_read",
        "grant_write",
        "account_read",
        "account_write",
    ];
    let all = async || -> Checked<Vec<u64>> {
        let mut counts = Vec::new();
        for operation in operations {
            counts.push(asked(&setup, operation).await?);
        }
        Ok(counts)
    };
    let (before, writes, began) = (all().await?, asked(&setup, "session_write").await?, Instant::now());
    for _ in 0..150 {
        for browser in &browsers {
            browser.script(&setup.url("/")).await?.expect(200)?;
        }
    }
    assert_eq!(all().await?, before, "{operations:?}");
    // Uses are written down together, every 20 s.
    let batches = asked(&setup, "session_write").await? - writes;
    assert!(batches <= 1 + began.elapsed().as_secs() / 20, "{batches} in {:?}", began.elapsed());
    Ok(())
}

/// A disk of its own, 16 MiB small; gone when dropped.
struct Disk {
    folder: TempDir,
}

impl Disk {
    /// None where this user may not mount one.
    fn mount() -> Checked<Option<Disk>> {
        let disk = Disk { folder: tempfile::tempdir()? };
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=16m", "teamgate-test"])
            .arg(disk.path())
            .output()
            .is_ok_and(|output| output.status.success());
        if !mounted {
            eprintln!("left out: nothing can be mounted here, which takes root and CAP_SYS_ADMIN");
            return Ok(None);
        }
        Ok(Some(disk))
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn filler(&self) -> PathBuf {
        self.path().join("filler")
    }

    /// Until there is no byte left.
    fn fill(&self) -> Checked {
        let mut filler = fs::OpenOptions::new().create(true).append(true).open(self.filler())?;
        let mut piece = vec![7; 64 * 1024];
        while !piece.is_empty() {
            if filler.write_all(&piece).is_err() {
                piece.truncate(piece.len() / 2);
            }
        }
        Ok(())
    }

    fn free(&self) -> Checked {
        Ok(fs::remove_file(self.filler())?)
    }

    fn remount(&self, mode: &str) -> Checked {
        let mounted =
            Command::new("mount").args(["-o", &format!("remount,{mode}")]).arg(self.path()).output()?;
        match mounted.status.success() {
            true => Ok(()),
            false => Err(String::from_utf8_lossy(&mounted.stderr).into()),
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: a gateway may still have it open.
        let _ = Command::new("umount").arg("-l").arg(self.path()).output();
    }
}

fn stored_at(path: &Path) -> Config {
    Config::default().top(&format!("store: {{ kind: embedded, path: \"{}\" }}", path.display()))
}

async fn readiness(setup: &Setup) -> Checked<(u16, String)> {
    let answer = send(&Request::get(&setup.gateway.admin_url("/readyz"))).await?;
    Ok((answer.status, answer.text()))
}

#[tokio::test]
async fn on_a_full_disk_people_go_on_nobody_signs_in_and_whoever_signs_out_is_out() -> Checked {
    let Some(disk) = Disk::mount()? else { return Ok(()) };
    let mut setup = Setup::with(stored_at(&disk.path().join("state"))).await?;
    let (ann, ben, other) =
        (setup.signed_in("ann").await?, setup.signed_in("ben").await?, setup.signed_in("ben").await?);
    let bens = ben.session()?;
    disk.fill()?;
    // What is left within the file is still used.
    let mut signed_in = Vec::new();
    eventually("the store takes nothing any more", async || {
        let browser = Browser::new();
        let authorize = browser.begin(&setup.url("/lobby")).await?;
        let answer = browser.get(&browser.agree(&authorize, "ann").await?).await?;
        if answer.status == 302 {
            signed_in.push(browser);
            return Ok(false);
        }
        // A page that says what is wrong, and not one that sends to sign in.
        assert_eq!(
            answer.expect(503)?.all("set-cookie").iter().filter(|it| it.starts_with("teamgate=")).count(),
            0
        );
        assert!(answer.header("retry-after").is_some() && browser.session().is_err());
        Ok(true)
    })
    .await?;
    eventually("it says so", async || {
        let (status, text) = readiness(&setup).await?;
        Ok(status == 503 && text.contains("the disk is full"))
    })
    .await?;

    // Who is signed in goes on.
    for browser in signed_in.iter().chain([&ann, &ben, &other]) {
        browser.get(&setup.url("/lobby")).await?.expect(200)?;
    }
    // Who signs out is out at once, is not told that all is well, and stays nobody.
    let logout = setup.url("/.teamgate/logout");
    ben.post(&logout, &[]).await?.expect(503)?;
    let thief = Browser::new();
    thief.plant("teamgate", &bens);
    for _ in 0..3 {
        thief.script(&setup.url("/lobby")).await?.expect(401)?;
        assert!(
            thief
                .get(&setup.url("/lobby"))
                .await?
                .expect(302)?
                .location()?
                .contains("/site/oauth2/authorize")
        );
    }
    thief.plant("teamgate", &bens);
    thief.post(&logout, &[]).await?.expect(503)?;
    assert_eq!(metric(&setup, "teamgate_revocations_owed").await?, 1);
    setup.gateway.recorded("signed_out", 1).await?;
    // So is who is ended by an operator, and the operator is told, too.
    let revoke = Request::new(
        "DELETE",
        &setup.gateway.admin_url("/api/sessions?account=a0000000-0000-4000-8000-0000000000a1"),
    );
    send(&revoke).await?.expect(503)?;
    ann.script(&setup.url("/lobby")).await?.expect(401)?;

    disk.free()?;
    eventually("it is well again", async || Ok(readiness(&setup).await?.0 == 200)).await?;
    eventually("nothing is owed", async || Ok(metric(&setup, "teamgate_revocations_owed").await? == 0))
        .await?;
    setup.signed_in("cleo").await?;
    setup.gateway.kill().await?;
    setup.gateway.restart().await?;
    other.script(&setup.url("/lobby")).await?.expect(200)?;
    thief.plant("teamgate", &bens);
    thief.script(&setup.url("/lobby")).await?.expect(401)?;
    for browser in signed_in.iter().chain([&ann]) {
        browser.script(&setup.url("/lobby")).await?.expect(401)?;
    }
    Ok(())
}

#[tokio::test]
async fn a_folder_that_cannot_be_written_is_named_at_the_start_and_nothing_is_lost() -> Checked {
    let Some(disk) = Disk::mount()? else { return Ok(()) };
    let mut setup = Setup::with(stored_at(&disk.path().join("state"))).await?;
    let ben = setup.signed_in("ben").await?;
    assert_eq!(setup.gateway.terminate().await?, 0);
    disk.remount("ro")?;
    let refused = setup.gateway.restart().await.err().ok_or("it started")?.to_string();
    assert!(refused.contains("teamgate.redb") && refused.contains("cannot be"), "{refused}");
    disk.remount("rw")?;
    setup.gateway.restart().await?;
    ben.script(&setup.url("/lobby")).await?.expect(200)?;
    Ok(())
}

const SESSIONS: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("sessions");
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");

fn store_file(setup: &Setup) -> PathBuf {
    setup.gateway.folder().join("state/teamgate.redb")
}

#[tokio::test]
async fn a_record_that_was_altered_is_nobodys_and_the_others_are_as_good_as_before() -> Checked {
    let mut setup = Setup::new().await?;
    let browsers =
        [setup.signed_in("ann").await?, setup.signed_in("ben").await?, setup.signed_in("cleo").await?];
    assert_eq!(setup.gateway.terminate().await?, 0);
    {
        let database = Database::open(store_file(&setup))?;
        let writing = database.begin_write()?;
        {
            let mut sessions = writing.open_table(SESSIONS)?;
            let (key, mut value) = {
                let (key, value) = sessions.first()?.ok_or("there are three")?;
                (*key.value(), value.value().to_vec())
            };
            let middle = value.len() / 2;
            value[middle] ^= 1;
            sessions.insert(&key, value.as_slice())?;
        }
        writing.commit()?;
    }
    setup.gateway.restart().await?;
    let mut statuses = Vec::new();
    for browser in &browsers {
        statuses.push(browser.script(&setup.url("/lobby")).await?.status);
    }
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 200, 401]);
    assert_eq!(metric(&setup, "teamgate_corrupted_records_total").await?, 1);
    setup.gateway.logged("records of the store do not open").await?;
    Ok(())
}

#[tokio::test]
async fn a_store_of_a_later_version_is_refused_with_the_version_that_wrote_it() -> Checked {
    let mut setup = Setup::new().await?;
    setup.signed_in("ben").await?;
    assert_eq!(setup.gateway.terminate().await?, 0);
    let format = {
        let database = Database::open(store_file(&setup))?;
        let format = {
            let meta = database.begin_read()?.open_table(META)?;
            meta.get("format")?.ok_or("it has a format")?.value().to_vec()
        };
        let writing = database.begin_write()?;
        {
            let mut meta = writing.open_table(META)?;
            meta.insert("format", 7_u32.to_be_bytes().as_slice())?;
            meta.insert("written-by", b"4.5.6".as_slice())?;
        }
        writing.commit()?;
        format
    };
    let refused = setup.gateway.restart().await.err().ok_or("it started")?.to_string();
    assert!(refused.contains("has format 7, written by teamgate 4.5.6"), "{refused}");
    assert_ne!(format, 7_u32.to_be_bytes());
    Ok(())
}

/// A backup is a copy of the file, made while the gateway is stopped, and the secret file.
#[tokio::test]
async fn a_copy_of_the_store_brings_back_what_was_there_when_it_was_made() -> Checked {
    let mut setup = Setup::new().await?;
    let before = setup.signed_in("ben").await?;
    assert_eq!(setup.gateway.terminate().await?, 0);
    let copy = tempfile::NamedTempFile::new()?;
    fs::copy(store_file(&setup), copy.path())?;
    setup.gateway.restart().await?;
    let after = setup.signed_in("ann").await?;
    setup.gateway.kill().await?;
    fs::copy(copy.path(), store_file(&setup))?;
    setup.gateway.restart().await?;
    before.script(&setup.url("/lobby")).await?.expect(200)?;
    after.script(&setup.url("/lobby")).await?.expect(401)?;
    Ok(())
}
