//! One field of a policy over several values, and which of the results nothing beats.

use std::str::FromStr;

use super::error::EvalError;

/// A field and the values that it takes, as they were written: `tokens_threshold=0.1,0.2,0.4`. What a field may be is
/// for the policy to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sweep {
    /// The field.
    pub field: String,
    /// Its values, in the order given.
    pub values: Vec<String>,
}

/// One choice of a value for each swept field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SweepPoint {
    /// Field and value, in the order of the sweeps.
    pub fields: Vec<(String, String)>,
}

impl FromStr for Sweep {
    type Err = EvalError;

    fn from_str(spec: &str) -> Result<Self, EvalError> {
        let failed = |problem: &str| EvalError::Sweep {
            spec: spec.to_owned(),
            problem: problem.to_owned(),
        };
        let (field, values) = spec.split_once('=').ok_or_else(|| failed("has no '='"))?;
        let values: Vec<String> = values.split(',').map(|value| value.trim().to_owned()).collect();
        let repeated = values
            .iter()
            .enumerate()
            .find(|(i, value)| values[..*i].contains(value));
        match (field.trim(), repeated) {
            ("", _) => Err(failed("has no field")),
            _ if values.iter().any(String::is_empty) => Err(failed("has an empty value")),
            (_, Some((_, value))) => Err(failed(&format!("has the value {value} twice"))),
            (field, None) => Ok(Self {
                field: field.to_owned(),
                values,
            }),
        }
    }
}

impl SweepPoint {
    /// `tokens_threshold=0.1 exit_layers=2`
    pub fn label(&self) -> String {
        let fields = self
            .fields
            .iter()
            .map(|(field, value)| format!("{field}={value}"));
        fields.collect::<Vec<_>>().join(" ")
    }
}

/// Every combination of the sweeps' values, the last sweep's running fastest. One empty point without sweeps.
///
/// # Errors
/// [`EvalError::Sweep`] if two sweeps are of the same field.
pub fn points(sweeps: &[Sweep]) -> Result<Vec<SweepPoint>, EvalError> {
    let mut points = vec![SweepPoint { fields: Vec::new() }];
    for (i, sweep) in sweeps.iter().enumerate() {
        if sweeps[..i].iter().any(|other| other.field == sweep.field) {
            return Err(EvalError::Sweep {
                spec: format!("{}={}", sweep.field, sweep.values.join(",")),
                problem: "is the second one of this field".to_owned(),
            });
        }
        let with = |point: &SweepPoint, value: &String| {
            let mut fields = point.fields.clone();
            fields.push((sweep.field.clone(), value.clone()));
            SweepPoint { fields }
        };
        points = points
            .iter()
            .flat_map(|point| sweep.values.iter().map(move |value| with(point, value)))
            .collect();
    }
    Ok(points)
}

/// For each `(cost, accuracy)` whether it is on the Pareto front: no other point costs no more and is at least as
/// accurate, and better in one of the two. Equal points are on it together.
pub fn pareto_front(points: &[(f64, f64)]) -> Vec<bool> {
    let beats = |(cost, accuracy): (f64, f64), (other_cost, other_accuracy): (f64, f64)| {
        cost <= other_cost && accuracy >= other_accuracy && (cost < other_cost || accuracy > other_accuracy)
    };
    points
        .iter()
        .map(|&point| !points.iter().any(|&other| beats(other, point)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sweep_reads_its_field_and_values() {
        let sweep: Sweep = "tokens_threshold=0.1, 0.2,0.4".parse().unwrap();
        assert_eq!(
            (sweep.field.as_str(), sweep.values),
            ("tokens_threshold", vec!["0.1".into(), "0.2".into(), "0.4".into()])
        );
        for (spec, problem) in [
            ("keep", "no '='"),
            ("=1,2", "no field"),
            ("keep=", "empty value"),
            ("keep=1,,2", "empty value"),
            ("keep=8,16,8", "the value 8 twice"),
        ] {
            let message = spec.parse::<Sweep>().unwrap_err().to_string();
            assert!(
                message.contains(problem) && message.contains("FIELD=VALUE"),
                "{message}"
            );
        }
    }

    #[test]
    fn sweeps_multiply() {
        let sweeps: Vec<Sweep> = ["keep=8,16", "fusion_layer=3,4"]
            .iter()
            .map(|spec| spec.parse().unwrap())
            .collect();
        let labels: Vec<String> = points(&sweeps).unwrap().iter().map(SweepPoint::label).collect();
        assert_eq!(
            labels,
            [
                "keep=8 fusion_layer=3",
                "keep=8 fusion_layer=4",
                "keep=16 fusion_layer=3",
                "keep=16 fusion_layer=4"
            ]
        );
        assert_eq!(points(&[]).unwrap().len(), 1);
        let twice = [sweeps[0].clone(), sweeps[0].clone()];
        assert!(points(&twice).unwrap_err().to_string().contains("second one"));
    }

    /// (1, 90) is beaten by (1, 95); (3, 95) by (1, 95); the equal pair stays.
    #[test]
    fn what_nothing_beats() {
        let points = [
            (1.0, 90.0),
            (1.0, 95.0),
            (0.5, 80.0),
            (3.0, 95.0),
            (4.0, 99.0),
            (4.0, 99.0),
        ];
        assert_eq!(pareto_front(&points), [false, true, true, false, true, true]);
        assert_eq!(pareto_front(&[]), [false; 0]);
    }
}
