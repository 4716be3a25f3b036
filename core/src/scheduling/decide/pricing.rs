//! Nodes and pods as the packing sees them: as machines with GPUs of one kind, and tasks that want some.

use std::sync::Arc;

use super::cost::narrow;
use crate::packing::{Gpus, MAX_GPUS, Machine, Models, Packer, Price, Task, WHOLE};
use crate::scheduling::amounts::Amounts;
use crate::scheduling::node::NodeState;
use crate::scheduling::pod::Shape;

/// How many kinds of device are told apart, and of each how many products. The last number stands for all others.
const KINDS: u8 = 8;
/// How the labels end that name the product: "nvidia.com/gpu.product".
const PRODUCT: &str = "/gpu.product";
/// Thousandths of a byte in one MiB.
const MEBIBYTE: i64 = 1000 << 20;
/// Prices that may be worked out in one decision, some tens of microseconds each; what is known already counts nothing.
const NEW_PRICES: u32 = 256;

/// A kind of device that pods ask for.
#[derive(Clone, Debug)]
struct Device {
    resource: Arc<str>,
    /// Labels, with their value, by which pods choose among the products.
    products: Vec<(String, String)>,
}

/// What pods of one shape ask for.
#[derive(Clone, Debug, Default)]
pub(super) struct Asked {
    /// For a pod without devices: the kinds that others ask for, so that it is not in their way.
    devices: Vec<Arc<str>>,
    /// Whether it asks for a device, which is then the only one of `devices`.
    has_device: bool,
    /// `None` where it asks for more than any machine of the packing has.
    task: Option<Task>,
}

impl Asked {
    pub(super) fn has_device(&self) -> bool {
        self.has_device
    }

    /// The devices of a node that the price is about.
    pub(super) fn device(&self, node: &NodeState) -> Option<&str> {
        let devices = self.devices.iter().map(|resource| (node.allocatable.get(resource), resource));
        // Of equally many the first.
        let most = devices.filter(|(there, _)| *there > 0).reduce(|a, b| if b.0 > a.0 { b } else { a });
        most.map(|(_, resource)| &**resource)
    }
}

/// Learns what is asked for, and what a node costs a pod.
#[derive(Clone, Debug, Default)]
pub(super) struct Pricing {
    packer: Packer,
    devices: Vec<Device>,
    /// How often a device or a product came to be told apart.
    told_apart: u64,
    /// Prices that still may be worked out.
    left: u32,
}

impl Pricing {
    /// Some pods of the shape are placed.
    pub(super) fn observe(&mut self, shape: &Shape, count: u32) {
        let Some(resource) = shape.requests.device() else { return };
        self.tell_apart(resource, shape);
        if let Some(task) = self.asked(shape).task {
            self.packer.observe(&task, count);
        }
    }

    /// Changes when prices do.
    pub(super) fn version(&self) -> u64 {
        self.packer.version() + self.told_apart
    }

    /// A decision begins: prices may be worked out, but not for ever.
    pub(super) fn open(&mut self) {
        self.left = NEW_PRICES;
    }

    /// What follows is only about how much room there is.
    pub(super) fn close(&mut self) {
        self.left = 0;
    }

    pub(super) fn is_open(&self) -> bool {
        self.left > 0
    }

    /// What it asks for in terms of the packing.
    pub(super) fn asked(&self, shape: &Shape) -> Asked {
        let amount = |resource| narrow(shape.requests.get(resource)).max(0);
        let (cpu, memory) = (amount("cpu"), parts(amount("memory"), MEBIBYTE));
        let Some(resource) = shape.requests.device() else {
            let devices = self.devices.iter().map(|device| Arc::clone(&device.resource)).collect();
            let task = Task { gpus: Gpus::None, cpu, memory, models: Models::ANY };
            return Asked { devices, has_device: false, task: Some(task) };
        };
        let count = parts(amount(resource), i64::from(WHOLE));
        let whole = u8::try_from(count).ok().filter(|count| usize::from(*count) <= MAX_GPUS);
        let (kind, device) = self.device(resource);
        let chosen = device.and_then(|device| {
            let is_chosen = |(label, value): &(String, String)| shape.node_selector.get(label) == Some(value);
            (0..KINDS).zip(&device.products).find(|(_, product)| is_chosen(product)).map(|(number, _)| number)
        });
        let products = chosen.map_or(0..KINDS, |product| product..product + 1);
        let models = products.fold(Models::NONE, |models, product| models.with(kind * KINDS + product));
        let task = whole.map(|count| Task { gpus: Gpus::Whole(count), cpu, memory, models });
        Asked { devices: vec![Arc::from(resource)], has_device: true, task }
    }

    /// What a pod costs a node that has room for it; `None` when that would have to be worked out and may not be.
    pub(super) fn price(&mut self, node: &NodeState, used: &Amounts, asked: &Asked) -> Option<Price> {
        let Some(resource) = asked.device(node) else { return Some(Price::default()) };
        let free = |resource: &str| narrow(node.allocatable.get(resource) - used.get(resource)).max(0);
        let milli = free(resource);
        let count = usize::try_from(milli / i64::from(WHOLE)).unwrap_or(0).min(MAX_GPUS);
        let gpus = std::iter::repeat_n(WHOLE, count);
        let machine = Machine::new(self.model(node, resource), free("cpu"), free("memory") / MEBIBYTE, gpus);
        // Nodes with more devices than a machine can have are packed as full as they can be.
        let unknown = Price { free: milli, ..Price::default() };
        let Some(task) = asked.task.filter(|task| machine.fits(task)) else { return Some(unknown) };
        let known = self.packer.place_known(&machine, &task);
        let placed = known.or_else(|| {
            self.left = self.left.checked_sub(1)?;
            self.packer.place(&machine, &task)
        });
        placed.map(|placed| Price { free: milli, ..placed.price })
    }

    fn device(&self, resource: &str) -> (u8, Option<&Device>) {
        let found = (0..KINDS).zip(&self.devices).find(|(_, device)| &*device.resource == resource);
        found.map_or((KINDS - 1, None), |(kind, device)| (kind, Some(device)))
    }

    fn model(&self, node: &NodeState, resource: &str) -> u8 {
        let (kind, device) = self.device(resource);
        let products = device.map_or(&[][..], |device| &device.products);
        let is_there = |(label, value): &(String, String)| node.labels.get(label) == Some(value);
        let product = (0..KINDS).zip(products).find(|(_, product)| is_there(product));
        kind * KINDS + product.map_or(KINDS - 1, |(product, _)| product)
    }

    fn tell_apart(&mut self, resource: &str, shape: &Shape) {
        let most = usize::from(KINDS) - 1;
        let known = self.devices.iter().position(|device| &*device.resource == resource);
        let at = known.unwrap_or(self.devices.len());
        if known.is_none() {
            if at == most {
                return;
            }
            self.devices.push(Device { resource: Arc::from(resource), products: Vec::new() });
            self.told_apart += 1;
        }
        let Some(Device { products, .. }) = self.devices.get_mut(at) else { return };
        for (label, value) in shape.node_selector.iter().filter(|(label, _)| label.ends_with(PRODUCT)) {
            if products.len() < most && !products.iter().any(|known| (&known.0, &known.1) == (label, value)) {
                products.push((label.clone(), value.clone()));
                self.told_apart += 1;
            }
        }
    }
}

/// How many parts of a size cover an amount.
fn parts(amount: i64, size: i64) -> i64 {
    amount / size + i64::from(amount % size > 0)
}
