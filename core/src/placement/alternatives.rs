//! What would fit instead, from one survey: nothing here looks at the inventory again.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::filter::Filter;
use super::refusal::{Change, Fit};
use super::request::Request;
use super::survey::{Near, Survey};
use crate::words::Span;

/// The most alternatives of one kind that are worth naming.
const MOST_OF_A_KIND: usize = 3;

/// Room for members by the places that one gang may not leave.
type Rooms<'a> = BTreeMap<&'a str, u64>;

fn rooms<'a>(near: impl IntoIterator<Item = &'a Near<'a>>, span: Span) -> Rooms<'a> {
    let mut rooms = Rooms::new();
    for near in near {
        *rooms.entry(place(near, span)).or_default() += near.members;
    }
    rooms
}

fn place<'a>(near: &Near<'a>, span: Span) -> &'a str {
    match span {
        Span::Site => near.site,
        Span::Region => near.region,
        Span::Any => "",
    }
}

fn largest(rooms: &Rooms<'_>) -> u64 {
    rooms.values().copied().max().unwrap_or(0)
}

/// Changes with which members would be placed now, simplest first; each by itself.
pub(super) fn alternatives(request: &Request, survey: &Survey<'_>) -> Vec<Fit> {
    let (want, need, span) = (request.want(), request.need(), request.span);
    let mut fits = Vec::new();
    let mut push = |change, members: u64| fits.push(Fit { change, members: members.min(want) });

    let base = rooms(survey.near.iter().filter(|near| near.failed.none()), span);
    let now = largest(&base);
    if now > 0 {
        push(Change::Members, now);
    }
    if !survey.placed {
        let mut most = now;
        for wider in [Span::Region, Span::Any] {
            let members = largest(&rooms(survey.near.iter().filter(|near| near.failed.none()), wider));
            if members > most && most < want {
                push(Change::Span(wider), members);
                most = members;
            }
        }
        for (name, members) in each(survey, Filter::Model, |near| near.model, &Rooms::new(), span, want, need) {
            push(Change::Model(name), members);
        }
    }
    // Price caps can be changed while members run, and what is below can not.
    if let Some((cap, members)) = relax(survey, Filter::Price, |near| near.price, &base, span, need) {
        push(Change::MaxPrice(cap), members);
    }
    if !survey.placed {
        if let Some((Reverse(trust), members)) =
            relax(survey, Filter::Trust, |near| Reverse(near.trust), &base, span, need)
        {
            push(Change::MinTrust(trust), members);
        }
        for (name, members) in each(survey, Filter::Region, |near| near.region, &base, span, want, need) {
            push(Change::Region(name), members);
        }
        for (name, members) in each(survey, Filter::Supplier, |near| near.supplier, &base, span, want, need) {
            push(Change::Supplier(name), members);
        }
    }
    fits
}

/// The names that one filter leaves out and of which one alone, beside `base`, makes room enough: those with the most
/// room first, then the cheapest, then by name.
fn each<'a>(
    survey: &'a Survey<'_>,
    filter: Filter,
    name: impl Fn(&Near<'a>) -> &'a str,
    base: &Rooms<'_>,
    span: Span,
    want: u64,
    need: u64,
) -> Vec<(String, u64)> {
    let mut by_name: BTreeMap<&str, Vec<&Near<'_>>> = BTreeMap::new();
    for near in &survey.near {
        if near.failed.at_most(filter) && !near.failed.none() {
            by_name.entry(name(near)).or_default().push(near);
        }
    }
    let mut enough: Vec<_> = by_name
        .into_iter()
        .filter_map(|(name, near)| {
            let price = near.iter().map(|near| near.price).min();
            let extra = rooms(near, span);
            let members = extra.iter().map(|(at, room)| room + base.get(at).copied().unwrap_or(0)).max()?.min(want);
            (members >= need).then(|| (Reverse(members), price, name.to_owned()))
        })
        .collect();
    enough.sort();
    enough.truncate(MOST_OF_A_KIND);
    enough.into_iter().map(|(Reverse(members), _, name)| (name, members)).collect()
}

/// The first step (in order of `step`) that makes room enough when everything up to it is admitted, and the room.
fn relax<'a, K: Ord + Copy>(
    survey: &'a Survey<'_>,
    filter: Filter,
    step: impl Fn(&Near<'a>) -> K,
    base: &Rooms<'a>,
    span: Span,
    need: u64,
) -> Option<(K, u64)> {
    let mut steps: BTreeMap<K, Vec<&Near<'_>>> = BTreeMap::new();
    for near in &survey.near {
        if near.failed.at_most(filter) && !near.failed.none() {
            steps.entry(step(near)).or_default().push(near);
        }
    }
    let mut rooms = base.clone();
    for (step, near) in steps {
        for near in near {
            *rooms.entry(place(near, span)).or_default() += near.members;
        }
        let members = largest(&rooms);
        if members >= need {
            return Some((step, members));
        }
    }
    None
}
