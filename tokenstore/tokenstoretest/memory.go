package tokenstoretest

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/sluice-project/sluice/progress"
	"github.com/sluice-project/sluice/tokenstore"
	"github.com/sluice-project/sluice/tokenstore/memory"
)

// Memory is the store in memory. Its clock is the process's, but for Elapse.
func Memory() Harness {
	var elapsed atomic.Int64
	d := memory.New(func() time.Time { return time.Now().Add(time.Duration(elapsed.Load())) })
	put := func(rows map[string]string, fail error) func(*memory.Tx) error {
		return func(tx *memory.Tx) error {
			for key, value := range rows {
				tx.Put(key, value)
			}
			return fail
		}
	}
	return Harness{
		Store: d.Store(), Directory: d.Directory(),
		Commit: func(ctx context.Context, advances []tokenstore.Advance, rows map[string]string) error {
			return d.Store().InTx(ctx, advances, put(rows, nil))
		},
		Reset: func(ctx context.Context, processor string, r tokenstore.Replay, n progress.Algebra, start progress.Progress, rows map[string]string, fail error) error {
			return d.Store().Reset(ctx, processor, r, n, start, put(rows, fail))
		},
		Rows: func(context.Context) (map[string]string, error) { return d.Rows(), nil },
		OpenSession: func(context.Context) (int64, func(), error) {
			s := d.OpenSession()
			return s.Incarnation(), s.Close, nil
		},
		Elapse: func(_ context.Context, by time.Duration) error { elapsed.Add(int64(by)); return nil },
	}
}
