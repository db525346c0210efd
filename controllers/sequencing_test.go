package controllers_test

import (
	"context"
	"fmt"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"

	"github.com/sluice-project/sluice/api/v1alpha1"
	"github.com/sluice-project/sluice/tokenstore"
)

// byCustomer is a change of the sequencing of orders.
func byCustomer(p *v1alpha1.EventProcessor) {
	p.Spec.ProcessingGroups[0].Sequencing = v1alpha1.Sequencing{Type: v1alpha1.SequencingProperty, Property: &v1alpha1.PropertySequencing{Path: "customer.id"}}
}

func perStream(p *v1alpha1.EventProcessor) {
	p.Spec.ProcessingGroups[0].Sequencing = v1alpha1.Sequencing{}
}

func all(changes ...func(*v1alpha1.EventProcessor)) func(*v1alpha1.EventProcessor) {
	return func(p *v1alpha1.EventProcessor) {
		for _, change := range changes {
			change(p)
		}
	}
}

// rolledOut is the definition of the Deployment's pods.
func (w *world) rolledOut() string {
	GinkgoHelper()
	var deployment appsv1.Deployment
	Expect(w.object(&deployment, "orders")()).To(Succeed())
	return deployment.Spec.Template.Labels["sluice.dev/definition"]
}

// resequence does what the reset of a replay does.
func (w *world) resequence(id string) {
	GinkgoHelper()
	w.advance(id, isRunning)
	Expect(w.pool.Exec(context.Background(), `UPDATE sluice.processing_group SET sequencing = 'Property:customer.id', replay = (SELECT number FROM sluice.replay WHERE id = $1 AND phase = 'Replaying')
		WHERE name = 'orders-view'`, id)).Error().NotTo(HaveOccurred())
}

var _ = Describe("A change of a sequencing", func() {
	It("is refused without a replay, and nothing is rolled out", func() {
		w := running(resettable)
		Eventually(w.says("orders", "Available")).Should(Equal("True/AllSegmentsOwned"))
		before := w.rolledOut()
		w.edit("orders", byCustomer)
		Eventually(w.says("orders", "Stalled")).Should(Equal("True/SequencingChanged"))
		Expect(w.says("orders", "Ready")()).To(Equal("False/SequencingChanged"))
		Expect(w.message("orders", "Ready")()).To(And(ContainSubstring("orders-view"), ContainSubstring("Stream/pg1"), ContainSubstring("Property:customer.id/pg1"),
			ContainSubstring("spec.replay with a new id")))
		Consistently(w.rolledOut, "1s").Should(Equal(before))
		Expect(w.says("orders", "Available")()).To(Equal("True/AllSegmentsOwned"))

		By("going on when it is taken back")
		w.edit("orders", perStream)
		w.ready("orders")
		Expect(w.rolledOut()).To(Equal(before))

		By("not being allowed by a replay of before")
		w.create(w.newReplay("mine", "orders-view"))
		Eventually(w.ledger("mine", "phase")).Should(Equal("Pending"))
		Eventually(func() string { return w.replay("mine").Status.Definition }).Should(Equal(before))
		w.edit("orders", byCustomer)
		Eventually(w.says("orders", "Stalled")).Should(Equal("True/SequencingChanged"))
		Consistently(w.rolledOut, "1s").Should(Equal(before))

		By("being allowed by a replay that a user makes now")
		w.create(w.newReplay("now", "orders-view"))
		Eventually(w.rolledOut).ShouldNot(Equal(before))
		Eventually(w.says("orders", "Ready")).Should(Equal("False/SequencingChanged"))
		Eventually(w.says("orders", "Reconciling")).Should(Equal("True/SequencingChanged"))
	})

	It("is rolled out with a replay in the same edit, and in effect with its reset", func() {
		w := running(resettable)
		before := w.rolledOut()
		w.edit("orders", all(byCustomer, declaring("change")))
		Eventually(w.rolledOut).ShouldNot(Equal(before))
		Eventually(w.ledger("change", "sequencing")).Should(MatchJSON(`{"orders-view": "Property:customer.id/pg1"}`))
		Eventually(w.says("orders", "Reconciling")).Should(Equal("True/SequencingChanged"))
		Expect(w.message("orders", "Reconciling")()).To(And(ContainSubstring("replay change"), ContainSubstring("Stream/pg1")))
		Expect(w.says("orders", "Stalled")()).To(Equal("absent"))
		w.resequence("change")
		w.ready("orders")

		By("letting another change wait for the end of the replay")
		now := w.rolledOut()
		w.edit("orders", all(perStream, declaring("back")))
		Eventually(w.says("orders", "Reconciling")).Should(Equal("True/SequencingChanged"))
		Expect(w.says("orders", "Stalled")()).To(Equal("absent"), "it passes")
		Eventually(w.message("orders", "Ready")).Should(ContainSubstring("the end of replay change"))
		Consistently(w.rolledOut, "1s").Should(Equal(now))
		w.desire("orders.change", v1alpha1.ReplayAbandoned)
		Eventually(w.ledger("change", "state")).Should(Equal("Abandoned"), "it can be abandoned meanwhile")
		w.advance("change", isOver)
		Expect(w.pool.Exec(context.Background(), `UPDATE sluice.processing_group SET replay = NULL`)).Error().NotTo(HaveOccurred())
		Eventually(w.rolledOut).Should(Equal(before), "the definition is the first one again")
		Eventually(w.says("orders", "Reconciling")).Should(Equal("True/SequencingChanged"))
		Eventually(w.message("orders", "Ready")).Should(ContainSubstring("replay back"))
	})

	It("whose replay fails says so, and leaves a way back", func() {
		w := running(resettable)
		before := w.rolledOut()
		w.edit("orders", all(byCustomer, declaring("change")))
		Eventually(w.says("orders", "Reconciling")).Should(Equal("True/SequencingChanged"))
		after := w.rolledOut()
		Expect(after).NotTo(Equal(before))
		w.advance("change", "phase = 'Failed', reason = 'ResetFailed', message = 'no', ended_at = clock_timestamp()")
		Eventually(w.says("orders", "Stalled")).Should(Equal("True/SequencingChanged"))
		Eventually(w.replaySays("orders.change", "Failed")).Should(Equal("True/ResetFailed"))

		By("setting the sequencing back")
		w.edit("orders", perStream)
		w.ready("orders")
		Expect(w.rolledOut()).To(Equal(before))

		By("trying again under another id")
		w.edit("orders", all(byCustomer, declaring("again")))
		Eventually(w.rolledOut).Should(Equal(after))
		w.resequence("again")
		w.ready("orders")
	})

	It("that workers do not agree to is told with their words", func() {
		w := running(resettable)
		w.set(func() {
			w.report = func(me tokenstore.Worker) tokenstore.Report {
				return tokenstore.Report{Groups: map[string]tokenstore.GroupReport{"orders-view": {Refused: true, Fault: &tokenstore.Fault{
					Kind: tokenstore.DefinitionFault, Reason: tokenstore.SequencingChanged, Message: "the words of " + me.Definition}}}}
			}
		})
		Eventually(w.says("orders", "Stalled")).Should(Equal("True/SequencingChanged"))
		Expect(w.message("orders", "Ready")()).To(ContainSubstring(fmt.Sprint("the words of ", w.rolledOut())))
		Expect(w.says("orders", "HandlerValid")()).To(Equal("True/Valid"))
	})
})
