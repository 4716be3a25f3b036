//! `explain`: why a Cluster is where it is, or why it is pending and what would fit.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;

use atoll_api::{Cluster, MemberPhase, MemberStatus};
use jiff::Timestamp;
use kube::{Client, ResourceExt};

use crate::error::Error;
use crate::fetch;
use crate::outlook::{self, Outlook};
use crate::render::{Table, age, count, paragraph, print, ranges, short};
use crate::verdict::Verdict;
use crate::world::World;

/// Members that are not Ready and shown one by one; the rest is counted.
const MOST_MEMBERS: usize = 20;
/// Notes about objects that are left out.
const MOST_NOTES: usize = 5;

/// Runs the command.
pub async fn run(client: &Client, namespace: Option<&str>, name: &str, now: Timestamp) -> Result<Verdict, Error> {
    let namespace = namespace.unwrap_or_else(|| client.default_namespace()).to_owned();
    let world = World::new(fetch::objects(client, &namespace).await?);
    let cluster = world.clusters.get(&(namespace.clone(), name.to_owned())).ok_or_else(|| Error::NotFound {
        kind: "Cluster",
        name: format!("{namespace}/{name}"),
        hint: format!("; see: kubectl get clusters -n {namespace}"),
    })?;
    let (text, verdict) = explain(&world, cluster, now)?;
    print(&text);
    Ok(verdict)
}

/// The explanation, and whether what the Cluster still lacks fits.
fn explain(world: &World, cluster: &Cluster, now: Timestamp) -> Result<(String, Verdict), Error> {
    let outlook = Outlook::new(world, cluster, now)
        .map_err(|source| Error::Invalid { object: format!("Cluster {}", cluster.name_any()), source })?;
    let mut text = head(cluster);
    section(&mut text, "Conditions", &conditions(cluster, now));
    section(&mut text, "Placement", &placement(world, cluster));
    section(&mut text, "Members that are not ready", &unready(world, cluster));
    section(&mut text, "Next", &what_is_next(world, cluster, &outlook));
    text.push_str(&notes(world));
    let waits = world.network_hidden && outlook.step.want.is_some();
    Ok((text, if waits { Verdict::DoesNotFit } else { outlook.verdict() }))
}

/// Notes as paragraphs; only the first few.
pub fn notes(world: &World) -> String {
    let mut text = String::new();
    for note in world.notes.iter().take(MOST_NOTES) {
        text.push('\n');
        text.push_str(&paragraph(&format!("Note: {note}"), 0));
    }
    if world.notes.len() > MOST_NOTES {
        let _ = writeln!(text, "\nNote: {} more of these.", world.notes.len() - MOST_NOTES);
    }
    text
}

fn section(text: &mut String, title: &str, body: &str) {
    if !body.is_empty() {
        let _ = write!(text, "\n{title}\n{body}");
    }
}

fn head(cluster: &Cluster) -> String {
    let (spec, status) = (&cluster.spec, cluster.status.clone().unwrap_or_default());
    let mut text = format!(
        "Cluster {}/{}: {} ({:?}, {:?})\n",
        cluster.namespace().unwrap_or_default(),
        cluster.name_any(),
        status.state.as_deref().unwrap_or("not seen by the operator yet"),
        spec.type_,
        spec.workload,
    );
    let _ = writeln!(
        text,
        "{} of {} ready, {} placed, {}, {} USDC per hour",
        status.ready,
        count(u64::try_from(spec.members.count).unwrap_or_default(), "member"),
        status.total,
        count(u64::try_from(status.gpus).unwrap_or_default(), "GPU"),
        status.price_per_hour.as_deref().unwrap_or("0"),
    );
    if let Some(message) = status.message.as_deref().filter(|message| !message.is_empty()) {
        text.push_str(&paragraph(message, 0));
    }
    text
}

fn conditions(cluster: &Cluster, now: Timestamp) -> String {
    let Some(status) = cluster.status.as_ref().filter(|status| !status.conditions.is_empty()) else {
        return String::new();
    };
    let mut table = Table::new(["CONDITION", "STATUS", "REASON", "SINCE"]);
    for condition in &status.conditions {
        table.row([
            condition.type_.clone(),
            condition.status.clone(),
            condition.reason.clone(),
            age(condition.last_transition_time.0, now),
        ]);
    }
    table.render()
}

fn placement(world: &World, cluster: &Cluster) -> String {
    let Some(placement) = cluster.status.as_ref().and_then(|status| status.placement.as_ref()) else {
        return String::new();
    };
    let mut table = Table::new(["SITE", "ID", "REGION", "NODES", "RANKS", "EPOCHS", "USD/GPU/H"]).right(&[6]);
    for site in &placement.sites {
        let mut ranks: Vec<u32> = site
            .nodes
            .iter()
            .flat_map(|node| node.rank..node.rank.saturating_add(node.count))
            .filter_map(|rank| u32::try_from(rank).ok())
            .collect();
        ranks.sort_unstable();
        let mut epochs: Vec<u32> = site.nodes.iter().filter_map(|node| u32::try_from(node.incarnation).ok()).collect();
        epochs.sort_unstable();
        epochs.dedup();
        table.row([
            short(world.display(&site.site), 20),
            site.site.clone(),
            world.region(&site.site).unwrap_or_else(|| "?".to_owned()),
            outlook::nodes(site.nodes.iter().map(|node| node.name.as_str())),
            short(&ranges(ranks), 16),
            short(&ranges(epochs), 10),
            site.price.clone().unwrap_or_default(),
        ]);
    }
    let mut text = table.render();
    let fence = &placement.fence;
    text.push_str(&paragraph(
        &format!(
            "Committed as epoch {} in term {}. Without its Site's lease a member is asked to stop after {} s, killed after \
             {} s, and counts as stopped after {} s.",
            placement.epoch, placement.term, fence.stop_seconds, fence.kill_seconds, fence.fence_seconds
        ),
        0,
    ));
    text
}

/// A member that is placed and not Ready, or that is not placed any more and has not ended.
struct Unready<'a> {
    rank: i32,
    incarnation: i64,
    site: &'a str,
    node: &'a str,
    phase: String,
    reason: String,
}

fn unready(world: &World, cluster: &Cluster) -> String {
    let members = unready_members(world, cluster);
    if members.is_empty() {
        return String::new();
    }
    let mut table = Table::new(["RANK", "EPOCH", "SITE", "NODE", "PHASE", "REASON"]).right(&[0, 1]);
    for member in members.iter().take(MOST_MEMBERS) {
        table.row([
            member.rank.to_string(),
            member.incarnation.to_string(),
            short(world.display(member.site), 20),
            short(member.node, 20),
            member.phase.clone(),
            short(&member.reason, 60),
        ]);
    }
    let mut text = table.render();
    if members.len() > MOST_MEMBERS {
        let _ = writeln!(text, "and {} more", members.len() - MOST_MEMBERS);
    }
    text
}

fn unready_members<'a>(world: &'a World, cluster: &'a Cluster) -> Vec<Unready<'a>> {
    let slices = world.slices_of(cluster.metadata.uid.as_deref().unwrap_or_default());
    let mut reported: HashMap<(i32, i64), &MemberStatus> = HashMap::new();
    let mut former: BTreeMap<(i32, i64), (&str, &MemberStatus)> = BTreeMap::new();
    for slice in slices {
        for member in slice.status.iter().flat_map(|status| &status.members) {
            reported.insert((member.rank, member.incarnation), member);
            former.insert((member.rank, member.incarnation), (&slice.spec.site, member));
        }
    }
    let mut unready = Vec::new();
    let placement = cluster.status.as_ref().and_then(|status| status.placement.as_ref());
    for site in placement.iter().flat_map(|placement| &placement.sites) {
        for node in &site.nodes {
            for rank in node.rank..node.rank.saturating_add(node.count) {
                let key = (rank, node.incarnation);
                former.remove(&key);
                let member = reported.get(&key);
                if member.is_some_and(|member| member.phase == MemberPhase::Ready) {
                    continue;
                }
                let silent = if world.site_is_live(&site.site) {
                    "its Site has not reported it yet"
                } else {
                    "its Site is lost"
                };
                unready.push(Unready {
                    rank,
                    incarnation: node.incarnation,
                    site: &site.site,
                    node: member.and_then(|member| member.node.as_deref()).unwrap_or(&node.name),
                    phase: member.map_or_else(|| "-".to_owned(), |member| format!("{:?}", member.phase)),
                    reason: member.map_or_else(|| silent.to_owned(), |member| reason(member)),
                });
            }
        }
    }
    for ((rank, incarnation), (site, member)) in former {
        if !member.phase.has_ended() {
            unready.push(Unready {
                rank,
                incarnation,
                site,
                node: member.node.as_deref().unwrap_or_default(),
                phase: format!("{:?}", member.phase),
                reason: "not placed any more; holds its GPUs until it has stopped".to_owned(),
            });
        }
    }
    unready.sort_by_key(|member| (member.rank, member.incarnation));
    unready
}

fn reason(member: &MemberStatus) -> String {
    match (member.reason.as_deref().filter(|reason| !reason.is_empty()), member.message.as_deref()) {
        (Some(reason), Some(message)) if !message.is_empty() => format!("{reason}: {message}"),
        (Some(reason), _) => reason.to_owned(),
        (None, message) => message.unwrap_or_default().to_owned(),
    }
}

fn what_is_next(world: &World, cluster: &Cluster, outlook: &Outlook) -> String {
    let mut text = String::new();
    let tally = &outlook.step.tally;
    if tally.cut_off > 0 {
        let sites: Vec<&str> = tally.lost_sites.iter().map(|site| world.display(site)).collect();
        let _ = writeln!(
            text,
            "{} on lost Sites ({}) until their fence expires.",
            count(tally.cut_off.into(), "member"),
            sites.join(", ")
        );
    }
    if tally.reserving > 0 {
        let _ = writeln!(
            text,
            "{} until every Site has reserved its share.",
            count(tally.reserving.into(), "member") + " not started"
        );
    }
    if tally.stopping > 0 {
        let _ = writeln!(
            text,
            "{} placed again when the former member has stopped.",
            count(tally.stopping.into(), "rank") + " will be"
        );
    }
    if let Some(explanation) = &outlook.placing {
        let want = outlook.step.want.as_ref();
        let ranks = want.map(|want| ranges(want.ranks.iter().copied())).unwrap_or_default();
        let _ = writeln!(
            text,
            "To be placed: ranks {}, at least {} of them.\n",
            short(&ranks, 60),
            explanation.asked.at_least
        );
        text.push_str(&outlook::placing(world, explanation));
        let ahead = ahead_of(world, cluster);
        if ahead > 0 {
            let _ = writeln!(text, "{} come first, by priority or age.", count(ahead, "waiting Cluster"));
        }
    }
    text
}

/// Clusters that wait too and are placed earlier: of higher priority, else older, else by UID.
fn ahead_of(world: &World, cluster: &Cluster) -> u64 {
    let order = |cluster: &Cluster| {
        let created = cluster.metadata.creation_timestamp.as_ref().map(|time| time.0);
        (-i64::from(cluster.spec.priority), created, cluster.metadata.uid.clone())
    };
    let waits = |cluster: &Cluster| {
        !cluster.spec.suspend && cluster.status.as_ref().is_none_or(|status| status.state.as_deref() == Some("Pending"))
    };
    let own = order(cluster);
    world.clusters.values().filter(|other| waits(other) && order(other) < own).count() as u64
}

#[cfg(test)]
mod tests {
    use crate::render::assert_snapshot;
    use crate::world::fixtures;

    use super::*;

    fn explained(clusters: serde_json::Value, slices: serde_json::Value, name: &str) -> (String, Verdict) {
        let world = fixtures::world(clusters, slices);
        let cluster = &world.clusters[&("default".to_owned(), name.to_owned())];
        let (text, verdict) = explain(&world, cluster, fixtures::now()).unwrap();
        (text, verdict)
    }

    #[test]
    fn a_placed_cluster_shows_where_it_is_and_who_is_not_ready() {
        let (text, verdict) = explained(fixtures::placed_cluster(), fixtures::slices_of_it(), "placed");
        assert_eq!(verdict, Verdict::Fits);
        assert_snapshot("explain-placed", &text);
    }

    #[test]
    fn a_pending_cluster_shows_every_filter_and_what_would_fit() {
        let (text, verdict) = explained(fixtures::pending_cluster(), serde_json::json!([]), "pending");
        assert_eq!(verdict, Verdict::DoesNotFit);
        assert_snapshot("explain-pending", &text);
    }

    #[test]
    fn who_may_not_see_the_network_still_sees_the_cluster() {
        let mut world = fixtures::world(fixtures::pending_cluster(), serde_json::json!([]));
        world.network_hidden = true;
        let cluster = &world.clusters[&("default".to_owned(), "pending".to_owned())];
        let (text, verdict) = explain(&world, cluster, fixtures::now()).unwrap();
        assert_eq!(verdict, Verdict::DoesNotFit);
        assert!(text.contains("24 such GPUs exist") && !text.contains("FILTER"), "{text}");
    }

    #[test]
    fn a_cluster_that_fits_shows_where_it_would_go() {
        let (text, verdict) = explained(fixtures::new_cluster("fits", 2), serde_json::json!([]), "fits");
        assert_eq!(verdict, Verdict::Fits);
        assert_snapshot("explain-fits", &text);
    }
}
