// Package v1alpha1 is Sluice's Kubernetes API: the kinds EventProcessor and Replay of the group sluice.dev.
//
// There is no conversion between versions, so fields get added and are never renamed, moved or retyped. A field whose
// feature does not exist is not in the schema.
//
// The texts of CEL rules are those of package rules; a test holds both against each other.
//
// +kubebuilder:object:generate=true
// +kubebuilder:ac:generate=true
// +kubebuilder:ac:output:package="applyconfiguration"
// +groupName=sluice.dev
package v1alpha1
