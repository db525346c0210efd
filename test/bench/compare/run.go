package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sluice-project/sluice/test/bench/lab"
	"github.com/sluice-project/sluice/test/bench/ledger"
)

// scenario is work that both versions do.
type scenario struct {
	name    string
	handler string // of the processing group, with the projection's table left open
	share   int64  // of the events: one of so many is caught up on; 0 for live load
}

const sqlBatch = `
      type: SQL
      sql:
        statements:
        - eventTypes: [Booked]
          batch: |
            INSERT INTO %s AS a (stream_id, events, balance, hash, first, last, late)
            SELECT stream_id, count(*), sum(amount), sum(position %% 1000003 * amount), min(position), max(position), 0
            FROM (SELECT stream_id, position, (data ->> 'amount')::bigint AS amount FROM events) AS e GROUP BY stream_id
            ` + onConflict

const onConflict = `ON CONFLICT (stream_id) DO UPDATE SET events = a.events + excluded.events, balance = a.balance + excluded.balance, hash = a.hash + excluded.hash, first = excluded.first, last = excluded.last, late = a.late + (excluded.first <= a.last)::integer`

const goQueued = ` {type: Go, go: {handler: bench}} # %s`

var scenarios = []scenario{
	{name: "catching up, SQL batch", handler: sqlBatch, share: 1},
	{name: "catching up, Go, a queued statement an event", handler: goQueued, share: 4},
	{name: "live load, SQL batch", handler: sqlBatch},
	{name: "live load, Go, a queued statement an event", handler: goQueued},
}

const manifest = `apiVersion: sluice.dev/v1alpha1
kind: EventProcessor
metadata: {name: %[1]s}
spec:
  store: {type: Postgres, postgres: {urlSecretRef: {name: db}}}
  processingGroups:
  - name: %[1]s
    segments: 4
    initialPosition: %[2]s
    handler:%[3]s
`

// Live load is livePerSecond transactions a second of liveEvents events each.
const (
	livePerSecond = 200
	liveEvents    = 2
	liveStreams   = 1000
)

type bench struct {
	options
	server   *lab.Server
	dir      string
	versions []version
	runs     int
}

// version is one of Sluice with its database.
type version struct {
	*ledger.Ledger
	programs
}

func (b *bench) add(ctx context.Context, name string, p programs) error {
	l, err := b.ledgerOf(ctx, name, p)
	b.versions = append(b.versions, version{l, p})
	return err
}

// cost is CPU time in µs an event.
type cost struct{ client, server float64 }

// once runs a scenario with a version. What the program does to start and to end counts too, for
// both alike.
func (b *bench) once(ctx context.Context, v version, s scenario) (c cost, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	b.runs++
	table := fmt.Sprintf("run%d", b.runs)
	for _, sql := range []string{fmt.Sprintf(ledger.Projection, table), "CHECKPOINT"} {
		if _, err := v.DB.Exec(ctx, sql); err != nil {
			return c, err
		}
	}
	above, start := v.Events, "{type: Latest}"
	if s.share > 0 {
		above = v.Events - v.Events/s.share
		start = fmt.Sprintf("{type: Position, position: %q}", fmt.Sprint(above+1))
	}
	meter, err := b.server.Measure()
	if err != nil {
		return c, err
	}
	p, err := b.start(ctx, v, table, fmt.Sprintf(manifest, table, start, fmt.Sprintf(s.handler, table)))
	if err != nil {
		return c, err
	}
	if s.share == 0 {
		err = b.appendLive(ctx, v, table, p)
	}
	if err == nil {
		err = p.until(ctx, v, fmt.Sprintf("SELECT coalesce(sum(events), 0) >= %d FROM %s", v.Events-above, table))
	}
	client, ended := p.end()
	spent, metered := meter.Stop()
	if err := errors.Join(err, ended, metered); err != nil {
		return c, err
	}
	events := float64(v.Events - above)
	c = cost{float64(client.Microseconds()) / events, float64(spent.Server.Microseconds()) / events}
	return c, v.Verify(ctx, table, above)
}

// appendLive appends events at a steady rate once the program owns all segments.
func (b *bench) appendLive(ctx context.Context, v version, table string, p *program) error {
	above := v.Events
	owned := fmt.Sprintf("SELECT count(*) = 4 FROM sluice.token WHERE group_name = '%s' AND owner <> 0", table)
	if err := p.until(ctx, v, owned); err != nil {
		return err
	}
	tick := time.NewTicker(time.Second / livePerSecond)
	defer tick.Stop()
	for until := time.Now().Add(b.live); time.Now().Before(until); {
		batch := &pgx.Batch{} // one transaction
		for range liveEvents {
			at := v.Events - above // each stream in turn
			stream := fmt.Sprintf("%s-%d", table, at%liveStreams)
			batch.Queue(`INSERT INTO sluice.event (stream_id, version, type, data) VALUES ($1, $2, 'Booked', jsonb_build_object('account', $1::text, 'amount', 7))`,
				stream, at/liveStreams+1)
			v.Events++
		}
		if err := v.DB.SendBatch(ctx, batch).Close(); err != nil {
			return fmt.Errorf("appending events: %w", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// program runs a version's worker.
type program struct {
	cmd   *exec.Cmd
	log   string
	ended chan struct{}
	err   error
}

func (b *bench) start(ctx context.Context, v version, table, text string) (*program, error) {
	dir := filepath.Join(b.dir, table)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, "processor.yaml"), []byte(text), 0o644); err != nil {
		return nil, err
	}
	p := &program{log: filepath.Join(dir, "log"), ended: make(chan struct{})}
	out, err := os.Create(p.log)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	p.cmd = exec.CommandContext(ctx, v.bench, "dev", "-f", "processor.yaml", "--database-url", v.URL)
	p.cmd.Dir, p.cmd.Stdout, p.cmd.Stderr = dir, out, out
	p.cmd.Env = append(os.Environ(), "BENCH_STATEMENT="+fmt.Sprintf(ledger.One, table))
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.ended)
	}()
	return p, nil
}

// until waits until a question is answered by true. How often it asks is the same for both
// versions, and seldom enough to cost little.
func (p *program) until(ctx context.Context, v version, question string) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		var yes bool
		if err := v.DB.QueryRow(ctx, question).Scan(&yes); err != nil || yes {
			return err
		}
		select {
		case <-tick.C:
		case <-p.ended:
			text, err := os.ReadFile(p.log)
			return errors.Join(fmt.Errorf("the program ended before its work was done: %w\n%s", p.err, text), err)
		case <-ctx.Done():
			return fmt.Errorf("waiting for %q: %w", question, ctx.Err())
		}
	}
}

// end asks the program to end and returns the CPU time that it took in all.
func (p *program) end() (time.Duration, error) {
	err := p.cmd.Process.Signal(os.Interrupt)
	if errors.Is(err, os.ErrProcessDone) {
		err = nil
	}
	<-p.ended
	return p.cmd.ProcessState.UserTime() + p.cmd.ProcessState.SystemTime(), errors.Join(err, p.err)
}
