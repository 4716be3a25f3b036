//! What devices are called towards Kubernetes.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use thiserror::Error;

use crate::backend::Device;

/// Why a name or a rule cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ResourceError {
    /// No name of an extended resource.
    #[error("{0:?} is no resource name: it has to be like nvidia.com/gpu, outside of kubernetes.io")]
    Name(String),
    /// No `pattern=resource`.
    #[error("{0:?} is no rule: it has to be PATTERN=RESOURCE, such as *H100*=nvidia.com/h100")]
    Rule(String),
    /// No `resource=count`.
    #[error("{0:?} does not say how to share: it has to be RESOURCE=COUNT, such as nvidia.com/gpu=4, of 1 to 1000")]
    Slices(String),
}

/// Name of an extended resource, such as `nvidia.com/gpu`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResourceName(Arc<str>);

impl ResourceName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn domain(&self) -> &str {
        self.0.split_once('/').map_or("", |(domain, _)| domain)
    }
}

impl fmt::Display for ResourceName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl FromStr for ResourceName {
    type Err = ResourceError;

    fn from_str(text: &str) -> Result<Self, ResourceError> {
        // The kubelet refuses the same: a domain that is Kubernetes' own, a quota's prefix, or no qualified name. The
        // name also has to fit behind "requests.".
        const LONGEST: usize = 63;
        let word = |part: &str, inner: &str| {
            let end = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
            let bytes = part.as_bytes();
            bytes.len() <= LONGEST
                && end(bytes.first())
                && end(bytes.last())
                && part.chars().all(|c| c.is_ascii_alphanumeric() || inner.contains(c))
        };
        let valid = text.split_once('/').is_some_and(|(domain, name)| {
            let lower = domain.split('.').all(|label| word(label, "-") && label.to_ascii_lowercase() == label);
            lower
                && domain.len() + "requests.".len() <= 253
                && domain != "kubernetes.io"
                && !domain.ends_with(".kubernetes.io")
                && !domain.starts_with("requests.")
                && word(name, "-_.")
        });
        if valid { Ok(Self(text.into())) } else { Err(ResourceError::Name(text.to_owned())) }
    }
}

/// Gives devices a resource name of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Product of a whole GPU, or "mig-" and the profile of an instance; `*` stands for anything.
    pattern: String,
    resource: ResourceName,
}

impl FromStr for Rule {
    type Err = ResourceError;

    fn from_str(text: &str) -> Result<Self, ResourceError> {
        let (pattern, resource) = text.rsplit_once('=').ok_or_else(|| ResourceError::Rule(text.to_owned()))?;
        if pattern.is_empty() {
            return Err(ResourceError::Rule(text.to_owned()));
        }
        Ok(Self { pattern: pattern.to_owned(), resource: resource.parse()? })
    }
}

/// Shares each device of a resource among several containers in turn, without isolation of memory or faults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slices {
    resource: ResourceName,
    count: u32,
}

impl FromStr for Slices {
    type Err = ResourceError;

    fn from_str(text: &str) -> Result<Self, ResourceError> {
        let bad = || ResourceError::Slices(text.to_owned());
        let (resource, count) = text.split_once('=').ok_or_else(bad)?;
        let count = count.parse().ok().filter(|count| (1..=1000).contains(count)).ok_or_else(bad)?;
        Ok(Self { resource: resource.parse()?, count })
    }
}

/// What devices are called, and how many containers share one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resources {
    gpu: ResourceName,
    rules: Vec<Rule>,
    slices: BTreeMap<ResourceName, u32>,
}

impl Default for Resources {
    /// `nvidia.com/gpu` and `nvidia.com/mig-<profile>`, not shared.
    fn default() -> Self {
        Self::new(ResourceName("nvidia.com/gpu".into()), Vec::new(), Vec::new())
    }
}

impl Resources {
    /// A device is called by the first of `rules` that matches; otherwise a whole GPU is `gpu` and an instance
    /// `mig-<profile>` in the same domain.
    #[must_use]
    pub fn new(gpu: ResourceName, rules: Vec<Rule>, slices: Vec<Slices>) -> Self {
        Self { gpu, rules, slices: slices.into_iter().map(|slices| (slices.resource, slices.count)).collect() }
    }

    /// What a device is called.
    #[must_use]
    pub fn name(&self, device: &Device) -> ResourceName {
        let subject = match &device.instance {
            // A profile such as "1g.10gb+me" has a sign that names may not have.
            Some(instance) => Cow::Owned(format!("mig-{}", instance.profile.replace('+', "."))),
            None => Cow::Borrowed(&*device.product),
        };
        if let Some(rule) = self.rules.iter().find(|rule| matches(&rule.pattern, &subject)) {
            return rule.resource.clone();
        }
        let own = device.instance.as_ref().and_then(|_| format!("{}/{subject}", self.gpu.domain()).parse().ok());
        own.unwrap_or_else(|| self.gpu.clone())
    }

    /// How many containers may share one device of this resource.
    #[must_use]
    pub fn slices(&self, resource: &ResourceName) -> u32 {
        self.slices.get(resource).copied().unwrap_or(1)
    }

    /// Whether some device could be called so.
    #[must_use]
    pub fn may_be_ours(&self, resource: &ResourceName) -> bool {
        let instance = resource.0.strip_prefix(self.gpu.domain()).is_some_and(|rest| rest.starts_with("/mig-"));
        instance || *resource == self.gpu || self.rules.iter().any(|rule| rule.resource == *resource)
    }
}

/// Whether the text is like the pattern, in which `*` stands for anything.
fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Instance;

    fn gpu(product: &str) -> Device {
        Device { product: product.to_owned(), ..Device::default() }
    }

    fn instance(profile: &str) -> Device {
        let instance = Instance { profile: profile.to_owned(), ..Instance::default() };
        Device { instance: Some(instance), ..gpu("NVIDIA A100-SXM4-40GB") }
    }

    #[test]
    fn without_rules_names_are_those_that_manifests_use() {
        let resources = Resources::default();
        for (device, name) in [
            (gpu("NVIDIA H100 80GB HBM3"), "nvidia.com/gpu"),
            (instance("1g.5gb"), "nvidia.com/mig-1g.5gb"),
            (instance("1g.5gb+me"), "nvidia.com/mig-1g.5gb.me"),
            (instance("odd profile"), "nvidia.com/gpu"),
        ] {
            let found = resources.name(&device);
            assert_eq!(found.as_str(), name);
            assert!(resources.may_be_ours(&found));
        }
        assert!(!resources.may_be_ours(&"amd.com/gpu".parse().unwrap()));
        assert!(!resources.may_be_ours(&"nvidia.com/other".parse().unwrap()));
    }

    #[test]
    fn the_first_rule_that_matches_names_a_device() {
        let rules = ["*H100*=nvidia.com/h100", "NVIDIA A100*=nvidia.com/a100", "mig-*=nvidia.com/gpu"];
        let rules = rules.iter().map(|rule| rule.parse().unwrap()).collect();
        let resources = Resources::new("nvidia.com/gpu".parse().unwrap(), rules, Vec::new());
        for (device, name) in [
            (gpu("NVIDIA H100 80GB HBM3"), "nvidia.com/h100"),
            (gpu("NVIDIA A100-SXM4-40GB"), "nvidia.com/a100"),
            (gpu("NVIDIA L40S"), "nvidia.com/gpu"),
            (instance("3g.20gb"), "nvidia.com/gpu"),
        ] {
            assert_eq!(resources.name(&device).as_str(), name);
        }
        assert!(resources.may_be_ours(&"nvidia.com/h100".parse().unwrap()));
    }

    #[test]
    fn patterns_match_whole_texts() {
        for (pattern, text, expected) in [
            ("abc", "abc", true),
            ("abc", "abcd", false),
            ("a*", "a", true),
            ("*c", "abc", true),
            ("a*c", "abcd", false),
            ("a*b*c", "axxbyyc", true),
            ("a*b*c", "ac", false),
            ("*", "", true),
            ("ab*ba", "aba", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn sharing_is_said_by_resource() {
        let slices = vec!["nvidia.com/gpu=4".parse().unwrap()];
        let resources = Resources::new("nvidia.com/gpu".parse().unwrap(), Vec::new(), slices);
        assert_eq!(resources.slices(&"nvidia.com/gpu".parse().unwrap()), 4);
        assert_eq!(resources.slices(&"nvidia.com/mig-1g.5gb".parse().unwrap()), 1);
    }

    #[test]
    fn what_the_kubelet_would_refuse_is_refused() {
        for name in ["gpu", "kubernetes.io/gpu", "a.kubernetes.io/gpu", "requests.a/gpu", "A.com/gpu", "a.com/", "a/-b"]
        {
            assert!(name.parse::<ResourceName>().is_err(), "{name}");
        }
        for rule in ["nvidia.com/h100", "=nvidia.com/h100", "x=h100"] {
            assert!(rule.parse::<Rule>().is_err(), "{rule}");
        }
        for slices in ["nvidia.com/gpu", "nvidia.com/gpu=0", "nvidia.com/gpu=x", "gpu=2"] {
            assert!(slices.parse::<Slices>().is_err(), "{slices}");
        }
    }
}
