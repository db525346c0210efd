// Misbehave is a program for the end-to-end tests. Each of its handlers misbehaves at events whose
// data name it, such as {"bad": "commits"}, until the table mended has a row with its name.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sluice-project/sluice"
)

func main() {
	sluice.Main(sluice.Handlers{
		"waits":   misbehaving("waits", wait),
		"commits": misbehaving("commits", commit),
		"exits":   misbehaving("exits", exit),
	})
}

// payload is an event's data.
type payload struct {
	Bad     string `json:"bad"`
	Seconds int    `json:"seconds"`
}

// misbehaving makes a handler that writes each event into the table seen, and misbehaves first at
// events that say so.
func misbehaving(name string, misbehave func(context.Context, pgx.Tx, payload) error) sluice.Handler {
	return sluice.Each(func(ctx context.Context, tx pgx.Tx, e sluice.Event) error {
		var p payload
		if err := json.Unmarshal(e.Data, &p); err != nil {
			return fmt.Errorf("reading the data: %w", err)
		}
		if p.Bad == name {
			var mended bool
			err := tx.QueryRow(ctx, "SELECT EXISTS (SELECT FROM mended WHERE name = $1)", name).Scan(&mended)
			if err != nil {
				return err
			}
			if !mended {
				if err := misbehave(ctx, tx, p); err != nil {
					return err
				}
			}
		}
		_, err := tx.Exec(ctx, "INSERT INTO seen (name, position, stream) VALUES ($1, $2, $3)", name, e.Position, e.StreamID)
		return err
	}, "Counted")
}

// wait stays in the transaction, as a call of a slow service does that takes no context.
func wait(_ context.Context, _ pgx.Tx, p payload) error {
	time.Sleep(time.Duration(p.Seconds) * time.Second)
	return nil
}

func commit(ctx context.Context, tx pgx.Tx, _ payload) error {
	_, err := tx.Exec(ctx, "COMMIT")
	return err
}

// exit ends the process, as a fault in a goroutine does, which no handler can recover from.
func exit(context.Context, pgx.Tx, payload) error {
	go func() {
		var nowhere *int
		*nowhere = 1
	}()
	select {}
}
