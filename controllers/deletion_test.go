package controllers_test

import (
	"context"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sluice-project/sluice/api/v1alpha1"
	"github.com/sluice-project/sluice/controllers"
	"github.com/sluice-project/sluice/internal/postgrestest"
)

func deleting(p *v1alpha1.EventProcessor) { p.Spec.DeletionPolicy = v1alpha1.DeletionPolicyDelete }

var _ = Describe("Deleting a processor", func() {
	rows := func(ctx context.Context, w *world) (tokens, processors int) {
		GinkgoHelper()
		Expect(w.pool.QueryRow(ctx, "SELECT (SELECT count(*) FROM sluice.token), (SELECT count(*) FROM sluice.processor)").Scan(&tokens, &processors)).To(Succeed())
		return
	}
	gone := func(w *world) func() bool {
		return func() bool { return apierrors.IsNotFound(w.object(&v1alpha1.EventProcessor{}, "orders")()) }
	}

	It("keeps its rows by default, and waits for nothing", func(ctx SpecContext) {
		w := running()
		Expect(apiClient.Delete(ctx, w.get("orders"))).To(Succeed())
		Expect(gone(w)()).To(BeTrue())
		tokens, _ := rows(ctx, w)
		Expect(tokens).To(Equal(4))
	})

	It("drops its rows after its pods, if asked to", func(ctx SpecContext) {
		w := running(deleting)
		Expect(w.get("orders").Finalizers).To(ConsistOf(controllers.Finalizer))
		Expect(apiClient.Delete(ctx, w.get("orders"))).To(Succeed())
		Eventually(gone(w)).Should(BeTrue())
		Expect(w.podNames()).To(BeEmpty())
		tokens, processors := rows(ctx, w)
		Expect([]int{tokens, processors}).To(Equal([]int{0, 0}))
	})

	It("forgets to drop them when the policy is changed back", func(ctx SpecContext) {
		w := running(deleting)
		w.edit("orders", func(p *v1alpha1.EventProcessor) { p.Spec.DeletionPolicy = v1alpha1.DeletionPolicyRetain })
		Eventually(func() []string { return w.get("orders").Finalizers }).Should(BeEmpty())
	})

	It("gives up on a store that does not answer, with a warning", func(ctx SpecContext) {
		server := postgrestest.Start(GinkgoTB())
		url := server.URL("postgres")
		w := newWorld(url)
		w.create(w.secret("db", map[string]string{"uri": url}), w.processor("orders", deleting))
		w.ready("orders")
		Expect(server.Stop()).To(Succeed())
		Expect(apiClient.Delete(ctx, w.get("orders"))).To(Succeed())
		Eventually(func() string {
			if gone(w)() {
				return "gone too early"
			}
			return w.says("orders", "Ready")()
		}).Should(Equal("False/Deleting"))
		Eventually(gone(w), "30s").Should(BeTrue())
		Eventually(func() []eventsv1.Event {
			var list eventsv1.EventList
			Expect(apiClient.List(ctx, &list, client.InNamespace(w.namespace))).To(Succeed())
			return list.Items
		}).Should(ContainElement(And(HaveField("Reason", "RowsLeft"), HaveField("Type", corev1.EventTypeWarning), HaveField("Note", ContainSubstring("ConnectionFailed")))))
	})
})
