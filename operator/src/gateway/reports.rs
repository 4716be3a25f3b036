//! Reports of slices: what an agent may say, and the status that follows from it.

use std::collections::HashSet;
use std::net::IpAddr;

use atoll_api::conditions::{self, set_condition, slice_reason};
use atoll_api::{ClusterSlice, ClusterSliceStatus, MemberPhase, MemberStatus, ReservationPhase};
use atoll_wire::limits::{MAX_REPORT_MEMBERS, MAX_TEXT_BYTES, MAX_WORD_BYTES};
use atoll_wire::v1;
use jiff::Timestamp;

/// Why a report is not believed.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum ReportError {
    /// No key.
    #[error("it names no slice")]
    Key,
    /// The slice is not one of this Site.
    #[error("slice {0} is not one of this Site")]
    Foreign(String),
    /// The slice of that name belongs to another Cluster by now.
    #[error("slice {0} belongs to another Cluster")]
    OtherCluster(String),
    /// More members than any slice has.
    #[error("it lists {0} members")]
    TooManyMembers(usize),
    /// An epoch or generation that the hub has not reached.
    #[error("it answers epoch {epoch}, and the slice is at {newest}")]
    Future {
        /// What it says.
        epoch: u64,
        /// What the hub says.
        newest: i64,
    },
    /// A member listed twice.
    #[error("it lists rank {rank} of incarnation {incarnation} twice")]
    Twice {
        /// Its rank.
        rank: u32,
        /// Its incarnation.
        incarnation: u64,
    },
    /// A member that cannot be.
    #[error("rank {rank}: {what}")]
    Member {
        /// Its rank.
        rank: u32,
        /// What is wrong.
        what: &'static str,
    },
    /// A field that cannot be.
    #[error("{0}")]
    Field(&'static str),
}

/// Key of the slice that a report is about, as the cache has it.
#[must_use]
pub fn cache_key(key: &v1::SliceKey) -> String {
    format!("{}/{}", key.namespace, key.name)
}

/// The status that follows from a report of `site` in this session about `slice`.
pub fn status(
    report: &v1::SliceReport,
    site: &str,
    session: i64,
    slice: Option<&ClusterSlice>,
    now: Timestamp,
) -> Result<ClusterSliceStatus, ReportError> {
    let key = report.key.as_ref().ok_or(ReportError::Key)?;
    let slice = slice.filter(|slice| slice.spec.site == site).ok_or_else(|| ReportError::Foreign(cache_key(key)))?;
    if slice.spec.cluster_uid != key.cluster_uid {
        return Err(ReportError::OtherCluster(cache_key(key)));
    }
    let newest = slice.spec.epoch;
    let observed_epoch =
        at_most(report.observed_epoch, newest).ok_or(ReportError::Future { epoch: report.observed_epoch, newest })?;
    if report.members.len() > MAX_REPORT_MEMBERS {
        return Err(ReportError::TooManyMembers(report.members.len()));
    }
    if !is_word(&report.reason) {
        return Err(ReportError::Field("its reason is too long or not readable"));
    }
    let reservation = match v1::Reservation::try_from(report.reservation) {
        Ok(v1::Reservation::Unspecified) => None,
        Ok(v1::Reservation::Pending) => Some(ReservationPhase::Pending),
        Ok(v1::Reservation::Reserved) => Some(ReservationPhase::Reserved),
        Ok(v1::Reservation::Refused) => Some(ReservationPhase::Refused),
        Err(_) => return Err(ReportError::Field("its reservation is of no known kind")),
    };
    if report.gone && report.members.iter().any(|member| holds(member.phase())) {
        return Err(ReportError::Field("it says that nothing is left and lists members that are"));
    }
    let mut seen = HashSet::new();
    let mut members = Vec::with_capacity(report.members.len());
    for member in &report.members {
        if !seen.insert((member.rank, member.incarnation)) {
            return Err(ReportError::Twice { rank: member.rank, incarnation: member.incarnation });
        }
        members.push(member_status(member, newest)?);
    }
    members.sort_by_key(|member| (member.rank, member.incarnation));

    let mut conditions = slice.status.as_ref().map(|status| status.conditions.clone()).unwrap_or_default();
    if report.gone && slice.metadata.deletion_timestamp.is_some() {
        let message = "Nothing of this slice is left on its Site";
        let generation = slice.metadata.generation;
        set_condition(
            &mut conditions,
            conditions::slice::STOPPED,
            true,
            slice_reason::NOTHING_LEFT,
            message,
            generation,
            now,
        );
    }
    Ok(ClusterSliceStatus {
        session,
        observed_epoch,
        // An agent can only have seen generations that exist; a larger one would hide later changes.
        observed_generation: Some(report.observed_generation.clamp(0, slice.metadata.generation.unwrap_or(0))),
        reservation,
        reason: text(&report.reason),
        message: text(&report.message),
        members,
        conditions,
    })
}

/// What is to be written of `said` over what stands in `slice`: nothing when a newer session has said something, nor when
/// the same stands there, in whatever session it was said.
#[must_use]
pub fn to_write(slice: &ClusterSlice, said: &ClusterSliceStatus) -> Option<ClusterSliceStatus> {
    let Some(known) = &slice.status else { return Some(said.clone()) };
    if known.session > said.session {
        return None;
    }
    let is_stopped = |status: &ClusterSliceStatus| conditions::is_true(&status.conditions, conditions::slice::STOPPED);
    let mut new = said.clone();
    // They are added to, and what was confirmed once stays.
    if is_stopped(known) || !is_stopped(said) {
        new.conditions.clone_from(&known.conditions);
    }
    let same = *known == ClusterSliceStatus { session: known.session, ..new.clone() };
    (!same).then_some(new)
}

/// Whether `new` must not wait for its turn: a decision of the hub hangs on it. Progress of single members does not.
#[must_use]
pub fn is_urgent(old: Option<&ClusterSliceStatus>, new: &ClusterSliceStatus) -> bool {
    let Some(old) = old else { return true };
    let all_ready = |status: &ClusterSliceStatus| {
        !status.members.is_empty() && status.members.iter().all(|member| member.phase == MemberPhase::Ready)
    };
    let ended = |status: &ClusterSliceStatus| -> HashSet<(i32, i64)> {
        status.members.iter().filter(|m| m.phase.has_ended()).map(|m| (m.rank, m.incarnation)).collect()
    };
    let listed = |status: &ClusterSliceStatus| -> HashSet<(i32, i64)> {
        status.members.iter().map(|m| (m.rank, m.incarnation)).collect()
    };
    old.reservation != new.reservation
        || old.observed_epoch != new.observed_epoch
        || old.conditions != new.conditions
        || all_ready(old) != all_ready(new)
        || ended(old) != ended(new)
        || !listed(old).is_subset(&listed(new))
}

fn member_status(member: &v1::Member, newest: i64) -> Result<MemberStatus, ReportError> {
    let wrong = |what| ReportError::Member { rank: member.rank, what };
    let phase = match member.phase() {
        v1::member::Phase::Unspecified => return Err(wrong("its phase is of no known kind")),
        v1::member::Phase::Pending => MemberPhase::Pending,
        v1::member::Phase::Starting => MemberPhase::Starting,
        v1::member::Phase::Ready => MemberPhase::Ready,
        v1::member::Phase::Stopping => MemberPhase::Stopping,
        v1::member::Phase::Succeeded => MemberPhase::Succeeded,
        v1::member::Phase::Failed => MemberPhase::Failed,
        v1::member::Phase::Lost => MemberPhase::Lost,
    };
    if !member.address.is_empty() && member.address.parse::<IpAddr>().is_err() {
        return Err(wrong("its address is not an IP address"));
    }
    if member.node.len() > 253 || member.node.chars().any(char::is_control) {
        return Err(wrong("its node's name is too long or not readable"));
    }
    if !is_word(&member.reason) {
        return Err(wrong("its reason is too long or not readable"));
    }
    Ok(MemberStatus {
        rank: i32::try_from(member.rank).map_err(|_| wrong("its rank is too large"))?,
        incarnation: at_most(member.incarnation, newest).ok_or_else(|| wrong("its incarnation was never placed"))?,
        phase,
        node: text(&member.node),
        address: text(&member.address),
        reason: text(&member.reason),
        message: text(&member.message),
    })
}

fn at_most(value: u64, newest: i64) -> Option<i64> {
    i64::try_from(value).ok().filter(|value| *value <= newest)
}

fn holds(phase: v1::member::Phase) -> bool {
    !matches!(phase, v1::member::Phase::Succeeded | v1::member::Phase::Failed | v1::member::Phase::Lost)
}

fn is_word(text: &str) -> bool {
    text.len() <= MAX_WORD_BYTES && !text.chars().any(char::is_control)
}

/// Text for people, cut where it is longer than it may be, with a space for each character that would do something to
/// their terminal; None when empty.
fn text(text: &str) -> Option<String> {
    let cut = &text[..text.floor_char_boundary(MAX_TEXT_BYTES)];
    (!text.is_empty()).then(|| cut.chars().map(|c| if c.is_control() { ' ' } else { c }).collect())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::super::fixtures;
    use super::*;

    fn now() -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }

    fn slice(deleting: bool) -> ClusterSlice {
        let mut slice = fixtures::slice("default", "train-1", "site-a", 3);
        slice.metadata.deletion_timestamp = deleting.then(|| Time(now()));
        slice
    }

    fn member(rank: u32, incarnation: u64, phase: v1::member::Phase) -> v1::Member {
        v1::Member { rank, incarnation, phase: phase.into(), node: "n1".to_owned(), ..v1::Member::default() }
    }

    fn report(members: Vec<v1::Member>) -> v1::SliceReport {
        v1::SliceReport {
            key: Some(v1::SliceKey {
                namespace: "default".to_owned(),
                name: "train-1".to_owned(),
                cluster_uid: "uid-train".to_owned(),
            }),
            observed_epoch: 3,
            observed_generation: 1,
            reservation: v1::Reservation::Reserved.into(),
            members,
            ..v1::SliceReport::default()
        }
    }

    #[test]
    fn a_sane_report_becomes_the_status_in_order_of_rank() {
        use v1::member::Phase::{Ready, Starting};
        let report = report(vec![member(1, 3, Starting), member(0, 2, Ready)]);
        let status = status(&report, "site-a", 4, Some(&slice(false)), now()).unwrap();
        assert_eq!(status.observed_epoch, 3);
        assert_eq!(status.reservation, Some(ReservationPhase::Reserved));
        assert_eq!(
            status.members.iter().map(|m| (m.rank, m.phase)).collect::<Vec<_>>(),
            [(0, MemberPhase::Ready), (1, MemberPhase::Starting)]
        );
        assert!(status.conditions.is_empty());
    }

    #[test]
    fn what_a_site_cannot_know_or_must_not_say_is_refused() {
        use v1::member::Phase::{Ready, Unspecified};
        let known = slice(false);
        let cases: Vec<(&str, v1::SliceReport, Option<&ClusterSlice>)> = vec![
            ("no key", v1::SliceReport { key: None, ..report(vec![]) }, Some(&known)),
            ("unknown slice", report(vec![]), None),
            ("future epoch", v1::SliceReport { observed_epoch: 4, ..report(vec![]) }, Some(&known)),
            ("endless epoch", v1::SliceReport { observed_epoch: u64::MAX, ..report(vec![]) }, Some(&known)),
            ("reservation", v1::SliceReport { reservation: 77, ..report(vec![]) }, Some(&known)),
            ("reason", v1::SliceReport { reason: "x".repeat(200), ..report(vec![]) }, Some(&known)),
            ("twice", report(vec![member(0, 3, Ready), member(0, 3, Ready)]), Some(&known)),
            ("phase", report(vec![member(0, 3, Unspecified)]), Some(&known)),
            ("incarnation", report(vec![member(0, 4, Ready)]), Some(&known)),
            ("rank", report(vec![member(u32::MAX, 3, Ready)]), Some(&known)),
            ("too many", report((0..2_000).map(|rank| member(rank, 3, Ready)).collect()), Some(&known)),
            ("gone", v1::SliceReport { gone: true, ..report(vec![member(0, 3, Ready)]) }, Some(&known)),
            (
                "address",
                report(vec![v1::Member { address: "http://10.0.0.1".to_owned(), ..member(0, 3, Ready) }]),
                Some(&known),
            ),
        ];
        for (what, report, slice) in cases {
            assert!(status(&report, "site-a", 4, slice, now()).is_err(), "{what}");
        }
        assert_eq!(
            status(&report(vec![]), "site-b", 4, Some(&known), now()),
            Err(ReportError::Foreign("default/train-1".to_owned()))
        );
        let mut other = report(vec![]);
        other.key.as_mut().unwrap().cluster_uid = "uid-older".to_owned();
        assert_eq!(
            status(&other, "site-a", 4, Some(&known), now()),
            Err(ReportError::OtherCluster("default/train-1".to_owned()))
        );
    }

    #[test]
    fn gone_confirms_the_stop_of_a_slice_that_is_being_deleted_and_of_no_other() {
        let gone = v1::SliceReport { gone: true, ..report(vec![member(0, 3, v1::member::Phase::Lost)]) };
        let stopped = |deleting| {
            let status = status(&gone, "site-a", 4, Some(&slice(deleting)), now()).unwrap();
            conditions::is_true(&status.conditions, conditions::slice::STOPPED)
        };
        assert!(stopped(true));
        assert!(!stopped(false));
    }

    #[test]
    fn a_confirmed_stop_said_again_changes_nothing() {
        let gone = v1::SliceReport { gone: true, ..report(vec![]) };
        let mut slice = slice(true);
        let first = status(&gone, "site-a", 4, Some(&slice), now()).unwrap();
        slice.status = Some(first.clone());
        let later = Timestamp::from_second(1_800_000_100).unwrap();
        assert_eq!(status(&gone, "site-a", 4, Some(&slice), later).unwrap(), first);
    }

    #[test]
    fn what_an_older_session_said_is_not_written_over_a_newer_ones_word_and_nothing_is_written_twice() {
        let said = |session, phase| {
            let report = report(vec![member(0, 3, phase)]);
            status(&report, "site-a", session, Some(&slice(false)), now()).unwrap()
        };
        let (ready, failed) = (v1::member::Phase::Ready, v1::member::Phase::Failed);
        for (what, stands, says, written) in [
            ("the first word", None, said(1, ready), true),
            ("other news", Some(said(2, ready)), said(2, failed), true),
            ("news of a newer session", Some(said(2, ready)), said(3, failed), true),
            ("the same", Some(said(2, ready)), said(2, ready), false),
            ("the same in a newer session", Some(said(2, ready)), said(3, ready), false),
            ("an older session", Some(said(2, ready)), said(1, failed), false),
        ] {
            let slice = ClusterSlice { status: stands, ..slice(false) };
            assert_eq!(to_write(&slice, &says), written.then_some(says.clone()), "{what}");
        }
        // A stop that was confirmed meanwhile stays.
        let gone = v1::SliceReport { gone: true, ..report(vec![]) };
        let confirmed = status(&gone, "site-a", 2, Some(&slice(true)), now()).unwrap();
        let slice = ClusterSlice { status: Some(confirmed.clone()), ..slice(true) };
        let written = to_write(&slice, &said(2, ready)).unwrap();
        assert_eq!(written.conditions, confirmed.conditions);
    }

    #[test]
    fn what_would_do_something_to_a_terminal_is_no_word_and_no_part_of_a_text() {
        let said = v1::SliceReport { message: "a\u{1b}[31m\nb".to_owned(), ..report(vec![]) };
        let status = |report: &v1::SliceReport| status(report, "site-a", 4, Some(&slice(false)), now());
        assert_eq!(status(&said).unwrap().message.as_deref(), Some("a [31m b"));
        assert!(status(&v1::SliceReport { reason: "a\nb".to_owned(), ..report(vec![]) }).is_err());
        let member = v1::Member { node: "n\u{7}".to_owned(), ..member(0, 3, v1::member::Phase::Ready) };
        assert!(status(&report(vec![member])).is_err());
    }

    #[test]
    fn long_text_is_cut_at_a_character() {
        let report = v1::SliceReport { message: "ü".repeat(400), ..report(vec![]) };
        let status = status(&report, "site-a", 4, Some(&slice(false)), now()).unwrap();
        assert_eq!(status.message.unwrap().len(), MAX_TEXT_BYTES);
    }

    #[test]
    fn news_that_the_hub_decides_by_is_urgent_and_progress_is_not() {
        use v1::member::Phase::{Failed, Pending, Ready, Starting};
        let of = |report: &v1::SliceReport| status(report, "site-a", 4, Some(&slice(false)), now()).unwrap();
        let two = |a, b| of(&report(vec![member(0, 3, a), member(1, 3, b)]));
        let unreserved = of(&v1::SliceReport { reservation: 1, ..report(vec![]) });
        for (what, old, new, urgent) in [
            ("first news", None, two(Pending, Pending), true),
            ("nothing new", Some(two(Ready, Pending)), two(Ready, Pending), false),
            ("started", Some(two(Pending, Pending)), two(Starting, Pending), false),
            ("one of two ready", Some(two(Starting, Starting)), two(Ready, Starting), false),
            ("all ready", Some(two(Ready, Starting)), two(Ready, Ready), true),
            ("no longer all ready", Some(two(Ready, Ready)), two(Ready, Starting), true),
            ("failed", Some(two(Ready, Starting)), two(Ready, Failed), true),
            ("reserved", Some(unreserved), of(&report(vec![])), true),
            ("a member stopped", Some(two(Ready, Starting)), of(&report(vec![member(0, 3, Ready)])), true),
        ] {
            assert_eq!(is_urgent(old.as_ref(), &new), urgent, "{what}");
        }
        let lower = of(&v1::SliceReport { observed_epoch: 2, ..report(vec![]) });
        assert!(is_urgent(Some(&lower), &of(&report(vec![]))));
    }
}
