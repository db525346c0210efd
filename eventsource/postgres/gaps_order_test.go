package postgres_test

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sluice-project/sluice/definition"
)

// withoutTransactions are tables whose rows do not tell their transaction, by how writers take positions.
var withoutTransactions = map[string]func(testing.TB) *subject{
	"identity": func(t testing.TB) *subject {
		return gapsTable(t, "ALTER TABLE outbox ALTER COLUMN id DROP DEFAULT; DROP SEQUENCE outbox_id_seq; ALTER TABLE outbox ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY",
			definition.PositionsInserted, "")
	},
	"serial": func(t testing.TB) *subject { return gapsTable(t, "", definition.PositionsInserted, "") },
	"taken early": func(t testing.TB) *subject {
		return gapsTable(t, takeFirst, definition.PositionsTransaction, "public.outbox_id_seq")
	},
	"taken early, separate": func(t testing.TB) *subject {
		on := gapsTable(t, takeFirst, definition.PositionsTransaction, "public.outbox_id_seq")
		return separate(on, declared(unaltered(definition.PositionsTransaction, "public.outbox_id_seq")))
	},
	"reserved": func(t testing.TB) *subject {
		return gapsTable(t, reserveBlocks, definition.PositionsReserved, "")
	},
}

// reserveBlocks has writers take positions out of blocks of their own.
const reserveBlocks = "ALTER TABLE outbox ALTER COLUMN id SET DEFAULT reserved()"

// takeFirst has writers take positions for their events before they look which number the stream has come to, so that others' events come in between, and use
// them in another order at times. Whoever inserts without the function takes them a while before each row.
const takeFirst = `
ALTER TABLE outbox ALTER COLUMN id SET DEFAULT early();
CREATE OR REPLACE FUNCTION outbox_append(p_aggregate text, p_n integer) RETURNS void LANGUAGE plpgsql AS $$
DECLARE v integer; taken integer[] := ARRAY(SELECT n FROM (SELECT nextval('outbox_id_seq')::integer AS n FROM generate_series(1, p_n)) AS t ORDER BY CASE WHEN random() < 0.8 THEN n END, random()); BEGIN
  PERFORM pg_sleep(random() * 0.05);
  LOOP
    SELECT coalesce(max(number), 0) INTO v FROM outbox WHERE aggregate = p_aggregate;
    INSERT INTO outbox (id, aggregate, number, type, payload) VALUES (taken[1], p_aggregate, v + 1, 'Happened', '{}') ON CONFLICT (aggregate, number) DO NOTHING;
    EXIT WHEN FOUND;
  END LOOP;
  INSERT INTO outbox (id, aggregate, number, type, payload) SELECT taken[i], p_aggregate, v + i, 'Happened', '{}' FROM generate_series(2, p_n) AS i;
END $$`

// gapsTable is the outbox, altered, and without a column of transactions.
func gapsTable(t testing.TB, alter, positions, sequence string) *subject {
	db := database(t)
	exec(t, db, createOutbox+";"+alter, pgx.QueryExecModeSimpleProtocol)
	on := outboxSubject(db, unaltered(positions, sequence))
	on.early = positions != definition.PositionsInserted
	if err := on.source.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	return on
}

// unaltered is a mapping of the outbox without the column of transactions.
func unaltered(positions, sequence string) definition.Table {
	mapping := outbox
	mapping.Positions, mapping.Order, mapping.Sequence, mapping.Columns.Transaction = positions, definition.OrderStream, sequence, ""
	return mapping
}

// Nothing is lost, nothing is given twice, and streams stay in order, also where only gaps tell of events that are to come.
func TestReadersOfGapsGetEveryEventOnceAndInOrder(t *testing.T) {
	t.Parallel()
	for name, make := range withoutTransactions {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // most of the time somebody holds a transaction open
			on := make(t)
			ctx, stop := context.WithCancel(t.Context())
			var killer sync.WaitGroup
			killer.Go(func() { kill(ctx, t, on) })
			readersGetEveryEvent(t, on)
			stop()
			killer.Wait()
		})
	}
}

// kill ends sessions in the middle of transactions that have taken positions.
func kill(ctx context.Context, t *testing.T, on *subject) {
	random := rand.New(rand.NewPCG(1, 2))
	for killed := 0; ; killed++ {
		conn, err := pgx.ConnectConfig(context.Background(), on.db.Config().ConnConfig)
		if err != nil {
			t.Error(err)
			return
		}
		tx, err := conn.Begin(context.Background())
		if err == nil {
			err = on.appendTx(context.Background(), tx, stream(random), 1+random.IntN(5))
		}
		time.Sleep(time.Duration(random.IntN(200)) * time.Millisecond)
		if err == nil {
			_, err = on.db.Exec(context.Background(), "SELECT pg_terminate_backend($1)", int32(conn.PgConn().PID()))
		}
		conn.Close(context.Background())
		if err != nil && !isDeadlock(err) {
			t.Error(err)
			return
		}
		if ctx.Err() != nil {
			if killed == 0 {
				t.Error("nobody was killed: this run says nothing")
			}
			return
		}
	}
}
