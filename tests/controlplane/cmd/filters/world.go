package main

import (
	"fmt"
	"math/rand/v2"

	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/nodedeclaredfeatures/features/restartallcontainers"
)

// world is a small cluster, and pods to judge against each of its nodes.
type world struct {
	number     uint64
	namespaces []*v1.Namespace
	nodes      []*v1.Node
	volumes    []*v1.PersistentVolume
	claims     []*v1.PersistentVolumeClaim
	classes    []*storagev1.StorageClass
	csiNodes   []*storagev1.CSINode
	bound      []*v1.Pod
	pods       []*v1.Pod
}

// topic is something that filters look at. Each world is about a few of them,
// so that in many worlds a pod fits or not because of one filter alone.
type topic int

const (
	taints topic = iota
	cordons
	selection
	ports
	amounts
	devices
	disks
	limits
	claims
	spread
	together
	apart
	topics
)

// dice is where chance comes from, and what the world is about.
type dice struct {
	*rand.Rand
	often [topics]bool
}

func (d *dice) chance(percent int) bool { return d.IntN(100) < percent }

// about is whether something that matters to the topic is to be made: mostly
// so in worlds about it, else rarely.
func (d *dice) about(t topic) bool {
	if d.often[t] {
		return d.chance(60)
	}
	return d.chance(4)
}

func pick[T any](d *dice, from ...T) T { return from[d.IntN(len(from))] }

// some picks between least and most of them, each at most once.
func some[T any](d *dice, least, most int, from ...T) []T {
	n := min(least+d.IntN(most-least+1), len(from))
	var all []T
	for _, i := range d.Perm(len(from))[:n] {
		all = append(all, from[i])
	}
	return all
}

func newWorld(seed, number uint64) (*world, error) {
	d := &dice{Rand: rand.New(rand.NewPCG(seed, number))}
	for range 1 + d.IntN(3) {
		d.often[d.IntN(int(topics))] = true
	}
	w := &world{number: number}
	for name, labels := range namespaceLabels {
		w.namespaces = append(w.namespaces, &v1.Namespace{ObjectMeta: metav1.ObjectMeta{
			Name: namespaceNames[name], Labels: labels,
		}})
	}
	for i := range 4 + d.IntN(9) {
		node, err := anew(func() (*v1.Node, error) { return storedNode(d.node(i)) })
		if err != nil {
			return nil, err
		}
		w.nodes = append(w.nodes, node)
	}
	if err := d.storage(w); err != nil {
		return nil, err
	}
	for i := range 6 + d.IntN(15) {
		pod, err := d.pod(w, fmt.Sprintf("bound-%d", i), true)
		if err != nil {
			return nil, err
		}
		pod.Spec.NodeName = pick(d, w.nodes...).Name
		if d.chance(1) && !mounts(pod, claimAlone) {
			pod.Spec.NodeName = "gone"
		}
		d.status(pod)
		w.bound = append(w.bound, pod)
	}
	for i := range 8 + d.IntN(5) {
		pod, err := d.pod(w, fmt.Sprintf("pod-%d", i), false)
		if err != nil {
			return nil, err
		}
		w.pods = append(w.pods, pod)
	}
	return w, nil
}

var (
	namespaceNames  = []string{"default", "team-a", "team-b"}
	namespaceLabels = []map[string]string{nil, {"team": "a", "env": "test"}, {"team": "b", "env": "test"}}
)

const (
	labelZone       = v1.LabelTopologyZone
	labelRegion     = v1.LabelTopologyRegion
	labelBetaZone   = v1.LabelFailureDomainBetaZone
	labelBetaRegion = v1.LabelFailureDomainBetaRegion
	labelRack       = "example.com/rack"
	labelDisk       = "disk"
	// Numbers, and what is nearly one.
	labelGeneration = "generation"
	deviceGPU       = v1.ResourceName("nvidia.com/gpu")
	deviceOther     = v1.ResourceName("example.com/fpga")
	hugePages       = v1.ResourceName("hugepages-2Mi")
)

var nearlyNumbers = []string{"1", "2", "3", "5", "-4", "07", "1.5", "x", "9223372036854775808", "9223372036854775807", ""}

func quantities(amounts map[v1.ResourceName]string) v1.ResourceList {
	list := v1.ResourceList{}
	for name, amount := range amounts {
		if amount != "" {
			list[name] = resource.MustParse(amount)
		}
	}
	return list
}

func (d *dice) node(i int) *v1.Node {
	name := fmt.Sprintf("node-%d", i)
	labels := map[string]string{v1.LabelOSStable: "linux"}
	label := func(percent int, key string, values ...string) {
		if d.chance(percent) {
			labels[key] = pick(d, values...)
		}
	}
	label(96, v1.LabelHostname, name)
	label(2, v1.LabelHostname, "node-0")
	label(90, labelZone, "a", "b", "c")
	label(60, labelRegion, "x", "x", "y")
	label(5, labelBetaZone, "a", "b")
	label(5, labelBetaRegion, "x", "y")
	label(85, labelRack, "r1", "r2", "r3", "r4")
	label(80, labelDisk, "ssd", "hdd")
	label(80, labelGeneration, nearlyNumbers...)

	node := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}
	node.Spec.Unschedulable = d.often[cordons] && d.chance(40) || d.chance(1)
	if node.Spec.Unschedulable && d.chance(70) {
		// The node controller's; kube-scheduler looks at the field also without it.
		node.Spec.Taints = append(node.Spec.Taints, v1.Taint{Key: v1.TaintNodeUnschedulable, Effect: v1.TaintEffectNoSchedule})
	}
	if d.about(taints) {
		for _, key := range some(d, 1, 2, taintKeys...) {
			for _, effect := range some(d, 1, 2, effects...) {
				node.Spec.Taints = append(node.Spec.Taints, v1.Taint{Key: key, Value: pick(d, taintValues...), Effect: effect})
			}
		}
	}
	ready := v1.NodeCondition{Type: v1.NodeReady, Status: v1.ConditionTrue}
	if d.chance(2) {
		// As the node controller does it: the condition and its taint together.
		ready.Status = pick(d, v1.ConditionFalse, v1.ConditionUnknown)
		taint := v1.Taint{Key: v1.TaintNodeNotReady, Effect: v1.TaintEffectNoSchedule}
		if ready.Status == v1.ConditionUnknown {
			taint.Key = v1.TaintNodeUnreachable
		}
		node.Spec.Taints = append(node.Spec.Taints, taint)
	}
	node.Status.Conditions = []v1.NodeCondition{ready}

	has := map[v1.ResourceName]string{
		v1.ResourceCPU: pick(d, "8", "16"), v1.ResourceMemory: pick(d, "16Gi", "8Gi"), v1.ResourceEphemeralStorage: "20Gi",
		v1.ResourcePods: "110", deviceGPU: "8", deviceOther: pick(d, "2", ""), hugePages: pick(d, "64Mi", ""),
	}
	if d.often[amounts] {
		has[v1.ResourceCPU] = pick(d, "2", "4", "8", "12", "3500m", "7.5", "0")
		has[v1.ResourceMemory] = pick(d, "4Gi", "8Gi", "16Gi", "2G", "4294967295500m", "9000000k")
		has[v1.ResourceEphemeralStorage] = pick(d, "10Gi", "20G", "5Gi", "")
		has[v1.ResourcePods] = pick(d, "110", "110", "110", "110", "10", "5", "3", "2", "1", "0", "")
		has[hugePages] = pick(d, "64Mi", "16Mi", "")
	}
	if d.often[devices] {
		has[deviceGPU] = pick(d, "8", "4", "2", "1", "0", "")
	}
	node.Status.Allocatable = quantities(has)
	if d.chance(70) {
		node.Status.DeclaredFeatures = []string{restartallcontainers.RestartAllContainersOnContainerExits}
	}
	node.Status.Capacity = node.Status.Allocatable.DeepCopy()
	return node
}

var (
	taintKeys   = []string{"dedicated", "example.com/slow", "level"}
	taintValues = []string{"", "a", "b", "5", "10", "-3", "010", "+5", "x1"}
	effects     = []v1.TaintEffect{v1.TaintEffectNoSchedule, v1.TaintEffectNoExecute, v1.TaintEffectPreferNoSchedule}
)

// status is what kubelet and others wrote of a pod that is bound.
func (d *dice) status(pod *v1.Pod) {
	pod.Status.Phase = pick(d, v1.PodRunning, v1.PodRunning, v1.PodRunning, v1.PodRunning, v1.PodPending)
	if d.chance(4) {
		pod.Status.Phase = pick(d, v1.PodSucceeded, v1.PodFailed)
	}
	if d.chance(10) {
		now := metav1.Unix(1_700_000_000, 0)
		seconds := int64(30)
		pod.DeletionTimestamp, pod.DeletionGracePeriodSeconds = &now, &seconds
	}
	if !d.about(amounts) || !d.chance(30) {
		return
	}
	// Resized in place: what it has, was promised and asks for may differ.
	resized := func(container *v1.Container) v1.ContainerStatus {
		status := v1.ContainerStatus{Name: container.Name}
		other := func() v1.ResourceList {
			list := container.Resources.Requests.DeepCopy()
			for _, name := range []v1.ResourceName{v1.ResourceCPU, v1.ResourceMemory} {
				if quantity, there := list[name]; there && d.chance(60) {
					factor := pick(d, 0, 1, 3, 4)
					list[name] = *resource.NewMilliQuantity(quantity.MilliValue()/2*int64(factor), quantity.Format)
				}
			}
			return list
		}
		if d.chance(70) {
			status.AllocatedResources = other()
		}
		if d.chance(70) {
			status.Resources = &v1.ResourceRequirements{}
			if d.chance(80) {
				status.Resources.Requests = other()
			}
		}
		return status
	}
	for i := range pod.Spec.Containers {
		if d.chance(80) {
			pod.Status.ContainerStatuses = append(pod.Status.ContainerStatuses, resized(&pod.Spec.Containers[i]))
		}
	}
	for i := range pod.Spec.InitContainers {
		if d.chance(60) {
			pod.Status.InitContainerStatuses = append(pod.Status.InitContainerStatuses, resized(&pod.Spec.InitContainers[i]))
		}
	}
	if pod.Spec.Resources != nil && d.chance(60) {
		pod.Status.Resources = &v1.ResourceRequirements{Requests: quantities(map[v1.ResourceName]string{
			v1.ResourceCPU: pick(d, "1", "2500m"), v1.ResourceMemory: pick(d, "1Gi", "3Gi"),
		})}
		if d.chance(70) {
			pod.Status.AllocatedResources = quantities(map[v1.ResourceName]string{
				v1.ResourceCPU: pick(d, "1", "3"), v1.ResourceMemory: pick(d, "1Gi", "2Gi"),
			})
		}
	}
	if d.chance(40) {
		pod.Status.Conditions = append(pod.Status.Conditions, v1.PodCondition{
			Type: v1.PodResizePending, Status: v1.ConditionTrue, Reason: pick(d, v1.PodReasonInfeasible, v1.PodReasonDeferred),
		})
	}
}

func (d *dice) uid() types.UID {
	return types.UID(fmt.Sprintf("%08x-0000-4000-8000-%012x", d.Uint32(), d.Uint64()>>16))
}

// shownWorld is a world for people.
type shownWorld struct {
	World      uint64
	Namespaces []*v1.Namespace
	Nodes      []*v1.Node
	Volumes    []*v1.PersistentVolume      `json:",omitempty"`
	Claims     []*v1.PersistentVolumeClaim `json:",omitempty"`
	Classes    []*storagev1.StorageClass   `json:",omitempty"`
	CSINodes   []*storagev1.CSINode        `json:",omitempty"`
	Bound      []*v1.Pod
	Pods       []shownPod
}

type shownPod struct {
	Pod *v1.Pod
	// By node, the filters that say no.
	Refused map[string][]string
}

func (w *world) shown(verdicts [][]verdict, names []string) shownWorld {
	shown := shownWorld{
		w.number, w.namespaces, w.nodes, w.volumes, w.claims, w.classes, w.csiNodes, w.bound, nil,
	}
	for i, pod := range w.pods {
		refused := map[string][]string{}
		for n, node := range w.nodes {
			for b, name := range names {
				if verdicts[i][n]&(1<<b) != 0 {
					refused[node.Name] = append(refused[node.Name], name)
				}
			}
		}
		shown.Pods = append(shown.Pods, shownPod{pod, refused})
	}
	return shown
}
