package e2e

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/sluice-project/sluice/segment"
)

// misbehaviour is a processor of two groups: one of the same name, whose handler misbehaves at one
// event until the cause is gone, and one beside it that does not.
type misbehaviour struct {
	name    string
	handler string // of the group, where it is of SQL
	timeout time.Duration
	image   bool          // with the handlers of test/e2e/misbehave
	seconds int           // in the event's data
	says    string        // condition, status and reason
	reason  string        // in the list of what is blocked
	ends    bool          // the worker's process
	slowest time.Duration // what other events may wait
}

var misbehaviours = []misbehaviour{
	{
		name: "divides", timeout: 5 * time.Second, says: "Degraded=True SegmentBlocked",
		reason: "HandlerFailed (22012)", slowest: 5 * time.Second,
		handler: bad("divides", "(SELECT 1 / count(*) FROM mended WHERE name = 'divides') IS NOT NULL"),
	},
	{
		name: "sleeps", timeout: 2 * time.Second, says: "Degraded=True SegmentBlocked",
		reason: "HandlerTimedOut", slowest: 5 * time.Second,
		handler: bad("sleeps", "EXISTS (SELECT FROM mended WHERE name = 'sleeps') OR pg_sleep(600)::text = ''"),
	},
	{
		name: "waits", timeout: 6 * time.Second, image: true, seconds: 25, says: "Degraded=True SegmentBlocked",
		reason: "HandlerTimedOut", slowest: 5 * time.Second,
	},
	{
		name: "commits", timeout: 5 * time.Second, image: true, says: "HandlerValid=False TransactionEnded",
		reason: "TransactionEnded", slowest: 5 * time.Second,
	},
	{
		name: "exits", timeout: 5 * time.Second, image: true, says: "Degraded=True SegmentBlocked",
		reason: "CallDidNotEnd", ends: true,
		slowest: 30 * time.Second, // until Kubernetes starts pods again that have crashed
	},
}

func names() (all []string) {
	for _, m := range misbehaviours {
		all = append(all, m.name)
	}
	return all
}

// bad is a handler whose statement evaluates an expression, which has to be true, for the events
// that are to misbehave.
func bad(name, expression string) string {
	return fmt.Sprintf(`
      type: SQL
      sql:
        statements:
        - eventTypes: [Counted]
          each: |
            INSERT INTO seen (name, position, stream) SELECT '%[1]s', position, stream_id FROM event
             WHERE CASE WHEN data ->> 'bad' = '%[1]s' THEN %[2]s ELSE true END`, name, expression)
}

// manifest of the processor. The group beside it has a handler that cannot fail.
func (m misbehaviour) manifest(image string) string {
	handler := m.handler
	if m.image {
		handler = "{type: Go}"
	}
	text := fmt.Sprintf(`
apiVersion: sluice.dev/v1alpha1
kind: EventProcessor
metadata: {name: %[1]s}
spec:
  replicas: 2
  store: {type: Postgres, postgres: {urlSecretRef: {name: payments-db}}}
  processingGroups:
  - name: %[1]s
    segments: 4
    timeout: %[2]s
    onError: {backoff: {initial: 500ms, max: 4s}}
    handler: %[3]s
  - name: beside-%[1]s
    segments: 4
    handler:
      type: SQL
      sql:
        statements:
        - eventTypes: [Counted]
          batch: INSERT INTO seen (name, position, stream) SELECT 'beside-%[1]s', position, stream_id FROM events ORDER BY ordinal
`, m.name, m.timeout, handler)
	if m.image {
		text += fmt.Sprintf("  template: {spec: {containers: [{name: worker, image: %s, args: [worker]}]}}\n", image)
	}
	return text
}

// streamIn is the first stream with a prefix that belongs to a segment of four.
func streamIn(id uint32, prefix string) string {
	for i := 0; ; i++ {
		if stream := fmt.Sprintf("%s-%d", prefix, i); segment.PG1(stream)&3 == id {
			return stream
		}
	}
}

// appendData appends an event.
func appendData(ctx context.Context, db *pgxpool.Pool, stream, data string) {
	GinkgoHelper()
	_, err := db.Exec(ctx, `SELECT sluice.append($1, NULL,
		jsonb_build_array(jsonb_build_object('type', 'Counted', 'data', $2::jsonb)))`, stream, data)
	Expect(err).NotTo(HaveOccurred())
}

// ticking appends an event every 50 ms to one stream after the other, until the function that it
// returns is called.
func ticking(ctx context.Context, db *pgxpool.Pool, streams []string) (stop func()) {
	ticking, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() {
		defer GinkgoRecover()
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for i := 0; ; i++ {
			select {
			case <-ticking.Done():
				return
			case <-tick.C:
				appendData(ctx, db, streams[i%len(streams)], "{}")
			}
		}
	})
	return func() {
		cancel()
		running.Wait()
	}
}

// haveSeen waits until each group has handled each event once, and each stream in its order.
func haveSeen(ctx context.Context, db *pgxpool.Pool) {
	GinkgoHelper()
	Eventually(ctx, func() string {
		return scan[string](ctx, db, `
			WITH log AS (SELECT stream_id AS stream, array_agg(position ORDER BY position) AS positions FROM sluice.event GROUP BY stream_id),
			  handled AS (SELECT name, stream, array_agg(position ORDER BY n) AS positions FROM seen GROUP BY name, stream)
			SELECT coalesce(string_agg(format('%s by %s', stream, g.name), ', '), '')
			  FROM (SELECT unnest($1::text[]) UNION ALL SELECT 'beside-' || unnest($1::text[])) AS g (name) CROSS JOIN log
			  LEFT JOIN handled USING (name, stream) WHERE handled.positions IS DISTINCT FROM log.positions`, names())
	}).Should(BeEmpty(), "what has not been handled, each event once and in order")
}

// judge waits until a condition and kubectl sluice status name what a processor fails at.
func (m misbehaviour) judge(ctx context.Context, s *space, stream string, position int64, began time.Time) {
	GinkgoHelper()
	left := time.Until(began.Add(m.timeout + 30*time.Second))
	condition, says, _ := strings.Cut(m.says, "=")
	event := fmt.Sprintf("event at position %d (type Counted, stream %s)", position, stream)
	Eventually(ctx, s.condition(ctx, m.name, condition)).WithTimeout(left).Should(And(
		HavePrefix(says), ContainSubstring("group %s", m.name), ContainSubstring(event),
		MatchRegexp(`\b[0-9]+ (or more )?attempts?: `+strings.Fields(m.reason)[0])))
	named := time.Since(began)
	GinkgoWriter.Printf("%s: %s after %s\n", m.name, s.condition(ctx, m.name, condition)(), named)
	row := fmt.Sprintf(`(?m)^%s +0 +%d +Counted +%s +[0-9]+ +\S+ +%s`, m.name, position, stream, regexp.QuoteMeta(m.reason))
	Eventually(ctx, func() (string, error) {
		return s.plugin(ctx, "status", m.name)
	}).WithTimeout(time.Until(began.Add(m.timeout + 30*time.Second))).WithPolling(time.Second).Should(And(
		ContainSubstring(m.says), ContainSubstring(event), MatchRegexp(row)))
	GinkgoWriter.Printf("%s: in kubectl sluice status after %s\n", m.name, time.Since(began))
}

// delays says how long events of some streams have waited since a time, by group.
func delays(ctx context.Context, db *pgxpool.Pool, streams []string, since time.Time) map[string]time.Duration {
	GinkgoHelper()
	rows, err := db.Query(ctx, `
		SELECT s.name, (extract(epoch FROM max(s.at - e.recorded_at)) * 1e9)::bigint FROM seen AS s JOIN sluice.event AS e USING (position)
		 WHERE s.stream = ANY ($1) AND e.recorded_at > $2 GROUP BY s.name ORDER BY s.name`, streams, since)
	Expect(err).NotTo(HaveOccurred())
	longest := map[string]time.Duration{}
	var name string
	var delay time.Duration
	_, err = pgx.ForEachRow(rows, []any{&name, &delay}, func() error {
		longest[name] = delay
		GinkgoWriter.Printf("%s: an event waited for %s at most\n", name, delay)
		return nil
	})
	Expect(err).NotTo(HaveOccurred())
	return longest
}

var _ = Describe("Whatever a handler does", func() {
	It("its event is named within 30 s, all else goes on, and it is handled once when the cause is gone", func(ctx SpecContext) {
		s := newSpace(ctx, "misbehaves")
		s.secret(ctx, s.url)
		image, err := sluice.BuildImage(ctx, "misbehave", "./test/e2e/misbehave")
		Expect(err).NotTo(HaveOccurred())
		db := s.database(ctx)
		Expect(db.Exec(ctx, `
			CREATE TABLE seen (n bigserial, name text NOT NULL, position bigint NOT NULL, stream text NOT NULL,
			  at timestamptz NOT NULL DEFAULT clock_timestamp());
			CREATE TABLE mended (name text NOT NULL)`)).Error().NotTo(HaveOccurred())
		for _, m := range misbehaviours {
			s.apply(ctx, m.manifest(image))
		}
		for _, m := range misbehaviours {
			s.ready(ctx, m.name)
		}

		By("handling a call that takes four seconds in its transaction")
		slow, others := streamIn(0, "slow"), []string{streamIn(1, "other"), streamIn(2, "other"), streamIn(3, "other")}
		stop := ticking(ctx, db, others)
		defer stop()
		appendData(ctx, db, slow, `{"bad": "waits", "seconds": 4}`)
		Eventually(ctx, func() int {
			return scan[int](ctx, db, "SELECT count(*) FROM seen WHERE name = 'waits' AND stream = $1", slow)
		}).WithTimeout(15 * time.Second).Should(Equal(1))
		pods := map[string]string{}
		for _, m := range misbehaviours {
			pods[m.name] = s.pods(ctx, m.name)
		}

		By("misbehaving")
		began := time.Now()
		since := scan[time.Time](ctx, db, "SELECT clock_timestamp()")
		var judges sync.WaitGroup
		for _, m := range misbehaviours {
			stream := streamIn(0, m.name)
			appendData(ctx, db, stream, fmt.Sprintf(`{"bad": %q, "seconds": %d}`, m.name, m.seconds))
			appendData(ctx, db, stream, "{}")
			position := scan[int64](ctx, db, "SELECT min(position) FROM sluice.event WHERE stream_id = $1", stream)
			judges.Go(func() {
				defer GinkgoRecover()
				m.judge(ctx, s, stream, position, began)
			})
		}
		judges.Wait()
		longest := delays(ctx, db, others, since)
		for _, m := range misbehaviours {
			Expect(longest).To(HaveKeyWithValue(m.name, BeNumerically("<", m.slowest)), "other segments of the group")
			Expect(longest).To(HaveKeyWithValue("beside-"+m.name, BeNumerically("<", m.slowest)), "the other group")
			Expect(scan[int](ctx, db, "SELECT count(*) FROM seen WHERE name = $1 AND stream = $2", m.name, streamIn(0, m.name))).To(
				BeZero(), "%s: neither the event nor the one behind it is handled", m.name)
		}

		By("mending")
		Expect(db.Exec(ctx, "INSERT INTO mended SELECT unnest($1::text[])", names())).Error().NotTo(HaveOccurred())
		stop()
		haveSeen(ctx, db)
		for _, m := range misbehaviours {
			for _, c := range []string{"Degraded=False", "HandlerValid=True", "Ready=True"} {
				name, status, _ := strings.Cut(c, "=")
				Eventually(ctx, s.condition(ctx, m.name, name)).Should(HavePrefix(status), "%s of %s", name, m.name)
			}
			if !m.ends {
				Expect(s.pods(ctx, m.name)).To(Equal(pods[m.name]), "nothing is started again")
			}
		}
	}, NodeTimeout(6*time.Minute))
})
