package kubectl

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sluice-project/sluice/api/v1alpha1"
)

// replayFlags say which replay is asked for, and whether to follow it.
type replayFlags struct {
	cluster clusterFlags
	groups  []string
	from    string
	told    map[string]string
	id      string
	noWait  bool
	follow  bool
}

// Replay is the command that has groups handle their events again.
func Replay() *cobra.Command {
	var f replayFlags
	cmd := &cobra.Command{
		Use:   "replay NAME --group GROUP [--group GROUP …]",
		Short: "Empty the projections of groups and handle their events again",
		Long: "Create a Replay of groups of an EventProcessor, and follow it until it is complete. Its reset empties the groups'\n" +
			"projections. Ctrl-C stops following, and the replay goes on. --follow with --id follows an existing one.\n\n" +
			"To replay together with a correction of the handler, set spec.replay in the manifest instead.",
		Example: "  kubectl sluice replay payments --group payments-view --tell why=rounding\n" +
			"  kubectl sluice replay payments --group payments-view --from timestamp=2026-11-01T00:00:00Z\n" +
			"  kubectl sluice replay payments --id 2026-11-21-093000 --follow",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := f.cluster.connect()
			if err != nil {
				return err
			}
			return f.run(cmd, c, args[0])
		},
	}
	f.cluster.add(cmd)
	flags := cmd.Flags()
	flags.StringArrayVar(&f.groups, "group", nil, "processing group to replay; may be repeated")
	flags.StringVar(&f.from, "from", "earliest", "start position: earliest, latest, position=N or timestamp=TIME (RFC 3339)")
	flags.StringToStringVar(&f.told, "tell", nil, "context for handlers, key=value; may be repeated")
	flags.StringVar(&f.id, "id", "", "id of the replay; each id runs once in a store (default: date and time)")
	flags.BoolVar(&f.noWait, "no-wait", false, "create the Replay and do not follow it")
	flags.BoolVar(&f.follow, "follow", false, "create nothing: follow the replay that --id names")
	return cmd
}

func (f *replayFlags) run(cmd *cobra.Command, c *cluster, name string) error {
	ctx := cmd.Context()
	p, err := c.processor(ctx, name)
	if err != nil {
		return err
	}
	if f.follow {
		return f.followOnly(cmd, c, p)
	}
	if len(f.groups) == 0 {
		return fmt.Errorf("--group is missing: name the groups to replay, such as --group %s", p.Spec.ProcessingGroups[0].Name)
	}
	for _, group := range f.groups {
		if _, err := groupIndex(p, group); err != nil {
			return err
		}
	}
	replay, err := f.create(ctx, c, p)
	if err != nil {
		return err
	}
	fmt.Fprintf(cmd.OutOrStdout(), "replay %s of %s created\n", replay.Name, strings.Join(f.groups, ", "))
	if f.noWait {
		return nil
	}
	return c.follow(ctx, cmd.OutOrStdout(), replay.Name, true)
}

func (f *replayFlags) followOnly(cmd *cobra.Command, c *cluster, p *v1alpha1.EventProcessor) error {
	if f.id == "" {
		return errors.New("--follow needs --id, the replay to follow")
	}
	for _, name := range []string{p.Name + "." + f.id, f.id} {
		err := c.Get(cmd.Context(), client.ObjectKey{Namespace: c.namespace, Name: name}, &v1alpha1.Replay{})
		if err == nil {
			return c.follow(cmd.Context(), cmd.OutOrStdout(), name, false)
		}
		if !apierrors.IsNotFound(err) {
			return fmt.Errorf("looking for Replay %s: %w", name, err)
		}
	}
	return fmt.Errorf("there is no Replay %s.%s, and none called %s", p.Name, f.id, f.id)
}

// create makes the Replay. The id that it gives is of this second, since the store may know ids of which no object is left; a
// number tells it from others of the same second.
func (f *replayFlags) create(ctx context.Context, c *cluster, p *v1alpha1.EventProcessor) (*v1alpha1.Replay, error) {
	from, err := parseFrom(f.from)
	if err != nil {
		return nil, err
	}
	told := map[string]v1alpha1.ContextValue{}
	for key, value := range f.told {
		told[key] = v1alpha1.ContextValue(value)
	}
	now := time.Now().UTC().Format("2006-01-02-150405")
	for n := 1; ; n++ {
		id := f.id
		switch {
		case id == "" && n == 1:
			id = now
		case id == "":
			id = fmt.Sprintf("%s-%d", now, n)
		}
		replay := &v1alpha1.Replay{ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: p.Name + "." + id},
			Spec: v1alpha1.ReplaySpec{ProcessorName: p.Name, Groups: f.groups, From: from, Context: told}}
		err := c.Create(ctx, replay, client.FieldOwner("kubectl-sluice"))
		switch {
		case err == nil:
			return replay, nil
		case apierrors.IsAlreadyExists(err) && f.id == "":
			continue
		case apierrors.IsAlreadyExists(err):
			return nil, fmt.Errorf("there is a Replay %s already: an id runs once; choose another one, or follow it with --follow --id %s", replay.Name, id)
		}
		return nil, fmt.Errorf("creating Replay %s: %w", replay.Name, err)
	}
}

// parseFrom reads --from.
func parseFrom(text string) (v1alpha1.ReplayFrom, error) {
	kind, value, given := strings.Cut(text, "=")
	switch {
	case strings.EqualFold(kind, "earliest") && !given:
		return v1alpha1.ReplayFrom{Type: v1alpha1.ReplayFromEarliest}, nil
	case strings.EqualFold(kind, "latest") && !given:
		return v1alpha1.ReplayFrom{Type: v1alpha1.ReplayFromLatest}, nil
	case strings.EqualFold(kind, "position") && value != "":
		return v1alpha1.ReplayFrom{Type: v1alpha1.ReplayFromPosition, Position: value}, nil
	case strings.EqualFold(kind, "timestamp"):
		at, err := time.Parse(time.RFC3339, value)
		if err != nil {
			return v1alpha1.ReplayFrom{}, fmt.Errorf("--from: %q is not a time such as timestamp=2026-11-21T09:30:00Z", value)
		}
		return v1alpha1.ReplayFrom{Type: v1alpha1.ReplayFromTimestamp, Timestamp: &metav1.Time{Time: at}}, nil
	}
	return v1alpha1.ReplayFrom{}, fmt.Errorf("--from: %q is none of earliest, latest, position=N and timestamp=TIME", text)
}
