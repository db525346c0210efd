package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupVersion is the API group and version of this package's kinds.
var GroupVersion = schema.GroupVersion{Group: "sluice.dev", Version: "v1alpha1"}

// SchemeGroupVersion is GroupVersion under the name that the generated apply configurations use.
var SchemeGroupVersion = GroupVersion

// OperatorLease is the name of the Lease that the operator renews while it is the leader. It is in
// the operator's namespace.
const OperatorLease = "sluice-operator.sluice.dev"

// AddToScheme makes the kinds of this package known to a scheme.
func AddToScheme(scheme *runtime.Scheme) error {
	scheme.AddKnownTypes(GroupVersion, &EventProcessor{}, &EventProcessorList{}, &Replay{}, &ReplayList{})
	metav1.AddToGroupVersion(scheme, GroupVersion)
	return nil
}
