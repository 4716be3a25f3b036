//! A refusal in words.

use std::fmt;

use super::filter::Filter;
use super::refusal::{Asked, Change, Fit, Refusal};
use crate::words::Span;

/// The longest message, in characters.
const LONGEST: usize = 500;
/// The longest name that is shown whole, in characters.
const LONGEST_NAME: usize = 63;

impl Refusal {
    /// One or two sentences, at most 500 characters: what was asked, what there is, what would fit. Changes only when
    /// a number does that concerns the request.
    #[must_use]
    pub fn message(&self) -> String {
        message(self)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message())
    }
}

impl std::error::Error for Refusal {}

fn message(refusal: &Refusal) -> String {
    let head = format!("{}; {}", asked(&refusal.asked), there_is(refusal));
    let mut text = format!("{head}{}. {}", left_out(refusal), would_fit(&refusal.asked, &refusal.fits));
    // What would fit is worth more than why the rest does not, and its first entries more than its last.
    if text.chars().count() > LONGEST {
        text = format!("{head}. {}", would_fit(&refusal.asked, &refusal.fits));
    }
    let mut fits = refusal.fits.as_slice();
    while text.chars().count() > LONGEST
        && let Some((_, fewer)) = fits.split_last()
    {
        fits = fewer;
        text = format!("{head}. {}", would_fit(&refusal.asked, fits));
    }
    clip(&text, LONGEST)
}

fn asked(asked: &Asked) -> String {
    let more = if asked.more { "more " } else { "" };
    let members = format!("{} {more}{}", asked.members, plural(asked.members, "member"));
    let at_least =
        if asked.at_least < asked.members { format!(", at least {},", asked.at_least) } else { String::new() };
    let gpus = format!("{} {}", asked.gpus_per_member, plural(u64::from(asked.gpus_per_member), "GPU"));
    let place = match (asked.span, &asked.joins) {
        (Span::Site, None) => "on one Site".to_owned(),
        (Span::Site, Some(site)) => format!("on Site {}", name(site)),
        (Span::Region, None) => "in one region".to_owned(),
        (Span::Region, Some(region)) => format!("in region {}", name(region)),
        (Span::Any, _) => "anywhere".to_owned(),
    };
    format!("asked {members}{at_least} of {gpus} ({}) {place}", what(asked))
}

fn what(asked: &Asked) -> String {
    let mut names: Vec<String> = asked.models.iter().chain(&asked.families).map(|n| name(n)).collect();
    if names.is_empty() {
        names.push(format!("any that suits {:?}", asked.workload));
    } else if names.len() > 3 {
        let others = names.len() - 2;
        names.truncate(2);
        names.push(format!("{others} others"));
    }
    let memory = match asked.min_memory_mib {
        0 => String::new(),
        mib if mib.is_multiple_of(1024) => format!(" with {}Gi or more", mib / 1024),
        mib => format!(" with {mib}Mi or more"),
    };
    format!("{}{memory}", names.join(" or "))
}

fn there_is(refusal: &Refusal) -> String {
    let capacity = &refusal.capacity;
    if capacity.exist == 0 {
        let unsuited = refusal.excluded(Filter::Workload).gpus;
        let small = refusal.excluded(Filter::Memory).gpus;
        return if unsuited > 0 {
            format!("{unsuited} such {} and none suits {:?}", exist(unsuited), refusal.asked.workload)
        } else if small > 0 {
            format!("{small} such {} and none has so much memory", exist(small))
        } else {
            "no such GPU exists".to_owned()
        };
    }
    let free = match capacity.free {
        0 => "none is free for it".to_owned(),
        1 => "1 is free".to_owned(),
        free => format!("{free} are free"),
    };
    let largest = match (&capacity.largest, &refusal.asked.joins) {
        (Some(place), None) if capacity.free > 0 => match &place.site {
            Some(site) => format!(", at most {} on one Site ({}, {})", place.gpus, name(site), name(&place.region)),
            None => format!(", at most {} in one region ({})", place.gpus, name(&place.region)),
        },
        _ => String::new(),
    };
    let node = if capacity.free > 0 && capacity.largest_node < refusal.asked.gpus_per_member {
        format!(", at most {} on one node", capacity.largest_node)
    } else {
        String::new()
    };
    format!("{} such {}, {free}{largest}{node}", capacity.exist, exist(capacity.exist))
}

/// What the filters leave out of such GPUs, free or not.
fn left_out(refusal: &Refusal) -> String {
    let reasons: Vec<String> = refusal
        .filters
        .iter()
        .filter(|count| count.filter >= Filter::Usable && count.excluded.gpus > 0)
        .map(|count| {
            let why = match count.filter {
                Filter::Model | Filter::Memory | Filter::Workload => "other",
                Filter::Usable => "on nodes not ready",
                Filter::Open => "on Sites not connected",
                Filter::Region => "in other regions",
                Filter::Supplier => "of other suppliers",
                Filter::Trust => "trusted too little",
                Filter::Price => "too expensive",
                Filter::Survivors => "away from the running members",
                Filter::Refused => "just refused by their Site",
            };
            format!("{} {why}", count.excluded.gpus)
        })
        .collect();
    if reasons.is_empty() { String::new() } else { format!(" (left out: {})", reasons.join(", ")) }
}

fn would_fit(asked: &Asked, fits: &[Fit]) -> String {
    if fits.is_empty() {
        return "Nothing would fit now.".to_owned();
    }
    let fits: Vec<String> = fits.iter().map(|fit| one_fit(asked, fit)).collect();
    format!("Would fit now: {}.", fits.join("; or "))
}

fn one_fit(asked: &Asked, fit: &Fit) -> String {
    let members = format!("{} {}", fit.members, plural(fit.members, "member"));
    let change = match &fit.change {
        Change::Members => return members,
        Change::Span(span) => format!("span {span:?}"),
        Change::Model(model) => format!("model {}", name(model)),
        Change::MaxPrice(cap) => format!("at most {cap} USDC per GPU and hour"),
        Change::MinTrust(trust) => format!("trust {trust:?}"),
        Change::Region(region) => format!("region {} too", name(region)),
        Change::Supplier(supplier) => format!("supplier {} too", name(supplier)),
    };
    if fit.members < asked.members { format!("{change}: {members}") } else { change }
}

fn exist(gpus: u64) -> &'static str {
    if gpus == 1 { "GPU exists" } else { "GPUs exist" }
}

fn plural(count: u64, noun: &str) -> String {
    if count == 1 { noun.to_owned() } else { format!("{noun}s") }
}

fn name(text: &str) -> String {
    clip(text, LONGEST_NAME)
}

fn clip(text: &str, longest: usize) -> String {
    if text.chars().count() <= longest {
        return text.to_owned();
    }
    text.chars().take(longest - 1).chain(['…']).collect()
}
