package lab

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/sluice-project/sluice/progress"
	"github.com/sluice-project/sluice/runtime/worker"
)

// CatchUp is what a processor spent to go through events that were there before it.
type CatchUp struct {
	Took time.Duration // from the beginning of the first batch, when the first page has been read, to the commit of the last one
	Cost Cost          // from before the worker started
}

// CatchUp declares the processor at a position, has a worker in this process handle that many events, and drops it again. Claiming
// segments is not part of the time. OnBatch is called too, where it is set. It fails where the events take longer than most.
func (p *Processor) CatchUp(ctx context.Context, server *Server, position, events int64, most time.Duration) (CatchUp, error) {
	c := &counted{events: events, ended: make(chan struct{}), next: p.OnBatch}
	observed := *p
	observed.OnBatch = c.batch
	if err := p.Declare(ctx, progress.StartPosition{Type: progress.AtPosition, Position: strconv.FormatInt(position, 10)}); err != nil {
		return CatchUp{}, err
	}
	running, stop := context.WithCancel(ctx)
	defer stop()
	done := make(chan error, 1)
	meter, err := server.Measure()
	if err != nil {
		return CatchUp{}, err
	}
	go func() { done <- observed.Run(running, "bench") }()
	select {
	case err := <-done:
		return CatchUp{}, fmt.Errorf("the worker ended: %w", err)
	case <-time.After(most):
		return CatchUp{}, fmt.Errorf("not all of %d events were handled in %s", events, most)
	case <-c.ended:
	}
	cost, err := meter.Stop()
	if err != nil {
		return CatchUp{}, err
	}
	stop()
	if err := <-done; err != nil {
		return CatchUp{}, err
	}
	if c.handled != events {
		return CatchUp{}, fmt.Errorf("%d events were handled of %d", c.handled, events)
	}
	return CatchUp{Took: c.took, Cost: cost}, p.Drop(ctx)
}

// counted counts the events of batches.
type counted struct {
	events int64
	ended  chan struct{}
	next   func(worker.Batch)

	mu      sync.Mutex
	first   time.Time
	handled int64
	took    time.Duration // 0 until all were handled
}

func (c *counted) batch(b worker.Batch) {
	if c.next != nil {
		c.next(b)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if b.Err != nil {
		fmt.Fprintf(os.Stderr, "  a batch failed: %v\n", b.Err)
		return
	}
	if c.first.IsZero() {
		c.first = time.Now().Add(-b.Took)
	}
	if c.handled += int64(b.Events); c.handled >= c.events && c.took == 0 {
		c.took = time.Since(c.first)
		close(c.ended)
	}
}
