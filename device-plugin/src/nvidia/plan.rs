//! What is asked of a GPU at each sample, found out once.

use atoll_nvml::{self as nvml, Code, Field, Value, fields};

/// How a GPU counts the errors of its links: it changed twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum LinkStyle {
    /// Not at all.
    #[default]
    Silent,
    /// A field for each of the first twelve links (before Hopper).
    PerLink,
    /// One field, and the link as its scope (Hopper).
    Scoped,
    /// The same with other counters (Blackwell).
    Events,
}

/// What is asked of a GPU, found out once.
#[derive(Clone, Debug, Default)]
pub(super) struct Plan {
    /// In order.
    pub fields: Vec<Field>,
    /// Numbers of its links.
    pub links: Vec<u32>,
    pub style: LinkStyle,
    pub slowdown: Option<i32>,
    pub shutdown: Option<i32>,
    /// It has counters of its hardware.
    pub gpm: bool,
    /// It is virtual and needs a license; None: the driver cannot say.
    pub licensable: Option<bool>,
}

impl Plan {
    pub fn new(handle: &nvml::Device, links: Vec<u32>, (slowdown, shutdown): (Option<i32>, Option<i32>)) -> Self {
        let style = links.first().map_or(LinkStyle::Silent, |link| style(handle, *link));
        let mut asked: Vec<Field> = [
            fields::ECC_CORRECTED,
            fields::ECC_UNCORRECTED,
            fields::RETIRED_PENDING,
            fields::MEMORY_TEMPERATURE,
            fields::ENERGY,
            fields::PCIE_REPLAYS,
            fields::REMAPPED_CORRECTED,
            fields::REMAPPED_UNCORRECTED,
            fields::REMAPPED_PENDING,
            fields::REMAPPED_FAILURE,
            fields::RECOVERY_ACTION,
        ]
        .map(Field::of_device)
        .into();
        if !links.is_empty() {
            asked.push(Field { id: fields::LINK_SENT_KIB, scope: fields::ALL_LINKS });
            asked.push(Field { id: fields::LINK_RECEIVED_KIB, scope: fields::ALL_LINKS });
        }
        for link in &links {
            asked.push(Field { id: fields::LINK_STATE, scope: *link });
            let counters = [replays(style, *link), recoveries(style, *link)].into_iter().flatten();
            asked.extend(counters.chain(crc_errors(style, *link)).chain(traffic(style, *link)));
        }
        asked.sort_unstable();
        let gpm = handle.has_gpm().unwrap_or(false);
        let licensable = handle.vgpu_licensed().ok().map(|licensed| licensed.is_some());
        Self { fields: asked, links, style, slowdown, shutdown, gpm, licensable }
    }
}

fn style(handle: &nvml::Device, link: u32) -> LinkStyle {
    let styles = [LinkStyle::Scoped, LinkStyle::PerLink, LinkStyle::Events];
    let asked: Vec<Field> = styles.iter().filter_map(|style| recoveries(*style, link)).collect();
    let answers = handle.fields(&asked).unwrap_or_default();
    let answered = |style: &LinkStyle| {
        let place = asked.iter().position(|field| Some(*field) == recoveries(*style, link));
        place.and_then(|place| answers.get(place)).is_some_and(Result::is_ok)
    };
    styles.into_iter().find(answered).unwrap_or_default()
}

/// The field of this link among those that have one for each link: two runs of six.
fn per_link(first: u32, second: u32, link: u32) -> Option<Field> {
    match link {
        0..6 => Some(Field::of_device(first + link)),
        6..12 => Some(Field::of_device(second + link - 6)),
        _ => None,
    }
}

pub(super) fn replays(style: LinkStyle, link: u32) -> Option<Field> {
    match style {
        LinkStyle::PerLink => per_link(46, 108, link),
        LinkStyle::Scoped => Some(Field { id: fields::LINK_REPLAYS, scope: link }),
        LinkStyle::Events | LinkStyle::Silent => None,
    }
}

pub(super) fn recoveries(style: LinkStyle, link: u32) -> Option<Field> {
    match style {
        LinkStyle::PerLink => per_link(53, 114, link),
        LinkStyle::Scoped => Some(Field { id: fields::LINK_RECOVERIES, scope: link }),
        LinkStyle::Events => Some(Field { id: fields::LINK_RECOVERY_EVENTS, scope: link }),
        LinkStyle::Silent => None,
    }
}

/// Those of flits and those of data are counted apart before Hopper.
pub(super) fn crc_errors(style: LinkStyle, link: u32) -> impl Iterator<Item = Field> {
    let (first, second) = match style {
        LinkStyle::PerLink => (per_link(32, 96, link), per_link(39, 102, link)),
        LinkStyle::Scoped => (Some(Field { id: fields::LINK_CRC_ERRORS, scope: link }), None),
        LinkStyle::Events => (Some(Field { id: fields::LINK_RECEIVE_ERRORS, scope: link }), None),
        LinkStyle::Silent => (None, None),
    };
    first.into_iter().chain(second)
}

/// Bytes of a link, where there is no sum over all of them.
pub(super) fn traffic(style: LinkStyle, link: u32) -> impl Iterator<Item = Field> {
    let fields = (style == LinkStyle::Events).then_some([fields::LINK_SENT_BYTES, fields::LINK_RECEIVED_BYTES]);
    fields.into_iter().flatten().map(move |id| Field { id, scope: link })
}

/// Values of the plan's fields.
pub(super) struct Values<'a> {
    pub fields: &'a [Field],
    pub values: Vec<Result<Value, Code>>,
}

impl Values<'_> {
    pub fn get(&self, field: Field) -> Option<Value> {
        let place = self.fields.binary_search(&field).ok()?;
        self.values.get(place)?.ok()
    }

    pub fn count(&self, field: Field) -> Option<u64> {
        self.get(field)?.unsigned()
    }

    pub fn of_device(&self, id: u32) -> Option<u64> {
        self.count(Field::of_device(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_links_that_have_one_each_come_in_two_runs() {
        let ids: Vec<Option<u32>> =
            [0, 5, 6, 11, 12].map(|link| replays(LinkStyle::PerLink, link).map(|field| field.id)).into();
        assert_eq!(ids, [Some(46), Some(51), Some(108), Some(113), None]);
    }
}
