package history_test

import (
	"context"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sluice-project/sluice/internal/postgrestest"
	"github.com/sluice-project/sluice/progress"
	"github.com/sluice-project/sluice/segment"
	"github.com/sluice-project/sluice/test/history"
	"github.com/sluice-project/sluice/tokenstore"
	"github.com/sluice-project/sluice/tokenstore/postgres"
)

const processor = "test/default/history"

// recorded is a database in which a group has handled six events in two segments: with a takeover, a split, a merge, and a
// replay of everything.
func recorded(t *testing.T) *pgxpool.Pool {
	t.Helper()
	ctx := context.Background()
	pool := database(t)
	w := &writer{t: t, pool: pool, store: postgres.NewStore(pool, postgres.DefaultSchema)}
	err := w.store.Declare(ctx, tokenstore.Owner{Processor: processor}, []tokenstore.Group{{Name: "view", Segments: 2}}, nil, func(string) (progress.Progress, error) { return progress.Progress{}, nil })
	if err != nil {
		t.Fatal(err)
	}
	if err := history.Record(ctx, pool, postgres.DefaultSchema); err != nil {
		t.Fatal(err)
	}
	err = history.Follow(ctx, pool, history.Projection{Table: "public.seen", Group: "view", Key: "NEW.stream_id", Position: "NEW.position", Replay: "NEW.replay"})
	if err != nil {
		t.Fatal(err)
	}
	w.exec(`CREATE TABLE seen (stream_id text, position bigint, replay boolean)`)
	for _, stream := range []string{"a", "b", "c"} {
		w.exec(`SELECT sluice.append('` + stream + `', NULL, '[{"type": "Counted"}, {"type": "Counted"}]')`)
	}
	w.claim(1)
	w.handle(1, 3, false)
	w.claim(2)
	w.must(w.store.Merge(ctx, "view", segment.Segment{ID: 0, Mask: 1}))
	w.must(w.store.Split(ctx, "view", segment.Root))
	w.claim(2)
	w.handle(4, 6, false)
	w.exec(`UPDATE sluice.token SET generation = generation + 1, epoch = epoch + 1, version = version + 1, position = 0, snapshot = '', owner = 0`)
	w.claim(3)
	w.handle(1, 6, true)
	return pool
}

func database(t *testing.T) *pgxpool.Pool {
	t.Helper()
	u, err := url.Parse(postgrestest.New(t))
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.ParseUint(u.Port(), 10, 16)
	if err != nil {
		t.Fatal(err)
	}
	o := postgres.Options{Application: "test", Target: func(context.Context) (postgres.Target, error) {
		return postgres.Target{Host: u.Hostname(), Port: uint16(port), Database: u.Path[1:], User: u.User.Username()}, nil
	}}
	conn, err := postgres.Connect(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if _, err := postgres.Migrate(context.Background(), conn, postgres.DefaultSchema); err != nil {
		t.Fatal(err)
	}
	pool, err := postgres.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// writer handles events as a worker would.
type writer struct {
	t      *testing.T
	pool   *pgxpool.Pool
	store  *postgres.Store
	tokens []tokenstore.Token
}

func (w *writer) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *writer) exec(sql string) {
	w.t.Helper()
	_, err := w.pool.Exec(context.Background(), sql)
	w.must(err)
}

func (w *writer) claim(worker int64) {
	w.t.Helper()
	all, err := w.store.Tokens(context.Background(), processor)
	w.must(err)
	var claims []tokenstore.Claim
	for _, t := range all {
		claims = append(claims, tokenstore.Claim{Key: t.Key, Epoch: t.Epoch})
	}
	w.tokens, err = w.store.Claim(context.Background(), processor, worker, 1, claims)
	w.must(err)
}

// handle applies the events of these positions, each segment's as one batch.
func (w *writer) handle(from, to int64, replay bool) {
	w.t.Helper()
	for i := range w.tokens {
		t := &w.tokens[i]
		a := tokenstore.Advance{Key: t.Key, Epoch: t.Epoch, Version: t.Version, Parts: []progress.Part{{Segment: t.Range(), Progress: progress.Progress{Position: to, State: "1:1:"}}}}
		w.must(w.store.Pipeline(context.Background(), []tokenstore.Advance{a}, func(s tokenstore.Statements) error {
			s.(*pgx.Batch).Queue(`INSERT INTO seen SELECT stream_id, position, $1 FROM sluice.event WHERE position BETWEEN $2 AND $3 AND slice & $4 = $5 ORDER BY position`,
				replay, from, to, int32(t.Mask), int32(t.Segment))
			return nil
		}))
		t.Version++
	}
}

var want = history.Want{Events: 12, Takeovers: 2, Splits: 1, Merges: 1, Resets: 2, Replayed: []string{"view"}}

func TestEachCheckFindsWhatItIsFor(t *testing.T) {
	pool := recorded(t)
	ctx := context.Background()
	found, err := history.Check(ctx, pool, postgres.DefaultSchema, want, "Counted")
	if err != nil || found.Replays != 6 || found.Events != 12 {
		t.Fatalf("what is right: %+v, %v", found, err)
	}
	const first = `(SELECT min(seq) FROM history.applied)`
	for promise, corrupt := range map[string]string{
		"each event is applied once":                 `INSERT INTO history.applied (xid, group_name, key, position, replay) SELECT xid, group_name, key, position, replay FROM history.applied WHERE seq = ` + first,
		"moves its token in the same transaction":    `UPDATE history.applied SET xid = '3' WHERE seq = ` + first,
		"who applies owns the token":                 `UPDATE history.written SET was_owner = 0 WHERE xid = (SELECT xid FROM history.applied WHERE seq = ` + first + `)`,
		"one worker writes in an epoch":              `UPDATE history.written SET owner = 9 WHERE xid = (SELECT xid FROM history.applied WHERE seq = ` + first + `)`,
		"versions and generations never go back":     `UPDATE history.written SET version = version - 1 WHERE xid = (SELECT xid FROM history.applied WHERE seq = ` + first + `)`,
		"takes a token takes a new epoch":            `UPDATE history.written w SET epoch = (SELECT max(epoch) FROM history.written o WHERE o.segment = w.segment AND o.seq < w.seq) WHERE was_owner <> owner AND owner = 2`,
		"moves forward within a generation":          `UPDATE history.written SET position = -1 WHERE xid = (SELECT xid FROM history.applied WHERE seq = ` + first + `)`,
		"one key are applied in their order":         `UPDATE history.applied a SET seq = -seq WHERE replay`,
		"told to be a replay":                        `UPDATE history.applied SET replay = NOT replay WHERE seq = ` + first,
		"only events are applied":                    `UPDATE history.applied SET position = 99 WHERE seq = ` + first,
		"no event is skipped":                        `DELETE FROM history.applied WHERE position = 2`,
		"a complete replay applies every event":      `DELETE FROM history.applied WHERE position = 2 AND replay`,
		"always cover the hash space exactly once":   `DELETE FROM history.written WHERE op = 'D'`,
		"vacuous: 0 merges happened, of at least 1":  `UPDATE history.written SET op = 'U' WHERE op = 'D'`,
		"vacuous: 0 replayed events happened":        `UPDATE history.applied SET replay = false`,
		"vacuous: 0 events happened, of at least 12": `DELETE FROM history.applied`,
		"vacuous: 0 resets happened, of at least 2":  `UPDATE history.written SET generation = 1`,
		"vacuous: 0 takeovers happened":              `UPDATE history.written SET was_owner = owner`,
		"vacuous: 0 splits happened":                 `UPDATE history.written SET mask = 0`,
	} {
		t.Run(promise, func(t *testing.T) {
			tx, err := pool.Begin(ctx)
			if err != nil {
				t.Fatal(err)
			}
			defer tx.Rollback(ctx)
			if tag, err := tx.Exec(ctx, corrupt); err != nil || tag.RowsAffected() == 0 {
				t.Fatalf("corrupting the history: %v, %v", tag, err)
			}
			if _, err := history.Check(ctx, tx, postgres.DefaultSchema, want, "Counted"); err == nil || !strings.Contains(err.Error(), promise) {
				t.Errorf("got %v", err)
			}
		})
	}
}
