//! Amounts of resources: what a pod takes and what a node has, counted as Kubernetes does.

use atoll_core::scheduling::{Amounts, POD_SLOT, RESOURCE_PODS};
use atoll_core::units::parse_quantity_milli;

use super::NotSupported;
use crate::proto::{Amount, Container, ContainerStatus, PodSpec, PodStatus};

/// Amounts as they are written. The API server has rounded them to thousandths already, so that sums are exact.
fn amounts(quantities: &[Amount]) -> Result<Amounts, NotSupported> {
    let mut amounts = Amounts::default();
    for amount in quantities {
        set(&mut amounts, &amount.resource, amount.quantity.as_ref().map_or("0", |quantity| &quantity.string))?;
    }
    Ok(amounts)
}

fn set(amounts: &mut Amounts, resource: &str, text: &str) -> Result<(), NotSupported> {
    match parse_quantity_milli(text) {
        Ok(milli) if milli >= 0 => amounts.set(resource, milli),
        _ => return Err(NotSupported::Quantity { resource: resource.to_owned(), text: text.to_owned() }),
    }
    Ok(())
}

/// What a scheduler counts of these amounts: CPU in thousandths, all else in whole units, rounded up; names that are
/// neither devices, huge pages nor one of the basic resources are nothing that a node could be short of.
fn counted(mut amounts: Amounts) -> Amounts {
    let counts = |resource: &str| match resource {
        "cpu" | "memory" | "ephemeral-storage" | RESOURCE_PODS => true,
        other if other.contains('/') => !other.starts_with("requests."),
        other => other.starts_with(HUGE_PAGES) || other.starts_with("attachable-volumes-"),
    };
    let rounded = amounts.iter().filter_map(|(resource, milli)| {
        let right = match (counts(resource), resource) {
            (false, _) => 0,
            (true, "cpu") => milli,
            (true, _) => (milli + 999) / 1000 * 1000,
        };
        if right == milli { None } else { Some((resource.to_owned(), right)) }
    });
    let rounded: Vec<(String, i128)> = rounded.collect();
    for (resource, milli) in rounded {
        amounts.set(&resource, milli);
    }
    amounts
}

const HUGE_PAGES: &str = "hugepages-";

/// What a node offers.
pub(super) fn allocatable(quantities: &[Amount]) -> Result<Amounts, NotSupported> {
    Ok(counted(amounts(quantities)?))
}

/// Amounts of a Gang's shape, with the slot of its pod.
pub(super) fn member_requests<'a>(
    requests: impl Iterator<Item = (&'a String, &'a str)>,
) -> Result<Amounts, NotSupported> {
    let mut all = Amounts::default();
    for (resource, text) in requests {
        set(&mut all, resource, text)?;
    }
    let mut all = counted(all);
    all.set(RESOURCE_PODS, POD_SLOT);
    Ok(all)
}

/// What a pod takes: the most of what it asks for, what the kubelet has promised and what it has given, as a resize
/// in place may be on its way up or down; with pod-level amounts, where there are any, before the sums over
/// containers; and its overhead.
pub(super) fn pod_requests(spec: &PodSpec, status: &PodStatus) -> Result<Amounts, NotSupported> {
    let infeasible = resize_is_infeasible(status);
    // What the spec asks for is void once the kubelet has refused it.
    let asked = |container: &Container| if infeasible { Ok(Amounts::default()) } else { requests_of(container) };
    let mut total = sum(spec, status, &|container, _| asked(container))?;
    let whole = (&status.allocated_resources, status.resources.as_ref().map(|r| &r.requests));
    if let (promised, Some(given)) = whole
        && !promised.is_empty()
        && !given.is_empty()
    {
        // The kubelet resizes this pod as a whole and gives the sums itself.
        total.raise_to(&amounts(promised)?);
        total.raise_to(&amounts(given)?);
    } else if infeasible || statuses(status).any(|container| differs(spec, container)) {
        let promised = |container: &Container, status: Option<&ContainerStatus>| match status {
            Some(status) if !status.allocated_resources.is_empty() => amounts(&status.allocated_resources),
            _ => asked(container),
        };
        let given = |container: &Container, status: Option<&ContainerStatus>| match given_of(status) {
            Some(given) => amounts(given),
            None => promised(container, status),
        };
        total.raise_to(&sum(spec, status, &promised)?);
        total.raise_to(&sum(spec, status, &given)?);
    }
    pod_level(&mut total, spec, status, infeasible)?;
    if !spec.overhead.is_empty() {
        total.add(&amounts(&spec.overhead)?);
    }
    let mut total = counted(total);
    total.set(RESOURCE_PODS, POD_SLOT);
    Ok(total)
}

/// max(containers + sidecars, peak of the init containers), where an init container runs beside the sidecars that
/// were started before it.
fn sum(
    spec: &PodSpec,
    status: &PodStatus,
    of: &impl Fn(&Container, Option<&ContainerStatus>) -> Result<Amounts, NotSupported>,
) -> Result<Amounts, NotSupported> {
    let state = |name: &[u8]| statuses(status).find(|status| status.name == name);
    let mut running = Amounts::default();
    for container in &spec.containers {
        running.add(&of(container, state(&container.name))?);
    }
    let mut sidecars = Amounts::default();
    let mut peak = Amounts::default();
    for container in &spec.init_containers {
        let mut together = of(container, state(&container.name))?;
        if is_sidecar(container) {
            running.add(&together);
            sidecars.add(&together);
            peak.raise_to(&sidecars);
        } else {
            together.add(&sidecars);
            peak.raise_to(&together);
        }
    }
    running.raise_to(&peak);
    Ok(running)
}

fn statuses(status: &PodStatus) -> impl Iterator<Item = &ContainerStatus> {
    status.container_statuses.iter().chain(&status.init_container_statuses)
}

/// An init container that goes on running beside the containers.
pub(super) fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_ref().is_some_and(|policy| policy == "Always")
}

fn requests_of(container: &Container) -> Result<Amounts, NotSupported> {
    container.resources.as_ref().map_or_else(|| Ok(Amounts::default()), |r| amounts(&r.requests))
}

fn given_of(status: Option<&ContainerStatus>) -> Option<&[Amount]> {
    status?.resources.as_ref().map(|r| r.requests.as_slice()).filter(|requests| !requests.is_empty())
}

/// Whether the kubelet has given or promised a container other than what it asks for; mostly it has not.
fn differs(spec: &PodSpec, status: &ContainerStatus) -> bool {
    let mut containers = spec.containers.iter().chain(&spec.init_containers);
    let asked = containers.find(|container| container.name == status.name).and_then(|c| c.resources.as_ref());
    let asked = asked.map_or(&[][..], |r| &r.requests);
    let promised = Some(status.allocated_resources.as_slice()).filter(|promised| !promised.is_empty());
    [promised, given_of(Some(status))].into_iter().flatten().any(|amounts| amounts != asked)
}

/// The kubelet has refused the resize that stands in the spec, so that only what it promised and gave counts.
fn resize_is_infeasible(status: &PodStatus) -> bool {
    status.conditions.iter().find(|c| c.r#type == "PodResizePending").is_some_and(|c| c.reason == "Infeasible")
}

/// Amounts of CPU, memory and huge pages for the pod as a whole go before the sums over its containers.
fn pod_level(total: &mut Amounts, spec: &PodSpec, status: &PodStatus, infeasible: bool) -> Result<(), NotSupported> {
    let applies = |resource: &str| matches!(resource, "cpu" | "memory") || resource.starts_with(HUGE_PAGES);
    let Some(asked) = spec.resources.as_ref().map(|r| &r.requests) else { return Ok(()) };
    if !asked.iter().any(|amount| applies(&amount.resource)) {
        return Ok(());
    }
    let mut most = Amounts::default();
    if !infeasible || status.resources.is_none() {
        most = amounts(asked)?;
    }
    let mut named: Vec<&Amount> = asked.iter().collect();
    if let Some(given) = &status.resources {
        most.raise_to(&amounts(&given.requests)?);
        most.raise_to(&amounts(&status.allocated_resources)?);
        if infeasible {
            named.clear();
        }
        named.extend(given.requests.iter().chain(&status.allocated_resources));
    }
    for resource in named.iter().map(|amount| &amount.resource).filter(|resource| applies(resource)) {
        total.set(resource, most.get(resource));
    }
    Ok(())
}
