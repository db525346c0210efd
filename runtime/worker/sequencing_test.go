package worker_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	eventspostgres "github.com/sluice-project/sluice/eventsource/postgres"
	"github.com/sluice-project/sluice/tokenstore"
)

// ordered writes down what is handled, in the order in which it is, and by which transaction: a trigger notes whose that was.
func ordered(segments int, sequencing string) string {
	return fmt.Sprintf(`
  - name: view
    segments: %d
    maxBatchSize: 7
    sequencing: %s
    handler:
      type: SQL
      sql:
        setup: |
          CREATE TABLE IF NOT EXISTS seen (n bigserial PRIMARY KEY, position bigint, replay boolean, context jsonb, tx bigint NOT NULL DEFAULT txid_current())
        reset: INSERT INTO seen (context) VALUES ('{}')
        statements:
        - eventTypes: [Counted]
          batch: INSERT INTO seen (position, replay) SELECT position, replay FROM events ORDER BY position
        - eventTypes: [Counted]
          each: SELECT pg_sleep(0.002) FROM event WHERE stream_id = 'stream-1'
`, segments, sequencing)
}

// watchTokens has the database note which segment each transaction moved.
func (w *world) watchTokens() {
	w.t.Helper()
	_, err := w.pool.Exec(context.Background(), `
		CREATE TABLE moved (tx bigint, segment integer, mask integer);
		CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO moved VALUES (txid_current(), NEW.segment, NEW.mask); RETURN NULL; END $$;
		CREATE TRIGGER note AFTER UPDATE OF position ON sluice.token FOR EACH ROW EXECUTE FUNCTION note()`)
	if err != nil {
		w.t.Fatal(err)
	}
}

// appendKeyed appends n events to each of some streams: customers and tenants go across streams.
func (w *world) appendKeyed(streams, n int) {
	w.t.Helper()
	for i := range n {
		for s := range streams {
			data := map[string]any{"n": i, "customer": map[string]any{"id": fmt.Sprintf("customer-%d", (s+i)%5)}}
			_, err := w.log.Append(context.Background(), fmt.Sprintf("stream-%d", s), eventspostgres.Any,
				eventspostgres.NewEvent{Type: "Counted", Data: data, Metadata: map[string]any{"tenant": (s + i) % 3}})
			if err != nil {
				w.t.Fatal(err)
			}
		}
	}
}

// resegment declares another number of segments and waits until they are there and owned.
func (w *world) resegment(n int, sequencing string) {
	w.t.Helper()
	w.edit(ordered(n, sequencing))
	w.until(fmt.Sprintf("%d segments, all owned", n), `SELECT count(*) = $1 AND bool_and(owner <> 0) FROM sluice.token`, n)
}

// sequencings are all that there are, with the key of an event in SQL; empty where nothing is in order.
var sequencings = map[string]struct{ spec, key string }{
	"stream":          {`{type: Stream}`, `stream_id`},
	"stream, Java":    {`{type: Stream, hash: Java}`, `stream_id`},
	"property":        {`{type: Property, property: {path: customer.id}}`, `data #>> '{customer,id}'`},
	"missing":         {`{type: Property, property: {path: customer.none}}`, `stream_id`},
	"metadata":        {`{type: Metadata, metadata: {key: tenant}}`, `metadata ->> 'tenant'`},
	"metadata, Java":  {`{type: Metadata, metadata: {key: tenant}, hash: Java}`, `metadata ->> 'tenant'`},
	"sequential":      {`{type: Sequential}`, `'all'`},
	"sequential,Java": {`{type: Sequential, hash: Java}`, `'all'`},
	"concurrent":      {`{type: Concurrent}`, ``},
}

// TestEachEventIsHandledOnceAndInOrderOfItsKey splits and merges the segments of each kind of sequencing while events come.
func TestEachEventIsHandledOnceAndInOrderOfItsKey(t *testing.T) {
	t.Parallel()
	for name, test := range sequencings {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, ordered(4, test.spec))
			w.watchTokens()
			w.start("a")
			w.start("b")
			w.appendKeyed(8, 10)
			for _, n := range []int{7, 2} {
				w.edit(ordered(n, test.spec))
				w.appendKeyed(8, 10)
				w.resegment(n, test.spec)
			}
			w.until("all handled", `SELECT count(*) >= 240 FROM seen`)
			w.until("each event handled once", `SELECT count(*) = 240 AND count(DISTINCT position) = 240 FROM seen`)
			several := ">"
			if strings.Contains(test.spec, "Sequential") {
				several = "="
			}
			w.until("segments that have handled some: one, where all is in order, and else more", `
				SELECT count(DISTINCT (segment, mask)) `+several+` count(DISTINCT mask) FROM moved JOIN seen USING (tx)`)
			if test.key == "" {
				return
			}
			w.until("keys handled in order", `SELECT bool_and(position > before) AND count(before) > 0 FROM (
				SELECT position, lag(position) OVER (PARTITION BY `+test.key+` ORDER BY n) AS before FROM seen JOIN sluice.event USING (position)) AS o`)
			w.until("a key in one segment, whatever their number", `SELECT bool_and(segments = 1) AND count(*) > 0 FROM (
				SELECT count(DISTINCT m.segment) AS segments FROM (SELECT tx, `+test.key+` AS key FROM seen JOIN sluice.event USING (position)) AS s
				JOIN moved m USING (tx) GROUP BY key, m.mask) AS k`)
		})
	}
}

// TestASequenceIsHandledInOrderByTwoStatements has each statement want one type of events, which
// alternate within each key and are of several streams.
func TestASequenceIsHandledInOrderByTwoStatements(t *testing.T) {
	t.Parallel()
	for name, test := range sequencings {
		if test.key == "" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, fmt.Sprintf(`
  - name: view
    segments: 2
    sequencing: %s
    handler:
      type: SQL
      sql:
        setup: CREATE TABLE IF NOT EXISTS seen (n bigserial PRIMARY KEY, position bigint)
        statements:
        - eventTypes: [Opened]
          batch: INSERT INTO seen (position) SELECT position FROM events ORDER BY position
        - eventTypes: [Closed]
          each: INSERT INTO seen (position) SELECT position FROM event
`, test.spec))
			for i := range 60 {
				e := eventspostgres.NewEvent{Type: "Opened", Data: map[string]any{"customer": map[string]any{"id": i / 2 % 3}}, Metadata: map[string]any{"tenant": i / 2 % 2}}
				if i%2 == 0 {
					e.Type = "Closed"
				}
				if _, err := w.log.Append(context.Background(), fmt.Sprintf("stream-%d", i%5), eventspostgres.Any, e); err != nil {
					t.Fatal(err)
				}
			}
			w.start("a")
			w.until("all handled", `SELECT count(*) = 60 AND count(DISTINCT position) = 60 FROM seen`)
			w.until("keys handled in order", `SELECT bool_and(position > before) AND count(before) > 0 FROM (
				SELECT position, lag(position) OVER (PARTITION BY `+test.key+` ORDER BY n) AS before FROM seen JOIN sluice.event USING (position)) AS o`)
		})
	}
}

// TestABroadcastReachesEverySegment counts, for each event and each eighth of the hash space, the segments that handled it.
func TestABroadcastReachesEverySegment(t *testing.T) {
	t.Parallel()
	const broadcast = `{type: Broadcast, hash: Java}`
	w := newWorld(t, ordered(4, broadcast))
	w.watchTokens()
	w.start("a")
	w.start("b")
	handled := func(what, condition string) {
		t.Helper()
		w.until(what, `SELECT coalesce(bool_and(`+condition+`), false) FROM (
			SELECT e.position, eighth, count(m.segment) AS n FROM sluice.event e CROSS JOIN generate_series(0, 7) AS eighth
			  LEFT JOIN (seen s JOIN moved m USING (tx)) ON s.position = e.position AND eighth & m.mask = m.segment
			GROUP BY 1, 2) AS c`)
	}
	w.appendKeyed(8, 5)
	handled("every event once in each of four segments", "n = 1")
	w.resegment(8, broadcast)
	w.appendKeyed(8, 5)
	handled("every event once in each of eight segments", "n = 1")
	w.resegment(2, broadcast)
	w.appendKeyed(8, 5)
	handled("every event once in each of two segments", "n = 1")
	w.until("once a segment", `SELECT count(*) = 40 * (4 + 8 + 2) AND max(n) = 1 FROM (
		SELECT count(*) AS n FROM seen JOIN moved USING (tx) GROUP BY position, segment, mask) AS c HAVING sum(n) = 40 * (4 + 8 + 2)`)
	for _, n := range []int{8, 1, 4} { // now while events come: halves that are merged may have come unequally far
		w.edit(ordered(n, broadcast))
		w.appendKeyed(8, 5)
		w.resegment(n, broadcast)
	}
	handled("no event missed by any segment", "n >= 1")
	w.until("once a segment, still", `SELECT max(n) = 1 FROM (SELECT count(*) AS n FROM seen JOIN moved USING (tx) GROUP BY position, segment, mask) AS c`)
}

func TestASequencingDoesNotChangeWithoutAReplay(t *testing.T) {
	t.Parallel()
	w := newWorld(t, ordered(4, `{type: Stream}`))
	w.appendKeyed(8, 5)
	w.start("a")
	w.until("all handled", `SELECT count(*) = 40 FROM seen`)
	var changed *tokenstore.SequencingChangedError
	if err := w.tryEdit(ordered(4, `{type: Sequential}`)); !errors.As(err, &changed) || changed.Recorded != "Stream/pg1" || changed.Wanted != "Sequential/pg1" {
		t.Fatalf("declaring another sequencing: %v", err)
	}
	// A worker that runs such a definition all the same says why it takes nothing, is not ready, and the other keeps its segments.
	w.spec.ProcessingGroups[0].Sequencing.Type = "Sequential"
	w.start("b")
	w.until("worker b at fault", `SELECT report #>> '{groups,view,fault,reason}' = 'SequencingChanged' AND NOT (report ->> 'ready')::boolean FROM sluice.worker WHERE pod = 'b'`)
	w.appendKeyed(8, 5)
	w.until("handled by the other", `SELECT count(*) = 80 AND (SELECT count(DISTINCT owner) = 1 FROM sluice.token) FROM seen`)
}

// TestAChangeWaitsForNoReplayThatCannotRun asks for a replay of a group without a reset: only the worker knows of Go handlers.
func TestAChangeWaitsForNoReplayThatCannotRun(t *testing.T) {
	t.Parallel()
	groups := func(sequencing string) string {
		return strings.Replace(ordered(4, sequencing), "        reset: INSERT INTO seen (context) VALUES ('{}')\n", "", 1)
	}
	w := newWorld(t, groups(`{type: Stream}`))
	w.appendKeyed(8, 5)
	drain := w.start("a")
	w.until("all handled", `SELECT count(*) = 40 FROM seen`)
	change := tokenstore.ReplayRequest{ID: "change"}
	w.edit(groups(`{type: Sequential}`), change)
	w.start("b")
	w.until("worker b at fault", `SELECT report #>> '{groups,view,fault,message}' LIKE '%replay change, and the group has no reset%' AND NOT (report ->> 'ready')::boolean
		FROM sluice.worker WHERE pod = 'b'`)
	w.until("handled by the other", `SELECT count(*) = 4 AND count(DISTINCT owner) = 1 FROM sluice.token JOIN sluice.worker ON owner = incarnation WHERE pod = 'a'`)
	change.Unguarded = []string{"view"}
	w.ask(change)
	w.until("worker b ready", `SELECT (report ->> 'ready')::boolean FROM sluice.worker WHERE pod = 'b'`)
	drain()
	w.replay("change", "complete", in(tokenstore.ReplayComplete))
	w.until("all handled again", `SELECT count(*) FILTER (WHERE replay) = 40 FROM seen`)
}

// flaggedBefore is like flagged for events that may be passed over the second time.
func (w *world) flaggedBefore() (again int) {
	w.t.Helper()
	var wrong []string
	err := w.pool.QueryRow(context.Background(), `
		WITH reset AS (SELECT n FROM seen WHERE position IS NULL), handled AS (
		  SELECT e.position, count(*) FILTER (WHERE NOT s.replay) AS first, count(*) FILTER (WHERE s.replay) AS again,
		    min(s.n) FILTER (WHERE NOT s.replay) < (SELECT n FROM reset) AS before
		  FROM sluice.event e LEFT JOIN seen s USING (position) GROUP BY 1)
		SELECT coalesce(sum(again), 0), array_agg(format('%s: %s times first, %s again, before the reset: %s', position, first, again, before))
		  FILTER (WHERE first <> 1 OR again > before::int) FROM handled`).Scan(&again, &wrong)
	if err != nil {
		w.t.Fatal(err)
	}
	if len(wrong) > 0 {
		w.t.Fatalf("%d events are not flagged right, such as %s", len(wrong), strings.Join(wrong[:min(len(wrong), 5)], "; "))
	}
	return again
}

// TestAReplayChangesTheSequencing rolls a definition with another sequencing out, with a replay in the same edit. At the reset the
// segments have come unequally far, and events come all the time: what is handled again is told apart by the former sequencing.
func TestAReplayChangesTheSequencing(t *testing.T) {
	t.Parallel()
	for name, way := range map[string]struct{ from, to string }{
		"stream to property":     {"stream", "property"},
		"property to stream":     {"property", "stream"},
		"another hash":           {"stream", "stream, Java"},
		"sequential to metadata": {"sequential", "metadata"},
		"concurrent to stream":   {"concurrent", "stream"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, ordered(4, sequencings[way.from].spec))
			w.appendKeyed(8, 10)
			drain := w.start("a")
			w.until("some handled", `SELECT count(*) >= 10 FROM seen`)
			w.edit(ordered(4, sequencings[way.to].spec), tokenstore.ReplayRequest{ID: "change"})
			w.start("b")
			w.until("worker b ready, with nothing", `SELECT (report ->> 'ready')::boolean AND NOT EXISTS (SELECT FROM sluice.token WHERE owner = incarnation)
				FROM sluice.worker WHERE pod = 'b'`)
			w.appendKeyed(8, 10)
			drain()
			w.replay("change", "running", func(r tokenstore.Replay) bool { return r.ResetAt != nil })
			w.appendKeyed(8, 10)
			w.replay("change", "complete", in(tokenstore.ReplayComplete))
			w.until("all handled", `SELECT count(DISTINCT position) = 240 FROM seen`)
			if again := w.flagged(); again < 10 {
				t.Fatalf("%d events handled again", again)
			}
			w.until("keys handled in order since the reset", `SELECT bool_and(position > before) AND count(before) > 0 FROM (
				SELECT position, lag(position) OVER (PARTITION BY `+sequencings[way.to].key+` ORDER BY n) AS before
				FROM seen JOIN sluice.event USING (position) WHERE n > (SELECT n FROM seen WHERE position IS NULL)) AS o`)
			w.until("recorded", `SELECT sequencing || '/' || hash = $1 FROM sluice.processing_group`, w.spec.ProcessingGroups[0].Sequencing.Policy().String())
		})
	}
}

// TestAChangeThatIsCalledOffLeavesAWayBack cancels the replay when the new definition has been rolled out.
func TestAChangeThatIsCalledOffLeavesAWayBack(t *testing.T) {
	t.Parallel()
	paused := func(text string) string {
		return strings.Replace(text, "maxBatchSize: 7", "maxBatchSize: 7\n    desiredState: Paused", 1)
	}
	w := newWorld(t, ordered(4, `{type: Stream}`))
	w.appendKeyed(8, 5)
	drainA := w.start("a")
	w.until("all handled", `SELECT count(*) = 40 FROM seen`)
	w.edit(paused(ordered(4, `{type: Sequential}`)), tokenstore.ReplayRequest{ID: "change"}) // which keeps the reset from beginning
	drainB := w.start("b")
	w.until("worker b ready", `SELECT (report ->> 'ready')::boolean FROM sluice.worker WHERE pod = 'b'`)
	drainA()
	w.replay("change", "waiting", waitsFor(tokenstore.ReplayWaitsForPause))
	w.ask(tokenstore.ReplayRequest{ID: "change", State: tokenstore.ReplayToBeCancelled})
	w.until("worker b saying why it takes nothing", `SELECT report #>> '{groups,view,fault,message}' LIKE '%spec.replay with a new id%' FROM sluice.worker WHERE pod = 'b'`)
	if err := w.tryEdit(ordered(4, `{type: Sequential}`)); err == nil {
		t.Fatal("the change is agreed to although its replay was cancelled")
	}
	w.edit(ordered(4, `{type: Stream}`))
	w.start("c")
	w.appendKeyed(8, 5)
	w.until("going on where it was", `SELECT count(*) = 80 AND count(DISTINCT position) = 80 FROM seen`)
	drainB()
}

// TestAReplayThatHasChangedTheSequencingCanBeAbandoned: what only some segments had handled is handled again first, and told apart.
func TestAReplayThatHasChangedTheSequencingCanBeAbandoned(t *testing.T) {
	t.Parallel()
	w := newWorld(t, ordered(4, `{type: Stream}`))
	slow := strings.NewReplacer("0.002", "0.02", "maxBatchSize: 7", "maxBatchSize: 1")
	w.appendKeyed(8, 10)
	drain := w.start("a")
	w.until("some handled", `SELECT count(*) >= 10 FROM seen`)
	w.edit(slow.Replace(ordered(4, `{type: Property, property: {path: customer.id}}`)), tokenstore.ReplayRequest{ID: "change"})
	w.start("b")
	w.until("worker b ready", `SELECT (report ->> 'ready')::boolean FROM sluice.worker WHERE pod = 'b'`)
	w.until("nearly all handled", `SELECT count(*) >= 60 FROM seen`)
	drain()
	w.appendKeyed(8, 10)
	w.replay("change", "running", in(tokenstore.ReplayRunning))
	w.ask(tokenstore.ReplayRequest{ID: "change", State: tokenstore.ReplayToBeAbandoned})
	w.replay("change", "abandoned", in(tokenstore.ReplayAbandoned))
	w.until("all handled", `SELECT count(DISTINCT position) = 160 FROM seen`)
	w.flaggedBefore()
	w.until("incomplete", `SELECT bool_and(incomplete IS NOT NULL AND replay IS NULL AND sequencing = 'Property:customer.id') FROM sluice.processing_group`)
}
