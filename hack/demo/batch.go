package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sluice-project/sluice/internal/system"
	"github.com/sluice-project/sluice/segment"
)

const (
	view = "payments-view"

	// slowAmount is the amount of the payment whose insert into the view is slow.
	slowAmount = "77.77"

	// slow makes the first insert of that payment into the view take a minute. The sequence counts
	// the transactions that have begun to insert it, since no rollback takes its numbers back. The
	// table counts those that have committed.
	slow = `
		CREATE SEQUENCE demo_begun;
		CREATE TABLE demo_committed (payment text NOT NULL);
		CREATE FUNCTION demo_slow() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN
		  INSERT INTO demo_committed VALUES (NEW.id);
		  IF nextval('demo_begun') = 1 THEN PERFORM pg_sleep(60); END IF;
		  RETURN NEW;
		END $$;
		CREATE TRIGGER demo_slow BEFORE INSERT ON payments FOR EACH ROW WHEN (NEW.amount = ` + slowAmount + `)
		  EXECUTE FUNCTION demo_slow()`
	notSlow = `
		DROP TRIGGER IF EXISTS demo_slow ON payments;
		DROP FUNCTION IF EXISTS demo_slow;
		DROP TABLE IF EXISTS demo_committed;
		DROP SEQUENCE IF EXISTS demo_begun`
)

// crashInBatch posts a payment to the view and kills the pod that owns its segment during the
// insert. It shows that another pod handles the batch again, and that it commits once.
func (d *demo) crashInBatch(ctx context.Context) (err error) {
	if _, err := d.Database.Exec(ctx, notSlow+";"+slow); err != nil { // an earlier demo may have been interrupted
		return fmt.Errorf("making the view slow: %w", err)
	}
	defer func() {
		// Also after Ctrl-C: the view stays slow otherwise.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		_, dropped := d.Database.Exec(ctx, notSlow)
		err = errors.Join(err, dropped)
	}()
	before, err := d.tally(ctx)
	if err != nil {
		return err
	}
	owners, err := d.Owners(ctx, processor)
	if err != nil {
		return err
	}
	payment, err := d.PostTo(ctx, namespace, anyPod(owners), slowAmount, "USD")
	if err != nil {
		return fmt.Errorf("posting a payment: %w", err)
	}
	key, err := d.segmentOf(ctx, payment)
	if err != nil {
		return err
	}
	if _, err := d.until(ctx, "the view's batch begins", func(b batch) bool { return b.begun == 1 }); err != nil {
		return err
	}
	if owners, err = d.Owners(ctx, processor); err != nil {
		return err
	}
	victim := owners[key]
	say("%s is in segment %d of %s; its owner %s has begun to insert it", payment, key.Segment, view, victim.Pod)

	died := time.Now() // at the earliest
	if _, err := d.PostTo(ctx, namespace, victim.Pod, "99.00", "EUR"); err == nil {
		return fmt.Errorf("pod %s accepted a payment in euros and did not crash", victim.Pod)
	}
	if _, err := d.until(ctx, "another pod finishes the batch", func(b batch) bool { return b.committed > 0 }); err != nil {
		return err
	}
	finished := time.Since(died)
	after, err := d.decided(ctx, before.created+2)
	if err != nil {
		return err
	}
	if owners, err = d.Owners(ctx, processor); err != nil {
		return err
	}
	b, err := d.batch(ctx)
	if err != nil {
		return err
	}
	heir := owners[key]
	if heir.Worker == victim.Worker || heir.Worker == 0 {
		return fmt.Errorf("no other pod has taken segment %d of %s over from %s", key.Segment, view, victim.Pod)
	}
	if b != (batch{begun: 2, committed: 1}) {
		return fmt.Errorf("the batch was begun %d times and committed %d times, not twice and once", b.begun, b.committed)
	}
	say("%s was killed (SIGKILL) in the middle of the insert; %s took the segment over", victim.Pod, heir.Pod)
	say("and finished the batch %s after the kill: begun twice, committed once", finished.Round(time.Millisecond))
	say("%d payments in the log, %d decided on, %d more than once", after.created, after.answered, after.twice)
	return nil
}

// anyPod is a pod that owns segments.
func anyPod(owners system.Owners) string {
	for _, of := range owners {
		if of.Pod != "" {
			return of.Pod
		}
	}
	return ""
}

// segmentOf finds the view's segment that a stream belongs to.
func (d *demo) segmentOf(ctx context.Context, stream string) (system.SegmentKey, error) {
	rows, err := d.Database.Query(ctx, "SELECT segment, mask FROM sluice.token WHERE group_name = $1", view)
	if err != nil {
		return system.SegmentKey{}, err
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[segment.Segment])
	if err != nil {
		return system.SegmentKey{}, err
	}
	for _, s := range all {
		if s.Contains(segment.PG1(stream)) {
			return system.SegmentKey{Group: view, Segment: int(s.ID)}, nil
		}
	}
	return system.SegmentKey{}, fmt.Errorf("no segment of %s has the stream %s", view, stream)
}

// batch says how often the insert of the slow payment has begun and committed.
type batch struct{ begun, committed int }

func (d *demo) batch(ctx context.Context) (b batch, err error) {
	err = d.Database.QueryRow(ctx, `
		SELECT CASE WHEN is_called THEN last_value ELSE 0 END, (SELECT count(*) FROM demo_committed) FROM demo_begun`).
		Scan(&b.begun, &b.committed)
	return b, err
}

// until waits for something to hold of the batch.
func (d *demo) until(ctx context.Context, what string, holds func(batch) bool) (batch, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		b, err := d.batch(ctx)
		if err != nil || holds(b) {
			return b, err
		}
		select {
		case <-ctx.Done():
			return b, fmt.Errorf("waited 30 s until %s: begun %d times, committed %d times", what, b.begun, b.committed)
		case <-time.After(2 * time.Millisecond):
		}
	}
}
