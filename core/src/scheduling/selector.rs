//! Comparisons of labels.

use std::collections::BTreeMap;

/// How a label (or the name) of an object is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operator {
    /// One of the values.
    In,
    /// None of the values, or absent.
    NotIn,
    /// Present.
    Exists,
    /// Absent.
    DoesNotExist,
    /// An integer above the one value.
    Gt,
    /// An integer below the one value.
    Lt,
}

/// One comparison.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Requirement {
    /// Label key.
    pub key: String,
    /// Comparison.
    pub operator: Operator,
    /// What it is compared with.
    pub values: Vec<String>,
}

impl Requirement {
    /// Whether this value of the label satisfies it; `None`: there is no such label.
    ///
    /// Nothing satisfies a comparison with a number of values that its operator cannot have.
    #[must_use]
    pub fn matches(&self, value: Option<&str>) -> bool {
        let number = |text: Option<&str>| text.and_then(|t| t.parse::<i64>().ok());
        let bound = || if self.values.len() == 1 { number(self.values.first().map(String::as_str)) } else { None };
        match self.operator {
            Operator::In => value.is_some_and(|v| self.values.iter().any(|one| one == v)),
            Operator::NotIn => !self.values.is_empty() && value.is_none_or(|v| self.values.iter().all(|one| one != v)),
            Operator::Exists => self.values.is_empty() && value.is_some(),
            Operator::DoesNotExist => self.values.is_empty() && value.is_none(),
            Operator::Gt => number(value).zip(bound()).is_some_and(|(v, least)| v > least),
            Operator::Lt => number(value).zip(bound()).is_some_and(|(v, most)| v < most),
        }
    }
}

/// A label selector.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Selector {
    /// Absent in the manifest: matches nothing.
    #[default]
    Nothing,
    /// All must hold; without any it matches everything.
    All(Vec<Requirement>),
}

impl Selector {
    /// Whether these labels match.
    #[must_use]
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        match self {
            Self::Nothing => false,
            Self::All(requirements) => requirements.iter().all(|r| r.matches(labels.get(&r.key).map(String::as_str))),
        }
    }
}
