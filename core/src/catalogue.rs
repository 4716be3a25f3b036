//! Which model of the catalogue a reported product name means.

/// What is needed of a model to recognise it.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// Name of the model.
    pub name: &'a str,
    /// MiB of memory.
    pub memory_mib: u64,
    /// Product names that NVML and GPU Feature Discovery report for it.
    pub aliases: &'a [String],
}

/// The model that reports itself as `product` with `memory_mib` MiB (0: not known).
///
/// Case does not matter; blanks, dashes and underscores are alike. Where models share a product name the one with the
/// nearest memory within 10 % is meant, and none when memory does not tell. A slice of a GPU (MIG) is no model.
#[must_use]
pub fn identify<'a>(product: &str, memory_mib: u64, entries: impl IntoIterator<Item = Entry<'a>>) -> Option<&'a str> {
    let product = canonical(product);
    if product.is_empty() || product.split('-').any(|word| word == "mig") {
        return None;
    }
    let mut named: Vec<Entry<'a>> =
        entries.into_iter().filter(|entry| entry.aliases.iter().any(|alias| canonical(alias) == product)).collect();
    if let [only] = named.as_slice() {
        return Some(only.name);
    }
    named.retain(|entry| memory_agrees(memory_mib, entry.memory_mib));
    named.iter().min_by_key(|entry| (entry.memory_mib.abs_diff(memory_mib), entry.name)).map(|entry| entry.name)
}

/// Whether what a device reports is the nominal memory of its model: within 10 %, as drivers keep some for themselves.
#[must_use]
pub fn memory_agrees(reported_mib: u64, nominal_mib: u64) -> bool {
    reported_mib.abs_diff(nominal_mib) <= nominal_mib / 10
}

fn canonical(product: &str) -> String {
    product
        .split(|c: char| c.is_whitespace() || c == '-' || c == '_')
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
        .collect::<Vec<_>>()
        .join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_are_recognised_by_name_then_memory() {
        let alias = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        let models = [
            ("h100-sxm5-80gb", 81_920, alias(&["NVIDIA H100 80GB HBM3"])),
            ("rtx-3080-10gb", 10_240, alias(&["NVIDIA GeForce RTX 3080"])),
            ("rtx-3080-12gb", 12_288, alias(&["NVIDIA GeForce RTX 3080"])),
            ("m3-ultra", 98_304, alias(&["Apple M3 Ultra"])),
        ];
        let entries =
            || models.iter().map(|(name, memory_mib, aliases)| Entry { name, memory_mib: *memory_mib, aliases });
        for (product, memory, model) in [
            ("NVIDIA H100 80GB HBM3", 81_559, Some("h100-sxm5-80gb")),
            ("NVIDIA-H100-80GB-HBM3", 81_559, Some("h100-sxm5-80gb")),
            ("nvidia_h100_80gb_hbm3", 0, Some("h100-sxm5-80gb")),
            ("  NVIDIA  H100 80GB-HBM3 ", 1, Some("h100-sxm5-80gb")),
            ("NVIDIA-H100-80GB-HBM3-MIG-1g.10gb", 9_728, None),
            ("NVIDIA-H100-80GB-HBM3-SHARED", 81_559, None),
            ("NVIDIA H100", 81_559, None),
            ("NVIDIA GeForce RTX 3080", 10_240, Some("rtx-3080-10gb")),
            ("NVIDIA GeForce RTX 3080", 10_018, Some("rtx-3080-10gb")),
            ("NVIDIA-GeForce-RTX-3080", 12_053, Some("rtx-3080-12gb")),
            ("NVIDIA GeForce RTX 3080", 11_150, Some("rtx-3080-10gb")),
            ("NVIDIA GeForce RTX 3080", 11_400, Some("rtx-3080-12gb")),
            ("NVIDIA GeForce RTX 3080", 20_480, None),
            ("NVIDIA GeForce RTX 3080", 0, None),
            ("Apple M3 Ultra", 524_288, Some("m3-ultra")),
            ("", 0, None),
            ("- _", 0, None),
        ] {
            assert_eq!(identify(product, memory, entries()), model, "{product} {memory}");
        }
    }

    #[test]
    fn the_order_of_the_catalogue_does_not_matter() {
        let aliases = vec!["GPU X".to_owned()];
        let a = Entry { name: "a", memory_mib: 1000, aliases: &aliases };
        let b = Entry { name: "b", memory_mib: 1100, aliases: &aliases };
        assert_eq!(identify("gpu-x", 1050, [a, b]), Some("a"));
        assert_eq!(identify("gpu-x", 1050, [b, a]), Some("a"));
    }
}
