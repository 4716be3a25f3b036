//! What a member's pod asks its node for.

use std::collections::BTreeMap;

use atoll_api::gang::GangShape;
use atoll_api::names;
use atoll_api::template::{Container, MemberTemplate};
use atoll_core::units::{UnitError, parse_quantity_milli};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::tolerations;

/// The shape of each member: the sum of its containers, or of the largest init container where that is more, as the
/// scheduler and the kubelet count; a limit without a request counts as the request.
///
/// Fails on a quantity that cannot be read.
pub fn shape(template: &MemberTemplate, gpus: i32) -> Result<GangShape, UnitError> {
    let mut milli = BTreeMap::<String, i128>::new();
    for container in &template.spec.containers {
        for (resource, amount) in requests(container)? {
            let sum = milli.entry(resource).or_insert(0);
            *sum = sum.saturating_add(amount);
        }
    }
    for container in &template.spec.init_containers {
        for (resource, amount) in requests(container)? {
            let peak = milli.entry(resource).or_insert(0);
            *peak = (*peak).max(amount);
        }
    }
    milli.insert(names::RESOURCE_NVIDIA_GPU.to_owned(), i128::from(gpus) * 1000);
    Ok(GangShape {
        requests: milli.into_iter().map(|(resource, milli)| (resource, quantity(milli))).collect(),
        node_selector: BTreeMap::new(),
        tolerations: tolerations(),
    })
}

fn requests(container: &Container) -> Result<BTreeMap<String, i128>, UnitError> {
    let Some(resources) = &container.resources else { return Ok(BTreeMap::new()) };
    let mut requests = BTreeMap::new();
    for (resource, quantity) in resources.limits.iter().chain(&resources.requests) {
        requests.insert(resource.clone(), parse_quantity_milli(&quantity.0)?);
    }
    Ok(requests)
}

fn quantity(milli: i128) -> Quantity {
    Quantity(if milli % 1000 == 0 { (milli / 1000).to_string() } else { format!("{milli}m") })
}
