package memory

import (
	"context"
	"fmt"

	"github.com/sluice-project/sluice/eventsource"
	"github.com/sluice-project/sluice/eventsource/memory"
	"github.com/sluice-project/sluice/progress"
	"github.com/sluice-project/sluice/segment"
)

// source is a log's source whose calls travel.
type source struct {
	memory.Source
	connection *connection
}

// Start implements eventsource.Source.
func (s source) Start(ctx context.Context, at progress.StartPosition) (progress.Progress, error) {
	return ask(ctx, s.connection, Call{"Start", "", false}, func() (progress.Progress, error) { return s.Source.Start(ctx, at) })
}

// Read implements eventsource.Source.
func (s source) Read(ctx context.Context, from []eventsource.Coverage, segments []segment.Segment, limit int) (eventsource.Page, error) {
	return ask(ctx, s.connection, Call{"Read", fmt.Sprint(from, segments), false}, func() (eventsource.Page, error) { return s.Source.Read(ctx, from, segments, limit) })
}

// Head implements eventsource.Source.
func (s source) Head(ctx context.Context) (eventsource.Coverage, error) {
	return ask(ctx, s.connection, Call{"Head", "", false}, func() (eventsource.Coverage, error) { return s.Source.Head(ctx) })
}

// Check implements eventsource.Checker.
func (s source) Check(ctx context.Context) error {
	return s.connection.do(ctx, Call{"Check", "", false}, func() error { return s.Source.Check(ctx) })
}
