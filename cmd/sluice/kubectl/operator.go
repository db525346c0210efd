package kubectl

import (
	"context"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/sluice-project/sluice/api/v1alpha1"
)

// silentAfter is how old the Lease's last renewal has to be to be reported. An operator renews the
// Lease every two seconds, another replica takes it over within 15 s, and clocks differ.
const silentAfter = time.Minute

// operatorInfo is what the operators' Leases say.
type operatorInfo struct {
	known   bool      // the Leases could be read
	lease   string    // namespace and name of the one that was renewed last; empty if there is none
	renewed time.Time // when that was
	err     error     // why the Leases could not be read, other than a missing right
}

// queryOperator reads when an operator renewed its Lease last. Nothing says which of several
// operators is responsible for a processor, so the latest renewal counts. A user without the right
// to list the Leases of all namespaces gets no answer and no error.
func (c *cluster) queryOperator(ctx context.Context) (o operatorInfo) {
	leases, err := c.pods.CoordinationV1().Leases(metav1.NamespaceAll).List(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + v1alpha1.OperatorLease})
	switch {
	case apierrors.IsForbidden(err):
		return o
	case err != nil:
		o.err = fmt.Errorf("reading the operator's Lease: %w", err)
		return o
	}
	o.known = true
	for _, lease := range leases.Items {
		renewed := lease.CreationTimestamp.Time
		if lease.Spec.RenewTime != nil {
			renewed = lease.Spec.RenewTime.Time
		}
		if renewed.After(o.renewed) {
			o.lease, o.renewed = lease.Namespace+"/"+lease.Name, renewed
		}
	}
	return o
}

// warning says that no operator updates the status; empty if one does, or if that is not known.
func (o operatorInfo) warning(now time.Time) string {
	const outdated = "conditions, segments and lag below may be outdated; pods go on without an operator"
	switch {
	case !o.known:
		return ""
	case o.lease == "":
		return "no operator has a Lease in this cluster: it is not installed, or it runs without --leader-elect; " + outdated
	case now.Sub(o.renewed) < silentAfter:
		return ""
	}
	return fmt.Sprintf("the operator renewed its Lease %s %s ago: %s", o.lease, duration.HumanDuration(now.Sub(o.renewed)), outdated)
}
