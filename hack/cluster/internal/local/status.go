//go:build linux

package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/sluice-project/sluice/hack/cluster/internal/process"
)

// Status writes what runs, and returns an error when the cluster as a whole does not.
func (c *Cluster) Status(ctx context.Context, out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	names := []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"}
	for _, n := range nodes(c.net) {
		names = append(names, n.process())
	}
	var dead []string
	for _, name := range append(names, "postgres") {
		id, err := process.ReadFile(pidFile(name))
		if err != nil {
			return err
		}
		state := "runs, process " + fmt.Sprint(id.PID)
		if !id.Alive() {
			state = "does not run"
			if name != "postgres" {
				dead = append(dead, name)
			}
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", name, state, logOf(name, c.net))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if len(dead) > 0 {
		return fmt.Errorf("%v do not run: `make cluster` starts them again", dead)
	}
	table, err := c.kubectl(ctx, nil, "get", "nodes", "-o", "wide")
	if err != nil {
		return errors.Join(errors.New("the API server does not answer: `make cluster` repairs it"), err)
	}
	_, err = fmt.Fprintf(out, "\n%s", table)
	return err
}

func logOf(name string, n Net) string {
	for _, node := range nodes(n) {
		if node.process() == name {
			return node.log("*")
		}
	}
	return logFile(name)
}
