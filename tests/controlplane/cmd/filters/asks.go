package main

import (
	"fmt"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// containers fills in what the pod takes.
func (d *dice) containers(manifest *v1.Pod, bound bool) {
	for i := range pick(d, 1, 1, 1, 2, 3) {
		manifest.Spec.Containers = append(manifest.Spec.Containers, d.container(fmt.Sprintf("c%d", i), bound))
	}
	for i := range pick(d, 0, 0, 0, 0, 1, 2, 3) {
		container := d.container(fmt.Sprintf("i%d", i), bound)
		if d.chance(40) {
			container.RestartPolicy = ptr.To(v1.ContainerRestartPolicyAlways)
		}
		manifest.Spec.InitContainers = append(manifest.Spec.InitContainers, container)
	}
	if d.about(amounts) && d.chance(30) {
		manifest.Spec.Overhead = quantities(map[v1.ResourceName]string{
			v1.ResourceCPU: pick(d, "250m", "1", ""), v1.ResourceMemory: pick(d, "120Mi", "1Gi", ""), hugePages: pick(d, "", "", "4Mi"),
		})
	}
	if d.about(amounts) && d.chance(30) {
		list := quantities(map[v1.ResourceName]string{
			v1.ResourceCPU: pick(d, "", "2", "3500m", "6"), v1.ResourceMemory: pick(d, "", "2Gi", "4Gi", "7Gi"), hugePages: pick(d, "", "", "", "32Mi"),
		})
		manifest.Spec.Resources = &v1.ResourceRequirements{Requests: list}
		if _, pages := list[hugePages]; pages || d.chance(40) {
			manifest.Spec.Resources.Limits = list.DeepCopy()
			if d.chance(30) {
				manifest.Spec.Resources.Requests = nil
			}
		}
	}
}

func (d *dice) container(name string, bound bool) v1.Container {
	container := v1.Container{Name: name, Image: "image", ImagePullPolicy: v1.PullIfNotPresent}
	if d.chance(30) {
		return container
	}
	asks := v1.ResourceList{}
	switch {
	case d.often[amounts] && d.chance(60):
		asks = quantities(map[v1.ResourceName]string{
			v1.ResourceCPU:              pick(d, "100m", "500m", "1", "1500m", "2", "1.0005", "0", ""),
			v1.ResourceMemory:           pick(d, "512Mi", "1Gi", "2G", "100m", "1500m", "4294967295", "0", ""),
			v1.ResourceEphemeralStorage: pick(d, "", "", "1Gi", "3G", "100m", "6Gi"),
			hugePages:                   pick(d, "", "", "", "", "2Mi", "8Mi", "32Mi"),
		})
	default:
		asks = quantities(map[v1.ResourceName]string{
			v1.ResourceCPU: pick(d, "10m", "100m", "250m", ""), v1.ResourceMemory: pick(d, "16Mi", "128Mi", ""),
		})
		if !bound && d.chance(5) {
			asks[v1.ResourceCPU] = quantities(map[v1.ResourceName]string{v1.ResourceCPU: "3"})[v1.ResourceCPU]
		}
	}
	// Devices and huge pages have limits that are their requests.
	fixed := v1.ResourceList{}
	if d.about(devices) {
		fixed = quantities(map[v1.ResourceName]string{
			deviceGPU: pick(d, "1", "1", "2", "4", "0", "8"), deviceOther: pick(d, "", "", "1", "2"),
		})
		if bound {
			fixed = quantities(map[v1.ResourceName]string{deviceGPU: pick(d, "1", "1", "2"), deviceOther: pick(d, "", "", "1")})
		}
	}
	if pages, ok := asks[hugePages]; ok {
		fixed[hugePages] = pages
	}
	container.Resources.Limits = fixed
	container.Resources.Requests = asks
	for name, quantity := range fixed {
		asks[name] = quantity
	}
	if d.chance(10) {
		// Requests come from limits.
		container.Resources.Limits, container.Resources.Requests = asks, nil
	}
	return container
}

var topologyKeys = []string{v1.LabelHostname, labelZone, labelZone, labelRack, labelRegion}

func (d *dice) podTerms(least, most int) []v1.PodAffinityTerm {
	var terms []v1.PodAffinityTerm
	for range least + d.IntN(most-least+1) {
		term := v1.PodAffinityTerm{TopologyKey: pick(d, topologyKeys...), LabelSelector: d.labelSelector()}
		switch d.IntN(6) {
		case 0:
			term.Namespaces = some(d, 1, 2, namespaceNames...)
		case 1:
			term.NamespaceSelector = pick(d,
				&metav1.LabelSelector{},
				&metav1.LabelSelector{MatchLabels: map[string]string{"team": "a"}},
				&metav1.LabelSelector{MatchLabels: map[string]string{"env": "test"}},
				&metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "team", Operator: metav1.LabelSelectorOpDoesNotExist}}},
			)
			if d.chance(30) {
				term.Namespaces = some(d, 1, 1, namespaceNames...)
			}
		}
		if term.LabelSelector != nil && d.chance(10) {
			switch d.IntN(2) {
			case 0:
				term.MatchLabelKeys = []string{"version"}
			case 1:
				term.MismatchLabelKeys = []string{"version"}
			}
		}
		terms = append(terms, term)
	}
	return terms
}

func (d *dice) labelSelector() *metav1.LabelSelector {
	switch d.IntN(20) {
	case 0:
		return nil
	case 1:
		return &metav1.LabelSelector{}
	}
	selector := &metav1.LabelSelector{}
	if d.chance(70) {
		selector.MatchLabels = map[string]string{"app": pick(d, "web", "db", "train")}
	}
	if d.chance(30) || selector.MatchLabels == nil {
		requirement := metav1.LabelSelectorRequirement{
			Key:      pick(d, "app", "tier", "version"),
			Operator: pick(d, metav1.LabelSelectorOpIn, metav1.LabelSelectorOpNotIn, metav1.LabelSelectorOpExists, metav1.LabelSelectorOpDoesNotExist),
		}
		if requirement.Operator == metav1.LabelSelectorOpIn || requirement.Operator == metav1.LabelSelectorOpNotIn {
			requirement.Values = some(d, 1, 2, "web", "db", "front", "back", "1", "2")
		}
		selector.MatchExpressions = append(selector.MatchExpressions, requirement)
	}
	return selector
}

func (d *dice) spreadConstraints() []v1.TopologySpreadConstraint {
	var constraints []v1.TopologySpreadConstraint
	for range pick(d, 1, 1, 2) {
		constraint := v1.TopologySpreadConstraint{
			TopologyKey: pick(d, topologyKeys...), MaxSkew: pick[int32](d, 1, 1, 1, 2, 3),
			WhenUnsatisfiable: pick(d, v1.DoNotSchedule, v1.DoNotSchedule, v1.DoNotSchedule, v1.DoNotSchedule, v1.ScheduleAnyway),
			LabelSelector:     d.labelSelector(),
		}
		if d.chance(20) && constraint.WhenUnsatisfiable == v1.DoNotSchedule {
			constraint.MinDomains = ptr.To(pick[int32](d, 1, 2, 3, 4, 6))
		}
		if d.chance(30) {
			constraint.NodeAffinityPolicy = ptr.To(pick(d, v1.NodeInclusionPolicyHonor, v1.NodeInclusionPolicyIgnore))
		}
		if d.chance(30) {
			constraint.NodeTaintsPolicy = ptr.To(pick(d, v1.NodeInclusionPolicyHonor, v1.NodeInclusionPolicyIgnore))
		}
		if d.chance(15) && constraint.LabelSelector != nil {
			constraint.MatchLabelKeys = []string{"version"}
		}
		constraints = append(constraints, constraint)
	}
	return constraints
}
