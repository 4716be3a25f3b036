//! Where a task goes so that as few GPUs as possible are left over that nothing can use.
//!
//! Amounts are in thousandths of a GPU, so that shares of a GPU and whole ones are the same thing; where GPUs are only
//! given whole, every [`Machine`] simply has GPUs of 1000. One [`Packer`] serves one set of machines: it watches what
//! asks for machines ([`Packer::observe`]) and says what a placement costs ([`Packer::place`]). It never refuses what
//! fits, looks at no task before it comes, and needs no clock: the same calls give the same answers.
//!
//! The cost of putting a task on a machine has three parts, all in thousandths of a GPU:
//!
//! - **What the machine could still sell.** The machine is filled with tasks as they usually come, several times over in
//!   fixed orders, until nothing fits; the part of its GPUs that is left over is lost to missing cores, memory or gaps
//!   that fit nobody. A placement costs what it adds to that loss. Tasks without GPUs are left out of the filling: what
//!   they may take are the cores that GPUs do not need.
//! - **What a gap is worth.** Shares are packed into GPUs as boxes into bins. The shadow prices of the sizes that usually
//!   come ([`SharePrices`]) say what a gap is worth when filled as well as it can be, so a placement that spoils a gap
//!   for a better partner costs the difference.
//! - **Who needs many GPUs at once.** A machine that could take such tasks is worth more whole, in proportion to how much
//!   of the work they are.
//!
//! Costs are in steps of [`STEP`]: finer differences are noise. Of machines with equal cost the one is better that breaks
//! less of what tasks of several GPUs could take, then the one with fewer free GPUs ([`Price`]), then the first in an order
//! that never changes; that fills machines one after the other and keeps others free.

mod hash;
mod machine;
mod packer;
mod prices;
#[cfg(test)]
mod tests;
mod wide;
mod workload;

pub use machine::{Gpus, MAX_GPUS, Machine, Models, Task, WHOLE};
pub use packer::{Packer, Placement, Price, STEP};
pub use prices::SharePrices;
pub use wide::Wide;
pub use workload::{Kind, Workload};
