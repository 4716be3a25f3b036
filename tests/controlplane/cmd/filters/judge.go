package main

import (
	"context"
	"fmt"
	"io"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/util/feature"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/dynamic-resource-allocation/resourceslice/tracker"
	"k8s.io/klog/v2"
	configv1 "k8s.io/kube-scheduler/config/v1"
	fwk "k8s.io/kube-scheduler/framework"
	"k8s.io/kubernetes/pkg/features"
	"k8s.io/kubernetes/pkg/scheduler/apis/config"
	"k8s.io/kubernetes/pkg/scheduler/apis/config/scheme"
	schedulercache "k8s.io/kubernetes/pkg/scheduler/backend/cache"
	"k8s.io/kubernetes/pkg/scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/dynamicresources"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/names"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/nodevolumelimits"
	frameworkruntime "k8s.io/kubernetes/pkg/scheduler/framework/runtime"
	"k8s.io/kubernetes/pkg/scheduler/metrics"
	"k8s.io/kubernetes/pkg/scheduler/util/assumecache"
)

// gates are off by default; that they are on does not change what pods get
// that do not use them.
var gates = map[string]bool{
	// Tolerations with the operators Gt and Lt.
	string(features.TaintTolerationComparisonOperators): true,
}

func init() {
	klog.LogToStderr(false)
	klog.SetOutput(io.Discard)
	if err := feature.DefaultMutableFeatureGate.SetFromMap(gates); err != nil {
		panic(err)
	}
	metrics.Register()
}

// judge is the framework of kube-scheduler with its default profile, over
// caches that are filled with one world after the other instead of by watching.
type judge struct {
	ctx       context.Context
	framework framework.Framework
	snapshot  *schedulercache.Snapshot
	informers informers.SharedInformerFactory
	// The plugins of the filter extension point, in their order.
	names   []string
	filters []fwk.FilterPlugin
}

// newJudge wires up what scheduler.New does, without queue and watches.
func newJudge() (*judge, error) {
	ctx := klog.NewContext(context.Background(), klog.Logger{})
	// Nothing asks this client for anything, as no informer is started.
	client, err := kubernetes.NewForConfig(&rest.Config{Host: "127.0.0.1:1"})
	if err != nil {
		return nil, err
	}
	factory := informers.NewSharedInformerFactory(client, 0)
	snapshot := schedulercache.NewEmptySnapshot()

	var defaults configv1.KubeSchedulerConfiguration
	scheme.Scheme.Default(&defaults)
	var configuration config.KubeSchedulerConfiguration
	if err := scheme.Scheme.Convert(&defaults, &configuration, nil); err != nil {
		return nil, err
	}

	claims := assumecache.NewAssumeCache(klog.FromContext(ctx), factory.Resource().V1().ResourceClaims().Informer(), "ResourceClaim", "", nil)
	slices, err := tracker.StartTracker(ctx, tracker.Options{
		SliceInformer: factory.Resource().V1().ResourceSlices(), KubeClient: client,
	})
	if err != nil {
		return nil, err
	}

	// The framework keeps its plugins to itself; the registry that makes them does not.
	made := map[string]fwk.Plugin{}
	registry := plugins.NewInTreeRegistry()
	for name, factory := range registry {
		registry[name] = func(ctx context.Context, args runtime.Object, handle fwk.Handle) (fwk.Plugin, error) {
			plugin, err := factory(ctx, args, handle)
			made[name] = plugin
			return plugin, err
		}
	}
	framework, err := frameworkruntime.NewFramework(ctx, registry, &configuration.Profiles[0],
		frameworkruntime.WithClientSet(client),
		frameworkruntime.WithInformerFactory(factory),
		frameworkruntime.WithSharedDRAManager(dynamicresources.NewDRAManager(ctx, claims, slices, factory)),
		frameworkruntime.WithSharedCSIManager(nodevolumelimits.NewCSIManager(factory.Storage().V1().CSINodes().Lister())),
		frameworkruntime.WithSnapshotSharedLister(snapshot),
		frameworkruntime.WithMutableSnapshotLister(snapshot),
		// The processors judge different worlds.
		frameworkruntime.WithParallelism(1),
	)
	if err != nil {
		return nil, err
	}

	judge := &judge{ctx: ctx, framework: framework, snapshot: snapshot, informers: factory}
	for _, enabled := range framework.ListPlugins().Filter.Enabled {
		filter, ok := made[enabled.Name].(fwk.FilterPlugin)
		if !ok {
			return nil, fmt.Errorf("plugin %s is no filter", enabled.Name)
		}
		judge.names = append(judge.names, enabled.Name)
		judge.filters = append(judge.filters, filter)
	}
	if len(judge.names) > 32 {
		return nil, fmt.Errorf("%d filters are more than a verdict has bits", len(judge.names))
	}
	return judge, nil
}

// namesNodes is the plugin that, for a pod without a node, names those that come
// into question (PreFilterResult). The framework signs no status that comes of it.
const namesNodes = names.NodeAffinity

// verdict says which filters do not let a pod onto a node, by their number in
// judge.names; none: it fits.
type verdict uint32

// judge asks about every pod of the world and every node, in their order.
//
// What a plugin says before nodes are looked at (PreFilter) holds for every
// node, and then the others are not asked: such a verdict has one bit.
func (j *judge) judge(w *world) ([][]verdict, error) {
	if err := j.enter(w); err != nil {
		return nil, err
	}
	verdicts := make([][]verdict, len(w.pods))
	for i, pod := range w.pods {
		row := make([]verdict, len(w.nodes))
		state := framework.NewCycleState()
		some, status, _ := j.framework.RunPreFilterPlugins(j.ctx, state, pod)
		if !status.IsSuccess() {
			no, err := j.bit(status)
			if err != nil {
				return nil, fmt.Errorf("pod %s/%s: %w", pod.Namespace, pod.Name, err)
			}
			for n := range row {
				row[n] = no
			}
			verdicts[i] = row
			continue
		}
		for n, node := range w.nodes {
			info, err := j.snapshot.NodeInfos().Get(node.Name)
			if err != nil {
				return nil, err
			}
			if !some.AllNodes() && !some.NodeNames.Has(node.Name) {
				status = fwk.NewStatus(fwk.Unschedulable).WithPlugin(namesNodes)
			} else {
				status = j.framework.RunFilterPlugins(j.ctx, state, pod, info)
			}
			if status.IsSuccess() {
				continue
			}
			no, err := j.bit(status)
			if err != nil {
				return nil, fmt.Errorf("pod %s/%s, node %s: %w", pod.Namespace, pod.Name, node.Name, err)
			}
			row[n] = no | j.all(state, pod, info)
		}
		verdicts[i] = row
	}
	return verdicts, nil
}

// all asks every filter, also after one has said no.
func (j *judge) all(state fwk.CycleState, pod *v1.Pod, info fwk.NodeInfo) verdict {
	var no verdict
	for i, filter := range j.filters {
		if !state.GetSkipFilterPlugins().Has(j.names[i]) && !filter.Filter(j.ctx, state, pod, info).IsSuccess() {
			no |= 1 << i
		}
	}
	return no
}

// bit is the plugin that gave the status. A plugin that failed has not let the
// pod through either.
func (j *judge) bit(status *fwk.Status) (verdict, error) {
	plugin := status.Plugin()
	if plugin == "" {
		plugin = namesNodes
	}
	for i, name := range j.names {
		if name == plugin {
			return 1 << i, nil
		}
	}
	return 0, fmt.Errorf("%q is none of the filters", plugin)
}

// enter makes a world what the framework sees.
func (j *judge) enter(w *world) error {
	core, storage := j.informers.Core().V1(), j.informers.Storage().V1()
	for _, fill := range []struct {
		informer cache.SharedIndexInformer
		objects  []any
	}{
		{core.Namespaces().Informer(), boxed(w.namespaces)},
		{core.Nodes().Informer(), boxed(w.nodes)},
		{core.PersistentVolumes().Informer(), boxed(w.volumes)},
		{core.PersistentVolumeClaims().Informer(), boxed(w.claims)},
		{storage.StorageClasses().Informer(), boxed(w.classes)},
		{storage.CSINodes().Informer(), boxed(w.csiNodes)},
	} {
		if err := fill.informer.GetIndexer().Replace(fill.objects, ""); err != nil {
			return err
		}
	}
	// Pods that have ended are not watched, and those of nodes that are gone
	// are in no snapshot.
	known := map[string]bool{}
	for _, node := range w.nodes {
		known[node.Name] = true
	}
	var there []*v1.Pod
	for _, pod := range w.bound {
		if known[pod.Spec.NodeName] && pod.Status.Phase != v1.PodSucceeded && pod.Status.Phase != v1.PodFailed {
			there = append(there, pod)
		}
	}
	*j.snapshot = *schedulercache.NewSnapshot(there, w.nodes)
	return nil
}

func boxed[T any](objects []T) []any {
	all := make([]any, len(objects))
	for i, object := range objects {
		all[i] = object
	}
	return all
}
