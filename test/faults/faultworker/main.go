// Faultworker is the program that the fault tests run, kill and freeze.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sluice-project/sluice"
	eventlog "github.com/sluice-project/sluice/eventsource/postgres"
)

// fail ends the process, or panics, as FAULT says: "exit" or "panic", at every event, or with ":" and a stream only at that one's
// third.
func fail(e sluice.Event) {
	how, stream, some := strings.Cut(os.Getenv("FAULT"), ":")
	if some && (e.StreamID != stream || e.Version != 3) {
		return
	}
	switch how {
	case "exit":
		log.Fatalf("failing at %s %d", e.StreamID, e.Version)
	case "panic":
		panic("failing at " + e.StreamID)
	}
}

// tellTime logs what this process's clock reads, next to what the kernel says, which no change of package time disturbs.
func tellTime() {
	began, first := time.Now(), kernelTime()
	for range time.Tick(200 * time.Millisecond) {
		wall, elapsed, kernel := time.Now().UnixNano(), time.Since(began), kernelTime()
		fmt.Fprintf(os.Stderr, "clock: off by %d ns, has gone %d ns in %d ns\n", wall-kernel, elapsed, kernel-first)
	}
}

func kernelTime() int64 {
	var t syscall.Timeval
	if err := syscall.Gettimeofday(&t); err != nil {
		log.Fatal(err)
	}
	return t.Nano()
}

func main() {
	if os.Getenv("SLUICE_TEST_CLOCK") != "" {
		go tellTime()
	}
	events := eventlog.NewLog(nil, "sluice") // appends in the handlers' transactions only
	sluice.Main(sluice.Handlers{
		// answer appends an event for each one counted: at version + n it would conflict if it came twice. Where the event
		// says so, this pod then does nothing more, with what it has written locked.
		"answer": sluice.Each(func(ctx context.Context, tx pgx.Tx, e sluice.Event) error {
			fail(e)
			_, err := events.AppendTx(ctx, tx, "answer-"+e.StreamID, eventlog.Exactly(e.Version-1), eventlog.NewEvent{Type: "Answered"})
			var data struct{ Hang string }
			if err := json.Unmarshal(e.Data, &data); err != nil {
				return err
			}
			if data.Hang == os.Getenv("SLUICE_POD") {
				<-ctx.Done()
				return ctx.Err()
			}
			return err
		}, "Counted"),
	})
}
