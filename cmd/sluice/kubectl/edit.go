package kubectl

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	"sigs.k8s.io/yaml"

	"github.com/sluice-project/sluice/api/v1alpha1"
)

// edit is a new value for one field of a processor, or of one of its groups.
type edit struct {
	group string // empty for a field of spec itself
	field string
	value any
}

// Segments is the command that shows or sets how many segments a group has.
func Segments() *cobra.Command {
	var f clusterFlags
	var processor string
	var count int32
	cmd := &cobra.Command{
		Use:   "segments GROUP -p NAME [--count N]",
		Short: "Show or set the number of segments of a group",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if cmd.Flags().Changed("count") {
				return f.edit(cmd, processor, edit{args[0], "segments", count})
			}
			return f.show(cmd, processor, args[0])
		},
	}
	f.add(cmd)
	cmd.Flags().StringVarP(&processor, "processor", "p", "", "EventProcessor of the group (required)")
	cmd.Flags().Int32Var(&count, "count", 0, "number of segments, 1 to 32767; powers of two share the load evenly")
	if err := cmd.MarkFlagRequired("processor"); err != nil {
		panic(err) // the flag is defined above
	}
	return cmd
}

// Pause is the command that keeps batches from beginning.
func Pause() *cobra.Command {
	return desiredState("pause NAME", "Pause a processor or a group: no batch begins, pods keep their segments", v1alpha1.DesiredStatePaused)
}

// Resume is the command that lets batches begin again.
func Resume() *cobra.Command {
	return desiredState("resume NAME", "Resume a processor or a group", v1alpha1.DesiredStateRunning)
}

func desiredState(use, short string, state v1alpha1.DesiredState) *cobra.Command {
	var f clusterFlags
	var group string
	cmd := &cobra.Command{
		Use: use, Short: short, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.edit(cmd, args[0], edit{group, "desiredState", state})
		},
	}
	f.add(cmd)
	cmd.Flags().StringVar(&group, "group", "", "only this processing group")
	return cmd
}

func (f *clusterFlags) show(cmd *cobra.Command, processor, group string) error {
	c, err := f.connect()
	if err != nil {
		return err
	}
	p, err := c.processor(cmd.Context(), processor)
	if err != nil {
		return err
	}
	i, err := groupIndex(p, group)
	if err != nil {
		return err
	}
	fmt.Fprintln(cmd.OutOrStdout(), p.Spec.ProcessingGroups[i].Segments)
	return nil
}

func (f *clusterFlags) edit(cmd *cobra.Command, processor string, e edit) error {
	c, err := f.connect()
	if err != nil {
		return err
	}
	p, err := c.processor(cmd.Context(), processor)
	if err != nil {
		return err
	}
	if _, err := groupIndex(p, e.group); e.group != "" && err != nil {
		return err
	}
	if manager := gitOps(p, e); manager != "" {
		text, err := toCommit(p, e)
		if err != nil {
			return err
		}
		fmt.Fprint(cmd.OutOrStdout(), text)
		return fmt.Errorf("nothing was changed: %s manages %s and would set it back; commit what is printed above to its source", manager, e)
	}
	if err := c.apply(cmd.Context(), p, e); err != nil {
		return err
	}
	fmt.Fprintf(cmd.OutOrStdout(), "eventprocessor %s: %s is %v\n", p.Name, e, e.value)
	return nil
}

// String names the field.
func (e edit) String() string {
	if e.group == "" {
		return "spec." + e.field
	}
	return fmt.Sprintf("spec.processingGroups[%s].%s", e.group, e.field)
}

func groupIndex(p *v1alpha1.EventProcessor, group string) (int, error) {
	var names []string
	for i, g := range p.Spec.ProcessingGroups {
		if g.Name == group {
			return i, nil
		}
		names = append(names, g.Name)
	}
	return -1, fmt.Errorf("EventProcessor %s has no group %s: choose one of %s", p.Name, group, strings.Join(names, ", "))
}

// apply sets the field and no other, if the group still stands where it was seen.
func (c *cluster) apply(ctx context.Context, p *v1alpha1.EventProcessor, e edit) error {
	type operation struct {
		Op    string `json:"op"`
		Path  string `json:"path"`
		Value any    `json:"value"`
	}
	operations := []operation{{"add", "/spec/" + e.field, e.value}}
	if e.group != "" {
		i, err := groupIndex(p, e.group)
		if err != nil {
			return err
		}
		at := fmt.Sprintf("/spec/processingGroups/%d/", i)
		operations = []operation{{"test", at + "name", e.group}, {"add", at + e.field, e.value}}
	}
	patch, err := json.Marshal(operations)
	if err != nil {
		return err
	}
	if err := c.Patch(ctx, p, client.RawPatch(types.JSONPatchType, patch), client.FieldOwner("kubectl-sluice")); err != nil {
		return fmt.Errorf("setting %s: %w", e, err)
	}
	return nil
}

// gitOpsManagers are the field managers of Argo CD and Flux.
var gitOpsManagers = []string{"argocd", "argocd-controller", "argocd-application-controller", "flux", "kustomize-controller", "helm-controller"}

// gitOps returns the GitOps tool that manages a field; empty if none does.
func gitOps(p *v1alpha1.EventProcessor, e edit) string {
	path := fieldpath.MakePathOrDie("spec", e.field)
	if e.group != "" {
		path = fieldpath.MakePathOrDie("spec", "processingGroups", fieldpath.KeyByFields("name", e.group), e.field)
	}
	for _, entry := range p.ManagedFields {
		if !slices.Contains(gitOpsManagers, entry.Manager) || entry.FieldsV1 == nil {
			continue
		}
		var set fieldpath.Set
		if err := set.FromJSON(strings.NewReader(string(entry.FieldsV1.GetRawBytes()))); err != nil {
			return entry.Manager // what cannot be read is rather left alone
		}
		if set.Has(path) {
			return entry.Manager
		}
	}
	return ""
}

// toCommit is the part of the manifest that says what is wanted.
func toCommit(p *v1alpha1.EventProcessor, e edit) (string, error) {
	spec := map[string]any{e.field: e.value}
	if e.group != "" {
		spec = map[string]any{"processingGroups": []any{map[string]any{"name": e.group, e.field: e.value}}}
	}
	text, err := yaml.Marshal(map[string]any{
		"apiVersion": v1alpha1.GroupVersion.String(), "kind": "EventProcessor",
		"metadata": map[string]any{"name": p.Name, "namespace": p.Namespace}, "spec": spec,
	})
	if err != nil {
		return "", fmt.Errorf("writing what to commit: %w", err)
	}
	return string(text), nil
}
