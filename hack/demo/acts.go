package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/sluice-project/sluice/internal/system"
)

// pay posts payments and waits until each has been decided on.
func (d *demo) pay(ctx context.Context) error {
	before, err := d.tally(ctx)
	if err != nil {
		return err
	}
	began := time.Now()
	const valid, invalid = 40, 5
	for i := range valid + invalid {
		amount := fmt.Sprintf("%d.00", i+1)
		if i >= valid {
			amount = "-1.00"
		}
		if err := d.Post(ctx, namespace, amount, "USD"); err != nil {
			return fmt.Errorf("posting a payment: %w", err)
		}
	}
	posted := time.Since(began)
	after, err := d.decided(ctx, before.created+valid+invalid)
	if err != nil {
		return err
	}
	say("posted %d payments in %s; the last one was in the view, decided, %s later", valid+invalid,
		posted.Round(time.Millisecond), (time.Since(began) - posted).Round(time.Millisecond))
	say("validated %d, rejected %d (their amounts are negative)", after.validated-before.validated, after.rejected-before.rejected)
	return nil
}

// tally counts what the log and the view hold.
type tally struct {
	created, answered, twice, validated, rejected, undecided int
}

func (d *demo) tally(ctx context.Context) (t tally, err error) {
	err = d.Database.QueryRow(ctx, `
		WITH payment AS (
		  SELECT stream_id, count(*) FILTER (WHERE type = 'PaymentCreated') AS created, count(*) FILTER (WHERE type <> 'PaymentCreated') AS answers
		    FROM sluice.event WHERE stream_id LIKE 'payment-%' GROUP BY stream_id)
		SELECT coalesce(sum(created), 0), count(*) FILTER (WHERE answers > 0), count(*) FILTER (WHERE answers > 1),
		  (SELECT count(*) FILTER (WHERE validated) FROM payments), (SELECT count(*) FILTER (WHERE NOT validated) FROM payments),
		  coalesce(sum(created), 0) - (SELECT count(*) FILTER (WHERE validated IS NOT NULL) FROM payments)
		FROM payment`).Scan(&t.created, &t.answered, &t.twice, &t.validated, &t.rejected, &t.undecided)
	return t, err
}

// decided waits until the log holds so many payments and each has been decided on, in the log once and in the view.
func (d *demo) decided(ctx context.Context, created int) (tally, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		t, err := d.tally(ctx)
		if err != nil {
			return t, err
		}
		if t.twice > 0 {
			return t, fmt.Errorf("%d payments were decided on twice", t.twice)
		}
		if t.created >= created && t.answered == t.created && t.undecided == 0 {
			return t, nil
		}
		select {
		case <-ctx.Done():
			return t, fmt.Errorf("payments are not decided on: %+v", t)
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// crash posts a payment in euros, which kills the pod that accepts it, and watches what becomes of its segments.
func (d *demo) crash(ctx context.Context) error {
	before, err := d.Owners(ctx, processor)
	if err != nil {
		return err
	}
	payments, err := d.tally(ctx)
	if err != nil {
		return err
	}
	died := time.Now() // at the earliest: what follows is measured from before the payment was sent
	if err := d.Post(ctx, namespace, "99.00", "EUR"); err == nil {
		return fmt.Errorf("the pod that accepted a payment in euros did not crash")
	}
	dead, count, stood, err := d.takenOver(ctx, before, died)
	if err != nil {
		return err
	}
	say("pod %s accepted a payment in euros and killed itself (SIGKILL) right after the append", dead)
	say("its %d segments stood still for %s at most, until other pods had claimed them", count, stood.Round(time.Millisecond))
	after, err := d.decided(ctx, payments.created+1)
	if err != nil {
		return err
	}
	say("the payment was validated by another pod, %s after the crash", time.Since(died).Round(time.Millisecond))
	say("%d payments in the log, %d decided on, %d more than once", after.created, after.answered, after.twice)
	return nil
}

// takenOver waits until another worker owns each segment of the one that died, and returns that one's pod, how many
// segments it had, and how long they stood still.
func (d *demo) takenOver(ctx context.Context, before system.Owners, died time.Time) (pod string, count int, stood time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		now, err := d.Owners(ctx, processor)
		if err != nil {
			return "", 0, 0, err
		}
		var dead system.Owner
		for key, of := range now {
			if of.Worker != before[key].Worker {
				dead = before[key]
			}
		}
		left := 0
		count = 0
		for key, of := range before {
			if of.Worker == dead.Worker {
				count++
				if now[key].Worker == dead.Worker || now[key].Worker == 0 {
					left++
				}
			}
		}
		if dead.Worker != 0 && left == 0 {
			return dead.Pod, count, time.Since(died), nil
		}
		select {
		case <-ctx.Done():
			return "", 0, 0, fmt.Errorf("the segments of the pod that died were not taken over within a minute")
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// scale goes from three pods to five and to two.
func (d *demo) scale(ctx context.Context) error {
	say("(segments that were taken over after a crash stay where they are for 30 s)")
	before, err := d.Settle(ctx, processor, 3)
	if err != nil {
		return err
	}
	for _, replicas := range []int{5, 2} {
		began := time.Now()
		if _, err := d.Kubectl(ctx, "scale", "eventprocessor/payments", fmt.Sprintf("--replicas=%d", replicas)); err != nil {
			return err
		}
		after, err := d.Settle(ctx, processor, replicas)
		if err != nil {
			return err
		}
		say("kubectl scale --replicas=%d: balanced after %s, %d of %d segments moved", replicas,
			time.Since(began).Round(10*time.Millisecond), after.Moved(before), len(after))
		table(after)
		before = after
	}
	return nil
}

// table prints segments by pod and group.
func table(all system.Owners) {
	pods := all.PerPod()
	groups := []string{"payments-view", "validation"}
	fmt.Printf("\n    %-32s %s\n", "segments of", strings.Join(groups, "   "))
	for _, pod := range slices.Sorted(maps.Keys(pods)) {
		fmt.Printf("    %-32s", pod)
		for _, g := range groups {
			fmt.Printf(" %-*d", len(g)+2, pods[pod][g])
		}
		fmt.Println()
	}
	fmt.Println()
}
