//! The catalogue of XIDs, and what follows from each here.
//!
//! Codes, names and recommended actions are the facts of NVIDIA's XID catalogue
//! (docs.nvidia.com/deploy/xid-errors/analyzing-xid-catalog.html), as leptonai/gpud lists them at commit
//! 4a8de33a3f02e207f39e9023d67125592d599731 in `components/accelerator/nvidia/xid/catalog_generated.go`. The words of
//! `about` and every [`Response`] are ours.

mod rows;

/// One kind of error that NVIDIA's driver reports by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Xid {
    /// Its number.
    pub code: u32,
    /// The driver's own name for it.
    pub name: &'static str,
    /// What happened, for people.
    pub about: &'static str,
    /// What NVIDIA recommends at once.
    pub advice: Advice,
    /// NVIDIA's word for what to do when that was done, or when it repeats; empty where there is none.
    pub afterwards: &'static str,
}

/// What NVIDIA recommends to do at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Advice {
    /// `IGNORE`
    Ignore,
    /// `RESTART_APP`
    RestartApplication,
    /// `RESET_GPU`
    ResetGpu,
    /// `RESTART_BM`
    RestartMachine,
    /// `RESTART_VM`
    RestartVirtualMachine,
    /// `CONTACT_SUPPORT`
    ContactSupport,
    /// `CHECK_MECHANICALS`
    CheckMechanicals,
    /// `CHECK_UVM`
    CheckUvm,
    /// `UPDATE_SWFW`
    UpdateSoftware,
    /// `WORKFLOW_XID_45`
    WorkflowXid45,
    /// `WORKFLOW_XID_48`
    WorkflowXid48,
    /// `WORKFLOW_NVLINK_ERR`
    WorkflowNvlink,
    /// `WORKFLOW_NVLINK5_ERR`
    WorkflowNvlink5,
    /// `XID_154`
    Xid154,
    /// The catalogue says nothing.
    Blank,
}

impl Advice {
    /// NVIDIA's word; empty for [`Self::Blank`].
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Ignore => "IGNORE",
            Self::RestartApplication => "RESTART_APP",
            Self::ResetGpu => "RESET_GPU",
            Self::RestartMachine => "RESTART_BM",
            Self::RestartVirtualMachine => "RESTART_VM",
            Self::ContactSupport => "CONTACT_SUPPORT",
            Self::CheckMechanicals => "CHECK_MECHANICALS",
            Self::CheckUvm => "CHECK_UVM",
            Self::UpdateSoftware => "UPDATE_SWFW",
            Self::WorkflowXid45 => "WORKFLOW_XID_45",
            Self::WorkflowXid48 => "WORKFLOW_XID_48",
            Self::WorkflowNvlink => "WORKFLOW_NVLINK_ERR",
            Self::WorkflowNvlink5 => "WORKFLOW_NVLINK5_ERR",
            Self::Xid154 => "XID_154",
            Self::Blank => "",
        }
    }
}

/// What an XID means for the device that it was reported of. Where the driver names a recovery action, that decides
/// how the device comes back; each response says what counts where it names none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Response {
    /// The device is fine.
    Nothing,
    /// The device is fine, the application on it is not.
    Application,
    /// It works, and somebody should look at it.
    Watch,
    /// The XID alone does not say how bad it is; the driver's recovery action does. Until that was read at least once
    /// the device counts as defective.
    DriverDecides,
    /// Memory was lost; a reset is needed unless XID 94 says that the damage stayed within one application.
    Memory,
    /// The GPU has to be reset.
    Reset,
    /// Machine (or virtual machine) and GPU have to be restarted.
    Restart,
    /// Somebody has to open the machine.
    Mechanics,
    /// NVIDIA's support has to say; a reset is tried first.
    Support,
}

impl Response {
    /// Whether the device is taken out of service; `driver_known`: the driver names recovery actions.
    #[must_use]
    pub const fn condemns(self, driver_known: bool) -> bool {
        match self {
            Self::Nothing | Self::Application | Self::Watch => false,
            Self::DriverDecides => !driver_known,
            Self::Memory | Self::Reset | Self::Restart | Self::Mechanics | Self::Support => true,
        }
    }

    /// What to do, for people.
    #[must_use]
    pub const fn remedy(self) -> &'static str {
        match self {
            Self::Nothing => "nothing to do",
            Self::Application => "restart the application, and look at it if this repeats",
            Self::Watch => "look at it when convenient",
            Self::DriverDecides => {
                "see what `nvidia-smi -q` shows as GPU Recovery Action; if it shows none, reset the GPU"
            }
            Self::Memory | Self::Reset => "end what runs on it and reset the GPU: `nvidia-smi --gpu-reset`",
            Self::Restart => "restart the machine",
            Self::Mechanics => "switch the machine off, check the GPU's power cables and seat, start it again",
            Self::Support => {
                "reset the GPU; if it comes again, send the output of `nvidia-bug-report.sh` to NVIDIA's support"
            }
        }
    }

    /// How the device comes back where the driver names no recovery action. Empty where it never went away.
    #[must_use]
    pub const fn way_back(self) -> &'static str {
        match self {
            Self::Nothing | Self::Application => "",
            Self::Watch | Self::DriverDecides | Self::Reset | Self::Support => "a reset was seen",
            Self::Memory => "a reset was seen, or XID 94 came within 10 s",
            Self::Restart | Self::Mechanics => "it was lost and found again, or the machine was restarted",
        }
    }

    /// Whether a reset alone is enough, where the driver names no recovery action.
    pub(super) const fn ends_with_reset(self) -> bool {
        !matches!(self, Self::Restart | Self::Mechanics)
    }
}

impl Xid {
    /// What follows from it here.
    #[must_use]
    pub const fn response(&self) -> Response {
        match self.advice {
            Advice::Ignore | Advice::Xid154 => Response::Nothing,
            Advice::RestartApplication | Advice::WorkflowXid45 => Response::Application,
            Advice::ResetGpu | Advice::WorkflowNvlink => Response::Reset,
            Advice::RestartMachine | Advice::RestartVirtualMachine => Response::Restart,
            Advice::ContactSupport => Response::Support,
            Advice::CheckMechanicals => Response::Mechanics,
            Advice::UpdateSoftware => Response::Watch,
            Advice::WorkflowNvlink5 | Advice::CheckUvm => Response::DriverDecides,
            Advice::WorkflowXid48 => Response::Memory,
            Advice::Blank => match own(self.code) {
                Some((response, _)) => response,
                None => Response::DriverDecides,
            },
        }
    }

    /// Why this response, where NVIDIA's advice is blank or leaves it open.
    #[must_use]
    pub const fn because(&self) -> Option<&'static str> {
        match self.advice {
            Advice::WorkflowXid45 => {
                Some("it follows another XID, which says what is wrong, or an application that was ended")
            }
            Advice::WorkflowXid48 => Some("XID 94 or 95 follows and says whether the damage was contained"),
            Advice::WorkflowNvlink => {
                Some("peers may have lost data, and the registers that tell more do not reach NVML's events")
            }
            Advice::WorkflowNvlink5 => {
                Some("most of its causes are harmless; which one it was does not reach NVML's events")
            }
            Advice::CheckMechanicals => Some("without its power cables a GPU is slow or fails under load"),
            Advice::UpdateSoftware => Some("it concerns virtual GPUs, which are not given out here"),
            Advice::Xid154 => Some("the next reading says to what the action changed, and that counts"),
            Advice::CheckUvm => Some("it often only accompanies another XID"),
            Advice::Blank => match own(self.code) {
                Some((_, why)) => Some(why),
                None => None,
            },
            _ => None,
        }
    }
}

/// What we decided for the rows on which NVIDIA's catalogue is blank.
const fn own(code: u32) -> Option<(Response, &'static str)> {
    Some(match code {
        162 => (Response::Nothing, "good news"),
        163..=165 => (Response::Watch, "the GPU computes as before; the site's power swings more"),
        166 => (Response::Reset, "data may have left the GPU in the clear; a reset sets the link up again"),
        167 => (Response::Restart, "a fault of the bus, as XID 79 is, for which NVIDIA says RESTART_BM"),
        168 => (Response::Watch, "the GPU works with less memory than its model has"),
        169 => (Response::Reset, "a controller halted, as in XID 62, for which NVIDIA says RESET_GPU"),
        170 => (Response::DriverDecides, "it names no cause"),
        171 | 172 => (Response::Memory, "a detail of XID 48"),
        _ => return None,
    })
}

/// The whole catalogue, in the order of the codes.
#[must_use]
pub const fn catalogue() -> &'static [Xid] {
    &rows::ROWS
}

/// The catalogue's row of this code; None for codes that it does not know.
#[must_use]
pub fn xid(code: u32) -> Option<&'static Xid> {
    let index = usize::try_from(code.checked_sub(1)?).ok()?;
    rows::ROWS.get(index)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn codes_run_from_1_to_172_without_a_gap_and_are_found() {
        for (index, row) in catalogue().iter().enumerate() {
            assert_eq!(row.code as usize, index + 1, "{}", row.name);
            assert_eq!(xid(row.code), Some(row));
            assert!(!row.name.is_empty() && !row.about.is_empty());
        }
        assert_eq!(catalogue().len(), 172);
        for code in [0, 173, u32::MAX] {
            assert_eq!(xid(code), None);
        }
    }

    #[test]
    fn advice_is_as_often_as_in_nvidias_catalogue() {
        let mut counts: BTreeMap<Advice, usize> = BTreeMap::new();
        for row in catalogue() {
            *counts.entry(row.advice).or_default() += 1;
        }
        let named = [
            (Advice::ContactSupport, 62),
            (Advice::RestartApplication, 48),
            (Advice::Ignore, 21),
            (Advice::ResetGpu, 14),
            (Advice::Blank, 11),
        ];
        for (advice, count) in named {
            assert_eq!(counts.remove(&advice), Some(count), "{advice:?}");
        }
        assert_eq!(counts.values().sum::<usize>(), 16, "{counts:?}");
    }

    #[test]
    fn every_row_that_nvidia_leaves_open_says_why_we_act_as_we_do() {
        for row in catalogue() {
            let plain = matches!(
                row.advice,
                Advice::Ignore
                    | Advice::RestartApplication
                    | Advice::ResetGpu
                    | Advice::RestartMachine
                    | Advice::RestartVirtualMachine
                    | Advice::ContactSupport
            );
            assert_eq!(row.because().is_none(), plain, "{}", row.code);
            assert_eq!(row.advice == Advice::Blank, own(row.code).is_some(), "{}", row.code);
        }
    }

    #[test]
    fn whatever_condemns_has_a_way_back_and_a_remedy() {
        for row in catalogue() {
            let response = row.response();
            assert!(!response.condemns(false) || !response.way_back().is_empty(), "{}", row.code);
            assert!(!response.remedy().is_empty());
        }
    }
}
