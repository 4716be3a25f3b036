//! What the API holds of Clusters and their slices, as the state that `atoll_core::cluster` decides on.

use atoll_api::conditions::{self, member_reason, site as site_condition, slice as slice_condition};
use atoll_api::{Availability, Cluster, ClusterSlice, MemberPhase, MemberStatus, ReservationPhase, Site, SlicePhase};
use atoll_core::cluster::{
    self as core, Deletion, Member, MemberState, Millis, Phase, Reservation, SLICE_RANKS, SiteState, SiteView,
    SliceMember,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use crate::ClusterTerms;

/// The members that a Cluster's commit names, in order of rank.
#[must_use]
pub fn committed(cluster: &Cluster) -> Vec<Member> {
    let placement = cluster.status.as_ref().and_then(|status| status.placement.as_ref());
    let mut members: Vec<Member> = placement
        .iter()
        .flat_map(|placement| &placement.sites)
        .flat_map(|site| site.nodes.iter().map(move |node| (site, node)))
        .flat_map(|(site, node)| {
            (node.rank..node.rank.saturating_add(node.count)).map(|rank| Member {
                rank: unsigned(rank),
                incarnation: unsigned_long(node.incarnation),
                site: site.site.clone(),
                node: node.name.clone(),
            })
        })
        .collect();
    members.sort();
    members
}

/// A Cluster as the API holds it.
#[must_use]
pub fn cluster_state(cluster: &Cluster, terms: &ClusterTerms) -> core::Cluster {
    let status = cluster.status.as_ref();
    core::Cluster {
        terms: terms.lifecycle.clone(),
        deleting: cluster.metadata.deletion_timestamp.is_some(),
        epoch: status.map_or(0, |status| unsigned_long(status.epoch)),
        members: committed(cluster),
        failures: status.map_or(0, |status| unsigned(status.failures)),
        started_at: status.and_then(|status| status.started_at.as_ref()).map(millis),
        finished_at: status.and_then(|status| status.finished_at.as_ref()).map(millis),
    }
}

/// A slice as the API holds it.
#[must_use]
pub fn slice_state(slice: &ClusterSlice) -> core::Slice {
    let (spec, status, metadata) = (&slice.spec, slice.status.as_ref(), &slice.metadata);
    let answers = status.is_some_and(|status| status.observed_epoch == spec.epoch);
    let reservation = status.and_then(|status| status.reservation).filter(|_| answers);
    let observed = status.and_then(|status| status.observed_generation);
    let seen = answers && observed.is_some() && observed == metadata.generation;
    core::Slice {
        name: metadata.name.clone().unwrap_or_default(),
        site: spec.site.clone(),
        index: spec.members.first().map_or(0, |member| unsigned(member.rank) / SLICE_RANKS),
        epoch: unsigned_long(spec.epoch),
        phase: match spec.phase {
            SlicePhase::Reserve => Phase::Reserve,
            SlicePhase::Run => Phase::Run,
        },
        members: spec
            .members
            .iter()
            .map(|member| SliceMember {
                rank: unsigned(member.rank),
                node: member.node.clone(),
                incarnation: unsigned_long(member.incarnation),
            })
            .collect(),
        older_may_run: !seen && metadata.generation != Some(1),
        reservation: match reservation {
            Some(ReservationPhase::Reserved) => Reservation::Reserved,
            Some(ReservationPhase::Refused) => Reservation::Refused,
            Some(ReservationPhase::Pending) | None => Reservation::Pending,
        },
        reports: status.map(|status| status.members.iter().map(report).collect()).unwrap_or_default(),
        fence: i64::from(spec.fence.fence_seconds).saturating_mul(1000),
        deletion: match metadata.deletion_timestamp {
            None => Deletion::None,
            Some(_) if is_stopped(slice) => Deletion::Stopped,
            Some(_) => Deletion::Started,
        },
    }
}

/// Whether a slice is being deleted and its Site says that nothing of it is left.
pub(crate) fn is_stopped(slice: &ClusterSlice) -> bool {
    slice.metadata.deletion_timestamp.is_some()
        && slice.status.as_ref().is_some_and(|status| conditions::is_true(&status.conditions, slice_condition::STOPPED))
}

/// A Cluster that is gone while slices of it are left: nothing is wanted of it any more.
#[must_use]
pub fn orphan_state() -> core::Cluster {
    core::Cluster {
        terms: core::Terms {
            kind: core::Kind::Pods,
            count: 1,
            min: 1,
            backoff_limit: 0,
            duration: None,
            ttl: None,
            suspend: false,
            policy: core::Policy::Replace,
        },
        deleting: true,
        epoch: 0,
        members: Vec::new(),
        failures: 0,
        started_at: None,
        finished_at: None,
    }
}

/// Whether a Site's own object says that its agent has a live session.
///
/// A gateway that died cannot write that its sessions ended; who knows of its Lease must ask that too.
#[must_use]
pub fn is_connected(site: &Site) -> bool {
    site.status.as_ref().is_some_and(|status| conditions::is_true(&status.conditions, site_condition::CONNECTED))
}

/// Members of this and lower incarnations of the Cluster with this UID count as stopped at a Site; 0: none.
#[must_use]
pub fn fenced_epoch(site: &Site, cluster: &str) -> u64 {
    let entries = site.status.iter().flat_map(|status| &status.fenced);
    entries.filter(|entry| entry.cluster_uid == cluster).map(|entry| unsigned_long(entry.epoch)).max().unwrap_or(0)
}

/// Whether a Site's supplier wants members to leave.
#[must_use]
pub fn is_draining(site: &Site) -> bool {
    site.status.as_ref().and_then(|status| status.availability) == Some(Availability::Draining)
}

/// A Site as its own object shows it to somebody who looks at `now`, as far as the Cluster with this UID is concerned.
/// Nothing is decided on this: it compares the clock of a gateway with that of whoever looks, and knows of no freeze.
#[must_use]
pub fn site_view(site: Option<&Site>, cluster: &str, now: Timestamp) -> SiteView {
    let Some(site) = site else { return SiteState::Gone { ago: Millis::MAX }.into() };
    let state = if is_connected(site) {
        SiteState::Live
    } else {
        let session = site.status.as_ref().and_then(|status| status.session.as_ref());
        let granted = session.and_then(|session| session.last_grant.as_ref()).map_or(0, millis);
        SiteState::Lost { ago: now.as_millisecond().saturating_sub(granted) }
    };
    SiteView { fenced: fenced_epoch(site, cluster), draining: is_draining(site), ..state.into() }
}

fn report(member: &MemberStatus) -> ((u32, u64), MemberState) {
    let state = match member.phase {
        MemberPhase::Pending => MemberState::Pending,
        MemberPhase::Starting => MemberState::Starting,
        MemberPhase::Ready => MemberState::Ready,
        MemberPhase::Stopping => MemberState::Stopping,
        MemberPhase::Succeeded => MemberState::Succeeded,
        MemberPhase::Failed => MemberState::Failed,
        MemberPhase::Lost if member.reason.as_deref() == Some(member_reason::LEASE_EXPIRED) => MemberState::Expired,
        MemberPhase::Lost => MemberState::Lost,
    };
    ((unsigned(member.rank), unsigned_long(member.incarnation)), state)
}

fn millis(time: &Time) -> Millis {
    time.0.as_millisecond()
}

/// Only the hub's own processes write these fields, never a negative number; one counts as 0.
pub(crate) fn unsigned(number: i32) -> u32 {
    u32::try_from(number).unwrap_or_default()
}

pub(crate) fn unsigned_long(number: i64) -> u64 {
    u64::try_from(number).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn fence() -> Value {
        json!({"stopSeconds": 60, "killSeconds": 90, "fenceSeconds": 120})
    }

    fn cluster() -> Cluster {
        serde_json::from_value(json!({
            "apiVersion": "atoll.dev/v1alpha1", "kind": "Cluster", "metadata": {"name": "c", "uid": "u"},
            "spec": {"type": "Pods", "members": {"count": 3},
                     "template": {"spec": {"containers": [{"name": "m", "image": "i"}]}}},
            "status": {"epoch": 7, "failures": 1, "startedAt": "1970-01-01T00:00:02Z",
                "placement": {"epoch": 2, "term": 1, "gpus": 2, "fence": fence(), "sites": [
                    {"site": "b", "nodes": [{"name": "n9", "rank": 2, "count": 1, "incarnation": 2}]},
                    {"site": "a", "nodes": [{"name": "n1", "rank": 0, "count": 2, "incarnation": 1}]}]}},
        }))
        .unwrap()
    }

    fn slice(metadata: &Value, status: &Value) -> ClusterSlice {
        let mut slice = json!({
            "apiVersion": "atoll.dev/v1alpha1", "kind": "ClusterSlice", "metadata": metadata,
            "spec": {"site": "b", "cluster": "c", "clusterUid": "u", "epoch": 2, "term": 1, "phase": "Reserve",
                     "type": "Pods", "members": [{"rank": 501, "node": "n9", "incarnation": 2}], "gpus": 2,
                     "rendezvous": {"worldSize": 3, "leaderIncarnation": 1}, "fence": fence(),
                     "template": {"spec": {"containers": [{"name": "m", "image": "i"}]}}},
        });
        if !status.is_null() {
            slice["status"] = status.clone();
        }
        serde_json::from_value(slice).unwrap()
    }

    #[test]
    fn a_commit_is_read_back_rank_by_rank() {
        let cluster = cluster();
        let terms = ClusterTerms::new(&cluster).unwrap();
        let state = cluster_state(&cluster, &terms);
        let shown: Vec<_> =
            state.members.iter().map(|m| format!("{}/{}@{}.{}", m.rank, m.incarnation, m.site, m.node)).collect();
        assert_eq!(shown, ["0/1@a.n1", "1/1@a.n1", "2/2@b.n9"]);
        assert_eq!((state.epoch, state.failures, state.deleting), (7, 1, false));
        assert_eq!((state.started_at, state.finished_at), (Some(2_000), None));
    }

    #[test]
    fn a_slice_without_status_has_been_seen_by_nobody() {
        let state = slice_state(&slice(&json!({"name": "c-x-1", "generation": 1}), &Value::Null));
        assert_eq!((state.index, state.epoch, state.phase), (1, 2, Phase::Reserve));
        assert_eq!((state.older_may_run, state.deletion), (false, Deletion::None), "no earlier specification");
        assert_eq!(state.reservation, Reservation::Pending);
        assert_eq!(state.fence, 120_000);
    }

    #[test]
    fn an_answer_counts_for_the_epoch_and_generation_that_it_names() {
        for (epoch, generation, older_may_run, reservation) in [
            (2, 3, false, Reservation::Reserved),
            (1, 3, true, Reservation::Pending),
            (2, 2, true, Reservation::Reserved),
        ] {
            let status = json!({"observedEpoch": epoch, "observedGeneration": generation, "reservation": "Reserved"});
            let state = slice_state(&slice(&json!({"generation": 3}), &status));
            assert_eq!((state.older_may_run, state.reservation), (older_may_run, reservation), "{epoch} {generation}");
        }
    }

    #[test]
    fn a_slice_is_stopped_when_it_is_being_deleted_and_its_site_says_so() {
        let stopped = json!({"conditions": [{"type": "Stopped", "status": "True", "reason": "R", "message": "",
                                             "lastTransitionTime": "2026-01-01T00:00:00Z"}]});
        let deleting = json!({"deletionTimestamp": "2026-01-01T00:00:00Z"});
        for (metadata, status, result) in [
            (&json!({}), &stopped, Deletion::None),
            (&deleting, &stopped, Deletion::Stopped),
            (&deleting, &json!({}), Deletion::Started),
            (&deleting, &Value::Null, Deletion::Started),
        ] {
            assert_eq!(slice_state(&slice(metadata, status)).deletion, result, "{metadata} {status}");
        }
    }

    #[test]
    fn a_member_lost_to_its_lease_differs_from_one_that_its_site_pushed_out() {
        for (phase, reason, state, ended) in [
            ("Ready", None, MemberState::Ready, false),
            ("Stopping", None, MemberState::Stopping, false),
            ("Lost", None, MemberState::Lost, true),
            ("Lost", Some("LeaseExpired"), MemberState::Expired, true),
            ("Failed", Some("ContainersFailed"), MemberState::Failed, true),
        ] {
            let status = json!({"members": [{"rank": 501, "incarnation": 2, "phase": phase, "reason": reason}]});
            let slice = slice_state(&slice(&json!({}), &status));
            let reported = slice.reports[&(501, 2)];
            assert_eq!((reported, reported.ended()), (state, ended), "{phase}");
        }
    }

    fn site(status: &Value) -> Site {
        serde_json::from_value(json!({
            "apiVersion": "atoll.dev/v1alpha1", "kind": "Site", "metadata": {"name": "a"},
            "spec": {"supplier": "acme", "region": "eu-west"}, "status": status,
        }))
        .unwrap()
    }

    #[test]
    fn a_site_is_seen_as_its_own_object_says() {
        let connected = |status: &str| {
            json!([{"type": "Connected", "status": status, "reason": "R", "message": "",
                    "lastTransitionTime": "1970-01-01T00:00:09Z"}])
        };
        let lost = |ago| SiteView::from(SiteState::Lost { ago });
        let session = json!({"number": 1, "gateway": "g", "lastGrant": "1970-01-01T00:00:05Z"});
        let fenced = json!([{"clusterUid": "other", "epoch": 9}, {"clusterUid": "u", "epoch": 3}]);
        let table = [
            (json!({}), lost(60_000)),
            (json!({"conditions": connected("True")}), SiteState::Live.into()),
            (json!({"conditions": connected("False"), "session": session}), lost(55_000)),
            (
                json!({"conditions": connected("True"), "fenced": fenced, "availability": "Draining"}),
                SiteView { fenced: 3, draining: true, ..SiteState::Live.into() },
            ),
        ];
        let now = Timestamp::from_second(60).unwrap();
        for (status, view) in table {
            assert_eq!(site_view(Some(&site(&status)), "u", now), view, "{status}");
        }
        assert_eq!(site_view(None, "u", now).state, SiteState::Gone { ago: Millis::MAX });
    }
}
