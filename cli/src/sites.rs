//! `sites`: who has joined.

use atoll_api::Site;
use atoll_api::conditions::{condition, site as condition_type};
use jiff::Timestamp;
use kube::{Api, Client, ResourceExt};

use crate::error::Error;
use crate::fetch;
use crate::render::{Table, age, print, short};
use crate::verdict::Verdict;

/// Runs the command.
pub async fn run(client: &Client, now: Timestamp) -> Result<Verdict, Error> {
    let sites = fetch::list(Api::<Site>::all(client.clone())).await?;
    if sites.is_empty() {
        eprintln!("No Site has joined. To make a token for one: kubectl atoll token create --help");
        return Ok(Verdict::Fits);
    }
    print(&table(&sites, now));
    Ok(Verdict::Fits)
}

fn table(sites: &[Site], now: Timestamp) -> String {
    let mut sites: Vec<&Site> = sites.iter().collect();
    sites.sort_by_key(|site| (site.spec.display_name.clone().unwrap_or_default(), site.name_any()));
    let mut table =
        Table::new(["DISPLAY", "SITE", "SUPPLIER", "REGION", "TRUST", "CONNECTED", "NODES", "GPUS", "FREE", "AGENT"])
            .right(&[6, 7, 8]);
    for site in sites {
        let status = site.status.clone().unwrap_or_default();
        let session = status.session.clone().unwrap_or_default();
        table.row([
            short(site.spec.display_name.as_deref().unwrap_or("-"), 14),
            site.name_any(),
            short(&site.spec.supplier, 12),
            short(&site.spec.region, 12),
            format!("{:?}", site.spec.trust),
            connected(site, now),
            status.nodes.to_string(),
            status.gpus.to_string(),
            status.free_gpus.to_string(),
            short(session.agent_version.as_deref().unwrap_or("-"), 8),
        ]);
    }
    table.render()
}

fn connected(site: &Site, now: Timestamp) -> String {
    if site.spec.suspended {
        return "suspended".to_owned();
    }
    let status = site.status.as_ref();
    match status.and_then(|status| condition(&status.conditions, condition_type::CONNECTED)) {
        Some(condition) => {
            let since = age(condition.last_transition_time.0, now);
            if condition.status == "True" { since } else { format!("lost {since}") }
        }
        None => "never".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use crate::render::assert_snapshot;
    use crate::world::fixtures;

    use super::*;

    #[test]
    fn sites_are_listed_by_display_name() {
        let table = table(&fixtures::sites(), fixtures::now());
        assert_snapshot("sites", &table);
    }
}
