//! Between the wire and what `core` decides on. Pure.

use atoll_api::conditions::member_reason;
use atoll_api::{ClusterSliceSpec, SlicePhase};
use atoll_core::lease::Times;
use atoll_core::member::{Member, MemberPhase, Mode, Placed, Reason, Report, Reservation, Wanted};
use atoll_wire::{limits, v1};

use crate::naming::SliceId;
use crate::pod;
use crate::runtime::SliceSpec;

/// Why a slice of the hub's cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// Larger than the protocol allows.
    #[error("{0} bytes are more than a slice may have")]
    TooLarge(usize),
    /// Not the JSON of a `ClusterSliceSpec`.
    #[error("not a ClusterSliceSpec: {0}")]
    Json(#[from] serde_json::Error),
    /// It says that it belongs to another Cluster than its key.
    #[error("its clusterUid is not that of its key")]
    OtherCluster,
}

/// Reads a slice. Whether its pods are refused is part of the result: the hub is told so and does not wait.
pub fn slice(id: &SliceId, generation: i64, spec_json: &[u8]) -> Result<(Wanted, SliceSpec), SpecError> {
    if spec_json.len() > limits::MAX_SPEC_BYTES {
        return Err(SpecError::TooLarge(spec_json.len()));
    }
    let mut spec: ClusterSliceSpec = serde_json::from_slice(spec_json)?;
    if spec.cluster_uid != id.cluster_uid {
        return Err(SpecError::OtherCluster);
    }
    spec.members.sort_by_key(|member| member.rank);
    let seconds = |seconds: i32| u64::try_from(seconds).unwrap_or(0);
    let times = if spec.autonomous {
        Times::Never
    } else {
        Times::from_seconds(seconds(spec.fence.stop_seconds), seconds(spec.fence.kill_seconds))
    };
    let refusal = pod::check(&spec).err().map(|refused| refused.to_string()).or_else(|| {
        pod::shape(&spec.template, spec.gpus).err().map(|error| format!("template.spec.containers: {error}"))
    });
    let wanted = Wanted {
        epoch: u64::try_from(spec.epoch).unwrap_or(0),
        generation,
        mode: match spec.phase {
            SlicePhase::Reserve => Mode::Hold,
            SlicePhase::Run => Mode::Run,
        },
        members: spec
            .members
            .iter()
            .filter_map(|member| {
                let rank = u32::try_from(member.rank).ok()?;
                let incarnation = u64::try_from(member.incarnation).ok()?;
                Some(Placed { member: Member { rank, incarnation }, node: member.node.clone() })
            })
            .collect(),
        times,
        refusal,
    };
    Ok((wanted, SliceSpec { spec, times }))
}

/// A report as it is sent.
#[must_use]
pub fn report(id: &SliceId, report: &Report) -> v1::SliceReport {
    v1::SliceReport {
        key: Some(id.to_wire()),
        observed_epoch: report.epoch,
        observed_generation: report.generation,
        reservation: match report.reservation {
            Reservation::Pending => v1::Reservation::Pending,
            Reservation::Reserved => v1::Reservation::Reserved,
            Reservation::Refused => v1::Reservation::Refused,
        }
        .into(),
        reason: reason(&report.reason),
        message: cut(&report.message, limits::MAX_TEXT_BYTES),
        members: report
            .members
            .iter()
            .take(limits::MAX_REPORT_MEMBERS)
            .map(|member| v1::Member {
                rank: member.member.rank,
                incarnation: member.member.incarnation,
                phase: match member.phase {
                    MemberPhase::Pending => v1::member::Phase::Pending,
                    MemberPhase::Starting => v1::member::Phase::Starting,
                    MemberPhase::Ready => v1::member::Phase::Ready,
                    MemberPhase::Stopping => v1::member::Phase::Stopping,
                    MemberPhase::Succeeded => v1::member::Phase::Succeeded,
                    MemberPhase::Failed => v1::member::Phase::Failed,
                    MemberPhase::Lost => v1::member::Phase::Lost,
                }
                .into(),
                node: member.node.clone().unwrap_or_default(),
                address: member.address.clone().unwrap_or_default(),
                reason: reason(&member.reason),
                message: cut(&member.message, limits::MAX_TEXT_BYTES),
            })
            .collect(),
        gone: report.gone,
    }
}

fn reason(reason: &Reason) -> String {
    match reason {
        Reason::None => String::new(),
        Reason::PodRefused => member_reason::POD_REFUSED.into(),
        Reason::LeaseExpired => member_reason::LEASE_EXPIRED.into(),
        Reason::Vanished => member_reason::LOST.into(),
        Reason::GpuUnhealthy => member_reason::GPU_UNHEALTHY.into(),
        Reason::Site(word) => cut(word, limits::MAX_WORD_BYTES),
    }
}

/// At most so many bytes of a text, whole characters.
#[must_use]
pub fn cut(text: &str, bytes: usize) -> String {
    let end = (0..=bytes.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    text[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{slice_id, slice_spec};

    fn json(edit: impl FnOnce(&mut serde_json::Value)) -> Vec<u8> {
        slice_spec(edit).to_string().into_bytes()
    }

    #[test]
    fn a_slice_is_read_in_order_of_rank() {
        let (wanted, spec) = slice(
            &slice_id(),
            7,
            &json(|spec| {
                spec["members"].as_array_mut().expect("members").reverse();
                spec["fence"] = serde_json::json!({"stopSeconds": 5, "killSeconds": 10, "fenceSeconds": 15});
            }),
        )
        .expect("a slice");
        assert_eq!(wanted.members.iter().map(|placed| placed.member.rank).collect::<Vec<_>>(), [0, 1]);
        assert_eq!((wanted.epoch, wanted.generation, wanted.mode), (4, 7, Mode::Run));
        assert_eq!(wanted.times, Times::from_seconds(5, 10));
        assert_eq!(wanted.refusal, None);
        let (autonomous, _) = slice(&slice_id(), 7, &json(|spec| spec["autonomous"] = true.into())).expect("a slice");
        assert_eq!(autonomous.times, Times::Never);
        assert_eq!(spec.spec.gpus, 8);
    }

    #[test]
    fn a_slice_whose_pods_are_refused_is_read_and_says_so() {
        let bad = json(|spec| spec["template"]["spec"]["hostNetwork"] = true.into());
        let (wanted, _) = slice(&slice_id(), 1, &bad).expect("a slice");
        assert!(wanted.refusal.expect("refused").contains("hostNetwork"));
        let bad = json(|spec| {
            spec["template"]["spec"]["containers"][0]["resources"] = serde_json::json!({"requests": {"cpu": "lots"}});
        });
        assert!(slice(&slice_id(), 1, &bad).expect("a slice").0.refusal.expect("refused").contains("lots"));
    }

    #[test]
    fn what_is_no_slice_or_another_clusters_is_an_error() {
        assert!(matches!(slice(&slice_id(), 1, b"{}"), Err(SpecError::Json(_))));
        let other = json(|spec| spec["clusterUid"] = "other".into());
        assert!(matches!(slice(&slice_id(), 1, &other), Err(SpecError::OtherCluster)));
        let large = vec![b' '; limits::MAX_SPEC_BYTES + 1];
        assert!(matches!(slice(&slice_id(), 1, &large), Err(SpecError::TooLarge(_))));
    }

    #[test]
    fn a_cut_keeps_whole_characters() {
        assert_eq!(cut("añb", 2), "a");
        assert_eq!(cut("añb", 3), "añ");
        assert_eq!(cut("ab", 9), "ab");
    }
}
