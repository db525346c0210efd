package controllers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	// installationName is the Lease whose UID is the installation's ID.
	installationName = "sluice-installation"
	// namespaceFile is where a pod finds its own namespace.
	namespaceFile = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"
)

// installationID returns the ID by which stores tell this installation from others, whatever its cluster is called.
//
// It is the UID of a Lease in the operator's namespace, which the first operator there creates and nobody changes: it stays the
// same through restarts, upgrades and reinstalls in that namespace, an API server gives no two objects the same one, and a
// manifest or a backup that is applied in another cluster does not bring it along. A Lease, since the operator may create those
// in its own namespace anyway, and nothing more is needed.
func installationID(ctx context.Context, c client.Client, namespace string) (string, error) {
	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: installationName,
		Labels: map[string]string{"app.kubernetes.io/managed-by": "sluice-operator"}}}
	err := c.Get(ctx, client.ObjectKeyFromObject(lease), lease)
	if apierrors.IsNotFound(err) {
		err = c.Create(ctx, lease)
	}
	if apierrors.IsAlreadyExists(err) { // another replica was faster
		err = c.Get(ctx, client.ObjectKeyFromObject(lease), lease)
	}
	if err != nil {
		return "", fmt.Errorf("finding the installation's ID in Lease %s/%s: %w", namespace, installationName, err)
	}
	return shortID(string(lease.UID)), nil
}

// shortID is as much of a UID as people can compare.
func shortID(uid string) string {
	const digits = 12
	id := strings.ReplaceAll(uid, "-", "")
	return id[:min(len(id), digits)]
}

// ownNamespace is where the operator keeps its Leases: the one it was told, that of its pod, or "default" outside of a cluster.
func ownNamespace(told string) (string, error) {
	if told != "" {
		return told, nil
	}
	text, err := os.ReadFile(namespaceFile)
	if errors.Is(err, os.ErrNotExist) {
		return metav1.NamespaceDefault, nil
	}
	if err != nil {
		return "", fmt.Errorf("finding the operator's namespace: %w", err)
	}
	return strings.TrimSpace(string(text)), nil
}
