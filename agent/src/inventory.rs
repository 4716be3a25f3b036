//! What GPUs the Site has, as its Nodes say, and how many of them its own pods use.

mod book;
mod facts;
mod watch;

pub use book::InventoryBook;
pub use watch::{PART_INVENTORY, watch};
