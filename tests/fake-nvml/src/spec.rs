//! What GPUs a node has.

use crate::mig::Layout;
use crate::model::Model;

/// The highest number of GPUs on one node.
pub const MAXIMUM: usize = 16;

/// What GPUs a node has, and its driver.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// In the order in which the driver counts.
    pub gpus: Vec<(&'static Model, Option<Layout>)>,
    /// Version of the driver.
    pub driver: String,
    /// Nodes with different seeds have different UUIDs, serial numbers and phases; None: follows from the control file.
    pub seed: Option<u64>,
}

/// Why a specification or command cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid(pub String);

impl std::fmt::Display for Invalid {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(&self.0)
    }
}

impl std::error::Error for Invalid {}

impl From<std::io::Error> for Invalid {
    fn from(error: std::io::Error) -> Self {
        Self(error.to_string())
    }
}

pub(crate) fn invalid<T>(text: impl Into<String>) -> Result<T, Invalid> {
    Err(Invalid(text.into()))
}

impl Spec {
    /// Reads `GPUS [driver=VERSION] [seed=NUMBER]`, where GPUS is a list of `MODEL[/LAYOUT][:COUNT]` joined by `+`, such as
    /// `h100:8`, `a100/3g.40gb,2g.20gb,1g.10gb*2:4+l40s:2`, or `mixed`. A layout `on` divides a GPU into nothing yet.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let mut words = text.split_whitespace();
        let list = words.next().unwrap_or_default();
        let mut spec = Self { gpus: gpus(list)?, driver: "580.95.05".to_owned(), seed: None };
        for word in words {
            match word.split_once('=') {
                Some(("driver", version)) => version.clone_into(&mut spec.driver),
                Some(("seed", seed)) => match seed.parse() {
                    Ok(seed) => spec.seed = Some(seed),
                    Err(_) => return invalid(format!("{seed} is no number for a seed")),
                },
                _ => return invalid(format!("{word}: a node has GPUs, driver=VERSION and seed=NUMBER")),
            }
        }
        Ok(spec)
    }
}

fn gpus(list: &str) -> Result<Vec<(&'static Model, Option<Layout>)>, Invalid> {
    let list = match list {
        "mixed" => "h100:2+a100/3g.40gb,2g.20gb,1g.10gb*2:1+l40s:2+rtx4090:1",
        "none" => return Ok(Vec::new()),
        list => list,
    };
    let mut gpus = Vec::new();
    for group in list.split('+').filter(|group| !group.is_empty()) {
        let (kind, count) = match group.rsplit_once(':') {
            Some((kind, count)) => (kind, count.parse::<usize>().unwrap_or(MAXIMUM + 1)),
            None => (group, 1),
        };
        let (key, layout) = match kind.split_once('/') {
            Some((key, layout)) => (key, Some(layout)),
            None => (kind, None),
        };
        let Some(model) = Model::find(key) else { return invalid(format!("no model {key} is known")) };
        let layout = layout.map(|layout| read_layout(model, layout)).transpose()?;
        if gpus.len() + count > MAXIMUM {
            return invalid(format!("{group}: a node has at most {MAXIMUM} GPUs"));
        }
        gpus.extend(std::iter::repeat_n((model, layout), count));
    }
    if gpus.is_empty() { invalid("a node needs a list of GPUs, such as h100:8, mixed, or none") } else { Ok(gpus) }
}

/// Reads a division of a model.
pub(crate) fn read_layout(model: &'static Model, text: &str) -> Result<Layout, Invalid> {
    let Some(table) = model.mig else { return invalid(format!("{} cannot be divided", model.key)) };
    if text == "on" {
        return Ok(Layout::default());
    }
    match Layout::parse(text) {
        Some(layout) if crate::mig::place(table, &layout).is_some() => Ok(layout),
        _ => invalid(format!("{text} does not fit on {}", model.key)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specifications_name_models_counts_and_divisions() {
        for (text, count) in [("h100:8", 8), ("mixed", 6), ("none", 0), ("rtx4090", 1), ("h100:8+l40s:8 seed=3", 16)] {
            assert_eq!(Spec::parse(text).map(|spec| spec.gpus.len()), Ok(count), "{text}");
        }
        for text in
            ["", "h100:17", "h1000", "l40s/1g.10gb", "a100/4g.40gb*2", "h100:8 colour=red", "h100:x", "h100 seed=x"]
        {
            assert!(Spec::parse(text).is_err(), "{text}");
        }
    }
}
