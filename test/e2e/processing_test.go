package e2e

import (
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

var _ = Describe("A processor", func() {
	It("goes from kubectl apply to a row in a view, with one segment on one pod", func(ctx SpecContext) {
		s := newSpace(ctx, "row")
		s.secret(ctx, s.url)
		s.apply(ctx, view(1, 1))
		s.ready(ctx, "view")
		db := s.database(ctx)
		appendTo(ctx, db, 1, 1)
		haveFolded(ctx, db, 1)

		By("running its pods under the restricted profile, without a service-account token")
		Expect(s.kubectl(ctx, "get", "pods", "-l", "sluice.dev/processor=view", "-o", "jsonpath={.items[*].spec.automountServiceAccountToken} {.items[*].spec.containers[*].volumeMounts[*].mountPath}")).To(
			And(HavePrefix("false "), Not(ContainSubstring("serviceaccount"))))
	}, NodeTimeout(3*time.Minute))

	It("validates a payment whose creator died, by another pod and once", func(ctx SpecContext) {
		s := newSpace(ctx, "crash")
		manifests, err := sluice.Payments(s.url)
		Expect(err).NotTo(HaveOccurred())
		s.apply(ctx, manifests)
		s.ready(ctx, "payments")
		db := s.database(ctx)
		before, err := s.in(db).Settle(ctx, s.processor("payments"), 3)
		Expect(err).NotTo(HaveOccurred())
		for range 10 {
			Expect(sluice.Post(ctx, s.namespace, "10.00", "USD")).To(Succeed())
		}
		answeredOnce(ctx, db, 10)
		Expect(sluice.Post(ctx, s.namespace, "10.00", "EUR")).NotTo(Succeed(), "the pod that accepts it kills itself")
		answeredOnce(ctx, db, 11)

		Eventually(ctx, func() (int, error) {
			after, err := s.in(db).Owners(ctx, s.processor("payments"))
			return after.Moved(before), err
		}).Should(BeNumerically(">=", 10), "the segments of the pod that died should have been taken over")
		Eventually(ctx, func() string { return s.pods(ctx, "payments") }).Should(ContainSubstring(" 1"), "one container should have been started again")
	}, NodeTimeout(4*time.Minute))

	It("moves the fewest segments possible when it is scaled, and ends balanced", func(ctx SpecContext) {
		s := newSpace(ctx, "scale")
		s.secret(ctx, s.url)
		s.apply(ctx, view(3, 16))
		s.ready(ctx, "view")
		db := s.database(ctx)
		own, processor := s.in(db), s.processor("view")
		three, err := own.Settle(ctx, processor, 3)
		Expect(err).NotTo(HaveOccurred())
		appendTo(ctx, db, 20, 5)

		s.kubectl(ctx, "scale", "eventprocessor/view", "--replicas=4")
		four, err := own.Settle(ctx, processor, 4)
		Expect(err).NotTo(HaveOccurred())
		Expect(four.Moved(three)).To(Equal(4), "the fourth pod's share of 16, and no more")
		appendTo(ctx, db, 20, 5)

		s.kubectl(ctx, "scale", "eventprocessor/view", "--replicas=3")
		again, err := own.Settle(ctx, processor, 3)
		Expect(err).NotTo(HaveOccurred())
		Expect(again.Moved(four)).To(Equal(4), "what the pod that left had, and no more")
		haveFolded(ctx, db, 200)
	}, NodeTimeout(4*time.Minute))

	It("splits and merges live, without a pod being restarted", func(ctx SpecContext) {
		s := newSpace(ctx, "split")
		s.secret(ctx, s.url)
		s.apply(ctx, view(2, 16))
		s.ready(ctx, "view")
		db := s.database(ctx)
		pods := s.pods(ctx, "view")
		total := 0
		for _, segments := range []int{24, 5, 8} {
			s.apply(ctx, view(2, segments))
			appendTo(ctx, db, 20, 5)
			total += 100
			Eventually(ctx, func() int { return scan[int](ctx, db, "SELECT count(*) FROM sluice.token WHERE owner <> 0") }).Should(Equal(segments))
		}
		haveFolded(ctx, db, total)
		Expect(s.pods(ctx, "view")).To(Equal(pods))
	}, NodeTimeout(4*time.Minute))

	It("leaves its tokens when it is deleted, and goes on where it stood when it is applied again", func(ctx SpecContext) {
		s := newSpace(ctx, "delete")
		s.secret(ctx, s.url)
		s.apply(ctx, view(1, 4))
		s.ready(ctx, "view")
		db := s.database(ctx)
		appendTo(ctx, db, 5, 2)
		haveFolded(ctx, db, 10)
		s.kubectl(ctx, "delete", "eventprocessor", "view", "--wait")
		Eventually(ctx, func() string { return s.pods(ctx, "view") }).Should(BeEmpty())
		Expect(scan[int](ctx, db, "SELECT count(*) FROM sluice.token")).To(Equal(4))
		appendTo(ctx, db, 5, 2)
		s.apply(ctx, view(1, 4))
		haveFolded(ctx, db, 20)
	}, NodeTimeout(4*time.Minute))
})
