package controllers_test

import (
	"context"
	"fmt"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sluice-project/sluice/api/v1alpha1"
)

// statuses watches the processors of the world, and returns what collects every condition that they have had since, as
// "Ready=True/Ready".
func (w *world) statuses(ctx context.Context) (seen func() []string) {
	GinkgoHelper()
	watching, err := client.NewWithWatch(kube, client.Options{Scheme: apiClient.Scheme()})
	Expect(err).NotTo(HaveOccurred())
	var list v1alpha1.EventProcessorList
	stream, err := watching.Watch(ctx, &list, client.InNamespace(w.namespace))
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(stream.Stop)
	return func() (all []string) {
		for {
			select {
			case e := <-stream.ResultChan():
				p, is := e.Object.(*v1alpha1.EventProcessor)
				if !is || e.Type == watch.Deleted {
					continue
				}
				for _, c := range p.Status.Conditions {
					all = append(all, fmt.Sprintf("%s=%s/%s", c.Type, c.Status, c.Reason))
				}
			default:
				return all
			}
		}
	}
}

var wellConditions = []string{"Ready=True/Ready", "Available=True/AllSegmentsOwned", "HandlerValid=True/Valid", "StoreReachable=True/Reachable",
	"Replaying=False/NotReplaying", "Degraded=False/Healthy"}

// connectedSince waits until the operator has connected to the store again.
func (w *world) connectedSince(ctx context.Context, since time.Time) {
	GinkgoHelper()
	Eventually(func() (count int) {
		Expect(w.pool.QueryRow(ctx, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'sluice-operator'
			AND backend_start > $1`, since).Scan(&count)).To(Succeed())
		return count
	}).Should(BeNumerically(">=", 2), "a listener and one for statements")
}

var _ = Describe("Conditions", func() {
	now := func(ctx context.Context, w *world) (at time.Time) {
		GinkgoHelper()
		Expect(w.pool.QueryRow(ctx, "SELECT clock_timestamp()").Scan(&at)).To(Succeed())
		return at
	}

	It("stay as they are when the operator is started again, and when it loses its connections", func(ctx SpecContext) {
		w := running()
		Eventually(w.says("orders", "HandlerValid")).Should(Equal("True/Valid"))
		Eventually(w.says("orders", "Available")).Should(Equal("True/AllSegmentsOwned"))
		seen := w.statuses(ctx)

		at := now(ctx, w)
		operator.stop()
		operator = startOperator()
		w.connectedSince(ctx, at)

		at = now(ctx, w)
		w.cutOff(ctx)
		w.connectedSince(ctx, at)

		Consistently(seen, "2s").Should(Or(BeEmpty(), HaveEach(BeElementOf(wellConditions))))
	})
})
