package e2e

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

// watchMoves has the database write down each claim of a segment from now on.
func watchMoves(ctx context.Context, db *pgxpool.Pool) {
	GinkgoHelper()
	Expect(db.Exec(ctx, `
		CREATE TABLE move (group_name text, segment int, owner bigint, at timestamptz DEFAULT clock_timestamp());
		CREATE FUNCTION note_move() RETURNS trigger LANGUAGE plpgsql AS
		  'BEGIN INSERT INTO public.move (group_name, segment, owner) VALUES (NEW.group_name, NEW.segment, NEW.owner); RETURN NULL; END';
		CREATE TRIGGER note_move AFTER UPDATE ON sluice.token FOR EACH ROW WHEN (NEW.epoch <> OLD.epoch AND NEW.owner <> 0) EXECUTE FUNCTION note_move()`)).
		Error().NotTo(HaveOccurred())
}

// moves returns the claims that the database wrote down since watchMoves, one a line.
func moves(ctx context.Context, db *pgxpool.Pool) string {
	GinkgoHelper()
	return scan[string](ctx, db, `
		SELECT string_agg(format('%s segment %s to %s', m.at::time, m.segment, coalesce(w.pod, m.owner::text)), E'\n' ORDER BY m.at)
		FROM move AS m LEFT JOIN sluice.worker AS w ON w.incarnation = m.owner`)
}

// writing appends to streams until the function that it returns is called, which tells how many events there are.
func writing(ctx context.Context, db *pgxpool.Pool) (stop func() int) {
	GinkgoHelper()
	writing, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer GinkgoRecover()
		for i := 0; writing.Err() == nil; i++ {
			_, err := db.Exec(ctx, `SELECT sluice.append('stream-' || $1::int % 20, NULL, jsonb_build_array(jsonb_build_object('type', 'Counted', 'data', jsonb_build_object('n', $1::int))))`, i)
			Expect(err).NotTo(HaveOccurred())
		}
	}()
	return func() int {
		cancel()
		<-done
		return scan[int](ctx, db, "SELECT count(*) FROM sluice.event")
	}
}

// paying posts payments until the function that it returns is called, which tells how many were accepted. They come so closely that a pod does not pass its probation
// because its one segment had nothing for it.
func paying(ctx context.Context, namespace string) (stop func() int) {
	posting, cancel := context.WithCancel(ctx)
	var accepted atomic.Int64
	var clients sync.WaitGroup
	for range 4 {
		clients.Go(func() {
			for posting.Err() == nil {
				if sluice.Post(ctx, namespace, "10.00", "USD") == nil {
					accepted.Add(1)
				}
			}
		})
	}
	return func() int {
		cancel()
		clients.Wait()
		return int(accepted.Load())
	}
}

var _ = Describe("A rollout", func() {
	It("moves each segment once, and so does scaling in what it has to", func(ctx SpecContext) {
		s := newSpace(ctx, "rolling")
		s.secret(ctx, s.url)
		s.apply(ctx, view(3, 16))
		s.ready(ctx, "view")
		db := s.database(ctx)
		_, err := s.in(db).Settle(ctx, s.processor("view"), 3)
		Expect(err).NotTo(HaveOccurred())
		watchMoves(ctx, db)
		stop := writing(ctx, db)

		s.apply(ctx, strings.Replace(view(3, 16), "SELECT stream_id, 1,", "SELECT stream_id, 1 + 0,", 1))
		s.ready(ctx, "view")
		after, err := s.in(db).Settle(ctx, s.processor("view"), 3)
		Expect(err).NotTo(HaveOccurred())
		Eventually(ctx, func() []string { return strings.Split(s.pods(ctx, "view"), "\n") }).Should(HaveLen(3))
		Expect(scan[string](ctx, db, "SELECT string_agg(n::text, ' ' ORDER BY n) FROM (SELECT count(*) AS n FROM move GROUP BY segment) AS m")).To(
			Equal(strings.TrimSpace(strings.Repeat("1 ", 16))), func() string { return "how often each of the segments moved: " + moves(ctx, db) })

		By("scaling in")
		Expect(db.Exec(ctx, "TRUNCATE move")).Error().NotTo(HaveOccurred())
		s.kubectl(ctx, "scale", "eventprocessor/view", "--replicas=2")
		two, err := s.in(db).Settle(ctx, s.processor("view"), 2)
		Expect(err).NotTo(HaveOccurred())
		Expect(two.Moved(after)).To(Equal(5), "what the pod that left had")
		s.ready(ctx, "view")
		Expect(scan[int](ctx, db, "SELECT count(*) FROM move")).To(Equal(5), func() string { return moves(ctx, db) })
		Eventually(ctx, func() string {
			return s.kubectl(ctx, "get", "pods", "-l", "sluice.dev/processor=view", "-o", `jsonpath={.items[*].metadata.annotations.controller\.kubernetes\.io/pod-deletion-cost}`)
		}).Should(BeEmpty(), "costs are for as long as something is pending")
		haveFolded(ctx, db, stop())
	}, NodeTimeout(5*time.Minute))

	It("to a version that dies at its first event comes to nothing, and the old pods go on", func(ctx SpecContext) {
		s := newSpace(ctx, "dies")
		manifests, err := sluice.Payments(s.url)
		Expect(err).NotTo(HaveOccurred())
		s.apply(ctx, manifests)
		s.ready(ctx, "payments")
		db := s.database(ctx)
		good := strings.Fields(s.kubectl(ctx, "get", "pods", "-l", "sluice.dev/processor=payments", "-o", "jsonpath={.items[*].metadata.name}"))
		for range 5 {
			Expect(sluice.Post(ctx, s.namespace, "10.00", "USD")).To(Succeed())
		}
		answeredOnce(ctx, db, 5)

		stop := paying(ctx, s.namespace)
		s.apply(ctx, strings.Replace(manifests, "- {name: CRASH_CURRENCY, value: EUR}", "- {name: NO_RATE_FOR, value: USD}", 1))
		Eventually(s.condition(ctx, "payments", "Ready")).Should(And(HavePrefix("False RolloutFailed"), ContainSubstring("ended with code 1"), ContainSubstring("there is no rate for USD")))
		Expect(s.condition(ctx, "payments", "Stalled")()).To(HavePrefix("True RolloutFailed"))
		Eventually(s.condition(ctx, "payments", "Available")).Should(HavePrefix("True"))
		accepted := stop()
		answered := scan[int](ctx, db, "SELECT count(*) FROM sluice.event WHERE type = 'PaymentCreated'")
		Expect(answered).To(BeNumerically(">=", 5+accepted))
		answeredOnce(ctx, db, answered)
		Expect(strings.Fields(s.kubectl(ctx, "get", "pods", "-l", "sluice.dev/processor=payments", "-o", "jsonpath={.items[*].metadata.name}"))).To(ContainElements(good), "the old pods stay")

		By("going back")
		s.apply(ctx, manifests)
		s.ready(ctx, "payments")
		Expect(sluice.Post(ctx, s.namespace, "10.00", "USD")).To(Succeed())
		answeredOnce(ctx, db, answered+1)
		Eventually(ctx, func() []string {
			return strings.Fields(s.kubectl(ctx, "get", "pods", "-l", "sluice.dev/processor=payments", "-o", "jsonpath={.items[*].metadata.name}"))
		}).Should(ConsistOf(good), "pods that work are not replaced")
	}, NodeTimeout(5*time.Minute))

	It("to statements that do not prepare comes to nothing, and the old pods go on", func(ctx SpecContext) {
		s := newSpace(ctx, "column")
		s.secret(ctx, s.url)
		s.apply(ctx, view(2, 4))
		s.ready(ctx, "view")
		db := s.database(ctx)
		stop := writing(ctx, db)
		s.apply(ctx, strings.Replace(view(2, 4), "events = v.events + 1", "total = v.total + 1", 1))
		Eventually(s.condition(ctx, "view", "Ready")).Should(And(HavePrefix("False StatementInvalid"), ContainSubstring("total does not exist")))
		Expect(s.condition(ctx, "view", "Stalled")()).To(HavePrefix("True"))
		Expect(s.condition(ctx, "view", "Available")()).To(HavePrefix("True"))
		events := stop()
		haveFolded(ctx, db, events)
		s.apply(ctx, view(2, 4))
		s.ready(ctx, "view")
		appendTo(ctx, db, 5, 1)
		haveFolded(ctx, db, events+5)
	}, NodeTimeout(5*time.Minute))
})
