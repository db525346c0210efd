// Demo brings a whole Sluice up on a cluster and shows it at work. Payments are posted. One pod is
// killed right after an append, another one in the middle of a batch. The processor is scaled, the
// view is corrected and replayed, and a bad version is rolled out and back. Everything is left
// running, with the commands to look further. `demo down` removes it.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/sluice-project/sluice/internal/system"
)

const (
	namespace = "default"
	processor = "kubernetes/default/payments" // as the store knows it
)

// demo is a running system.
type demo struct{ system.System }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	run := show
	if len(os.Args) > 1 && os.Args[1] == "down" {
		run = remove
	}
	if err := run(ctx); err != nil {
		fmt.Fprintf(os.Stderr, "\ndemo: %v\n", err)
		os.Exit(1)
	}
}

// show is the demo.
func show(ctx context.Context) error {
	began := time.Now()
	title("Bringing it up")
	d, err := install(ctx)
	if err != nil {
		return err
	}
	defer d.Database.Close()
	for _, act := range []struct {
		title string
		run   func(context.Context) error
	}{
		{"Payments are validated by Go code and listed by SQL", d.pay},
		{"A pod dies right after it has accepted a payment", d.crash},
		{"A pod dies in the middle of a projection's batch", d.crashInBatch},
		{"Scaling moves no more segments than it has to", d.scale},
		{"A correction of the view and its replay are one apply", d.replay},
		{"A version that dies comes to nothing", d.breaks},
	} {
		title(act.title)
		if err := act.run(ctx); err != nil {
			return fmt.Errorf("%s: %w", act.title, err)
		}
	}
	title("It goes on running")
	fmt.Printf(`  Everything above took %s. Look further:

    export KUBECONFIG=%s
    kubectl get eventprocessors,pods
    kubectl describe eventprocessor payments
    kubectl scale eventprocessor payments --replicas=4
    kubectl logs -l sluice.dev/processor=payments --tail=5
    psql '%s' -c 'SELECT * FROM payments ORDER BY created_at DESC LIMIT 5'

  make demo-down removes it.
`, time.Since(began).Round(time.Second), d.Kubeconfig, d.DatabaseURL)
	return nil
}

// install brings up cluster, database, operator and example.
func install(ctx context.Context) (*demo, error) {
	d := &demo{system.System{Root: "."}}
	for _, step := range []struct {
		name string
		run  func(context.Context) error
	}{
		{"a Kubernetes (make cluster)", d.Up},
		{"a PostgreSQL (make postgres)", d.StartDatabase},
		{"images of Sluice and the example", d.BuildImages},
		{"the operator, by its chart", d.InstallChart},
		{"kubectl apply of examples/payments, three replicas", d.applyExample},
	} {
		began := time.Now()
		if err := step.run(ctx); err != nil {
			return nil, fmt.Errorf("%s: %w", step.name, err)
		}
		say("%-62s %6.1f s", step.name, time.Since(began).Seconds())
	}
	return d, nil
}

func (d *demo) applyExample(ctx context.Context) error {
	manifests, err := d.Payments(system.PodURL)
	if err != nil {
		return err
	}
	if err := d.Apply(ctx, namespace, manifests); err != nil {
		return err
	}
	if _, err := d.Kubectl(ctx, "scale", "eventprocessor/payments", "--replicas=3"); err != nil {
		return err
	}
	if _, err := d.Kubectl(ctx, "wait", "--for=condition=Ready", "--timeout=3m", "eventprocessor/payments"); err != nil {
		return err
	}
	_, err = d.Settle(ctx, processor, 3)
	return err
}

// remove takes away what show has made.
func remove(ctx context.Context) error {
	d := &demo{system.System{Root: "."}}
	if os.Getenv("CONTEXT") == "" {
		_, err := d.Cluster(ctx, "down")
		return err
	}
	if err := d.Up(ctx); err != nil {
		return err
	}
	_, deleted := d.Kubectl(ctx, "delete", "--ignore-not-found", "eventprocessor/payments", "service/payments", "secret/payments-db")
	_, stopped := d.Cluster(ctx, "postgres-down")
	return errors.Join(deleted, d.UninstallChart(ctx), stopped)
}

func title(text string) { fmt.Printf("\n\033[1m%s\033[0m\n", text) }

func say(format string, args ...any) { fmt.Printf("  "+format+"\n", args...) }
