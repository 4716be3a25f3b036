//! How much members may take. Pure.

use std::collections::BTreeMap;

use atoll_api::MemberCaps;
use atoll_api::template::{Container, MemberTemplateSpec};
use atoll_core::units::{UnitError, parse_quantity_milli};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// The caps of a policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caps {
    /// Members that may be on the Site.
    pub max: Option<usize>,
    /// Thousandths of what each member may have.
    milli: BTreeMap<&'static str, i128>,
}

/// More than a member may have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CapError {
    /// It names more.
    #[error("template.spec: a member would take {asked} of {resource}, and this Site gives {cap}")]
    Above {
        /// "cpu", "memory" or "ephemeral-storage".
        resource: &'static str,
        /// What its containers ask for together.
        asked: String,
        /// What the policy allows.
        cap: String,
    },
    /// Its other containers take all of it.
    #[error(
        "template.spec, container {container}: names no limit of {resource}, and the others leave nothing of the {cap} that \
         this Site gives a member"
    )]
    NothingLeft {
        /// The container.
        container: String,
        /// "cpu", "memory" or "ephemeral-storage".
        resource: &'static str,
        /// What the policy allows.
        cap: String,
    },
    /// An amount that is none.
    #[error("template.spec.containers: {0}")]
    Unit(#[from] UnitError),
}

impl Caps {
    /// Fails on an amount that cannot be read.
    pub(super) fn new(caps: &MemberCaps) -> Result<Self, UnitError> {
        let mut milli = BTreeMap::new();
        for (resource, cap) in
            [("cpu", &caps.cpu), ("memory", &caps.memory), ("ephemeral-storage", &caps.ephemeral_storage)]
        {
            if let Some(cap) = cap {
                milli.insert(resource, parse_quantity_milli(&cap.0)?);
            }
        }
        Ok(Self { max: caps.max.map(|max| usize::try_from(max).unwrap_or(0)), milli })
    }

    /// Whether a member of such pods stays within them.
    pub(super) fn check(&self, pod: &MemberTemplateSpec) -> Result<(), CapError> {
        for (resource, cap) in &self.milli {
            let above = |asked: i128| {
                let (asked, cap) = (amount(resource, asked), amount(resource, *cap));
                CapError::Above { resource, asked: asked.0, cap: cap.0 }
            };
            let mut together = 0i128;
            for container in &pod.containers {
                together = together.saturating_add(Wish::of(container, resource)?.most());
            }
            if together > *cap {
                return Err(above(together));
            }
            for container in &pod.init_containers {
                // Each runs before the others start.
                let alone = Wish::of(container, resource)?.most();
                if alone > *cap {
                    return Err(above(alone));
                }
            }
            let share = self.share(pod, resource);
            let unlimited = |container: &&Container| limit(container, resource).is_none();
            if let Some(container) = pod.containers.iter().find(unlimited)
                && share.saturating_add(Wish::of(container, resource)?.request) < unit(resource)
            {
                let cap = amount(resource, *cap).0;
                return Err(CapError::NothingLeft { container: container.name.clone(), resource, cap });
            }
        }
        Ok(())
    }

    /// Limits of one container that its template does not name: those of an init container are the caps themselves; of what
    /// the others leave, containers without a limit get equal parts beyond what they request.
    #[must_use]
    pub fn limits(&self, pod: &MemberTemplateSpec, container: &Container, init: bool) -> BTreeMap<String, Quantity> {
        let missing = self.milli.iter().filter(|(resource, _)| limit(container, resource).is_none());
        let limits = missing.map(|(resource, cap)| {
            let request = Wish::of(container, resource).map_or(0, |wish| wish.request);
            let milli = if init { *cap } else { request.saturating_add(self.share(pod, resource)) };
            // Nothing would mean no limit.
            ((*resource).to_owned(), amount(resource, milli.max(unit(resource))))
        });
        limits.collect()
    }

    /// What each container without a limit may have beyond what it requests.
    fn share(&self, pod: &MemberTemplateSpec, resource: &str) -> i128 {
        let taken = pod.containers.iter().filter_map(|container| Wish::of(container, resource).ok());
        let taken = taken.fold(0i128, |sum, wish| sum.saturating_add(wish.most()));
        let without = pod.containers.iter().filter(|container| limit(container, resource).is_none()).count();
        let cap = self.milli.get(resource).copied().unwrap_or(0);
        cap.saturating_sub(taken).max(0) / i128::try_from(without.max(1)).unwrap_or(1)
    }
}

/// Thousandths of a resource that a container names.
struct Wish {
    request: i128,
    limit: Option<i128>,
}

impl Wish {
    fn of(container: &Container, resource: &str) -> Result<Self, UnitError> {
        let request = container.resources.as_ref().and_then(|resources| resources.requests.get(resource));
        let parse = |quantity: &Quantity| parse_quantity_milli(&quantity.0);
        let limit = limit(container, resource).map(parse).transpose()?;
        Ok(Self { request: request.map(parse).transpose()?.unwrap_or(0), limit })
    }

    fn most(&self) -> i128 {
        self.limit.unwrap_or(0).max(self.request)
    }
}

/// A limit of nothing is none.
fn limit<'a>(container: &'a Container, resource: &str) -> Option<&'a Quantity> {
    let limit = container.resources.as_ref()?.limits.get(resource)?;
    (parse_quantity_milli(&limit.0) != Ok(0)).then_some(limit)
}

/// The least that can be given of a resource, in thousandths.
fn unit(resource: &str) -> i128 {
    if resource == "cpu" { 1 } else { 1000 }
}

fn amount(resource: &str, milli: i128) -> Quantity {
    Quantity(match resource {
        "cpu" if milli % 1000 != 0 => format!("{milli}m"),
        _ => (milli / 1000).to_string(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn caps(caps: Value) -> Caps {
        Caps::new(&serde_json::from_value(caps).unwrap()).unwrap()
    }

    fn pod(containers: &Value, init: &Value) -> MemberTemplateSpec {
        let mut pod: MemberTemplateSpec =
            serde_json::from_value(json!({"containers": containers, "initContainers": init})).unwrap();
        for (index, container) in pod.containers.iter_mut().enumerate() {
            container.name = format!("c{index}");
        }
        pod
    }

    fn container(resources: &Value) -> Value {
        json!({"name": "c", "image": "x", "resources": resources})
    }

    #[test]
    fn a_member_above_its_cap_is_refused_in_its_own_words() {
        let caps = caps(json!({"cpu": 4, "memory": "1Gi", "ephemeralStorage": "1G"}));
        for (containers, init, says) in [
            (json!([container(&json!({}))]), json!([]), None),
            (
                json!([container(&json!({"limits": {"cpu": "4", "memory": "1Gi", "ephemeral-storage": "1G"}}))]),
                json!([]),
                None,
            ),
            (
                json!([container(&json!({"limits": {"cpu": "4001m"}}))]),
                json!([]),
                Some("take 4001m of cpu, and this Site gives 4"),
            ),
            (json!([container(&json!({"requests": {"memory": "2Gi"}}))]), json!([]), Some("take 2147483648 of memory")),
            (
                json!([container(&json!({"requests": {"cpu": 3}})), container(&json!({"limits": {"cpu": "1500m"}}))]),
                json!([]),
                Some("take 4500m of cpu"),
            ),
            (json!([container(&json!({}))]), json!([container(&json!({"limits": {"cpu": 5}}))]), Some("take 5 of cpu")),
            (
                json!([container(&json!({})), container(&json!({"limits": {"cpu": 4}}))]),
                json!([]),
                Some("container c0: names no limit of cpu, and the others leave nothing of the 4"),
            ),
            (
                json!([container(&json!({"limits": {"cpu": 0}, "requests": {"cpu": 5}}))]),
                json!([]),
                Some("take 5 of cpu"),
            ),
            (json!([container(&json!({"limits": {"memory": "lots"}}))]), json!([]), Some("lots")),
        ] {
            let checked = caps.check(&pod(&containers, &init)).map_err(|error| error.to_string());
            match says {
                None => assert_eq!(checked, Ok(()), "{containers}"),
                Some(says) => {
                    assert!(checked.clone().is_err_and(|why| why.contains(says)), "{containers}: {checked:?}");
                }
            }
        }
    }

    #[test]
    fn containers_without_a_limit_share_what_the_others_leave() {
        let caps = caps(json!({"cpu": 4, "memory": 1_000_001}));
        let pod = pod(
            &json!([
                container(&json!({"requests": {"cpu": "1"}})),
                container(&json!({"limits": {"cpu": "0"}})),
                container(&json!({"limits": {"cpu": "2", "memory": "1"}})),
            ]),
            &json!([container(&json!({"limits": {"cpu": "1"}}))]),
        );
        assert_eq!(caps.check(&pod), Ok(()));
        let limits = |container: &Container, init| {
            let limits =
                caps.limits(&pod, container, init).into_iter().map(|(name, amount)| format!("{name}={}", amount.0));
            limits.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(limits(&pod.containers[0], false), "cpu=1500m memory=500000");
        assert_eq!(limits(&pod.containers[1], false), "cpu=500m memory=500000");
        assert_eq!(limits(&pod.containers[2], false), "");
        assert_eq!(limits(&pod.init_containers[0], true), "memory=1000001");
        assert_eq!(Caps::default().limits(&pod, &pod.containers[0], false), BTreeMap::new());
    }
}
