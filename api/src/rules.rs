//! Validation rules that several fields share. Messages name the field, so that they can be read on their own.

use kube::core::{Reason, Rule};

/// Names of other objects, catalogue names and families: lower case, digits, inner dashes and dots.
pub(crate) const NAME: &str = "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$";
/// One label of a DNS name.
pub(crate) const DNS_LABEL: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";
/// The value of a label.
pub(crate) const LABEL_VALUE: &str = "^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$";
/// An amount of CPU, memory or disk: what Kubernetes calls a quantity, without sign and exponent.
pub(crate) const QUANTITY: &str = r"^[0-9]{1,15}(\.[0-9]{1,9})?(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$";

/// USDC per GPU and hour: a decimal above zero with at most 6 places.
pub(crate) fn price(field: &str) -> Rule {
    Rule::new(r"self.matches('^(0|[1-9][0-9]{0,8})(\\.[0-9]{1,6})?$') && self.matches('[1-9]')")
        .message(format!("{field} must be a decimal above 0 with at most 6 places, such as \"2.50\"").as_str())
}

/// A region: words of lower case letters and digits, joined by dashes.
pub(crate) fn region(field: &str) -> Rule {
    Rule::new("self.matches('^[a-z0-9]+(-[a-z0-9]+)*$')").message(
        format!("{field} must be words of lower case letters and digits joined by dashes, such as \"eu-west\"")
            .as_str(),
    )
}

/// A flag that may be there but not true.
pub(crate) fn not_true(message: &str) -> Rule {
    Rule::new("!self").message(message).reason(Reason::FieldValueForbidden)
}

/// A string that may be there but must be empty.
pub(crate) fn empty(message: &str) -> Rule {
    Rule::new("size(self) == 0").message(message).reason(Reason::FieldValueForbidden)
}

/// A field that never changes.
pub(crate) fn immutable(field: &str) -> Rule {
    Rule::new("self == oldSelf").message(format!("{field} cannot be changed").as_str())
}

/// On the root of a Cluster: a field of the spec that does not change while GPUs are taken for it.
pub(crate) fn frozen_while_placed(field: &str) -> Rule {
    let (of_new, of_old) = (format!("self.spec.{field}"), format!("oldSelf.spec.{field}"));
    Rule::new(format!(
        "!has(oldSelf.status) || !has(oldSelf.status.placement) || \
         (has({of_new}) ? has({of_old}) && {of_new} == {of_old} : !has({of_old}))"
    ))
    .message(format!("spec.{field} cannot be changed while the Cluster is placed; suspend it first").as_str())
    .reason(Reason::FieldValueForbidden)
    .field_path(format!(".spec.{field}"))
}

/// On a container: the kubelet must not be sent to other hosts by a probe.
pub(crate) fn probe_without_host(probe: &str) -> Rule {
    let probe_field = format!("self.{probe}");
    Rule::new(format!(
        "!has({probe_field}) || \
         ((!has({probe_field}.httpGet) || !has({probe_field}.httpGet.host)) && \
         (!has({probe_field}.tcpSocket) || !has({probe_field}.tcpSocket.host)))"
    ))
    .message(format!("{probe} must not set host: probes go to the member's own pod").as_str())
    .reason(Reason::FieldValueForbidden)
    .field_path(format!(".{probe}"))
}

/// On labels or annotations: keys are well-formed.
pub(crate) fn label_keys(field: &str) -> Rule {
    Rule::new(
        "self.all(k, k.size() <= 253 && \
         k.matches('^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$'))",
    )
    .message(format!("{field}: keys must be like \"team\" or \"example.com/team\"").as_str())
}

/// On labels or annotations: no key is one that Kubernetes or Atoll gives a meaning.
pub(crate) fn free_keys(field: &str) -> Rule {
    Rule::new(
        "self.all(k, k in ['app.kubernetes.io/name', 'app.kubernetes.io/instance', 'app.kubernetes.io/version', \
         'app.kubernetes.io/component', 'app.kubernetes.io/part-of'] || \
         !k.matches('^(([^/]*[.])?(amd[.]com|antrea[.]io|atoll[.]dev|azure[.]com|cattle[.]io|cilium[.]io|cncf[.]io|\
         hashicorp[.]com|intel[.]com|istio[.]io|k8s[.]io|kubernetes[.]io|kyverno[.]io|linkerd[.]io|nvidia[.]com|\
         openshift[.]io|ovn[.]org|projectcalico[.]org|tigera[.]io)/|\
         io[.](kubernetes|containerd|katacontainers)[.])'))",
    )
    .message(
        format!(
            "{field}: keys that Atoll, Kubernetes, or a Site's network, mesh or device plugins act on are not the \
             tenant's to set"
        )
        .as_str(),
    )
    .reason(Reason::FieldValueForbidden)
}

/// On `requests` or `limits`: only what a tenant may ask for here.
pub(crate) fn plain_resources(field: &str) -> Rule {
    Rule::new("self.all(k, k in ['cpu', 'memory', 'ephemeral-storage'])")
        .message(
            format!("{field} may have cpu, memory and ephemeral-storage only; GPUs are asked for by members.gpus")
                .as_str(),
        )
        .reason(Reason::FieldValueForbidden)
}

/// An amount that is not nothing.
pub(crate) fn above_zero(field: &str) -> Rule {
    Rule::new("quantity(string(self)).compareTo(quantity('0')) > 0")
        .message(format!("{field} must be above 0").as_str())
}

/// A list of networks, each with a prefix of at least so many bits.
pub(crate) fn cidrs(field: &str, shortest: u8) -> Rule {
    let prefix = if shortest == 0 { String::new() } else { format!(" && cidr(c).prefixLength() >= {shortest}") };
    Rule::new(format!("self.all(c, isCIDR(c) && cidr(c) == cidr(c).masked(){prefix})")).message(
        format!("{field} must be networks with nothing but zeros behind the prefix, such as \"10.2.0.0/16\"").as_str(),
    )
}
