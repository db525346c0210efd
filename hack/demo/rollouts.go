package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/sluice-project/sluice/internal/system"
)

const (
	asPaid  = "(data ->> 'amount')::numeric"
	withTax = "round((data ->> 'amount')::numeric * 1.19, 2)"
)

// taxed are the example's manifests with a view that lists amounts with tax, and, where it has an id, the replay that makes it so
// from the first payment on.
func (d *demo) taxed(replay string) (string, error) {
	manifests, err := d.Payments(system.PodURL)
	if err != nil {
		return "", err
	}
	if strings.Count(manifests, asPaid) != 1 || strings.Count(manifests, "\n  template:\n") != 1 {
		return "", fmt.Errorf("the example's manifest is not as this demo expects it: %s and a template have to be in it, once", asPaid)
	}
	text := strings.Replace(manifests, asPaid, withTax, 1)
	if replay != "" {
		text = strings.Replace(text, "\n  template:\n", "\n  replay: {id: "+replay+", groups: [payments-view], context: {why: tax}}\n  template:\n", 1)
	}
	return text, nil
}

// replay corrects the view and replays it, in one apply.
func (d *demo) replay(ctx context.Context) error {
	id := "tax-" + time.Now().UTC().Format("20060102-150405") // an id runs once
	manifests, err := d.taxed(id)
	if err != nil {
		return err
	}
	before, err := d.tally(ctx)
	if err != nil {
		return err
	}
	began := time.Now()
	if err := d.Apply(ctx, namespace, manifests); err != nil {
		return err
	}
	say("kubectl apply of the view's new SQL, and in the same file: replay: {id: %s, groups: [payments-view]}", id)
	if err := d.Post(ctx, namespace, "100.00", "USD"); err != nil {
		return fmt.Errorf("posting a payment meanwhile: %w", err)
	}
	if _, err := d.Kubectl(ctx, "wait", "--for=create", "--timeout=1m", "replay/payments."+id); err != nil {
		return err
	}
	if _, err := d.Kubectl(ctx, "wait", "--for=condition=Complete", "--timeout=3m", "replay/payments."+id); err != nil {
		return err
	}
	after, err := d.decided(ctx, before.created+1)
	if err != nil {
		return err
	}
	wrong, again := 0, 0
	err = d.Database.QueryRow(ctx, `SELECT count(*) FILTER (WHERE p.amount <> round((e.data ->> 'amount')::numeric * 1.19, 2)),
		(SELECT total FROM sluice.replay WHERE id = $1) FROM payments p JOIN sluice.event e ON e.stream_id = p.id AND e.version = 1`, id).Scan(&wrong, &again)
	if err != nil {
		return err
	}
	if wrong > 0 {
		return fmt.Errorf("%d rows of the view are not the new definition's", wrong)
	}
	say("the new pods rolled out, the view was reset and %d positions were handled again; complete after %s", again, time.Since(began).Round(10*time.Millisecond))
	say("all %d rows are the new definition's; no payment was validated again", after.created)
	return nil
}

// breaks rolls out a version that dies, and goes back.
func (d *demo) breaks(ctx context.Context) error {
	good, err := d.taxed("")
	if err != nil {
		return err
	}
	bad := strings.Replace(good, "- {name: CRASH_CURRENCY, value: EUR}", "- {name: NO_RATE_FOR, value: USD}", 1)
	before, err := d.tally(ctx)
	if err != nil {
		return err
	}
	began := time.Now()
	if err := d.Apply(ctx, namespace, bad); err != nil {
		return err
	}
	posted := 0
	message := ""
	for !strings.HasPrefix(message, "RolloutFailed") {
		if time.Since(began) > 2*time.Minute {
			return fmt.Errorf("the rollout of a version that dies is not called failed after two minutes, but %q", message)
		}
		if err := d.Post(ctx, namespace, "10.00", "USD"); err != nil {
			return fmt.Errorf("posting a payment meanwhile: %w", err)
		}
		posted++
		if message, err = d.Kubectl(ctx, "get", "eventprocessor/payments", "-o", `jsonpath={range .status.conditions[?(@.type=="Stalled")]}{.reason}: {.message}{end}`); err != nil {
			return err
		}
	}
	say("a version whose pods die at their first payment was called failed after %s:", time.Since(began).Round(10*time.Millisecond))
	say("    %s", strings.ReplaceAll(message, "\n", "\n      "))
	after, err := d.decided(ctx, before.created+posted)
	if err != nil {
		return err
	}
	say("meanwhile %d payments were posted; the old pods decided on all of them, %d more than once", posted, after.twice)
	began = time.Now()
	if err := d.Apply(ctx, namespace, good); err != nil {
		return err
	}
	if _, err := d.Kubectl(ctx, "wait", "--for=condition=Ready", "--timeout=3m", "eventprocessor/payments"); err != nil {
		return err
	}
	say("kubectl apply of the version before: Ready again after %s", time.Since(began).Round(10*time.Millisecond))
	return nil
}
