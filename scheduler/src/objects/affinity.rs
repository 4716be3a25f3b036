//! What a pod says of nodes and of other pods: selectors, affinities, tolerations, spread constraints.

use std::collections::{BTreeMap, BTreeSet};

use atoll_core::scheduling::{
    Coupling, Effect, NodeTerm, Operator, PodTerm, Requirement, Selector, Spread, Toleration, TolerationValue,
};

use super::NotSupported;
use crate::proto::{
    Affinity, LabelSelector, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodAffinityTerm,
    TopologySpreadConstraint,
};

const FIELD_NAME: &str = "metadata.name";

pub(super) fn effect(effect: &str) -> Option<Effect> {
    match effect {
        "NoSchedule" => Some(Effect::NoSchedule),
        "NoExecute" => Some(Effect::NoExecute),
        "PreferNoSchedule" => Some(Effect::PreferNoSchedule),
        _ => None,
    }
}

/// A toleration out of its four fields, whatever they were read from.
pub(super) fn toleration(key: &str, operator: &str, value: &str, eff: &str) -> Result<Toleration, NotSupported> {
    let not_supported = |what: &str| NotSupported::Toleration(what.to_owned());
    let number = || value.parse::<i64>().map_err(|_| not_supported(&format!("{operator} {value}")));
    let value = match operator {
        "Exists" => TolerationValue::Any,
        "" | "Equal" => TolerationValue::Equal(value.to_owned()),
        "Gt" => TolerationValue::Above(number()?),
        "Lt" => TolerationValue::Below(number()?),
        other => return Err(not_supported(other)),
    };
    let effect = match eff {
        "" => None,
        other => Some(effect(other).ok_or_else(|| not_supported(other))?),
    };
    Ok(Toleration { key: Some(key.to_owned()).filter(|key| !key.is_empty()), value, effect })
}

/// Terms of which one must match; `None` where there is no constraint at all.
pub(super) fn required_nodes(affinity: Option<&NodeAffinity>) -> Result<Option<Vec<NodeTerm>>, NotSupported> {
    affinity.and_then(|a| a.required.as_ref()).map(node_terms).transpose()
}

pub(super) fn node_terms(selector: &NodeSelector) -> Result<Vec<NodeTerm>, NotSupported> {
    selector.node_selector_terms.iter().map(node_term).collect()
}

/// Terms without weight and terms without comparisons say nothing.
pub(super) fn preferred_nodes(affinity: Option<&NodeAffinity>) -> Result<Vec<(i32, NodeTerm)>, NotSupported> {
    let preferred = affinity.into_iter().flat_map(|a| &a.preferred).filter(|term| term.weight != 0);
    let mut all = Vec::new();
    for term in preferred {
        let Some(preference) = &term.preference else { continue };
        let node = node_term(preference)?;
        if node != NodeTerm::default() {
            all.push((term.weight, node));
        }
    }
    Ok(all)
}

fn node_term(term: &NodeSelectorTerm) -> Result<NodeTerm, NotSupported> {
    if let Some(other) = term.match_fields.iter().find(|r| r.key != FIELD_NAME) {
        return Err(NotSupported::NodeAffinity(other.key.clone()));
    }
    Ok(NodeTerm { labels: node_requirements(&term.match_expressions)?, name: node_requirements(&term.match_fields)? })
}

fn node_requirements(requirements: &[NodeSelectorRequirement]) -> Result<Vec<Requirement>, NotSupported> {
    requirements.iter().map(node_requirement).collect()
}

fn node_requirement(requirement: &NodeSelectorRequirement) -> Result<Requirement, NotSupported> {
    let operator = match requirement.operator.as_str() {
        "In" => Operator::In,
        "NotIn" => Operator::NotIn,
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        "Gt" => Operator::Gt,
        "Lt" => Operator::Lt,
        other => return Err(NotSupported::NodeAffinity(other.to_owned())),
    };
    Ok(Requirement { key: requirement.key.clone(), operator, values: requirement.values.clone() })
}

/// An absent selector matches nothing, an empty one everything.
pub(super) fn selector(selector: Option<&LabelSelector>) -> Result<Selector, NotSupported> {
    let Some(selector) = selector else { return Ok(Selector::Nothing) };
    let mut all: Vec<Requirement> =
        selector.match_labels.iter().map(|(key, value)| equals(key.clone(), value.clone())).collect();
    for expression in &selector.match_expressions {
        let operator = match expression.operator.as_str() {
            "In" => Operator::In,
            "NotIn" => Operator::NotIn,
            "Exists" => Operator::Exists,
            "DoesNotExist" => Operator::DoesNotExist,
            other => return Err(NotSupported::Selector(other.to_owned())),
        };
        all.push(Requirement { key: expression.key.clone(), operator, values: expression.values.clone() });
    }
    Ok(Selector::All(all))
}

fn equals(key: String, value: String) -> Requirement {
    Requirement { key, operator: Operator::In, values: vec![value] }
}

/// What a pod of this namespace asks of other pods by its affinities.
pub(super) fn coupling(affinity: Option<&Affinity>, namespace: &str) -> Result<Coupling, NotSupported> {
    let mut coupling = Coupling::default();
    let Some(affinity) = affinity else { return Ok(coupling) };
    let term = |term: &PodAffinityTerm| pod_term(term, namespace);
    for (pods, sign) in [(&affinity.pod_affinity, 1), (&affinity.pod_anti_affinity, -1)] {
        let Some(pods) = pods else { continue };
        let required: Vec<PodTerm> = pods.required.iter().map(term).collect::<Result<_, _>>()?;
        if sign > 0 {
            coupling.affinity = required;
        } else {
            coupling.anti_affinity = required;
        }
        for preferred in &pods.preferred {
            if let Some(of) = preferred.pod_affinity_term.as_ref().filter(|_| preferred.weight != 0) {
                coupling.preferred.push((sign * preferred.weight, term(of)?));
            }
        }
    }
    Ok(coupling)
}

/// The pod's own namespace is meant where neither namespaces nor a selector of them are given.
fn pod_term(term: &PodAffinityTerm, namespace: &str) -> Result<PodTerm, NotSupported> {
    let mut namespaces: BTreeSet<String> = term.namespaces.iter().cloned().collect();
    if namespaces.is_empty() && term.namespace_selector.is_none() {
        namespaces.insert(namespace.to_owned());
    }
    Ok(PodTerm {
        topology_key: term.topology_key.clone(),
        pods: selector(term.label_selector.as_ref())?,
        namespaces,
        namespace_selector: selector(term.namespace_selector.as_ref())?,
    })
}

/// A spread constraint of a pod with these labels.
pub(super) fn spread(
    constraint: &TopologySpreadConstraint,
    labels: &BTreeMap<String, String>,
) -> Result<Spread, NotSupported> {
    let honor = |policy: Option<&str>, default: bool| match policy {
        None => Ok(default),
        Some("Honor") => Ok(true),
        Some("Ignore") => Ok(false),
        Some(other) => Err(NotSupported::Spread(other.to_owned())),
    };
    let required = match constraint.when_unsatisfiable.as_str() {
        "DoNotSchedule" => true,
        "ScheduleAnyway" => false,
        other => return Err(NotSupported::Spread(other.to_owned())),
    };
    let mut pods = selector(constraint.label_selector.as_ref())?;
    if let Selector::All(requirements) = &mut pods {
        // The API server may have added these to the selector already.
        for key in &constraint.match_label_keys {
            if let Some(value) = labels.get(key) {
                let same = equals(key.clone(), value.clone());
                if !requirements.contains(&same) {
                    requirements.push(same);
                }
            }
        }
        // Kubernetes counts no pods at all for a selector that would match every one.
        if requirements.is_empty() {
            pods = Selector::Nothing;
        }
    }
    Ok(Spread {
        topology_key: constraint.topology_key.clone(),
        max_skew: constraint.max_skew,
        pods,
        required,
        min_domains: constraint.min_domains.unwrap_or(1),
        honor_affinity: honor(constraint.node_affinity_policy.as_deref(), true)?,
        honor_taints: honor(constraint.node_taints_policy.as_deref(), false)?,
    })
}
