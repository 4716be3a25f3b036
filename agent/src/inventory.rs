//! What GPUs the Site has, as its Nodes and the device plugins on them say, and how many of them its own pods use.

mod book;
mod devices;
mod facts;
mod watch;

pub use book::InventoryBook;
pub use devices::Ailing;
pub use watch::{PART_INVENTORY, watch};
