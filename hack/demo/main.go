// Demo brings a whole Sluice up on a cluster and shows it at work: payments are posted, a pod is crashed, the processor is
// scaled. It leaves everything running, with the commands to look further. `demo down` removes it.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

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
	defer d.close()
	for _, act := range []struct {
		title string
		run   func(context.Context) error
	}{
		{"Payments are validated by Go code and listed by SQL", d.pay},
		{"A pod dies right after it has accepted a payment", d.crash},
		{"Scaling moves no more segments than it has to", d.scale},
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
`, time.Since(began).Round(time.Second), d.kubeconfig, d.databaseURL)
	return nil
}

func title(text string) { fmt.Printf("\n\033[1m%s\033[0m\n", text) }

func say(format string, args ...any) { fmt.Printf("  "+format+"\n", args...) }
