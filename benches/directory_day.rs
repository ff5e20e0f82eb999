//! A day of 5,000 people and 900 calls an hour, within seconds: what the budget does to the age of memberships.
//!
//! Nothing is measured but the plan itself: the queue, the budget and the ages are those that the gateway runs with;
//! people, Bitbucket and the clock are numbers. The same seed gives the same day.
//!
//! `cargo bench --bench directory_day`

#![expect(clippy::print_stdout, reason = "the figures are its product")]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use teamgate::bitbucket::Right;
use teamgate::clock::Timestamp;
use teamgate::directory::plan::budget::Budget;
use teamgate::directory::plan::queue::{Look, Queue, Step, Supply};
use teamgate::directory::plan::{Ages, Bounds, Freshness, Weather, freshness, retry_after};
use teamgate::throttle::Rate;

const DAY: u64 = 24 * 3600;
/// Bitbucket is down: 20 minutes before lunch, and 90 in the afternoon. The day before this one is day zero.
const OUTAGES: [(u64, u64); 2] =
    [(DAY + 11 * 3600, DAY + 11 * 3600 + 1_200), (DAY + 15 * 3600, DAY + 15 * 3600 + 5_400)];

/// A small generator of our own (SplitMix64): the day is the same wherever it is run.
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
        self.next() % most.max(1)
    }
}

#[derive(Clone, Copy)]
struct Person {
    as_of: u64,
    used_at: u64,
    not_before: u64,
    failures: u32,
    weather: Weather,
    queued: bool,
    signs_in: bool,
    /// Until when this person works.
    to: u64,
    next_request: u64,
}

struct Outcome {
    served: u64,
    waited: u64,
    refused: u64,
    /// Of these, while Bitbucket was up.
    refused_up: u64,
    sign_ins: (u64, u64),
    calls: [u64; 3],
    most_calls: u64,
    ages: Vec<u64>,
    by_hour: BTreeMap<u64, (Vec<u64>, f64, u64)>,
    steps: u64,
    took: Duration,
}

fn at(second: u64) -> Timestamp {
    Timestamp::from_unix_seconds(1_800_000_000 + second)
}

fn down(second: u64) -> bool {
    OUTAGES.iter().any(|(from, to)| (*from..*to).contains(&second))
}

/// People come at nine, most within half an hour, and ask for something every few minutes; one in fifty signs in anew.
fn people(count: usize, dice: &mut Dice) -> Vec<Person> {
    (0..count)
        .map(|_| {
            let spread = dice.below(100);
            let from = match spread {
                0..70 => DAY + 9 * 3600 - 600 + dice.below(1_800),
                70..90 => DAY + 8 * 3600 + dice.below(7_200),
                _ => DAY + dice.below(DAY - 4 * 3600),
            };
            let to = (from + 3 * 3600 + dice.below(6 * 3600)).min(2 * DAY);
            // Left yesterday at about six.
            let as_of = 18 * 3600 - dice.below(7_200);
            let signs_in = dice.below(50) == 0;
            Person {
                as_of,
                used_at: 0,
                not_before: 0,
                failures: 0,
                weather: Weather::Fair,
                queued: false,
                signs_in,
                to,
                next_request: from,
            }
        })
        .collect()
}

fn day(count: usize, ages: &Ages, rate: Rate) -> Outcome {
    let begun = Instant::now();
    let mut dice = Dice(8);
    let mut people = people(count, &mut dice);
    let mut queue: Queue<usize> = Queue::new();
    let mut budget = Budget::new(rate);
    let mut out = Outcome {
        served: 0,
        waited: 0,
        refused: 0,
        refused_up: 0,
        sign_ins: (0, 0),
        calls: [0; 3],
        most_calls: 0,
        ages: Vec::new(),
        by_hour: BTreeMap::new(),
        steps: 0,
        took: Duration::ZERO,
    };
    let mut window = std::collections::VecDeque::new();
    // Everybody's requests, in order of time.
    let mut requests: BTreeMap<(u64, usize), ()> =
        people.iter().enumerate().map(|(who, person)| ((person.next_request, who), ())).collect();
    let look = |people: &[Person], who: usize| Look {
        as_of: at(people[who].as_of),
        used_at: at(people[who].used_at),
        not_before: at(people[who].not_before),
        spread: (who % 256) as u8,
    };
    for now in DAY..2 * DAY {
        let mut call = |right: Right, budget: &mut Budget, out: &mut Outcome| -> bool {
            let sent = budget.draw(right, at(now)).is_ok();
            if sent {
                out.calls[right as usize] += 1;
                window.push_back(now);
            }
            while window.front().is_some_and(|first| *first + 3_600 <= now) {
                window.pop_front();
            }
            out.most_calls = out.most_calls.max(window.len() as u64);
            sent
        };
        while let Some(((_, who), ())) = requests.first_key_value().filter(|((when, _), ())| *when <= now) {
            let who = *who;
            requests.pop_first();
            let next = now + 60 + dice.below(300);
            if next < people[who].to {
                requests.insert((next, who), ());
            }
            if people[who].signs_in {
                // The code, the profile, the addresses, the permission.
                let through = !down(now) && (0..4).all(|_| call(Right::SignIn, &mut budget, &mut out));
                if through {
                    people[who].signs_in = false;
                    people[who].as_of = now;
                    out.sign_ins.0 += 1;
                } else {
                    out.sign_ins.1 += 1;
                    continue;
                }
            }
            people[who].used_at = now;
            let fresh =
                freshness(at(people[who].as_of), at(now), ages, Bounds::default(), people[who].weather);
            if fresh != Freshness::Young && !people[who].queued {
                people[who].queued = true;
                queue.enter(who, look(&people, who), ages, at(now));
            }
            if fresh != Freshness::Stale {
                out.served += 1;
                continue;
            }
            if now >= people[who].not_before && call(Right::Waiting, &mut budget, &mut out) {
                asked(&mut people[who], now);
            }
            let person = &people[who];
            match freshness(at(person.as_of), at(now), ages, Bounds::default(), person.weather) {
                Freshness::Stale => {
                    out.refused += 1;
                    out.refused_up += u64::from(!down(now));
                }
                Freshness::Young | Freshness::Due => out.waited += 1,
            }
        }
        loop {
            out.steps += 1;
            let supply = Supply {
                per_second: budget.background_rate(at(now)),
                next_at: budget.background_at(at(now)),
            };
            match queue.step(|who| Some(look(&people, *who)), ages, supply, at(now)) {
                Step::Ask(who) => {
                    if call(Right::Background, &mut budget, &mut out) {
                        asked(&mut people[who], now);
                        queue.took(1);
                    }
                    queue.enter(who, look(&people, who), ages, at(now));
                }
                Step::Drop(who) => people[who].queued = false,
                Step::WakeAt(_) => break,
            }
        }
        if now % 60 == 0 {
            let in_use = people.iter().filter(|p| p.used_at > 0 && now - p.used_at < 600);
            let now_ages: Vec<u64> = in_use.map(|person| now - person.as_of).collect();
            out.ages.extend(&now_ages);
            let hour = out.by_hour.entry((now - DAY) / 3600).or_insert((Vec::new(), 1.0, 0));
            hour.0.extend(&now_ages);
            hour.1 = hour.1.max(queue.stretch());
            hour.2 = hour.2.max(now_ages.len() as u64);
        }
    }
    out.took = begun.elapsed();
    out
}

fn asked(person: &mut Person, now: u64) {
    if down(now) {
        person.failures += 1;
        person.weather = Weather::Outage;
        person.not_before = now + retry_after(person.failures, Weather::Outage).as_secs();
    } else {
        (person.as_of, person.failures, person.weather, person.not_before) = (now, 0, Weather::Fair, 0);
    }
}

fn percentile(sorted: &[u64], percent: usize) -> u64 {
    sorted.get((sorted.len().saturating_sub(1)) * percent / 100).copied().unwrap_or(0)
}

fn minutes(seconds: u64) -> String {
    format!("{:.1}", seconds as f64 / 60.0)
}

fn print(title: &str, mut out: Outcome) {
    println!("\n## {title}\n");
    let asked = out.served + out.waited + out.refused;
    let share = |part: u64| part as f64 * 100.0 / asked.max(1) as f64;
    println!(
        "requests: {asked}; served at once {:.2} %, after waiting {:.2} %",
        share(out.served),
        share(out.waited)
    );
    println!(
        "503: {:.2} %, of all {:.2} % while Bitbucket was up",
        share(out.refused),
        share(out.refused_up)
    );
    println!("sign-ins: {} through, {} told to come back", out.sign_ins.0, out.sign_ins.1);
    println!(
        "calls: {} sign-in, {} waiting, {} background; most in any hour: {}",
        out.calls[Right::SignIn as usize],
        out.calls[Right::Waiting as usize],
        out.calls[Right::Background as usize],
        out.most_calls
    );
    out.ages.sort_unstable();
    print!("age of memberships in use, minutes:");
    for percent in [10, 50, 90, 99, 100] {
        print!(" p{percent} {}", minutes(percentile(&out.ages, percent)));
    }
    println!("\nplanner: {} steps in {:.0?}\n", out.steps, out.took);
    println!("| hour | in use | stretch | p50 | p90 | p99 | oldest |\n|---|---|---|---|---|---|---|");
    for (hour, (ages, stretch, in_use)) in &mut out.by_hour {
        ages.sort_unstable();
        if *in_use > 0 {
            println!(
                "| {hour:02} | {in_use} | {stretch:.1} | {} | {} | {} | {} |",
                minutes(percentile(ages, 50)),
                minutes(percentile(ages, 90)),
                minutes(percentile(ages, 99)),
                minutes(percentile(ages, 100))
            );
        }
    }
}

fn main() {
    let Some(rate) = Rate::new(900, Duration::from_secs(3600)) else { return };
    let hours = |hours: u64| Duration::from_secs(hours * 3600);
    let usual = Ages {
        refresh_after: Duration::from_secs(300),
        profile_after: hours(6),
        max_age: hours(1),
        outage_grace: hours(4),
    };
    let roomy = Ages { refresh_after: hours(1), max_age: hours(24), outage_grace: hours(24), ..usual };
    println!("{} calls an hour, one listed team, outages 11:00–11:20 and 15:00–16:30", rate.count());
    print("500 people, as it is unless told otherwise: refresh_after 5m, max_age 1h", day(500, &usual, rate));
    print("5,000 people, the same", day(5_000, &usual, rate));
    print("5,000 people, refresh_after 1h, max_age 24h, outage_grace 24h", day(5_000, &roomy, rate));
}
