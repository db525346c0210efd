// Program is built from both versions that are compared, with this same source: it uses nothing but
// Sluice's public package.
package main

import (
	"encoding/json"
	"os"

	"github.com/jackc/pgx/v5"

	"github.com/sluice-project/sluice"
)

func main() {
	sql := os.Getenv("BENCH_STATEMENT")
	sluice.Main(sluice.Handlers{"bench": sluice.Queue(func(batch *pgx.Batch, events []sluice.Event) error {
		for _, event := range events {
			var booked struct {
				Amount int64 `json:"amount"`
			}
			if err := json.Unmarshal(event.Data, &booked); err != nil {
				return err
			}
			batch.Queue(sql, event.StreamID, booked.Amount, event.Position%1_000_003*booked.Amount, event.Position)
		}
		return nil
	})})
}
