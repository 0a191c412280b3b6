//! What a window computes: expressions read from each event once, and totals that add them up.
//!
//! ```text
//!   event ─ read ─▶ values ─ add ─▶ Totals of a pane ─ merge ─▶ Totals of a window ─ write ─▶ fields
//! ```
//!
//! An event counts in every total or, where one expression fails on it, in none.

use sidestream_event::{Event, Map, Text, Timestamp, Value};
use sidestream_expr::Type;
use sidestream_plan::{Expression, stage};

use super::{
    rate::{Rate, Sample},
    sketch::Sketch,
};
use crate::operator::{
    BuildError,
    expression::{Formula, Unusable},
};

/// What to compute, and from what.
pub(super) struct Aggregates {
    /// Each expression once, however many aggregates use it.
    inputs: Vec<Input>,
    /// Each aggregate, with the index of its input.
    kinds: Vec<(Kind, usize)>,
}

enum Input {
    /// 1 for every event.
    One,
    /// 1 where it says yes, else 0.
    Test(Formula),
    Number {
        source: String,
        formula: Formula,
    },
}

enum Kind {
    Count,
    Sum,
    Min,
    Max,
    Mean,
    Rate,
    /// Shares, with the names of their fields.
    Quantiles(Vec<(f64, Text)>),
}

/// Everything known of the events of a span.
#[derive(Clone, Debug)]
pub(super) struct Totals(Box<[Total]>);

#[derive(Clone, Debug)]
enum Total {
    Count(u64),
    Sum(f64),
    Min(f64),
    Max(f64),
    Mean { sum: f64, count: u64 },
    Rate(Rate),
    Quantiles(Sketch),
}

impl Aggregates {
    pub(super) fn new(config: &stage::Aggregates, input: &Type) -> Result<Self, BuildError> {
        let mut own = Self { inputs: Vec::new(), kinds: Vec::new() };
        if let Some(source) = &config.count {
            let index = own.test(source, input)?;
            own.kinds.push((Kind::Count, index));
        }
        let numbers = [
            ("emit.sum", Kind::Sum, &config.sum),
            ("emit.min", Kind::Min, &config.min),
            ("emit.max", Kind::Max, &config.max),
            ("emit.mean", Kind::Mean, &config.mean),
            ("emit.rate", Kind::Rate, &config.rate),
        ];
        for (setting, kind, source) in numbers {
            if let Some(source) = source {
                let index = own.number(setting, source, input)?;
                own.kinds.push((kind, index));
            }
        }
        if let Some(quantile) = &config.quantile {
            if quantile.at.is_empty() || quantile.at.iter().any(|at| !(0.0..=1.0).contains(at)) {
                return Err(BuildError::setting(
                    "emit.quantile.at",
                    "names shares from 0 to 1: `[0.5, 0.99]`",
                ));
            }
            let index = own.number("emit.quantile.of", &quantile.of, input)?;
            let shares = quantile.at.iter().map(|at| (*at, stage::Quantile::field(*at).into())).collect();
            own.kinds.push((Kind::Quantiles(shares), index));
        }
        if own.kinds.is_empty() {
            return Err(BuildError::setting(
                "emit",
                "names nothing to compute; write `count: 'true'` to count events",
            ));
        }
        Ok(own)
    }

    /// Reads from `event` what the totals need, into `values`.
    pub(super) fn read(&self, event: &Event, values: &mut Vec<f64>) -> Result<(), Unusable<'_>> {
        values.clear();
        for input in &self.inputs {
            values.push(match input {
                Input::One => 1.0,
                Input::Test(formula) => f64::from(u8::from(formula.test(event)?)),
                Input::Number { formula, .. } => formula.finite(event)?,
            });
        }
        Ok(())
    }

    /// Totals of no event.
    pub(super) fn fresh(&self) -> Totals {
        let fresh = |kind: &Kind| match kind {
            Kind::Count => Total::Count(0),
            Kind::Sum => Total::Sum(0.0),
            Kind::Min => Total::Min(f64::INFINITY),
            Kind::Max => Total::Max(f64::NEG_INFINITY),
            Kind::Mean => Total::Mean { sum: 0.0, count: 0 },
            Kind::Rate => Total::Rate(Rate::default()),
            Kind::Quantiles(_) => Total::Quantiles(Sketch::new()),
        };
        Totals(self.kinds.iter().map(|(kind, _)| fresh(kind)).collect())
    }

    /// Adds an event, of which `values` were read.
    pub(super) fn add(&self, totals: &mut Totals, values: &[f64], time: Timestamp) {
        for (total, (_, index)) in totals.0.iter_mut().zip(&self.kinds) {
            let value = values[*index];
            match total {
                Total::Count(count) => *count += u64::from(value != 0.0),
                Total::Sum(sum) => *sum += value,
                Total::Min(min) => *min = min.min(value),
                Total::Max(max) => *max = max.max(value),
                Total::Mean { sum, count } => {
                    *sum += value;
                    *count += 1;
                }
                Total::Rate(rate) => rate.add(Sample { time, value }),
                Total::Quantiles(sketch) => sketch.add(value),
            }
        }
    }

    /// Adds a field to `fields` for each aggregate.
    pub(super) fn write(&self, totals: &Totals, fields: &mut Map) {
        for (total, (kind, _)) in totals.0.iter().zip(&self.kinds) {
            let (name, value) = match total {
                Total::Count(count) => ("count", Value::Int(i64::try_from(*count).unwrap_or(i64::MAX))),
                Total::Sum(sum) => ("sum", Value::Float(*sum)),
                Total::Min(min) => ("min", Value::Float(*min)),
                Total::Max(max) => ("max", Value::Float(*max)),
                Total::Mean { sum, count } => ("mean", Value::Float(*sum / *count as f64)),
                Total::Rate(rate) => ("rate", rate.per_second().map_or(Value::Null, Value::Float)),
                Total::Quantiles(sketch) => {
                    if let Kind::Quantiles(shares) = kind {
                        shares
                            .iter()
                            .for_each(|(at, name)| fields.insert(name.clone(), sketch.quantile(*at)));
                    }
                    continue;
                }
            };
            fields.push_new(name.into(), value);
        }
    }

    fn test(&mut self, source: &Expression, input: &Type) -> Result<usize, BuildError> {
        if source.source().trim() == "true" {
            return Ok(self.input(Input::One));
        }
        let formula = Formula::condition("emit.count", source, input)?;
        Ok(self.input(Input::Test(formula)))
    }

    fn number(&mut self, setting: &str, source: &Expression, input: &Type) -> Result<usize, BuildError> {
        let same = |own: &Input| matches!(own, Input::Number { source: own, .. } if own == source.source());
        if let Some(index) = self.inputs.iter().position(same) {
            return Ok(index);
        }
        let formula = Formula::new(setting, source, input)?;
        Ok(self.input(Input::Number { source: source.source().into(), formula }))
    }

    fn input(&mut self, input: Input) -> usize {
        self.inputs.push(input);
        self.inputs.len() - 1
    }
}

impl Totals {
    /// Makes these the totals of no event, after the last sample of a counter before them; keeps the storage.
    pub(super) fn reset(&mut self, base: Option<Sample>) {
        for total in &mut self.0 {
            match total {
                Total::Count(count) => *count = 0,
                Total::Sum(sum) => *sum = 0.0,
                Total::Min(min) => *min = f64::INFINITY,
                Total::Max(max) => *max = f64::NEG_INFINITY,
                Total::Mean { sum, count } => (*sum, *count) = (0.0, 0),
                Total::Rate(rate) => *rate = Rate::after(base),
                Total::Quantiles(sketch) => sketch.reset(),
            }
        }
    }

    /// Adds the totals of a later span.
    pub(super) fn merge(&mut self, later: &Totals) {
        for (total, later) in self.0.iter_mut().zip(&later.0) {
            match (total, later) {
                (Total::Count(count), Total::Count(more)) => *count += more,
                (Total::Sum(sum), Total::Sum(more)) => *sum += more,
                (Total::Min(min), Total::Min(more)) => *min = min.min(*more),
                (Total::Max(max), Total::Max(more)) => *max = max.max(*more),
                (Total::Mean { sum, count }, Total::Mean { sum: more, count: counted }) => {
                    *sum += more;
                    *count += counted;
                }
                (Total::Rate(rate), Total::Rate(more)) => rate.merge(more),
                (Total::Quantiles(sketch), Total::Quantiles(more)) => sketch.merge(more),
                _ => unreachable!("totals of one window are of the same kinds in the same order"),
            }
        }
    }

    /// The last sample of the counter, where there is a rate.
    pub(super) fn last_sample(&self) -> Option<Sample> {
        self.0.iter().find_map(|total| match total {
            Total::Rate(rate) => rate.last(),
            _ => None,
        })
    }
}
