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

// silentAfter is how long an operator is not heard of until that is told. It renews its Lease every
// two seconds, another replica has the Lease within 15 s, and clocks differ.
const silentAfter = time.Minute

// operatorSight is what was seen of operators.
type operatorSight struct {
	asked bool // their Leases could be read
	// lease of the one that was heard of last, and when that was; empty where there is none.
	lease string
	heard time.Time
	err   error // why nothing is known
}

// lookForOperator looks when an operator was last heard of. Which of several is a processor's
// nobody can tell, so the one that was heard of last counts. Whoever may not read Leases of all
// namespaces learns nothing.
func (c *cluster) lookForOperator(ctx context.Context) (s operatorSight) {
	leases, err := c.pods.CoordinationV1().Leases(metav1.NamespaceAll).List(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + v1alpha1.OperatorLease})
	switch {
	case apierrors.IsForbidden(err):
		return s
	case err != nil:
		s.err = fmt.Errorf("looking for the operator's Lease: %w", err)
		return s
	}
	s.asked = true
	for _, lease := range leases.Items {
		heard := lease.CreationTimestamp.Time
		if lease.Spec.RenewTime != nil {
			heard = lease.Spec.RenewTime.Time
		}
		if heard.After(s.heard) {
			s.lease, s.heard = lease.Namespace+"/"+lease.Name, heard
		}
	}
	return s
}

// silence says that no operator keeps the status up to date; empty where one does, or nobody knows.
func (s operatorSight) silence(now time.Time) string {
	const outdated = "what follows of conditions, segments and lag may be outdated; pods go on without an operator"
	switch {
	case !s.asked:
		return ""
	case s.lease == "":
		return "there is no operator in this cluster that has a Lease, so it is not installed, or runs without --leader-elect: " + outdated
	case now.Sub(s.heard) < silentAfter:
		return ""
	}
	return fmt.Sprintf("the operator was last heard of %s ago, by Lease %s: %s", duration.HumanDuration(now.Sub(s.heard)), s.lease, outdated)
}
