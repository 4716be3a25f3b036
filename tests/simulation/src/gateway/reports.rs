//! What Sites say of slices, written: never over what a newer session said.

use atoll_core::member::Report;

use super::Stage;
use crate::hub::{Change, Key, SliceObject, SliceStatus};
use crate::rule::Rule;
use crate::world::{ApiError, Proc, World};

impl World {
    /// What the Site of a live session said last stands in the API, whatever was written late.
    pub(super) fn say_again(&mut self, g: usize, key: Key) {
        let Some(slice) = self.gateways[g].cache.slices.get(&key).cloned() else { return };
        let Some(session) = self.gateways[g].sessions[key.1].as_ref().filter(|session| session.stage == Stage::Live)
        else {
            return;
        };
        let said = session.said.get(&key).filter(|(uid, _)| *uid == slice.uid).cloned();
        let Some((uid, report)) = said.filter(|_| !self.is_fenced(g, &slice)) else { return };
        let number = session.number;
        if slice.status.as_ref().is_some_and(|known| known.says(&status(&report, number, &slice))) {
            return;
        }
        self.gateways[g].writing.entry(key).or_default().pending.get_or_insert((number, uid, report));
        self.write_report(g, key);
    }

    /// Writes what was reported of a slice, one write at a time, never over what a newer session said.
    pub(super) fn write_report(&mut self, g: usize, key: Key) {
        let Some(slice) = self.gateways[g].cache.slices.get(&key).cloned() else { return };
        let writing = self.gateways[g].writing.entry(key).or_default();
        if writing.busy {
            return;
        }
        let Some((session, uid, report)) = writing.pending.take() else { return };
        let known = slice.status.as_ref();
        if slice.uid != uid
            || (self.off != Some(Rule::NewestReport) && known.is_some_and(|known| known.session > session))
        {
            return;
        }
        let status = status(&report, session, &slice);
        if known.is_some_and(|known| known.says(&status)) {
            return;
        }
        writing.busy = true;
        let on = self.holds(Rule::NewestReport).then_some(slice.version);
        let put = move |world: &mut World| world.put_slice_status(key, uid, on, status);
        self.ask_hub(Proc::Gateway(g), put, move |world, result| {
            let writing = world.gateways[g].writing.entry(key).or_default();
            writing.busy = false;
            let failed = matches!(result, Err(error) if error != ApiError::NotFound);
            if failed && writing.pending.is_none() {
                writing.pending = Some((session, uid, report));
            }
            match result {
                Ok(object) => world.gateways[g].cache.take(Change::Slice(object)),
                Err(ApiError::Conflict) => {
                    let writing = world.gateways[g].writing.entry(key).or_default();
                    writing.busy = true;
                    return world.read_slice(g, key);
                }
                Err(_) => {}
            }
            let wait = if failed { 200 } else { 0 };
            world.after(Proc::Gateway(g), wait, move |world| world.write_report(g, key));
        });
    }

    /// Somebody else's write came before: it is decided again on what that left.
    fn read_slice(&mut self, g: usize, key: Key) {
        let get = move |world: &mut World| Ok(world.hub.slices.get(&key).cloned());
        self.ask_hub(Proc::Gateway(g), get, move |world, result| {
            let gateway = &mut world.gateways[g];
            gateway.writing.entry(key).or_default().busy = false;
            let wait = if result.is_ok() { 0 } else { 200 };
            match result {
                Ok(Some(slice)) => gateway.cache.take(Change::Slice(slice)),
                Ok(None) => drop(gateway.writing.remove(&key)),
                Err(_) => {}
            }
            world.after(Proc::Gateway(g), wait, move |world| world.write_report(g, key));
        });
    }
}

/// The status that follows from a report.
#[must_use]
pub fn status(report: &Report, session: u64, slice: &SliceObject) -> SliceStatus {
    let before = slice.status.as_ref().is_some_and(|status| status.stopped);
    SliceStatus {
        epoch: report.epoch,
        generation: report.generation.clamp(0, slice.generation),
        reservation: report.reservation,
        members: report
            .members
            .iter()
            .filter(|member| member.member.incarnation <= slice.spec.epoch)
            .map(|member| {
                let state = crate::operator::state_of(member);
                ((member.member.rank, member.member.incarnation), (state, member.node.clone()))
            })
            .collect(),
        stopped: before || (report.gone && slice.deleting),
        session,
    }
}
