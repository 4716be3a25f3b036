//! GPUs divided into instances (MIG): what divisions there are, and which one a GPU has.

/// How a model can be divided.
#[derive(Debug, PartialEq)]
pub struct Table {
    /// Its profiles.
    pub profiles: &'static [Profile],
}

/// A kind of GPU instance.
#[derive(Debug, PartialEq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Profile {
    /// Such as "1g.10gb".
    pub name: &'static str,
    /// `NVML_GPU_INSTANCE_PROFILE_…`.
    pub number: u32,
    /// What the driver calls it.
    pub id: u32,
    /// Of 7 slices of compute.
    pub slices: u32,
    /// Of 8 slices of memory.
    pub memory_slices: u32,
    pub memory_mib: u64,
    pub multiprocessors: u32,
    pub copy_engines: u32,
    pub decoders: u32,
    pub jpeg: u32,
    pub optical_flow: u32,
    /// Where one can begin, in slices of memory; best first, so that others still fit.
    pub starts: &'static [u32],
}

const ANY: &[u32] = &[6, 4, 5, 0, 1, 2, 3];

#[allow(clippy::too_many_arguments, reason = "rows of a table")]
const fn profile(
    name: &'static str,
    number: u32,
    id: u32,
    (slices, memory_slices): (u32, u32),
    memory_mib: u64,
    multiprocessors: u32,
    (copy_engines, decoders, jpeg, optical_flow): (u32, u32, u32, u32),
    starts: &'static [u32],
) -> Profile {
    Profile {
        name,
        number,
        id,
        slices,
        memory_slices,
        memory_mib,
        multiprocessors,
        copy_engines,
        decoders,
        jpeg,
        optical_flow,
        starts,
    }
}

/// H100 with 80 GB.
pub const H100_80: Table = Table {
    profiles: &[
        profile("1g.10gb", 0, 19, (1, 1), 9984, 16, (1, 1, 1, 0), ANY),
        profile("1g.10gb+me", 7, 20, (1, 1), 9984, 16, (1, 1, 1, 1), ANY),
        profile("1g.20gb", 9, 15, (1, 2), 20_096, 26, (1, 1, 1, 0), &[6, 4, 0, 2]),
        profile("2g.20gb", 1, 14, (2, 2), 20_096, 32, (2, 2, 2, 0), &[4, 0, 2]),
        profile("3g.40gb", 2, 9, (3, 4), 40_448, 60, (3, 3, 3, 0), &[4, 0]),
        profile("4g.40gb", 3, 5, (4, 4), 40_448, 64, (4, 4, 4, 0), &[0]),
        profile("7g.80gb", 4, 0, (7, 8), 81_152, 132, (8, 7, 7, 1), &[0]),
    ],
};

/// A100 with 80 GB.
pub const A100_80: Table = Table {
    profiles: &[
        profile("1g.10gb", 0, 19, (1, 1), 9728, 14, (1, 0, 0, 0), ANY),
        profile("1g.10gb+me", 7, 20, (1, 1), 9728, 14, (1, 1, 1, 1), ANY),
        profile("1g.20gb", 9, 15, (1, 2), 19_968, 14, (1, 1, 0, 0), &[6, 4, 0, 2]),
        profile("2g.20gb", 1, 14, (2, 2), 19_968, 28, (2, 1, 0, 0), &[4, 0, 2]),
        profile("3g.40gb", 2, 9, (3, 4), 40_192, 42, (3, 2, 0, 0), &[4, 0]),
        profile("4g.40gb", 3, 5, (4, 4), 40_192, 56, (4, 2, 0, 0), &[0]),
        profile("7g.80gb", 4, 0, (7, 8), 80_896, 98, (7, 5, 1, 1), &[0]),
    ],
};

impl Table {
    /// The profile of a name.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<&Profile> {
        self.profiles.iter().find(|profile| profile.name == name)
    }
}

/// How one GPU is divided: instances with the slices of each compute instance in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout(pub Vec<(String, Vec<u32>)>);

impl Layout {
    /// Reads `3g.40gb,2g.20gb=1c-1c,1g.10gb*2`: profiles, how many of each, and the compute instances in each
    /// (without: one that takes all of it).
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut instances = Vec::new();
        for item in text.split(',') {
            let (item, count) = match item.split_once('*') {
                Some((item, count)) => (item, count.parse::<usize>().ok().filter(|count| *count <= 7)?),
                None => (item, 1),
            };
            let (profile, compute) = match item.split_once('=') {
                Some((profile, compute)) => (
                    profile,
                    compute
                        .split('-')
                        .map(|part| part.strip_suffix('c')?.parse().ok())
                        .collect::<Option<Vec<u32>>>()?,
                ),
                None => (item, vec![profile_slices(item)?]),
            };
            instances.extend(std::iter::repeat_n((profile.to_owned(), compute), count));
        }
        Some(Self(instances))
    }
}

fn profile_slices(name: &str) -> Option<u32> {
    name.split_once('g')?.0.parse().ok()
}

/// A part of a GPU with memory of its own.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct GpuInstance {
    pub id: u32,
    pub profile: &'static Profile,
    pub start: u32,
    pub compute: Vec<ComputeInstance>,
    /// Never used again, so that old handles are known.
    pub serial: u32,
}

/// A part of a GPU instance with multiprocessors of its own; what programs see as a device.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct ComputeInstance {
    pub id: u32,
    pub slices: u32,
    pub uuid: String,
    /// Never used again, so that old handles are known.
    pub serial: u32,
}

/// Where each instance of a layout goes, or None if they do not fit.
#[must_use]
pub fn place(table: &'static Table, layout: &Layout) -> Option<Vec<(&'static Profile, u32)>> {
    let profiles: Vec<_> = layout.0.iter().map(|(name, _)| table.named(name)).collect::<Option<_>>()?;
    for (profile, (_, compute)) in profiles.iter().zip(&layout.0) {
        if compute.contains(&0) || compute.iter().sum::<u32>() > profile.slices {
            return None;
        }
    }
    if profiles.iter().map(|profile| profile.slices).sum::<u32>() > 7 {
        return None;
    }
    let mut starts = Vec::new();
    search(&profiles, 0, &mut starts).then(|| profiles.into_iter().zip(starts).collect())
}

fn search(profiles: &[&'static Profile], used: u32, starts: &mut Vec<u32>) -> bool {
    let Some((first, rest)) = profiles.split_first() else { return true };
    for &start in first.starts {
        let slices = ((1 << first.memory_slices) - 1) << start;
        if used & slices == 0 {
            starts.push(start);
            if search(rest, used | slices, starts) {
                return true;
            }
            starts.pop();
        }
    }
    false
}

/// The number that the driver gives to a GPU instance, which follows from where it is.
#[must_use]
pub fn instance_id(profile: &Profile, start: u32) -> u32 {
    match profile.memory_slices {
        8 => 0,
        4 => 1 + start / 4,
        2 => 3 + start / 2,
        _ => 7 + start,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_are_placed_when_they_fit() {
        for (layout, fits) in [
            ("1g.10gb*7", true),
            ("1g.10gb*7,1g.10gb", false),
            ("3g.40gb,2g.20gb,1g.10gb*2", true),
            ("2g.20gb*3,1g.10gb", true),
            ("4g.40gb,3g.40gb", true),
            ("3g.40gb*2", true),
            ("4g.40gb*2", false),
            ("7g.80gb", true),
            ("7g.80gb,1g.10gb", false),
            ("3g.40gb=1c-2c", true),
            ("3g.40gb=2c-2c", false),
            ("9g.10gb", false),
        ] {
            let placed = Layout::parse(layout).and_then(|layout| place(&A100_80, &layout));
            assert_eq!(placed.is_some(), fits, "{layout}");
            let mut ids: Vec<_> =
                placed.iter().flatten().map(|(profile, start)| instance_id(profile, *start)).collect();
            let count = ids.len();
            ids.sort_unstable();
            ids.dedup();
            assert_eq!(ids.len(), count, "{layout}");
        }
    }
}
