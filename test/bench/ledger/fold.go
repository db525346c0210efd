package ledger

import (
	"bytes"
	"fmt"
	"strconv"

	"github.com/jackc/pgx/v5"

	"github.com/sluice-project/sluice/runtime/handler"
)

// Set adds many streams' events to a projection, whose name it leaves open; its arguments are a fold's columns.
const Set = `INSERT INTO %s AS a (stream_id, events, balance, hash, first, last, late)
	SELECT *, 0 FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[]) ` + OnConflict

// Folded makes a handler that adds a batch up in memory and queues one statement for a projection.
func Folded(table string) handler.Handler {
	sql := fmt.Sprintf(Set, table)
	return handler.Queue(func(batch *pgx.Batch, events []handler.Event) error {
		f := NewFold()
		for _, event := range events {
			if err := f.Add(event.Position, []byte(event.StreamID), event.Data); err != nil {
				return err
			}
		}
		batch.Queue(sql, f.Columns()...)
		return nil
	})
}

// Fold adds events up by stream.
type Fold struct {
	Count                                   int // of events
	at                                      map[string]int
	streams                                 []string
	events, balances, hashes, firsts, lasts []int64
}

// NewFold returns one without events.
func NewFold() *Fold { return &Fold{at: map[string]int{}} }

// Columns are the arguments of Set.
func (f *Fold) Columns() []any {
	return []any{f.streams, f.events, f.balances, f.hashes, f.firsts, f.lasts}
}

// Add adds an event, of a position above those before.
func (f *Fold) Add(position int64, stream, data []byte) error {
	amount, err := amountOf(data)
	if err != nil {
		return err
	}
	i, there := f.at[string(stream)]
	if !there {
		i = len(f.streams)
		name := string(stream)
		f.at[name] = i
		f.streams = append(f.streams, name)
		f.events, f.balances, f.hashes = append(f.events, 0), append(f.balances, 0), append(f.hashes, 0)
		f.firsts, f.lasts = append(f.firsts, position), append(f.lasts, 0)
	}
	f.Count++
	f.events[i]++
	f.balances[i] += amount
	f.hashes[i] += Hash(position, amount)
	f.lasts[i] = position
	return nil
}

var amountKey = []byte(`"amount": `)

// amountOf finds the amount in an event's data without decoding the rest.
func amountOf(data []byte) (int64, error) {
	at := bytes.Index(data, amountKey)
	if at < 0 {
		return 0, fmt.Errorf("no amount in %q", data)
	}
	digits := data[at+len(amountKey):]
	end := bytes.IndexAny(digits, ",}")
	return strconv.ParseInt(string(digits[:max(end, 0)]), 10, 64)
}
