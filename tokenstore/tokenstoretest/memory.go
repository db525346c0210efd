package tokenstoretest

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/sluice-project/sluice/tokenstore"
	"github.com/sluice-project/sluice/tokenstore/memory"
)

// Memory is the store in memory. Its clock is the process's, but for Elapse.
func Memory() Harness {
	var elapsed atomic.Int64
	d := memory.New(func() time.Time { return time.Now().Add(time.Duration(elapsed.Load())) })
	put := func(tx *memory.Tx, rows map[string]string) error {
		for key, value := range rows {
			tx.Put(key, value)
		}
		return nil
	}
	return Harness{
		Store: d.Store(), Directory: d.Directory(), Membership: d.Membership(),
		Queue: func(s tokenstore.Statements, rows map[string]string) error { return put(s.(*memory.Tx), rows) },
		Write: func(_ context.Context, tx tokenstore.Tx, rows map[string]string) error {
			return put(tx.(*memory.Tx), rows)
		},
		Rows:   func(context.Context) (map[string]string, error) { return d.Rows(), nil },
		Elapse: func(_ context.Context, by time.Duration) error { elapsed.Add(int64(by)); return nil },
	}
}
