package kubectl

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sluice-project/sluice/api/v1alpha1"
)

// statusFlags say what is shown.
type statusFlags struct {
	cluster    clusterFlags
	everywhere bool
	watch      bool
}

// watchEvery is the time between two screens.
const watchEvery = 2 * time.Second

// Status is the command that shows processors.
func Status() *cobra.Command {
	var f statusFlags
	cmd := &cobra.Command{
		Use:   "status [NAME]",
		Short: "Show EventProcessors of a cluster: what is wrong, groups, lag, owners",
		Long: "Show an EventProcessor, or all of a namespace: what is wrong, its groups, the owners of segments, calls that run\n" +
			"for long, and blocked segments. Figures of pods come through the API server. This needs the verb get of pods/proxy.",
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := f.cluster.connect()
			if err != nil {
				return err
			}
			return f.run(cmd, c, args)
		},
	}
	f.cluster.add(cmd)
	cmd.Flags().BoolVarP(&f.everywhere, "all-namespaces", "A", false, "show processors of all namespaces")
	cmd.Flags().BoolVarP(&f.watch, "watch", "w", false, "refresh every 2 s")
	return cmd
}

func (f *statusFlags) run(cmd *cobra.Command, c *cluster, args []string) error {
	ctx := cmd.Context()
	for {
		text, err := f.screens(ctx, c, args)
		if ctx.Err() != nil && f.watch {
			return nil
		}
		if err != nil {
			return err
		}
		if !f.watch {
			_, err = io.WriteString(cmd.OutOrStdout(), text)
			return err
		}
		fmt.Fprintf(cmd.OutOrStdout(), "\x1b[H\x1b[2J%s\n%s", time.Now().Format(time.TimeOnly), text)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(watchEvery):
		}
	}
}

func (f *statusFlags) screens(ctx context.Context, c *cluster, args []string) (string, error) {
	found, err := f.find(ctx, c, args)
	if err != nil {
		return "", err
	}
	if len(found) == 0 && f.everywhere {
		return "no EventProcessor in any namespace\n", nil
	}
	if len(found) == 0 {
		return fmt.Sprintf("no EventProcessor in namespace %s; -A looks everywhere\n", c.namespace), nil
	}
	var texts []string
	operator := c.queryOperator(ctx)
	for _, p := range found {
		seen := c.look(ctx, p)
		seen.operator = operator
		texts = append(texts, screen(seen))
	}
	return strings.Join(texts, "\n"), nil
}

func (f *statusFlags) find(ctx context.Context, c *cluster, args []string) ([]v1alpha1.EventProcessor, error) {
	if len(args) == 1 && !f.everywhere {
		p, err := c.processor(ctx, args[0])
		if err != nil {
			return nil, err
		}
		return []v1alpha1.EventProcessor{*p}, nil
	}
	var options []client.ListOption
	if !f.everywhere {
		options = append(options, client.InNamespace(c.namespace))
	}
	var list v1alpha1.EventProcessorList
	if err := c.List(ctx, &list, options...); err != nil {
		return nil, fmt.Errorf("looking for EventProcessors: %w", err)
	}
	var found []v1alpha1.EventProcessor
	for _, p := range list.Items {
		if len(args) == 0 || p.Name == args[0] {
			found = append(found, p)
		}
	}
	if len(found) == 0 && len(args) == 1 {
		return nil, fmt.Errorf("no EventProcessor %s in any namespace", args[0])
	}
	return found, nil
}

func (c *cluster) processor(ctx context.Context, name string) (*v1alpha1.EventProcessor, error) {
	var p v1alpha1.EventProcessor
	if err := c.Get(ctx, client.ObjectKey{Namespace: c.namespace, Name: name}, &p); err != nil {
		return nil, fmt.Errorf("looking for EventProcessor %s in namespace %s: %w", name, c.namespace, err)
	}
	return &p, nil
}
