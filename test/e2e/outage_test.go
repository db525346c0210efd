package e2e

import (
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

var _ = Describe("With something missing or broken", func() {
	It("processing and takeover go on without the operator and without the API server", Serial, func(ctx SpecContext) {
		s := newSpace(ctx, "headless")
		s.secret(ctx, s.url)
		s.apply(ctx, view(3, 8))
		s.ready(ctx, "view")
		db := s.database(ctx)
		_, err := s.in(db).Settle(ctx, s.processor("view"), 3)
		Expect(err).NotTo(HaveOccurred())

		By("stopping the operator")
		Expect(sluice.Kubectl(ctx, "--namespace", "sluice-system", "scale", "deployment/sluice", "--replicas=0")).Error().NotTo(HaveOccurred())
		DeferCleanup(func(ctx SpecContext) {
			Expect(sluice.Kubectl(ctx, "--namespace", "sluice-system", "scale", "deployment/sluice", "--replicas=1")).Error().NotTo(HaveOccurred())
			Expect(sluice.Kubectl(ctx, "--namespace", "sluice-system", "rollout", "status", "deployment/sluice", "--timeout=90s")).Error().NotTo(HaveOccurred())
		}, NodeTimeout(2*time.Minute))
		appendTo(ctx, db, 10, 5)
		haveFolded(ctx, db, 50)

		By("killing a pod")
		pod, _, _ := strings.Cut(s.pods(ctx, "view"), " ")
		victim := scan[int64](ctx, db, "SELECT incarnation FROM sluice.worker WHERE pod = $1 AND state <> 'Ended'", pod)
		s.kubectl(ctx, "delete", "pod", pod, "--force", "--grace-period=0")
		appendTo(ctx, db, 10, 5)
		haveFolded(ctx, db, 100)
		Eventually(ctx, func() int {
			return scan[int](ctx, db, "SELECT count(*) FROM sluice.token WHERE owner IN (0, $1)", victim)
		}).Should(BeZero())

		By("stopping the API server")
		owner := scan[int64](ctx, db, "SELECT owner FROM sluice.token WHERE owner <> 0 ORDER BY segment LIMIT 1")
		pod = scan[string](ctx, db, "SELECT pod FROM sluice.worker WHERE incarnation = $1", owner)
		kill := s.killer(ctx, pod)
		_, err = sluice.Cluster(ctx, "apiserver-stop")
		Expect(err).NotTo(HaveOccurred())
		started := false
		start := func(ctx SpecContext) {
			if !started {
				Expect(sluice.Cluster(ctx, "apiserver-start")).Error().NotTo(HaveOccurred())
				started = true
			}
		}
		DeferCleanup(start, NodeTimeout(2*time.Minute))
		Expect(sluice.Kubectl(ctx, "get", "nodes")).Error().To(HaveOccurred())
		appendTo(ctx, db, 10, 5)
		haveFolded(ctx, db, 150)

		By("killing a container while nobody but workers can notice")
		held := scan[[]int32](ctx, db, "SELECT array_agg(segment) FROM sluice.token WHERE owner = $1", owner)
		Expect(held).NotTo(BeEmpty())
		kill(ctx)
		appendTo(ctx, db, 10, 5)
		haveFolded(ctx, db, 200)
		Eventually(ctx, func() int {
			return scan[int](ctx, db, `SELECT count(*) FROM sluice.token t JOIN sluice.worker w ON w.incarnation = t.owner
				WHERE t.segment = ANY ($1) AND w.incarnation <> $2`, held, owner)
		}).Should(Equal(len(held)), "other workers should own all segments of the one that was killed")
		start(ctx)
	}, NodeTimeout(6*time.Minute))

	It("says what is wrong with the store, and goes on by itself when it is mended", func(ctx SpecContext) {
		s := newSpace(ctx, "store")
		By("applying it before its secret")
		s.apply(ctx, view(1, 2))
		Eventually(s.condition(ctx, "view", "StoreReachable")).Should(And(HavePrefix("False SecretNotFound"), ContainSubstring("payments-db")))

		By("giving it a wrong password")
		s.secret(ctx, strings.Replace(s.url, "app:app@", "app:wrong@", 1))
		Eventually(s.condition(ctx, "view", "StoreReachable")).Should(HavePrefix("False AuthenticationFailed"))

		By("giving it the right one")
		s.secret(ctx, s.url)
		s.ready(ctx, "view")
		pods := s.pods(ctx, "view")
		db := s.database(ctx)
		appendTo(ctx, db, 5, 2)
		haveFolded(ctx, db, 10)
		Expect(pods).To(ContainSubstring(" 0"), "no container should have been started again")

		By("stopping the database")
		Expect(sluice.Cluster(ctx, "postgres-stop")).Error().NotTo(HaveOccurred())
		Eventually(s.condition(ctx, "view", "StoreReachable")).Should(HavePrefix("False ConnectionFailed"))
		Expect(sluice.Cluster(ctx, "postgres-start")).Error().NotTo(HaveOccurred())
		Eventually(ctx, func() error { return db.Ping(ctx) }).Should(Succeed())
		appendTo(ctx, db, 5, 2)
		haveFolded(ctx, db, 20)
		Eventually(s.condition(ctx, "view", "StoreReachable")).Should(HavePrefix("True"))
		Expect(s.pods(ctx, "view")).To(Equal(pods), "an outage should restart nothing")
	}, NodeTimeout(6*time.Minute))

	It("says what is wrong with a statement, skips nothing, and goes on when it can", func(ctx SpecContext) {
		s := newSpace(ctx, "statement")
		s.secret(ctx, s.url)
		By("applying a statement that does not parse")
		s.apply(ctx, viewWith(1, 2, "\n            INSRT INTO stream_view SELECT 1"))
		Eventually(s.condition(ctx, "view", "HandlerValid")).Should(And(HavePrefix("False StatementInvalid"), ContainSubstring("INSRT")))

		By("applying one whose table is missing")
		s.apply(ctx, viewWith(1, 2, "\n            INSERT INTO journal SELECT stream_id, (data ->> 'n')::int FROM event"))
		Eventually(s.condition(ctx, "view", "HandlerValid")).Should(And(HavePrefix("False StatementInvalid"), ContainSubstring("journal")))
		db := s.database(ctx)
		appendTo(ctx, db, 2, 3)
		Expect(db.Exec(ctx, "CREATE TABLE journal (stream_id text, n int NOT NULL CHECK (n < 10))")).Error().NotTo(HaveOccurred())
		Eventually(ctx, func() int { return scan[int](ctx, db, "SELECT count(*) FROM journal") }).Should(Equal(6))
		s.ready(ctx, "view")
		Eventually(ctx, func() []string { return strings.Split(s.pods(ctx, "view"), "\n") }).Should(HaveLen(1), "the pod of the first statement should leave")
		pods := s.pods(ctx, "view")

		By("appending an event that the table refuses")
		Expect(db.Exec(ctx, `SELECT sluice.append('stream-0', NULL, '[{"type": "Counted", "data": {"n": 10}}, {"type": "Counted", "data": {"n": 4}}]')`)).Error().NotTo(HaveOccurred())
		Eventually(s.condition(ctx, "view", "Degraded")).Should(And(HavePrefix("True SegmentBlocked"), ContainSubstring("journal_n_check")))
		appendTo(ctx, db, 2, 1)
		Eventually(ctx, func() int { return scan[int](ctx, db, "SELECT count(*) FROM journal WHERE stream_id = 'stream-1'") }).Should(Equal(4), "the other segment should go on")
		Expect(scan[int](ctx, db, "SELECT count(*) FROM journal WHERE stream_id = 'stream-0'")).To(Equal(3), "nothing should be skipped")
		Expect(db.Exec(ctx, "ALTER TABLE journal DROP CONSTRAINT journal_n_check")).Error().NotTo(HaveOccurred())
		Eventually(ctx, func() string {
			return scan[string](ctx, db, "SELECT string_agg(n::text, ' ') FROM (SELECT n FROM journal WHERE stream_id = 'stream-0' ORDER BY ctid) AS j")
		}).Should(Equal("0 1 2 10 4 0"), "in the order of the log")
		Eventually(s.condition(ctx, "view", "Degraded")).Should(HavePrefix("False"))
		Expect(s.pods(ctx, "view")).To(Equal(pods))
	}, NodeTimeout(6*time.Minute))
})
