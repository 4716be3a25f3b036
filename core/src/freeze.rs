//! Whether replacing is frozen: when many Sites of many suppliers vanish at once, the fault is more likely the hub's, and
//! nobody is replaced.
//!
//! A freeze begins with a burst of losses and lasts while as many Sites are still away. It only ever makes fences later.

/// Milliseconds of one boot-time clock; also spans of it.
pub type Millis = i64;

/// Losses that lie no further apart are one burst.
pub const BURST: Millis = 60_000;
/// A freeze is lifted when for so long no longer enough Sites were away.
pub const CALM: Millis = 120_000;
/// A freeze lasts so long at most.
pub const LONGEST: Millis = 600_000;
/// Fewest Sites of a burst.
pub const FEWEST_SITES: usize = 20;
/// Fewest suppliers of these.
pub const FEWEST_SUPPLIERS: usize = 3;
/// A burst is more than one of so many Sites: 5 %.
const ONE_OF: usize = 20;

/// A Site that is lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss<'a> {
    /// When it was lost.
    pub at: Millis,
    /// Who it belongs to.
    pub supplier: &'a str,
}

/// What is remembered between two looks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Freeze {
    /// When the present freeze began.
    since: Option<Millis>,
    /// Since when too few Sites are away for it.
    calm: Option<Millis>,
    /// Losses up to this have had their freeze.
    spent: Option<Millis>,
}

impl Freeze {
    /// Whether replacing is frozen.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.since.is_some()
    }

    /// Looks at all Sites that are lost `now`, and at the number of those that are `live`. Says when to look again although
    /// nothing changed; None: never. Sites that are away for longer than [`LONGEST`] count nowhere.
    pub fn look(&mut self, losses: &[Loss<'_>], live: usize, now: Millis) -> Option<Millis> {
        let mut recent: Vec<&Loss<'_>> = losses.iter().filter(|loss| now.saturating_sub(loss.at) < LONGEST).collect();
        recent.sort_by_key(|loss| loss.at);
        let sites = live.saturating_add(recent.len());
        if self.since.is_none() {
            let new = recent.partition_point(|loss| self.spent.is_some_and(|spent| loss.at <= spent));
            self.since = recent.get(new..).and_then(|new| burst(new, sites));
            self.calm = None;
        }
        let since = self.since?;
        let away = recent.partition_point(|loss| loss.at < since.saturating_sub(BURST));
        if recent.get(away..).is_some_and(|away| is_many(away, sites)) {
            self.calm = None;
        } else {
            self.calm.get_or_insert(now);
        }
        let end = since.saturating_add(LONGEST);
        let end = self.calm.map_or(end, |calm| end.min(calm.saturating_add(CALM)));
        if now < end {
            return Some(end);
        }
        *self = Self { since: None, calm: None, spent: Some(now) };
        None
    }
}

/// When enough Sites were lost within [`BURST`] for the first time. `losses` are in order.
fn burst(losses: &[&Loss<'_>], sites: usize) -> Option<Millis> {
    let mut first = 0;
    for (last, loss) in losses.iter().enumerate() {
        while losses.get(first).is_some_and(|early| loss.at.saturating_sub(early.at) > BURST) {
            first += 1;
        }
        if losses.get(first..=last).is_some_and(|window| is_many(window, sites)) {
            return Some(loss.at);
        }
    }
    None
}

fn is_many(losses: &[&Loss<'_>], sites: usize) -> bool {
    if losses.len() < FEWEST_SITES || losses.len().saturating_mul(ONE_OF) <= sites {
        return false;
    }
    let mut suppliers: Vec<&str> = losses.iter().map(|loss| loss.supplier).collect();
    suppliers.sort_unstable();
    suppliers.dedup();
    suppliers.len() >= FEWEST_SUPPLIERS
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SUPPLIERS: [&str; 4] = ["acme", "beta", "core", "dune"];

    /// So many losses, one every `apart`, of so many suppliers.
    fn losses(count: usize, apart: Millis, suppliers: usize) -> Vec<Loss<'static>> {
        let at = |n: usize| i64::try_from(n).unwrap() * apart;
        (0..count).map(|n| Loss { at: at(n), supplier: SUPPLIERS[n % suppliers] }).collect()
    }

    #[test]
    fn only_many_sites_of_several_suppliers_at_once_freeze() {
        for (what, losses, live, frozen) in [
            ("twenty of three", losses(20, 0, 3), 0, true),
            ("nineteen", losses(19, 0, 3), 0, false),
            ("of two suppliers", losses(40, 0, 2), 0, false),
            ("just 5 %", losses(20, 0, 3), 380, false),
            ("more than 5 %", losses(20, 0, 3), 379, true),
            ("within a minute", losses(20, 3_157, 3), 0, true),
            ("over more than a minute", losses(20, 3_160, 3), 0, false),
        ] {
            let mut freeze = Freeze::default();
            freeze.look(&losses, live, 60_100);
            assert_eq!(freeze.is_on(), frozen, "{what}");
        }
    }

    #[test]
    fn it_ends_two_minutes_after_the_sites_are_back() {
        let (mut freeze, losses) = (Freeze::default(), losses(21, 0, 3));
        assert_eq!(freeze.look(&losses, 0, 10), Some(LONGEST));
        assert_eq!(freeze.look(&losses, 0, 300_000), Some(LONGEST), "they are still away");
        assert_eq!(freeze.look(&losses[2..], 2, 310_000), Some(430_000), "nineteen are away");
        assert_eq!(freeze.look(&losses[1..], 1, 320_000), Some(LONGEST), "twenty again");
        assert_eq!(freeze.look(&losses[2..], 2, 330_000), Some(450_000));
        assert_eq!(freeze.look(&losses[2..], 2, 449_999), Some(450_000));
        assert_eq!(freeze.look(&losses[2..], 2, 450_000), None);
        assert!(!freeze.is_on());
    }

    #[test]
    fn it_lasts_ten_minutes_at_most_and_the_same_losses_do_not_freeze_again() {
        let (mut freeze, mut lost) = (Freeze::default(), losses(30, 0, 3));
        freeze.look(&lost, 0, 5);
        assert_eq!(freeze.look(&lost, 0, LONGEST), None);
        assert_eq!(freeze.look(&lost, 0, LONGEST + 1), None);
        lost.extend(losses(30, 0, 3).into_iter().map(|loss| Loss { at: loss.at + LONGEST + 5, ..loss }));
        assert!(freeze.look(&lost, 0, LONGEST + 6).is_some(), "others are lost");
    }

    #[test]
    fn a_new_leader_sees_a_burst_that_is_not_over() {
        let lost = losses(30, 0, 3);
        let mut freeze = Freeze::default();
        assert_eq!(freeze.look(&lost, 0, 200_000), Some(LONGEST), "counted from the burst, not from its own start");
        assert_eq!(Freeze::default().look(&lost, 0, LONGEST), None, "lost long ago");
    }

    proptest! {
        #[test]
        fn whatever_is_lost_no_freeze_outlives_its_time(
            steps in prop::collection::vec((0_i64..100_000, 0_usize..60, 0_usize..200), 1..60),
        ) {
            let (mut freeze, mut now, mut lost, mut began) = (Freeze::default(), 0, Vec::new(), None);
            for (wait, count, live) in steps {
                now += wait;
                lost.truncate(count);
                lost.resize(count, Loss { at: now, supplier: "acme" });
                for (n, loss) in lost.iter_mut().enumerate() {
                    loss.supplier = SUPPLIERS[n % 3];
                }
                let again = freeze.look(&lost, live, now);
                prop_assert_eq!(freeze.is_on(), again.is_some());
                prop_assert!(again.is_none_or(|at| at > now && at <= now + LONGEST));
                began = freeze.is_on().then(|| began.unwrap_or(now));
                prop_assert!(began.is_none_or(|began| now - began < LONGEST + 1));
            }
        }
    }
}
