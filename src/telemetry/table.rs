//! How metrics are made: families with fixed labels, and the table that registers and documents them.
//!
//! Owns: [`Family`], `Table`, the buckets of histograms. Must not know: any single metric; those are in
//! `metrics`.

use std::marker::PhantomData;
use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{
    Counter, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry,
};

use super::labels::{Decision, Labels, StatusClass};
use super::metrics::Error;
use super::reference::Row;

/// The members of a family, one for each value of `L`, resolved beforehand.
#[derive(Debug)]
pub struct Family<L, M> {
    members: Box<[M]>,
    by: PhantomData<L>,
}

/// Counters, one for each value of `L`.
pub type Counters<L> = Family<L, IntCounter>;
/// Gauges, one for each value of `L`.
pub type Gauges<L> = Family<L, IntGauge>;
/// Histograms, one for each value of `L`.
pub type Histograms<L> = Family<L, Histogram>;

impl<L: Labels, M> Family<L, M> {
    /// The member for `label`.
    pub fn of(&self, label: L) -> &M {
        &self.members[label.index()]
    }

    fn new(member: impl Fn(&[&'static str]) -> M) -> Family<L, M> {
        Family { members: L::all().into_iter().map(|l| member(&l.values())).collect(), by: PhantomData }
    }
}

impl<L: Labels> Family<L, IntCounter> {
    /// One more.
    pub fn inc(&self, label: L) {
        self.of(label).inc();
    }
}

impl<L: Labels> Family<L, Histogram> {
    /// One took this long.
    pub fn observe(&self, label: L, took: Duration) {
        self.of(label).observe(took.as_secs_f64());
    }
}

/// The unit of a value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Unit {
    None,
    Seconds,
    Bytes,
}

/// 5 µs to 5 s in steps of 1-2-5: gate time lives at the lower end, waiting for Bitbucket at the upper.
pub(super) const LADDER: [f64; 19] = [
    5e-6, 1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.2, 0.5, 1.0, 2.0,
    5.0,
];

/// 0.5 ms to 60 s: what goes over a network.
pub(super) const SLOW_LADDER: [f64; 16] =
    [5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0];

const CERTIFICATE: &str = "the `cert` (or `client_ca`) file as the configuration has it";

const ROUTE: &str = "a route's name in the configuration, `(own)` or `(none)`";

const UPSTREAM: &str = "a URL of an upstream in the configuration";

/// No label.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Alone;

impl Labels for Alone {
    fn columns() -> Vec<(&'static str, Vec<&'static str>)> {
        Vec::new()
    }

    fn all() -> Vec<Alone> {
        vec![Alone]
    }

    fn values(self) -> Vec<&'static str> {
        Vec::new()
    }

    fn index(self) -> usize {
        0
    }
}

/// What `Metrics::new` writes its table with: registers each metric and notes its row of the reference.
pub(super) struct Table {
    pub(super) registry: Registry,
    pub(super) rows: Vec<Row>,
}

impl Table {
    pub(super) fn counter(
        &mut self,
        name: &'static str,
        help: &'static str,
        watch: &'static str,
    ) -> Result<IntCounter, Error> {
        self.note(name, "counter", Vec::new(), Unit::None, help, watch);
        self.register(IntCounter::new(name, help)?)
    }

    pub(super) fn gauge(
        &mut self,
        name: &'static str,
        help: &'static str,
        watch: &'static str,
    ) -> Result<IntGauge, Error> {
        self.gauge_in(name, help, Unit::None, watch)
    }

    pub(super) fn gauge_in(
        &mut self,
        name: &'static str,
        help: &'static str,
        unit: Unit,
        watch: &'static str,
    ) -> Result<IntGauge, Error> {
        self.note(name, "gauge", Vec::new(), unit, help, watch);
        self.register(IntGauge::new(name, help)?)
    }

    pub(super) fn seconds_counter(
        &mut self,
        name: &'static str,
        help: &'static str,
        watch: &'static str,
    ) -> Result<Counter, Error> {
        self.note(name, "counter", Vec::new(), Unit::Seconds, help, watch);
        self.register(Counter::new(name, help)?)
    }

    pub(super) fn section(&mut self, title: &'static str) {
        self.rows.push(Row::Section(title));
    }

    pub(super) fn seconds(
        &mut self,
        name: &'static str,
        help: &'static str,
        watch: &'static str,
    ) -> Result<Gauge, Error> {
        self.float(name, help, Unit::Seconds, watch)
    }

    pub(super) fn float(
        &mut self,
        name: &'static str,
        help: &'static str,
        unit: Unit,
        watch: &'static str,
    ) -> Result<Gauge, Error> {
        self.note(name, "gauge", Vec::new(), unit, help, watch);
        self.register(Gauge::new(name, help)?)
    }

    pub(super) fn counters<L: Labels>(
        &mut self,
        name: &'static str,
        help: &'static str,
        watch: &'static str,
    ) -> Result<Counters<L>, Error> {
        self.note(name, "counter", columns::<L>(), Unit::None, help, watch);
        let family = self.register(IntCounterVec::new(Opts::new(name, help), &names::<L>())?)?;
        Ok(Family::new(|values| family.with_label_values(values)))
    }

    pub(super) fn gauges<L: Labels>(
        &mut self,
        name: &'static str,
        help: &'static str,
        watch: &'static str,
    ) -> Result<Gauges<L>, Error> {
        self.note(name, "gauge", columns::<L>(), Unit::None, help, watch);
        let family = self.register(IntGaugeVec::new(Opts::new(name, help), &names::<L>())?)?;
        Ok(Family::new(|values| family.with_label_values(values)))
    }

    pub(super) fn histograms<L: Labels>(
        &mut self,
        name: &'static str,
        help: &'static str,
        watch: &'static str,
    ) -> Result<Histograms<L>, Error> {
        self.note(name, "histogram", columns::<L>(), Unit::Seconds, help, watch);
        let opts = HistogramOpts::new(name, help).buckets(SLOW_LADDER.to_vec());
        let family = self.register(HistogramVec::new(opts, &names::<L>())?)?;
        Ok(Family::new(|values| family.with_label_values(values)))
    }

    pub(super) fn by_route(
        &mut self,
        name: &'static str,
        help: &'static str,
        buckets: &[f64],
        watch: &'static str,
    ) -> Result<HistogramVec, Error> {
        self.note(name, "histogram", vec![("route", ROUTE.to_owned())], Unit::Seconds, help, watch);
        let opts = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        self.register(HistogramVec::new(opts, &["route"])?)
    }

    pub(super) fn by_certificate(
        &mut self,
        name: &'static str,
        help: &'static str,
        watch: &'static str,
    ) -> Result<GaugeVec, Error> {
        self.note(name, "gauge", vec![("certificate", CERTIFICATE.to_owned())], Unit::Seconds, help, watch);
        self.register(GaugeVec::new(Opts::new(name, help), &["certificate"])?)
    }

    pub(super) fn flag_by_certificate(
        &mut self,
        name: &'static str,
        help: &'static str,
        watch: &'static str,
    ) -> Result<IntGaugeVec, Error> {
        self.note(name, "gauge", vec![("certificate", CERTIFICATE.to_owned())], Unit::None, help, watch);
        self.register(IntGaugeVec::new(Opts::new(name, help), &["certificate"])?)
    }

    pub(super) fn requests(
        &mut self,
        name: &'static str,
        help: &'static str,
        watch: &'static str,
    ) -> Result<IntCounterVec, Error> {
        type Rest = (Decision, StatusClass);
        let columns = [vec![("route", ROUTE.to_owned())], columns::<Rest>()].concat();
        self.note(name, "counter", columns, Unit::None, help, watch);
        let names = [vec!["route"], names::<Rest>()].concat();
        self.register(IntCounterVec::new(Opts::new(name, help), &names)?)
    }

    /// Counters by upstream, and by what else `L` says.
    pub(super) fn by_upstream<L: Labels>(
        &mut self,
        name: &'static str,
        help: &'static str,
        watch: &'static str,
    ) -> Result<IntCounterVec, Error> {
        let labels = [vec![("upstream", UPSTREAM.to_owned())], columns::<L>()].concat();
        self.note(name, "counter", labels, Unit::None, help, watch);
        let names = [vec!["upstream"], names::<L>()].concat();
        self.register(IntCounterVec::new(Opts::new(name, help), &names)?)
    }

    pub(super) fn upstreams(
        &mut self,
        name: &'static str,
        help: &'static str,
        watch: &'static str,
    ) -> Result<IntGaugeVec, Error> {
        self.info(name, help, &[("upstream", UPSTREAM)], watch)
    }

    pub(super) fn info(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: &[(&'static str, &str)],
        watch: &'static str,
    ) -> Result<IntGaugeVec, Error> {
        let columns = labels.iter().map(|(label, values)| (*label, (*values).to_owned())).collect();
        self.note(name, "gauge", columns, Unit::None, help, watch);
        let names: Vec<&str> = labels.iter().map(|(label, _)| *label).collect();
        self.register(IntGaugeVec::new(Opts::new(name, help), &names)?)
    }

    fn register<C: Collector + Clone + 'static>(&self, collector: C) -> Result<C, Error> {
        self.registry.register(Box::new(collector.clone()))?;
        Ok(collector)
    }

    fn note(
        &mut self,
        name: &'static str,
        kind: &'static str,
        labels: Vec<(&'static str, String)>,
        unit: Unit,
        help: &'static str,
        watch: &'static str,
    ) {
        self.rows.push(Row::Metric { name, kind, labels, unit, help, watch });
    }
}

fn columns<L: Labels>() -> Vec<(&'static str, String)> {
    let quoted = |values: Vec<&str>| values.iter().map(|v| format!("`{v}`")).collect::<Vec<_>>().join(" ");
    L::columns().into_iter().map(|(name, values)| (name, quoted(values))).collect()
}

fn names<L: Labels>() -> Vec<&'static str> {
    L::columns().into_iter().map(|(name, _)| name).collect()
}
