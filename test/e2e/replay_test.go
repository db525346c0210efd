package e2e

import (
	"fmt"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

// counting is a view that is wrong by a factor, with a reset, and the replay that a spec asks for, if any.
func counting(factor int, replay string) string {
	text := strings.Replace(viewWith(2, 8, fmt.Sprintf(`
            INSERT INTO stream_view AS v (stream_id, events, chain) SELECT stream_id, %[1]d, md5(data ->> 'n') FROM event
            ON CONFLICT (stream_id) DO UPDATE SET events = v.events + %[1]d, chain = md5(v.chain || excluded.chain)`, factor)),
		"        statements:", "        reset: TRUNCATE stream_view\n        statements:", 1)
	if replay != "" {
		text += "  replay: {id: " + replay + ", groups: [view], context: {why: counted twice}}\n"
	}
	return text
}

var _ = Describe("A replay", func() {
	It("of a corrected handler is one apply, under load, and runs once", func(ctx SpecContext) {
		s := newSpace(ctx, "replay")
		s.secret(ctx, s.url)
		s.apply(ctx, counting(2, ""))
		s.ready(ctx, "view")
		db := s.database(ctx)
		stop := writing(ctx, db)
		Eventually(ctx, func() int { return scan[int](ctx, db, "SELECT coalesce(sum(events), 0) FROM stream_view") }).Should(BeNumerically(">", 1000))

		s.apply(ctx, counting(1, "once"))
		Eventually(ctx, func() string {
			out, err := sluice.Kubectl(ctx, "--namespace", s.namespace, "get", "replay", "view.once", "-o", `jsonpath={range .status.conditions[?(@.type=="Complete")]}{.status} {.reason}{end} {.status.progress}`)
			if err != nil {
				return err.Error()
			}
			return out
		}).Should(Equal("True ReplayComplete 100"))
		s.ready(ctx, "view")
		events := stop()
		haveFolded(ctx, db, events)
		resetAt := scan[time.Time](ctx, db, "SELECT reset_at FROM sluice.replay")

		By("applying and deleting things again")
		s.kubectl(ctx, "delete", "replay", "view.once")
		s.kubectl(ctx, "delete", "eventprocessor", "view", "--wait")
		Eventually(ctx, func() string { return s.pods(ctx, "view") }).Should(BeEmpty())
		s.apply(ctx, counting(1, "once"))
		s.ready(ctx, "view")
		Eventually(ctx, func() string {
			out, err := sluice.Kubectl(ctx, "--namespace", s.namespace, "get", "replay", "view.once", "-o", `jsonpath={.status.conditions[?(@.type=="Complete")].reason}`)
			return fmt.Sprint(out, err)
		}).Should(Equal("AlreadyRun<nil>"))
		Expect(scan[time.Time](ctx, db, "SELECT reset_at FROM sluice.replay")).To(Equal(resetAt))
		haveFolded(ctx, db, events)
	}, NodeTimeout(6*time.Minute))

	It("can be asked for by kubectl", func(ctx SpecContext) {
		s := newSpace(ctx, "asked")
		s.secret(ctx, s.url)
		s.apply(ctx, counting(1, ""))
		s.ready(ctx, "view")
		db := s.database(ctx)
		appendTo(ctx, db, 10, 10)
		haveFolded(ctx, db, 100)
		sinceWhen := func() string {
			return s.kubectl(ctx, "get", "eventprocessor", "view", "-o", `jsonpath={range .status.conditions[?(@.type=="Ready")]}{.status} since {.lastTransitionTime}{end}`)
		}
		ready := sinceWhen()
		out, err := s.plugin(ctx, "replay", "view", "--group", "view", "--tell", "why=test", "--id", "mine")
		Expect(err).NotTo(HaveOccurred())
		Expect(out).To(And(ContainSubstring("replay view.mine of view created"), ContainSubstring("100 %"), ContainSubstring("ReplayComplete")))
		haveFolded(ctx, db, 100)
		Expect(sinceWhen()).To(And(Equal(ready), HavePrefix("True")), "a replay leaves Ready alone")
		Expect(scan[string](ctx, db, "SELECT context ->> 'why' FROM sluice.replay")).To(Equal("test"))
		_, err = s.plugin(ctx, "replay", "view", "--group", "view", "--id", "mine")
		Expect(err).To(MatchError(ContainSubstring("an id runs once")))
		Expect(s.plugin(ctx, "status", "view")).To(ContainSubstring("view"))
	}, NodeTimeout(4*time.Minute))
})
