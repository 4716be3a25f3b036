//! What a Cluster asks for: its spec with every default filled in and every string understood.

use atoll_api::{Cluster, ClusterSpec, ClusterType, DisconnectionPolicy, DisconnectionTimes, Span, Workload};
use atoll_core::cluster::{Member, Millis, Policy, Terms, Want};
use atoll_core::placement::Request;
use atoll_core::units::{MicroUsd, parse_duration_seconds, parse_memory_mib};
use atoll_core::words;

use crate::error::{InvalidSpec, Problem, count};
use crate::facts::price;
use crate::words as convert;

/// A Cluster's spec with every default filled in and every string understood. Units stand in the names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterTerms {
    /// UID of the Cluster; empty: not created yet.
    pub uid: String,
    /// How it lives and ends.
    pub lifecycle: Terms,
    /// What the members do.
    pub workload: words::Workload,
    /// GPUs of each member.
    pub gpus_per_member: u32,
    /// Names of models; with `families` empty too: any.
    pub models: Vec<String>,
    /// Families of models.
    pub families: Vec<String>,
    /// Least memory of each GPU; 0: any.
    pub min_memory_mib: u64,
    /// How far apart members may be.
    pub span: words::Span,
    /// Regions of Sites.
    pub regions: words::Selection,
    /// Suppliers of Sites.
    pub suppliers: words::Selection,
    /// Least trust of Sites.
    pub min_trust: words::Trust,
    /// Most for a GPU and hour.
    pub max_price: Option<MicroUsd>,
    /// When members stop without a lease.
    pub fence: FenceTimes,
    /// Higher is placed earlier.
    pub priority: i32,
}

/// Times since the last granted lease of a Site; each is more than the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FenceTimes {
    /// The Site asks members to stop.
    pub stop_seconds: u32,
    /// The Site kills them.
    pub kill_seconds: u32,
    /// The hub counts them as stopped and may replace them.
    pub fence_seconds: u32,
}

impl FenceTimes {
    /// The times of a manifest or a slice.
    pub fn new(times: &DisconnectionTimes) -> Result<Self, InvalidSpec> {
        const STOP: &str = "spec.disconnection.times.stopSeconds";
        const KILL: &str = "spec.disconnection.times.killSeconds";
        const FENCE: &str = "spec.disconnection.times.fenceSeconds";
        let stop_seconds = count(STOP, times.stop_seconds, 1)?;
        let kill_seconds = count(KILL, times.kill_seconds, 1)?;
        let fence_seconds = count(FENCE, times.fence_seconds, 1)?;
        if kill_seconds <= stop_seconds {
            return Err(Problem::Conflict("must be more than stopSeconds").of(KILL));
        }
        if fence_seconds <= kill_seconds {
            return Err(Problem::Conflict("must be more than killSeconds").of(FENCE));
        }
        Ok(Self { stop_seconds, kill_seconds, fence_seconds })
    }
}

impl ClusterTerms {
    /// Understands the spec of a Cluster that the API server took; one without a UID (not created yet) is fine.
    pub fn new(cluster: &Cluster) -> Result<Self, InvalidSpec> {
        let spec = &cluster.spec;
        let members = count("spec.members.count", spec.members.count, 1)?;
        let min = spec.members.min.map_or(Ok(members), |min| count("spec.members.min", min, 1))?;
        if min > members {
            return Err(Problem::Conflict("must be at most members.count").of("spec.members.min"));
        }
        let memory =
            spec.gpu.memory.as_deref().map(|memory| {
                parse_memory_mib(memory).map_err(|cause| Problem::Unreadable(cause).of("spec.gpu.memory"))
            });
        let duration = spec.duration.as_deref().map(|duration| {
            parse_duration_seconds(duration).map_err(|cause| Problem::Unreadable(cause).of("spec.duration"))
        });
        let max_price = spec.price.as_ref().map(|p| price("spec.price.maxPerGpuHour", &p.max_per_gpu_hour));
        let ttl = spec.ttl_seconds_after_finished.map(|ttl| count("spec.ttlSecondsAfterFinished", ttl, 0));
        Ok(Self {
            uid: cluster.metadata.uid.clone().unwrap_or_default(),
            lifecycle: Terms {
                kind: convert::kind(spec.type_),
                count: members,
                min,
                backoff_limit: count("spec.backoffLimit", spec.backoff_limit, 0)?,
                duration: duration.transpose()?.map(millis),
                ttl: ttl.transpose()?.map(|seconds| millis(seconds.into())),
                suspend: spec.suspend,
                policy: policy(spec)?,
            },
            workload: convert::workload(spec.workload),
            gpus_per_member: count("spec.members.gpus", spec.members.gpus, 1)?,
            models: spec.gpu.models.clone(),
            families: spec.gpu.families.clone(),
            min_memory_mib: memory.transpose()?.unwrap_or_default(),
            span: span(spec)?,
            regions: convert::selection(&spec.placement.regions),
            suppliers: convert::selection(&spec.placement.suppliers),
            min_trust: convert::trust(spec.placement.min_trust),
            max_price: max_price.transpose()?,
            fence: FenceTimes::new(&spec.disconnection.times)?,
            priority: spec.priority,
        })
    }

    /// The request that places `want` beside the members in `survivors`, which stay where they are. `region` says
    /// where a Site is.
    #[must_use]
    pub fn request(&self, want: &Want, survivors: &[Member], region: impl FnOnce(&str) -> Option<String>) -> Request {
        let anchor = survivors.first().map(|member| member.site.clone());
        Request {
            cluster: self.uid.clone(),
            workload: self.workload,
            models: self.models.clone(),
            families: self.families.clone(),
            min_memory_mib: self.min_memory_mib,
            gpus_per_member: self.gpus_per_member,
            ranks: want.ranks.clone(),
            min_new: want.min_new,
            span: self.span,
            anchored_region: anchor.as_deref().and_then(region),
            anchored_site: anchor,
            regions: self.regions.clone(),
            suppliers: self.suppliers.clone(),
            min_trust: self.min_trust,
            max_price: self.max_price,
        }
    }
}

fn millis(seconds: u64) -> Millis {
    i64::try_from(seconds).map_or(Millis::MAX, |seconds| seconds.saturating_mul(1000))
}

/// Torch and Ray members share a network, which ends at their Site; Pods need none.
fn span(spec: &ClusterSpec) -> Result<words::Span, InvalidSpec> {
    match (spec.type_, spec.placement.span) {
        (ClusterType::Torch | ClusterType::Ray, None | Some(Span::Site)) => Ok(words::Span::Site),
        (ClusterType::Torch | ClusterType::Ray, Some(Span::Region | Span::Any)) => {
            Err(Problem::Conflict("Torch and Ray stay within one Site: must be Site or absent")
                .of("spec.placement.span"))
        }
        (ClusterType::Pods, span) => Ok(span.map_or(words::Span::Any, convert::span)),
    }
}

fn policy(spec: &ClusterSpec) -> Result<Policy, InvalidSpec> {
    use DisconnectionPolicy::{Autonomous, Fail, Replace, Restart};
    use Workload::{Inference, Sequencer, Validator};
    let gang = matches!(spec.type_, ClusterType::Torch | ClusterType::Ray);
    let refused = |why| Err(Problem::Conflict(why).of("spec.disconnection.policy"));
    match (gang, spec.disconnection.policy) {
        (false, None | Some(Replace)) => Ok(Policy::Replace),
        (true, None) => Ok(if spec.checkpoint.is_some() { Policy::Restart } else { Policy::Fail }),
        (true, Some(Replace)) => refused("Replace is for Pods: members of Torch and Ray cannot be replaced one by one"),
        (false, Some(Restart)) => refused("Restart is for Torch and Ray: Pods are replaced one by one"),
        (true, Some(Restart)) if spec.checkpoint.is_none() => refused("Restart needs checkpoint.store"),
        (true, Some(Restart)) => Ok(Policy::Restart),
        (_, Some(Fail)) => Ok(Policy::Fail),
        (true, Some(Autonomous)) => refused("Autonomous is for Pods: members of Torch and Ray depend on each other"),
        (false, Some(Autonomous)) if !matches!(spec.workload, Inference | Validator | Sequencer) => {
            refused("Autonomous is for services: workload must be Inference, Validator or Sequencer")
        }
        (false, Some(Autonomous)) => Ok(Policy::Autonomous),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn cluster(change: &Value) -> Cluster {
        let mut spec = json!({
            "type": "Pods", "members": {"count": 4},
            "template": {"spec": {"containers": [{"name": "m", "image": "i"}]}},
        });
        for (key, value) in change.as_object().unwrap() {
            spec[key] = value.clone();
        }
        serde_json::from_value(json!({
            "apiVersion": "atoll.dev/v1alpha1", "kind": "Cluster", "metadata": {"name": "c", "uid": "u"}, "spec": spec,
        }))
        .unwrap()
    }

    fn terms(change: &Value) -> Result<ClusterTerms, InvalidSpec> {
        ClusterTerms::new(&cluster(change))
    }

    #[test]
    fn a_bare_spec_gets_every_default() {
        let terms = terms(&json!({})).unwrap();
        assert_eq!((terms.lifecycle.count, terms.lifecycle.min, terms.gpus_per_member), (4, 4, 1));
        assert_eq!(terms.span, words::Span::Any);
        assert_eq!(terms.lifecycle.policy, Policy::Replace);
        assert_eq!(terms.fence, FenceTimes { stop_seconds: 60, kill_seconds: 90, fence_seconds: 120 });
        assert_eq!(terms.lifecycle.backoff_limit, 6);
        assert_eq!((terms.max_price, terms.lifecycle.duration, terms.lifecycle.ttl), (None, None, None));
        assert_eq!(terms.min_memory_mib, 0);
    }

    #[test]
    fn strings_are_understood() {
        let terms = terms(&json!({
            "price": {"maxPerGpuHour": "2.50"}, "duration": "1h30m", "gpu": {"memory": "24Gi"},
            "placement": {"regions": {"in": ["eu-west"], "notIn": ["us-east"]}},
        }))
        .unwrap();
        assert_eq!(terms.max_price, Some(MicroUsd(2_500_000)));
        assert_eq!(terms.lifecycle.duration, Some(5_400_000));
        assert_eq!(terms.min_memory_mib, 24 * 1024);
        assert_eq!(terms.regions.only, ["eu-west"]);
        assert_eq!(terms.regions.except, ["us-east"]);
    }

    #[test]
    fn span_and_policy_follow_the_type() {
        let store = json!({"store": "s3://bucket/run"});
        let table = [
            (json!({"type": "Torch"}), words::Span::Site, Policy::Fail),
            (json!({"type": "Torch", "checkpoint": store}), words::Span::Site, Policy::Restart),
            (json!({"type": "Ray"}), words::Span::Site, Policy::Fail),
            (json!({"type": "Ray", "checkpoint": store}), words::Span::Site, Policy::Restart),
            (
                json!({"workload": "Inference", "disconnection": {"policy": "Autonomous"}}),
                words::Span::Any,
                Policy::Autonomous,
            ),
            (
                json!({"type": "Ray", "checkpoint": store, "disconnection": {"policy": "Fail"}}),
                words::Span::Site,
                Policy::Fail,
            ),
            (json!({"placement": {"span": "Region"}}), words::Span::Region, Policy::Replace),
            (json!({"disconnection": {"policy": "Fail"}}), words::Span::Any, Policy::Fail),
        ];
        for (change, span, policy) in table {
            let terms = terms(&change).unwrap();
            assert_eq!((terms.span, terms.lifecycle.policy), (span, policy), "{change}");
        }
    }

    #[test]
    fn what_cannot_be_right_names_its_field() {
        let store = json!({"store": "s3://bucket/run"});
        let times = |stop, kill, fence| json!({"disconnection": {"times": {"stopSeconds": stop, "killSeconds": kill, "fenceSeconds": fence}}});
        let table = [
            (json!({"members": {"count": 0}}), "spec.members.count"),
            (json!({"members": {"count": -3}}), "spec.members.count"),
            (json!({"members": {"count": 2, "min": 3}}), "spec.members.min"),
            (json!({"members": {"count": 2, "min": 0}}), "spec.members.min"),
            (json!({"members": {"count": 2, "gpus": 0}}), "spec.members.gpus"),
            (json!({"gpu": {"memory": "lots"}}), "spec.gpu.memory"),
            (json!({"price": {"maxPerGpuHour": "2.50$"}}), "spec.price.maxPerGpuHour"),
            (json!({"duration": "soon"}), "spec.duration"),
            (json!({"duration": "0s"}), "spec.duration"),
            (json!({"backoffLimit": -1}), "spec.backoffLimit"),
            (json!({"ttlSecondsAfterFinished": -1}), "spec.ttlSecondsAfterFinished"),
            (json!({"type": "Torch", "placement": {"span": "Any"}}), "spec.placement.span"),
            (json!({"type": "Ray", "placement": {"span": "Region"}}), "spec.placement.span"),
            (json!({"type": "Torch", "disconnection": {"policy": "Restart"}}), "spec.disconnection.policy"),
            (
                json!({"type": "Torch", "workload": "Inference", "disconnection": {"policy": "Autonomous"}}),
                "spec.disconnection.policy",
            ),
            (json!({"workload": "Batch", "disconnection": {"policy": "Autonomous"}}), "spec.disconnection.policy"),
            (
                json!({"type": "Torch", "checkpoint": store, "disconnection": {"policy": "Replace"}}),
                "spec.disconnection.policy",
            ),
            (json!({"disconnection": {"policy": "Restart"}, "checkpoint": store}), "spec.disconnection.policy"),
            (times(0, 90, 120), "spec.disconnection.times.stopSeconds"),
            (times(60, 60, 120), "spec.disconnection.times.killSeconds"),
            (times(60, 90, 90), "spec.disconnection.times.fenceSeconds"),
        ];
        for (change, field) in table {
            assert_eq!(terms(&change).unwrap_err().field, field, "{change}");
        }
    }

    #[test]
    fn a_message_names_field_and_value() {
        let error = terms(&json!({"price": {"maxPerGpuHour": "2,50"}})).unwrap_err().to_string();
        assert!(error.starts_with("spec.price.maxPerGpuHour: \"2,50\" is not a price"), "{error}");
    }

    #[test]
    fn members_that_stay_anchor_those_that_are_placed() {
        let terms = terms(&json!({})).unwrap();
        let want = Want { ranks: vec![1, 3], min_new: 1 };
        let alone = terms.request(&want, &[], |_| panic!("nobody to anchor to"));
        assert_eq!((alone.anchored_site, alone.anchored_region), (None, None));
        assert_eq!((alone.ranks, alone.min_new), (vec![1, 3], 1));
        let member = Member { rank: 0, incarnation: 1, site: "a".to_owned(), node: "n".to_owned() };
        let beside = terms.request(&want, &[member], |site| (site == "a").then(|| "eu-west".to_owned()));
        assert_eq!(beside.anchored_site.as_deref(), Some("a"));
        assert_eq!(beside.anchored_region.as_deref(), Some("eu-west"));
    }
}
