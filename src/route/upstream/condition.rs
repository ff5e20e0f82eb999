//! Whether an upstream gets requests, by what its checks and its requests came to.
//!
//! Owns: [`Checked`] (active checks), [`Streak`] (failures of requests). Pure.
//! Must not know: how a check is made, timers.

use super::app::{Ejection, HealthCheck};

/// What checks of an upstream have come to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Checked {
    standing: Standing,
    /// Results in a row that contradict it.
    against: u32,
}

/// Whether an upstream is well.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Standing {
    /// Nothing is known: it is taken to be well.
    #[default]
    Unknown,
    /// It is.
    Healthy,
    /// It is not.
    Unhealthy,
}

/// How a check ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// As it should.
    Good,
    /// Otherwise.
    Bad,
}

impl Checked {
    /// Takes another result into account. The first one decides at once: a gateway that starts must not send
    /// people to an app that is known to be down. Says whether the standing has changed to well or ill.
    pub fn observe(&mut self, outcome: Outcome, check: &HealthCheck) -> Option<Standing> {
        let (said, needed) = match outcome {
            Outcome::Good => (Standing::Healthy, check.healthy_after),
            Outcome::Bad => (Standing::Unhealthy, check.unhealthy_after),
        };
        if self.standing == said {
            self.against = 0;
            return None;
        }
        self.against += 1;
        if self.standing != Standing::Unknown && self.against < needed {
            return None;
        }
        let was = std::mem::replace(self, Checked { standing: said, against: 0 });
        // What was taken to be well and is well is no news.
        (was.standing != Standing::Unknown || said == Standing::Unhealthy).then_some(said)
    }
}

/// Failures of requests in a row.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Streak(pub u32);

impl Streak {
    /// One more failure: the streak then, and whether it is time to leave the upstream alone. An upstream that
    /// comes back after that is left alone again at its first failure.
    pub fn failed(self, ejection: &Ejection) -> (Streak, Eject) {
        let failures = self.0.saturating_add(1);
        if failures < ejection.after {
            return (Streak(failures), Eject::No);
        }
        (Streak(ejection.after.saturating_sub(1)), Eject::Yes)
    }
}

/// Whether to leave an upstream alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Eject {
    /// For a while.
    Yes,
    /// It goes on.
    No,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::app::{Probe, ServerErrors};
    use super::*;

    #[test]
    fn a_standing_changes_by_results_in_a_row_and_the_first_one_at_once() {
        use Outcome::{Bad, Good};
        use Standing::{Healthy, Unhealthy};

        let check = HealthCheck {
            probe: Probe::Tcp,
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(5),
            healthy_after: 2,
            unhealthy_after: 3,
        };
        for (results, expected) in [
            (
                &[Good, Bad, Bad, Good, Bad, Bad, Bad][..],
                &[None, None, None, None, None, None, Some(Unhealthy)][..],
            ),
            (&[Bad, Good, Bad, Good, Good, Bad], &[Some(Unhealthy), None, None, None, Some(Healthy), None]),
            (&[Bad, Bad, Bad, Bad], &[Some(Unhealthy), None, None, None]),
        ] {
            let mut checked = Checked::default();
            let changes: Vec<_> = results.iter().map(|outcome| checked.observe(*outcome, &check)).collect();
            assert_eq!(changes, expected, "{results:?}");
        }
    }

    #[test]
    fn failures_in_a_row_eject_and_the_first_one_after_that_ejects_again() {
        let span = Duration::from_secs(30);
        let ejection = Ejection { after: 3, span, server_errors: ServerErrors::Pass };
        let mut streak = Streak::default();
        for expected in [Eject::No, Eject::No, Eject::Yes, Eject::Yes] {
            let (next, eject) = streak.failed(&ejection);
            assert_eq!(eject, expected);
            streak = next;
        }
        let (next, eject) = Streak::default().failed(&Ejection { after: 1, ..ejection });
        assert_eq!((next, eject), (Streak(0), Eject::Yes));
    }
}
