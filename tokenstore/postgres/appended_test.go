package postgres_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/sluice-project/sluice/tokenstore"
	"github.com/sluice-project/sluice/tokenstore/postgres"
)

// TestOnlyBatchesThatAddEventsAreAnnounced has handlers add events to the event table in each way,
// and write elsewhere.
func TestOnlyBatchesThatAddEventsAreAnnounced(t *testing.T) {
	const (
		added  = `INSERT INTO sluice.event (stream_id, version, type, data) SELECT 's', count(*) + 1, 'Added', '{}' FROM sluice.event`
		hidden = `SELECT add_event()`
		late   = `INSERT INTO deferred VALUES (1)`
		none   = `INSERT INTO written SELECT count(*) FROM sluice.event`
	)
	store, pool := declared(t, 1)
	exec(t, pool, `CREATE TABLE written (n bigint); CREATE FUNCTION add_event() RETURNS void LANGUAGE sql AS $$ `+added+` $$;
		CREATE FUNCTION add_late() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM add_event(); RETURN NULL; END $$;
		CREATE TABLE deferred (n int); CREATE CONSTRAINT TRIGGER late AFTER INSERT ON deferred DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION add_late()`)
	token := claim(t, store, 7, tokens(t, store)...)[0]
	ways := map[string]func(context.Context, *postgres.Store, tokenstore.Advance, string) error{
		"a pipeline": func(ctx context.Context, s *postgres.Store, a tokenstore.Advance, sql string) error {
			return s.Pipeline(ctx, []tokenstore.Advance{a}, queued(sql))
		},
		"queued statements": func(ctx context.Context, s *postgres.Store, a tokenstore.Advance, sql string) error {
			return s.Queue(ctx, []tokenstore.Advance{a}, queued(sql))
		},
		"a transaction": func(ctx context.Context, s *postgres.Store, a tokenstore.Advance, sql string) error {
			return s.InPgx(ctx, []tokenstore.Advance{a}, func(tx pgx.Tx) error { _, err := tx.Exec(ctx, sql); return err })
		},
	}
	for way, run := range ways {
		for name, c := range map[string]struct {
			sql       string
			counts    string
			announces bool
		}{
			"an event":                        {added, "on", true},
			"an event in a function":          {hidden, "on", true},
			"an event at the commit":          {late, "on", true},
			"something else":                  {none, "on", false},
			"an event that no one counts":     {added, "off", true},
			"an event of a backlog's batches": {added, "on", true},
		} {
			t.Run(way+", "+name, func(t *testing.T) {
				ctx := t.Context()
				o := optionsOf(pool) // a session of its own, which has counted nothing
				o.MaxConns, o.Settings = 1, map[string]string{"track_counts": c.counts}
				own, err := postgres.Open(o)
				if err != nil {
					t.Fatal(err)
				}
				defer own.Close()
				s := postgres.NewStore(own, postgres.DefaultSchema)
				announced := 0
				s.OnAppend(func() { announced++ })
				a := advanceOf(token)
				a.Unsynced = name == "an event of a backlog's batches"
				if err := run(ctx, s, a, c.sql); err != nil {
					t.Fatal(err)
				}
				token.Version++
				if (announced == 1) != c.announces {
					t.Errorf("it was announced %d times", announced)
				}
				a = advanceOf(token)
				a.Version--
				if err := run(ctx, s, a, c.sql); err == nil {
					t.Fatal("a batch of another version has committed")
				}
				if (announced == 1) != c.announces || announced > 1 {
					t.Errorf("a batch that has not committed was announced")
				}
			})
		}
	}
}

func queued(sql string) func(tokenstore.Statements) error {
	return func(s tokenstore.Statements) error { s.(*pgx.Batch).Queue(sql); return nil }
}

func advanceOf(t tokenstore.Token) tokenstore.Advance {
	return tokenstore.Advance{Key: t.Key, Epoch: t.Epoch, Version: t.Version, Parts: t.Parts}
}
