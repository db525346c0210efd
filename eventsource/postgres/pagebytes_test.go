package postgres_test

import (
	"context"
	"net"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/sluice-project/sluice/eventsource"
	"github.com/sluice-project/sluice/eventsource/postgres"
	"github.com/sluice-project/sluice/progress"
)

var earliest = progress.StartPosition{Type: progress.Earliest}

// insertSizes appends events whose data have about these sizes, in bytes.
func insertSizes(t *testing.T, db postgres.DB, sizes ...int) {
	t.Helper()
	exec(t, db, `INSERT INTO sluice.event (stream_id, version, type, data)
		SELECT 's', 1 + (SELECT count(*) FROM sluice.event) + n, 'T', to_jsonb(repeat('x', size)) FROM unnest($1::int[]) WITH ORDINALITY AS u (size, n)`, sizes)
}

func sizeOf(page eventsource.Page) (size int) {
	for i := range page.Events {
		size += page.Events[i].Size()
	}
	return size
}

// TestAPageEndsAtItsSize reads events of all sizes, and among them late ones: no page holds more than one event beyond the size, and
// each event is given once and in order.
func TestAPageEndsAtItsSize(t *testing.T) {
	db := database(t)
	late, err := db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := late.Exec(t.Context(), `INSERT INTO sluice.event (stream_id, version, type, data)
		SELECT 'late', n, 'T', to_jsonb(repeat('x', 400 * n)) FROM generate_series(1, 10) n`); err != nil {
		t.Fatal(err)
	}
	insertSizes(t, db, 10, 10_000, 10, 10, 300, 900, 1, 5_000, 5_000, 1, 1, 1)
	sizes := []int64{1, 1000, 100_000}
	var readers []*reader
	for _, bytes := range sizes {
		r := newReader(t, postgres.NewSource(db, schema).WithPageBytes(bytes), earliest)
		readers = append(readers, r)
		readPages(t, r, bytes, 11, 12)
	}
	if err := late.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i, r := range readers {
		readPages(t, r, sizes[i], 1, 10)
	}
}

// readPages reads to the end, and wants a number of positions.
func readPages(t *testing.T, r *reader, bytes, first, want int64) {
	t.Helper()
	var got []int64
	for more := true; more; {
		page := r.next(1000)
		more = page.More
		n := len(page.Events)
		if size := int64(sizeOf(page)); n > 1 && size-int64(page.Events[n-1].Size()) >= bytes {
			t.Errorf("pages of %d bytes: one has %d events of %d", bytes, n, size)
		}
		for _, e := range page.Events {
			got = append(got, e.Position)
		}
	}
	if int64(len(got)) != want || got[0] != first || got[want-1] != first+want-1 {
		t.Errorf("pages of %d bytes: got the positions %v, want %d from %d", bytes, got, want, first)
	}
}

// TestTheServerIsStoppedWhereMuchMoreFollows reads pages of few events out of hundreds: the server sends little of the rest, and the
// connection serves on.
func TestTheServerIsStoppedWhereMuchMoreFollows(t *testing.T) {
	const size, count = 200_000, 500
	db := database(t)
	sizes := make([]int, count)
	for i := range sizes {
		sizes[i] = size
	}
	insertSizes(t, db, sizes...)
	config := db.Config().ConnConfig.Copy()
	var received atomic.Int64
	config.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, address)
		return counting{conn, &received}, err
	}
	conn, err := pgx.ConnectConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context()))
	r := newReader(t, postgres.NewSource(conn, schema).WithPageBytes(1_000_000), earliest)
	for i := range int64(4) {
		before := received.Load()
		page := r.next(2000)
		if len(page.Events) != 5 || page.Events[0].Position != 1+5*i || !page.More {
			t.Fatalf("%d events from %d on, more: %t", len(page.Events), page.Events[0].Position, page.More)
		}
		if got := received.Load() - before; got > count*size/3 {
			t.Errorf("the server sent %d bytes for a page of 1,000,000", got)
		}
	}
}

// counting counts what is received.
type counting struct {
	net.Conn
	received *atomic.Int64
}

func (c counting) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.received.Add(int64(n))
	return n, err
}
