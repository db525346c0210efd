package controllers

import (
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sluice-project/sluice/controllers/desired"
)

// cacheOptions watch only what bears our label, and keep only what is read of it.
func cacheOptions(namespaces []string) cache.Options {
	requirement, err := labels.NewRequirement(desired.LabelProcessor, selection.Exists, nil)
	if err != nil {
		panic(err) // the label is a constant
	}
	ours := labels.NewSelector().Add(*requirement)
	options := cache.Options{ByObject: map[client.Object]cache.ByObject{
		&appsv1.Deployment{}:            {Label: ours},
		&policyv1.PodDisruptionBudget{}: {Label: ours, Transform: cache.TransformStripManagedFields()},
		&corev1.ConfigMap{}:             {Label: ours, Transform: slimConfigMap},
		&corev1.Pod{}:                   {Label: ours, Transform: slimPod},
	}}
	if len(namespaces) > 0 {
		options.DefaultNamespaces = map[string]cache.Config{}
		for _, namespace := range namespaces {
			options.DefaultNamespaces[namespace] = cache.Config{}
		}
	}
	return options
}

// clientOptions read Secrets from the API server each time: a cache would list them all.
func clientOptions() client.Options {
	return client.Options{Cache: &client.CacheOptions{DisableFor: []client.Object{&corev1.Secret{}}}}
}

func slimPod(object any) (any, error) {
	if pod, ok := object.(*corev1.Pod); ok {
		pod.Spec = corev1.PodSpec{NodeName: pod.Spec.NodeName}
		cost, there := pod.Annotations[corev1.PodDeletionCost]
		if pod.Annotations = nil; there {
			pod.Annotations = map[string]string{corev1.PodDeletionCost: cost}
		}
		slim(&pod.ObjectMeta)
	}
	return object, nil
}

func slimConfigMap(object any) (any, error) {
	if configMap, ok := object.(*corev1.ConfigMap); ok {
		configMap.Data, configMap.BinaryData = nil, nil
		slim(&configMap.ObjectMeta)
	}
	return object, nil
}

func slim(meta *metav1.ObjectMeta) { meta.ManagedFields = nil }
