package worker_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/sluice-project/sluice/definition"
	eventspostgres "github.com/sluice-project/sluice/eventsource/postgres"
	"github.com/sluice-project/sluice/runtime/axon"
	"github.com/sluice-project/sluice/segment"
	"github.com/sluice-project/sluice/tokenstore"
	"github.com/sluice-project/sluice/tokenstore/postgres"
)

// axonTokens are those of a processor with the segments 0/3, 1/1, whose halves were merged at unequal progress, and 2/3.
const axonTokens = `
CREATE TABLE token_entry (processor_name varchar(255) NOT NULL, segment integer NOT NULL, token bytea, token_type varchar(255), timestamp varchar(255), owner varchar(255),
  PRIMARY KEY (processor_name, segment));
INSERT INTO token_entry VALUES ('other', 0, NULL, NULL, '2026-01-01T00:00:00Z', 'somebody'),
  ('cards', 0, convert_to('<org.axonframework.eventhandling.GapAwareTrackingToken><index>60</index><gaps class="java.util.concurrent.ConcurrentSkipListSet"><m class="java.util.concurrent.ConcurrentSkipListMap" serialization="custom">
    <unserializable-parents/><java.util.concurrent.ConcurrentSkipListMap><default/><long>41</long><boolean>true</boolean><long>42</long><boolean>true</boolean><long>51</long><boolean>true</boolean><long>52</long><boolean>true</boolean><null/>
    </java.util.concurrent.ConcurrentSkipListMap></m></gaps></org.axonframework.eventhandling.GapAwareTrackingToken>', 'UTF8'), 'org.axonframework.eventhandling.GapAwareTrackingToken', '2026-01-01T00:00:00Z', NULL),
  ('cards', 1, convert_to('<org.axonframework.eventhandling.MergedTrackingToken><lowerSegmentToken class="org.axonframework.eventhandling.GapAwareTrackingToken"><index>20</index><gaps/></lowerSegmentToken>
    <upperSegmentToken class="org.axonframework.eventhandling.GlobalSequenceTrackingToken"><globalIndex>40</globalIndex></upperSegmentToken></org.axonframework.eventhandling.MergedTrackingToken>', 'UTF8'),
    'org.axonframework.eventhandling.MergedTrackingToken', '2026-01-01T00:00:00Z', 'ended'),
  ('cards', 2, NULL, NULL, '2026-01-01T00:00:00Z', NULL)`

// handledByAxon says which events those tokens have handled.
func handledByAxon(stream string, position int64) bool {
	switch segment.Java(stream) & 3 {
	case 0:
		return position <= 60 && !slices.Contains([]int64{41, 42, 51, 52}, position)
	case 1:
		return position <= 20
	case 3:
		return position <= 40
	}
	return false
}

// TestAProcessorOfAxonGoesOnHere takes tokens over that are at unequal places, while one transaction that left gaps is open, and another one has
// committed and was not handled yet.
func TestAProcessorOfAxonGoesOnHere(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "\n  - name: unused\n    segments: 1"+view)
	w.sql(axonSchema("bytea", "("))
	source, _ := sampleOf(t, userTables["Axon with bytea"])
	w.prepare(*source.Table)
	w.appendOne(0, 10, 4) // positions 1 to 40
	ctx := context.Background()
	var gaps [2]pgx.Tx // positions 41, 42 and 51, 52
	for i := range gaps {
		tx, err := w.begin(ctx)
		if err != nil {
			t.Fatal(err)
		}
		defer tx.Rollback(ctx)
		if _, err := tx.Exec(ctx, "SELECT append_one('gap-' || n || $1, 1) FROM generate_series(1, 2) AS n", fmt.Sprint("-", i)); err != nil {
			t.Fatal(err)
		}
		gaps[i] = tx
		if i == 0 {
			w.sql("SELECT append_one('stream-' || n, 5) FROM generate_series(0, 7) AS n") // 43 to 50
		}
	}
	w.sql("SELECT append_one('tail-' || n, 1) FROM generate_series(1, 20) AS n") // 53 to 72
	if err := gaps[0].Commit(ctx); err != nil {
		t.Fatal(err)
	}
	w.sql(axonTokens)

	if err := w.takeOver(source, ""); err == nil || !strings.Contains(err.Error(), "claimed by the node ended") {
		t.Fatalf("taking over what somebody has claimed: %v", err)
	}
	if err := w.takeOver(source, "ended"); err != nil {
		t.Fatal(err)
	}
	if err := w.takeOver(source, "ended"); err == nil || !strings.Contains(err.Error(), "taken over already") {
		t.Fatalf("taking over twice: %v", err)
	}
	w.until("nothing for Axon to claim", `SELECT bool_and((owner = 'sluice' AND timestamp > '9000') = (processor_name = 'cards')) FROM token_entry`)

	groups := strings.ReplaceAll(ordered(3, "{type: Stream, hash: Java}"), "Counted", "com.example.cards.CardIssued")
	w.edit(fmt.Sprintf("%s\n  source: %s\n", groups, asJSON(t, source)))
	w.start("a")
	w.start("b")
	if err := gaps[1].Commit(ctx); err != nil {
		t.Fatal(err)
	}
	w.appendOne(10, 10, 1)
	rows, err := w.pool.Query(ctx, "SELECT global_index, aggregate_identifier FROM domain_event_entry")
	if err != nil {
		t.Fatal(err)
	}
	var want, left []int64
	var position int64
	var stream string
	if _, err := pgx.ForEachRow(rows, []any{&position, &stream}, func() error {
		if handledByAxon(stream, position) {
			left = append(left, position)
		} else {
			want = append(want, position)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if len(left) < 10 || len(want) < 20 {
		t.Fatalf("%d events of Axon's and %d of the rest: this run says nothing", len(left), len(want))
	}
	w.until("the rest handled", `SELECT count(DISTINCT position) >= $1 FROM seen`, len(want))
	w.until("each once, and none of Axon's", `SELECT array_agg(position ORDER BY position) = $1::bigint[] FROM seen`, slices.Sorted(slices.Values(want)))
}

func (w *world) takeOver(source definition.Source, ended string) error {
	w.t.Helper()
	ctx := context.Background()
	conn, err := w.pool.Acquire(ctx)
	if err != nil {
		w.t.Fatal(err)
	}
	defer conn.Release()
	takeover := axon.Takeover{Table: "public.token_entry", Processor: "cards", Node: ended, Group: tokenstore.Group{Name: "view", Sequencing: "Stream/java"},
		Given: eventspostgres.Open(w.pool, postgres.DefaultSchema, source).Given, Adopt: postgres.NewStore(w.pool, postgres.DefaultSchema).Adopt}
	_, err = takeover.Run(ctx, conn.Conn())
	return err
}
