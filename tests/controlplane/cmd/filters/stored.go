package main

import (
	"fmt"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	genericrequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"k8s.io/kubernetes/pkg/apis/core"
	_ "k8s.io/kubernetes/pkg/apis/core/install"
	"k8s.io/kubernetes/pkg/apis/core/validation"
	"k8s.io/kubernetes/pkg/registry/core/pod"
)

// anew makes an object, again until it is valid: only what an API server
// takes is judged.
func anew[T any](made func() (T, error)) (T, error) {
	var last error
	for range 100 {
		object, err := made()
		if err == nil {
			return object, nil
		}
		last = err
	}
	var none T
	return none, fmt.Errorf("nothing valid comes out: %w", last)
}

// storedPod is what an API server makes of a pod that is created.
func storedPod(manifest *v1.Pod) (*v1.Pod, error) {
	legacyscheme.Scheme.Default(manifest)
	internal := &core.Pod{}
	if err := legacyscheme.Scheme.Convert(manifest, internal, nil); err != nil {
		return nil, err
	}
	ctx := genericrequest.WithNamespace(genericrequest.NewContext(), manifest.Namespace)
	pod.Strategy.PrepareForCreate(ctx, internal)
	if wrong := pod.Strategy.Validate(ctx, internal); len(wrong) > 0 {
		return nil, wrong.ToAggregate()
	}
	stored := &v1.Pod{}
	return stored, legacyscheme.Scheme.Convert(internal, stored, nil)
}

func storedNode(node *v1.Node) (*v1.Node, error) {
	legacyscheme.Scheme.Default(node)
	internal := &core.Node{}
	if err := legacyscheme.Scheme.Convert(node, internal, nil); err != nil {
		return nil, err
	}
	return node, wrong(validation.ValidateNode(internal))
}

func storedVolume(volume *v1.PersistentVolume) (*v1.PersistentVolume, error) {
	legacyscheme.Scheme.Default(volume)
	internal := &core.PersistentVolume{}
	if err := legacyscheme.Scheme.Convert(volume, internal, nil); err != nil {
		return nil, err
	}
	options := validation.ValidationOptionsForPersistentVolume(internal, nil)
	return volume, wrong(validation.ValidatePersistentVolume(internal, options))
}

func wrong(list field.ErrorList) error {
	if len(list) > 0 {
		return list.ToAggregate()
	}
	return nil
}
