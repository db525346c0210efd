package eventfile

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/sluice-project/sluice/eventsource/postgres"
)

// Reached is the version that a stream has after an append.
type Reached struct {
	Stream  string
	Version postgres.Version
}

// Append adds events to their streams within a transaction, in their order, whatever versions the streams have. It returns
// the streams in the order of their first events. Neighbours of one stream are one statement.
func Append(ctx context.Context, log *postgres.Log, tx pgx.Tx, events []Event) ([]Reached, error) {
	var reached []Reached
	place := map[string]int{}
	for from := 0; from < len(events); {
		stream, to := events[from].Stream, from
		var same []postgres.NewEvent
		for ; to < len(events) && events[to].Stream == stream; to++ {
			same = append(same, events[to].NewEvent)
		}
		version, err := log.AppendTx(ctx, tx, stream, postgres.Any, same...)
		if err != nil {
			return nil, err
		}
		if _, known := place[stream]; !known {
			place[stream] = len(reached)
			reached = append(reached, Reached{Stream: stream})
		}
		reached[place[stream]].Version = version
		from = to
	}
	return reached, nil
}
