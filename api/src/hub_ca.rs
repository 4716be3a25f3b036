//! The Secret of the hub's CA ([`HUB_CA_SECRET`](crate::names::HUB_CA_SECRET)) and how one CA follows another.
//!
//! A rotation is asked for by [`ROTATE`]. A gateway then makes the next CA and two dates; from there on the dates alone say
//! what holds, so that every gateway does the same whether the Secret has been brought up to date yet or not:
//!
//! | stage | issues | is trusted, and handed out as the bundle |
//! | --- | --- | --- |
//! | settled | `tls` | `tls` |
//! | staged, until [`ISSUE_FROM`] | `tls` | `tls`, `next` |
//! | following, until [`RETIRE_AT`] | the former `next`, now `tls` | `tls`, `previous` |
//!
//! [`CROSS`] certifies the next CA's key by the former CA, so that whoever knows only the former one accepts what the next
//! one issues. The former CA's key is gone when the next one issues.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::ByteString;

/// PEM of the CA that issues.
pub const CERTIFICATE: &str = "tls.crt";
/// PEM of its key.
pub const KEY: &str = "tls.key";
/// PEM of the CA that will issue.
pub const NEXT_CERTIFICATE: &str = "next.crt";
/// PEM of its key.
pub const NEXT_KEY: &str = "next.key";
/// PEM of the later CA's key, certified by the earlier CA.
pub const CROSS: &str = "cross.crt";
/// PEM of the CA that issued before.
pub const PREVIOUS: &str = "previous.crt";
/// Somebody wants a new CA; holds when, RFC 3339.
pub const ROTATE: &str = "rotate";
/// From when the next CA issues, RFC 3339.
pub const ISSUE_FROM: &str = "issue-from";
/// From when the former CA is not trusted any more, RFC 3339.
pub const RETIRE_AT: &str = "retire-at";

/// From making the next CA to issuing by it. Every Site that is there has renewed by then and knows both; a certificate
/// lasts as long as this.
pub const STAGED: SignedDuration = SignedDuration::from_hours(24);
/// How long the former CA's word for the next one is shown after that: a Site that was away for longer joins anew.
pub const FOLLOWING: SignedDuration = SignedDuration::from_hours(30 * 24);

/// What the Secret holds.
pub type Data = BTreeMap<String, ByteString>;

/// How far a rotation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// One CA, and nothing to do.
    Settled,
    /// A new CA is wanted and was not made yet.
    Wanted,
    /// The next CA is trusted and does not issue before this moment.
    Staged(Timestamp),
    /// The CA issues; the one before it is trusted until this moment.
    Following(Timestamp),
    /// A date is missing or cannot be read: nothing moves until somebody looks at this key.
    Damaged(&'static str),
}

impl Stage {
    /// When the next stage begins by itself.
    #[must_use]
    pub fn until(self) -> Option<Timestamp> {
        match self {
            Self::Staged(until) | Self::Following(until) => Some(until),
            Self::Settled | Self::Wanted | Self::Damaged(_) => None,
        }
    }
}

/// The text under a key.
#[must_use]
pub fn text<'a>(data: &'a Data, key: &str) -> Option<&'a str> {
    std::str::from_utf8(&data.get(key)?.0).ok()
}

/// How far a rotation is, by what is stored.
#[must_use]
pub fn stage(data: &Data) -> Stage {
    let moment = |key| text(data, key).and_then(|text| text.trim().parse::<Timestamp>().ok());
    let (key, dated): (_, fn(_) -> _) = if data.contains_key(NEXT_CERTIFICATE) {
        (ISSUE_FROM, Stage::Staged)
    } else if data.contains_key(PREVIOUS) {
        (RETIRE_AT, Stage::Following)
    } else if data.contains_key(ROTATE) {
        return Stage::Wanted;
    } else {
        return Stage::Settled;
    };
    moment(key).map_or(Stage::Damaged(key), dated)
}

/// Stores the next CA. `cross` is its key certified by the present one.
pub fn put_next(data: &mut Data, certificate: &str, key: &str, cross: &str, now: Timestamp) {
    let issue_from = now.saturating_add(STAGED).unwrap_or(Timestamp::MAX);
    let retire_at = issue_from.saturating_add(FOLLOWING).unwrap_or(Timestamp::MAX);
    data.remove(ROTATE);
    for (name, text) in [
        (NEXT_CERTIFICATE, certificate.to_owned()),
        (NEXT_KEY, key.to_owned()),
        (CROSS, cross.to_owned()),
        (ISSUE_FROM, format!("{issue_from:.0}")),
        (RETIRE_AT, format!("{retire_at:.0}")),
    ] {
        data.insert(name.to_owned(), ByteString(text.into_bytes()));
    }
}

/// Brings the Secret to what holds at `now`; says whether that changed it.
pub fn advance(data: &mut Data, now: Timestamp) -> bool {
    let before = stage(data);
    if let Stage::Staged(from) = before
        && from <= now
    {
        for (new, place, old) in [(NEXT_CERTIFICATE, CERTIFICATE, Some(PREVIOUS)), (NEXT_KEY, KEY, None)] {
            let Some(value) = data.remove(new) else { continue };
            let former = data.insert(place.to_owned(), value);
            if let (Some(former), Some(old)) = (former, old) {
                data.insert(old.to_owned(), former);
            }
        }
        data.remove(ISSUE_FROM);
    }
    if let Stage::Following(until) = stage(data)
        && until <= now
    {
        for key in [PREVIOUS, CROSS, RETIRE_AT] {
            data.remove(key);
        }
    }
    stage(data) != before
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(hours: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + hours * 3_600).unwrap()
    }

    fn settled() -> Data {
        [(CERTIFICATE, "old"), (KEY, "old key")]
            .map(|(key, text)| (key.to_owned(), ByteString(text.as_bytes().to_vec())))
            .into()
    }

    fn staged() -> Data {
        let mut data = settled();
        put_next(&mut data, "new", "new key", "new by old", at(0));
        data
    }

    fn held(data: &Data) -> Vec<(&str, &str)> {
        data.keys().map(|key| (key.as_str(), text(data, key).unwrap())).collect()
    }

    #[test]
    fn a_rotation_goes_from_stage_to_stage_by_its_dates_alone() {
        let end = 24 + 30 * 24;
        for (hours, stage_then, issuing, previous, keys) in [
            (0, Stage::Staged(at(24)), "old", None, vec![KEY, NEXT_KEY]),
            (23, Stage::Staged(at(24)), "old", None, vec![KEY, NEXT_KEY]),
            (24, Stage::Following(at(end)), "new", Some("old"), vec![KEY]),
            (end - 1, Stage::Following(at(end)), "new", Some("old"), vec![KEY]),
            (end, Stage::Settled, "new", None, vec![KEY]),
        ] {
            // Asked once at that moment, or each hour until then: the same.
            let mut once = staged();
            advance(&mut once, at(hours));
            let mut often = staged();
            for hour in 0..=hours {
                advance(&mut often, at(hour));
            }
            assert_eq!(once, often, "{hours}");
            assert_eq!(stage(&once), stage_then, "{hours}");
            assert_eq!((text(&once, CERTIFICATE), text(&once, PREVIOUS)), (Some(issuing), previous), "{hours}");
            let left: Vec<_> = [KEY, NEXT_KEY].into_iter().filter(|key| once.contains_key(*key)).collect();
            assert_eq!(left, keys, "{hours}");
            assert!(!advance(&mut once, at(hours)), "{hours}: a second time changes nothing");
        }
    }

    #[test]
    fn what_is_over_leaves_nothing_behind() {
        let mut data = staged();
        assert!(advance(&mut data, at(24 * 365)));
        assert_eq!(held(&data), [(CERTIFICATE, "new"), (KEY, "new key")]);
    }

    #[test]
    fn a_wish_is_a_stage_and_is_granted_once() {
        let mut data = settled();
        assert_eq!(stage(&data), Stage::Settled);
        data.insert(ROTATE.to_owned(), ByteString(at(0).to_string().into_bytes()));
        assert_eq!(stage(&data), Stage::Wanted);
        assert!(!advance(&mut data, at(1_000)));
        put_next(&mut data, "new", "new key", "new by old", at(0));
        assert_eq!(data, staged());
    }

    #[test]
    fn without_a_date_that_can_be_read_nothing_moves() {
        for broken in [None, Some("soon")] {
            let mut data = staged();
            data.remove(ISSUE_FROM);
            data.extend(broken.map(|text| (ISSUE_FROM.to_owned(), ByteString(text.as_bytes().to_vec()))));
            let before = data.clone();
            assert_eq!(stage(&data), Stage::Damaged(ISSUE_FROM));
            assert!(!advance(&mut data, at(10_000)));
            assert_eq!(data, before);
        }
        let mut data = staged();
        data.remove(RETIRE_AT);
        assert!(advance(&mut data, at(24)));
        assert_eq!(stage(&data), Stage::Damaged(RETIRE_AT));
        assert!(!advance(&mut data, at(10_000)));
        assert_eq!(text(&data, PREVIOUS), Some("old"));
    }
}
