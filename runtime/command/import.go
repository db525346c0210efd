package command

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"github.com/sluice-project/sluice/definition"
	eventspostgres "github.com/sluice-project/sluice/eventsource/postgres"
	"github.com/sluice-project/sluice/runtime/axon"
	"github.com/sluice-project/sluice/tokenstore"
	"github.com/sluice-project/sluice/tokenstore/postgres"
)

// importFlags say whose tokens are taken over, and by which group.
type importFlags struct {
	database                           databaseFlags
	file, group, processor, table, end string
}

// Import is the command for progress that comes from other systems.
func Import() *cobra.Command {
	cmd := &cobra.Command{Use: "import", Short: "Take over the progress of another system's event processors", Args: cobra.NoArgs}
	var f importFlags
	command := &cobra.Command{
		Use:   "axon -f FILE --processor NAME",
		Short: "Take over the tokens of an event processor of Axon Framework",
		Long: "Take over the tokens of an event processor of Axon Framework as those of a processing group, which then handles each event that the processor has not\n" +
			"handled, and no other. The table of events has to be prepared (sluice source prepare), the processor stopped in every instance of the application,\n" +
			"and the EventProcessor not applied yet. Afterwards Axon finds its tokens claimed by \"" + axon.Owner + "\", for good.",
		Example: "  sluice import axon -f cards.yaml --processor com.example.cards --group card-balances",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return f.run(cmd) },
	}
	f.database.add(command)
	command.Flags().StringVarP(&f.file, "file", "f", "", "manifest of the EventProcessor")
	command.Flags().StringVar(&f.processor, "processor", "", "name of Axon's event processor, as in the column processor_name")
	command.Flags().StringVar(&f.group, "group", "", "processing group of the manifest; not needed where it has one")
	command.Flags().StringVar(&f.table, "token-table", "public.token_entry", "table of Axon's tokens, as schema.table")
	command.Flags().StringVar(&f.end, "ended-node", "", "node that has ended without releasing its claims; make sure that it has")
	cmd.AddCommand(command)
	return cmd
}

func (f *importFlags) run(cmd *cobra.Command) error {
	if f.processor == "" {
		return &usageError{errors.New("--processor is missing: name Axon's event processor, as in the column processor_name")}
	}
	source := sourceFlags{file: f.file}
	declared, err := source.source()
	if err != nil {
		return err
	}
	group, err := f.declaredGroup()
	if err != nil {
		return err
	}
	ctx := cmd.Context()
	pool, err := f.database.open(ctx)
	if err != nil {
		return err
	}
	defer pool.Close()
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("connecting to the database: %w", err)
	}
	defer conn.Release()
	events := eventspostgres.Open(pool, f.database.schema, declared)
	if err := events.Check(ctx); err != nil {
		return err
	}
	takeover := axon.Takeover{Table: f.table, Processor: f.processor, Node: f.end,
		Group: tokenstore.Group{Name: group.Name, Sequencing: group.Sequencing.Policy().String()},
		Given: events.Given, Adopt: postgres.NewStore(pool, f.database.schema).Adopt}
	tokens, err := takeover.Run(ctx, conn.Conn())
	if err != nil {
		return err
	}
	for _, t := range tokens {
		for _, p := range t.Parts {
			fmt.Fprintf(cmd.OutOrStdout(), "segment %s goes on after position %d\n", p.Segment, p.Progress.Position)
		}
	}
	fmt.Fprintf(cmd.OutOrStdout(), "group %s has taken over %d tokens of %s: apply the EventProcessor\n", group.Name, len(tokens), f.processor)
	return nil
}

// declaredGroup is the one of the manifest that takes the tokens over. Segments mean the same only by Axon's hash.
func (f *importFlags) declaredGroup() (definition.Group, error) {
	data, err := os.ReadFile(f.file)
	if err != nil {
		return definition.Group{}, fmt.Errorf("reading the manifest: %w", err)
	}
	document, err := definition.ParseYAML(data)
	if err != nil {
		return definition.Group{}, fmt.Errorf("%s: %w", f.file, err)
	}
	groups := document.Spec.ProcessingGroups
	i := slices.IndexFunc(groups, func(g definition.Group) bool { return g.Name == f.group || f.group == "" && len(groups) == 1 })
	if i < 0 {
		return definition.Group{}, &usageError{fmt.Errorf("%s has no processing group %q: name one of it by --group", f.file, f.group)}
	}
	if groups[i].Sequencing.Hash != definition.HashJava {
		return definition.Group{}, fmt.Errorf("%s: group %s has the hash %s, and Axon's segments mean something by Java's only: set sequencing.hash to Java", f.file, groups[i].Name, groups[i].Sequencing.Hash)
	}
	return groups[i], nil
}
