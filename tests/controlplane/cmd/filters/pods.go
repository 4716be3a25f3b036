package main

import (
	"fmt"
	"slices"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// Name of the scheduler of the pods to judge, and of some that are bound.
const scheduler = "atoll-scheduler"

// pod makes a pod as an API server stores it.
func (d *dice) pod(w *world, name string, bound bool) (*v1.Pod, error) {
	return anew(func() (*v1.Pod, error) { return storedPod(d.manifest(w, name, bound)) })
}

// manifest is a pod as a user writes it. A bound one asks for less, so that
// something is left for the pods to judge.
func (d *dice) manifest(w *world, name string, bound bool) *v1.Pod {
	labels := map[string]string{}
	label := func(percent int, key string, values ...string) {
		if d.chance(percent) {
			labels[key] = pick(d, values...)
		}
	}
	label(85, "app", "web", "db", "train")
	label(50, "tier", "front", "back")
	label(40, "version", "1", "2", "10")
	manifest := &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, Namespace: pick(d, "default", "default", "team-a", "team-b"), UID: d.uid(), Labels: labels,
		},
		Spec: v1.PodSpec{SchedulerName: scheduler, ServiceAccountName: "default", TerminationGracePeriodSeconds: ptr.To[int64](30)},
	}
	if bound && d.chance(50) {
		manifest.Spec.SchedulerName = v1.DefaultSchedulerName
	}
	d.containers(manifest, bound)
	if d.about(ports) {
		d.hostPorts(manifest)
	}
	if d.about(taints) || d.about(cordons) {
		manifest.Spec.Tolerations = d.tolerations()
	}
	affinity := &v1.Affinity{}
	if d.about(selection) {
		d.nodeSelection(manifest, affinity)
	}
	// On a bound pod only what keeps others away matters.
	if d.about(together) && !bound {
		affinity.PodAffinity = &v1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: d.podTerms(1, 2)}
	}
	if d.about(apart) {
		affinity.PodAntiAffinity = &v1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: d.podTerms(1, 2)}
	}
	if d.chance(3) && affinity.PodAntiAffinity == nil {
		affinity.PodAntiAffinity = &v1.PodAntiAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []v1.WeightedPodAffinityTerm{
			{Weight: 50, PodAffinityTerm: d.podTerms(1, 1)[0]},
		}}
	}
	if *affinity != (v1.Affinity{}) || d.chance(2) {
		manifest.Spec.Affinity = affinity
	}
	if d.about(spread) && !bound {
		manifest.Spec.TopologySpreadConstraints = d.spreadConstraints()
	}
	if len(w.claims) > 0 {
		d.mount(w, manifest, bound)
	}
	if d.chance(2) {
		// Not every kubelet can do this.
		container := &manifest.Spec.Containers[0]
		container.RestartPolicy = ptr.To(v1.ContainerRestartPolicyNever)
		container.RestartPolicyRules = []v1.ContainerRestartRule{{
			Action:    v1.ContainerRestartRuleActionRestartAllContainers,
			ExitCodes: &v1.ContainerRestartRuleOnExitCodes{Operator: v1.ContainerRestartRuleOnExitCodesOpIn, Values: []int32{42}},
		}}
	}
	if d.chance(1) && !bound {
		// There is no such claim.
		manifest.Spec.ResourceClaims = []v1.PodResourceClaim{{Name: "device", ResourceClaimName: ptr.To("device")}}
	}
	return manifest
}

// mount adds volumes.
func (d *dice) mount(w *world, manifest *v1.Pod, bound bool) {
	add := func(source v1.VolumeSource) {
		manifest.Spec.Volumes = append(manifest.Spec.Volumes, v1.Volume{
			Name: fmt.Sprintf("v%d", len(manifest.Spec.Volumes)), VolumeSource: source,
		})
	}
	claimed := func(name string) {
		add(v1.VolumeSource{PersistentVolumeClaim: &v1.PersistentVolumeClaimVolumeSource{ClaimName: name, ReadOnly: d.chance(20)}})
	}
	if d.about(disks) {
		for _, source := range d.diskVolumes() {
			add(source)
		}
	}
	if d.about(claims) || d.about(limits) {
		for _, name := range some(d, 1, 2, claimNames...) {
			if name == claimAlone && d.chance(70) {
				continue
			}
			claimed(name)
		}
		switch {
		case d.chance(2):
			claimed(pick(d, oddClaims...))
		case d.chance(1) && !bound:
			claimed(pick(d, waitingClaims...))
		case d.chance(1) && !bound:
			claimed("unbound")
		case d.chance(3):
			// Perhaps one that was made for another pod.
			if claim := pick(d, w.claims...); claim.Namespace == manifest.Namespace && len(claim.OwnerReferences) > 0 {
				claimed(claim.Name)
			}
		case d.chance(3):
			// Asked for twice.
			claimed("data-0")
			claimed("data-0")
		}
	}
	if (d.often[limits] || d.often[claims]) && d.chance(15) {
		d.ephemeral(w, manifest, bound)
	}
	if d.chance(2) {
		add(v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}})
	}
}

// ephemeral adds a volume that lives with the pod; the claim is made for it.
func (d *dice) ephemeral(w *world, manifest *v1.Pod, bound bool) {
	modes := []v1.PersistentVolumeAccessMode{pick(d, v1.ReadWriteOnce, v1.ReadWriteOncePod)}
	name := fmt.Sprintf("v%d", len(manifest.Spec.Volumes))
	manifest.Spec.Volumes = append(manifest.Spec.Volumes, v1.Volume{Name: name, VolumeSource: v1.VolumeSource{
		Ephemeral: &v1.EphemeralVolumeSource{VolumeClaimTemplate: &v1.PersistentVolumeClaimTemplate{Spec: v1.PersistentVolumeClaimSpec{
			AccessModes: modes, Resources: v1.VolumeResourceRequirements{Requests: quantities(map[v1.ResourceName]string{v1.ResourceStorage: "1Gi"})},
		}}},
	}})
	if d.chance(5) {
		return
	}
	volume := pick(d, w.volumes...)
	claim := claim(manifest.Namespace, manifest.Name+"-"+name, volume.Name, modes)
	claim.OwnerReferences = []metav1.OwnerReference{{
		APIVersion: "v1", Kind: "Pod", Name: manifest.Name, UID: manifest.UID, Controller: ptr.To(true),
	}}
	if d.chance(5) && !bound {
		claim.OwnerReferences[0].UID = "another"
	}
	w.claims = append(w.claims, claim)
}

// mounts is whether the pod has a claim.
func mounts(pod *v1.Pod, claim string) bool {
	return slices.ContainsFunc(pod.Spec.Volumes, func(volume v1.Volume) bool {
		return volume.PersistentVolumeClaim != nil && volume.PersistentVolumeClaim.ClaimName == claim
	})
}

func (d *dice) hostPorts(manifest *v1.Pod) {
	if d.chance(10) {
		manifest.Spec.HostNetwork = true
	}
	of := func(container *v1.Container, n int) {
		for range n {
			port := v1.ContainerPort{
				HostPort: pick[int32](d, 80, 443, 8080), Protocol: pick(d, v1.ProtocolTCP, v1.ProtocolTCP, v1.ProtocolUDP, v1.ProtocolSCTP, ""),
				HostIP: pick(d, "", "", "0.0.0.0", "127.0.0.1", "10.0.0.1", "::", "::1"),
			}
			port.ContainerPort = port.HostPort
			if d.chance(10) {
				port.HostPort, port.HostIP = 0, ""
			}
			container.Ports = append(container.Ports, port)
		}
	}
	of(&manifest.Spec.Containers[0], 1+d.IntN(3))
	for i := range manifest.Spec.InitContainers {
		of(&manifest.Spec.InitContainers[i], d.IntN(2))
	}
}

func (d *dice) tolerations() []v1.Toleration {
	var tolerations []v1.Toleration
	for range 1 + d.IntN(3) {
		toleration := v1.Toleration{
			Key:      pick(d, append([]string{v1.TaintNodeUnschedulable, v1.TaintNodeNotReady}, taintKeys...)...),
			Operator: pick(d, v1.TolerationOpExists, v1.TolerationOpExists, v1.TolerationOpEqual, "", v1.TolerationOpGt, v1.TolerationOpLt),
			Effect:   pick(d, append([]v1.TaintEffect{"", ""}, effects...)...),
		}
		switch toleration.Operator {
		case v1.TolerationOpExists:
			if d.chance(15) {
				toleration.Key = ""
			}
		case v1.TolerationOpGt, v1.TolerationOpLt:
			toleration.Value = pick(d, "5", "7", "10", "-10", "0")
		default:
			toleration.Value = pick(d, taintValues...)
		}
		if toleration.Effect == v1.TaintEffectNoExecute && d.chance(30) {
			toleration.TolerationSeconds = ptr.To[int64](300)
		}
		tolerations = append(tolerations, toleration)
	}
	return tolerations
}

func (d *dice) nodeSelection(manifest *v1.Pod, affinity *v1.Affinity) {
	if d.chance(40) {
		manifest.Spec.NodeSelector = map[string]string{}
		for _, pair := range some(d, 1, 2, [2]string{labelDisk, "ssd"}, [2]string{labelZone, "a"}, [2]string{labelDisk, "hdd"}, [2]string{"no-such", "label"}) {
			if pair[0] != "no-such" || d.chance(20) {
				manifest.Spec.NodeSelector[pair[0]] = pair[1]
			}
		}
	}
	if d.chance(70) {
		var terms []v1.NodeSelectorTerm
		for range 1 + d.IntN(3) {
			terms = append(terms, d.term(false))
		}
		affinity.NodeAffinity = &v1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &v1.NodeSelector{NodeSelectorTerms: terms}}
	}
	if d.chance(10) {
		if affinity.NodeAffinity == nil {
			affinity.NodeAffinity = &v1.NodeAffinity{}
		}
		affinity.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution = []v1.PreferredSchedulingTerm{{Weight: 10, Preference: d.term(false)}}
	}
}

// term is one alternative of a node affinity; of a volume's with plainer keys.
func (d *dice) term(ofVolume bool) v1.NodeSelectorTerm {
	var term v1.NodeSelectorTerm
	if d.chance(4) {
		return term
	}
	if d.chance(20) {
		for range 1 + d.IntN(2) {
			term.MatchFields = append(term.MatchFields, v1.NodeSelectorRequirement{
				Key: metav1.ObjectNameField, Operator: pick(d, v1.NodeSelectorOpIn, v1.NodeSelectorOpNotIn),
				Values: []string{pick(d, "node-0", "node-1", "node-2", "node-3", "elsewhere")},
			})
		}
		if ofVolume || d.chance(50) {
			return term
		}
	}
	for range 1 + d.IntN(2) {
		requirement := v1.NodeSelectorRequirement{Key: pick(d, labelZone, labelRack, labelDisk, labelGeneration, labelGeneration, "no-such")}
		switch requirement.Key {
		case labelGeneration:
			requirement.Operator = pick(d, v1.NodeSelectorOpGt, v1.NodeSelectorOpLt)
			requirement.Values = []string{pick(d, "0", "2", "3", "-10", "9223372036854775806", "10", "2.5", "x")}
		case "no-such":
			requirement.Operator = pick(d, v1.NodeSelectorOpDoesNotExist, v1.NodeSelectorOpDoesNotExist, v1.NodeSelectorOpExists)
		default:
			requirement.Operator = pick(d, v1.NodeSelectorOpIn, v1.NodeSelectorOpIn, v1.NodeSelectorOpNotIn, v1.NodeSelectorOpExists, v1.NodeSelectorOpDoesNotExist)
			if requirement.Operator == v1.NodeSelectorOpIn || requirement.Operator == v1.NodeSelectorOpNotIn {
				requirement.Values = some(d, 1, 3, "a", "b", "r1", "r2", "r3", "ssd", "hdd")
			}
		}
		term.MatchExpressions = append(term.MatchExpressions, requirement)
	}
	return term
}
