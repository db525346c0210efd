package controllers_test

import (
	"context"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	coordinationv1 "k8s.io/api/coordination/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sluice-project/sluice/api/v1alpha1"
)

// installation is the ID of the operator under test.
func installation(ctx context.Context) string {
	GinkgoHelper()
	var lease coordinationv1.Lease
	Expect(apiClient.Get(ctx, client.ObjectKey{Namespace: operatorNamespace, Name: "sluice-installation"}, &lease)).To(Succeed())
	return strings.ReplaceAll(string(lease.UID), "-", "")[:12]
}

// sql runs a statement in the store.
func (w *world) sql(ctx context.Context, statement string, args ...any) {
	GinkgoHelper()
	_, err := w.pool.Exec(ctx, statement, args...)
	Expect(err).NotTo(HaveOccurred())
}

// owner is who has a group, as the store says.
func (w *world) owner(ctx context.Context, group string) func() string {
	return func() (owner string) {
		GinkgoHelper()
		Expect(w.pool.QueryRow(ctx, "SELECT processor || '@' || installation FROM sluice.processing_group WHERE name = $1", group).Scan(&owner)).To(Succeed())
		return owner
	}
}

var _ = Describe("The owner of a processing group", func() {
	It("is the processor of this installation, and stays it when the operator starts again", func(ctx SpecContext) {
		w := running()
		me := "test/" + w.namespace + "/orders@" + installation(ctx)
		Expect(w.owner(ctx, "orders-view")()).To(Equal(me))
		operator.stop()
		operator = startOperator()
		w.edit("orders", func(p *v1alpha1.EventProcessor) { p.Spec.ProcessingGroups[0].Segments = 2 })
		Eventually(func() string { return w.get("orders").Status.Segments.Summary }).Should(Equal("2/2"))
		Expect(w.owner(ctx, "orders-view")()).To(Equal(me))
	})

	It("keeps it from a cluster of the same name until that has consent", func(ctx SpecContext) {
		w := running()
		me := w.owner(ctx, "orders-view")()
		theirs := "test/" + w.namespace + "/orders@0ther"
		w.sql(ctx, "UPDATE sluice.processing_group SET installation = '0ther'")
		w.sql(ctx, "UPDATE sluice.processor SET installation = '0ther'")
		Eventually(w.says("orders", "Stalled")).Should(Equal("True/GroupConflict"))
		Expect(w.message("orders", "Ready")()).To(And(ContainSubstring(theirs), ContainSubstring("spec.takeOverFrom"), ContainSubstring("clusterName")))
		w.sql(ctx, "UPDATE sluice.processor SET planner = 'theirs'")
		Consistently(func() (planner string) {
			Expect(w.pool.QueryRow(ctx, "SELECT planner FROM sluice.processor").Scan(&planner)).To(Succeed())
			return planner
		}, "2s").Should(Equal("theirs"), "the other one's operator plans")

		w.edit("orders", func(p *v1alpha1.EventProcessor) { p.Spec.TakeOverFrom = []string{theirs} })
		w.ready("orders")
		Expect(w.owner(ctx, "orders-view")()).To(Equal(me))
	})

	It("is told when another processor has taken it over by consent", func(ctx SpecContext) {
		w := running()
		w.create(w.processor("second", func(p *v1alpha1.EventProcessor) {
			p.Spec.ProcessingGroups[0].Name = "orders-view"
			p.Spec.TakeOverFrom = []string{w.owner(ctx, "orders-view")()}
		}))
		Eventually(w.owner(ctx, "orders-view")).Should(Equal("test/" + w.namespace + "/second@" + installation(ctx)))
		w.ready("second")
		Eventually(w.says("orders", "Stalled")).Should(Equal("True/GroupConflict"))
		Expect(w.message("orders", "Ready")()).To(ContainSubstring("test/" + w.namespace + "/second@"))
	})

	It("follows its cluster to another name", func(ctx SpecContext) {
		w := running()
		me := w.owner(ctx, "orders-view")()
		w.sql(ctx, "UPDATE sluice.processing_group SET processor = 'former/' || split_part(processor, '/', 2) || '/orders'")
		Eventually(w.owner(ctx, "orders-view")).Should(Equal(me))
		w.ready("orders")

		w.sql(ctx, "UPDATE sluice.processing_group SET processor = 'former/' || split_part(processor, '/', 2) || '/orders', installation = ''")
		Eventually(w.says("orders", "Stalled")).Should(Equal("True/GroupConflict"))
		Expect(w.message("orders", "Ready")()).To(And(ContainSubstring("clusterName"), ContainSubstring("set it back to former"), ContainSubstring("spec.takeOverFrom")))
	})
})
