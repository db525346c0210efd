package command

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/jackc/pgx/v5/pgxpool"
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
	leaveDeadLetters                   bool
}

// Import is the command for progress that comes from other systems.
func Import() *cobra.Command {
	cmd := &cobra.Command{Use: "import", Short: "Import the progress of another system's event processors", Args: cobra.NoArgs}
	var f importFlags
	command := &cobra.Command{
		Use:   "axon -f FILE --processor NAME",
		Short: "Take over the tokens of an event processor of Axon Framework",
		Long: "Take over the tokens of an event processor of Axon Framework. The processing group then handles each event that the\n" +
			"processor has not handled, and no other. Before:\n\n" +
			"  - create the store (sluice migrate) and prepare the table of events (sluice source prepare)\n" +
			"  - have Axon process or evict the processor's dead letters\n" +
			"  - stop the processor in every instance of the application\n" +
			"  - do not apply the EventProcessor yet\n\n" +
			"All that is missing is reported at once. Afterwards Axon finds its tokens claimed by \"" + axon.Owner + "\", for good.",
		Example: "  sluice import axon -f cards.yaml --processor com.example.cards --group card-balances",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return f.run(cmd) },
	}
	f.database.add(command)
	command.Flags().StringVarP(&f.file, "file", "f", "", "manifest of the EventProcessor")
	command.Flags().StringVar(&f.processor, "processor", "", "name of Axon's event processor, as in the column processor_name")
	command.Flags().StringVar(&f.group, "group", "", "processing group of the manifest; not needed if there is only one")
	command.Flags().StringVar(&f.table, "token-table", "public.token_entry", "table of Axon's tokens, as schema.table")
	command.Flags().StringVar(&f.end, "ended-node", "", "node that has ended without releasing its claims; make sure that it has")
	command.Flags().BoolVar(&f.leaveDeadLetters, "leave-dead-letters", false, "take the tokens over although Axon has dead letters of the processor: they stay where they are, and nobody handles them")
	cmd.AddCommand(command)
	return cmd
}

func (f *importFlags) run(cmd *cobra.Command) error {
	var missing []error
	if f.processor == "" {
		missing = append(missing, errors.New("--processor is missing: name Axon's event processor, as in the column processor_name"))
	}
	if f.file == "" {
		missing = append(missing, errors.New("--file is missing: name the manifest of the EventProcessor"))
	}
	if len(missing) > 0 {
		return &usageError{errors.Join(missing...)}
	}
	data, err := os.ReadFile(f.file)
	if err != nil {
		return fmt.Errorf("reading the manifest: %w", err)
	}
	document, err := definition.ParseYAML(data)
	if err != nil {
		return fmt.Errorf("%s: %w", f.file, err)
	}
	group, problems := f.declaredGroup(document.Spec)
	ctx := cmd.Context()
	pool, err := f.database.connect(ctx)
	if err != nil {
		return &axon.MissingError{Problems: append(problems, err)}
	}
	defer pool.Close()
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("connecting to the database: %w", err)
	}
	defer conn.Release()
	problems = append(problems, f.checkStore(ctx, pool, document.Spec.Source)...)
	takeover := axon.Takeover{Table: f.table, Processor: f.processor, Node: f.end, LeaveDeadLetters: f.leaveDeadLetters,
		Group: tokenstore.Group{Name: group.Name, Sequencing: group.Sequencing.Policy().String()},
		Given: eventspostgres.Open(pool, f.database.schema, document.Spec.Source).Given, Adopt: postgres.NewStore(pool, f.database.schema).Adopt}
	result, err := takeover.Run(ctx, conn.Conn(), problems...)
	if err != nil {
		return err
	}
	out := cmd.OutOrStdout()
	for _, t := range result.Tokens {
		for _, p := range t.Parts {
			fmt.Fprintf(out, "segment %s goes on after position %d\n", p.Segment, p.Progress.Position)
		}
	}
	for _, l := range result.Left {
		fmt.Fprintf(out, "dead letters of %s stay in %s (%d), and nobody handles them\n", l.Group, l.Table, l.Count)
	}
	fmt.Fprintf(out, "group %s has taken over %d tokens of %s: apply the EventProcessor\n", group.Name, len(result.Tokens), f.processor)
	return nil
}

// declaredGroup is the one of the manifest that takes the tokens over, and what is wrong with it.
// Segments mean the same only by Axon's hash.
func (f *importFlags) declaredGroup(spec definition.Spec) (group definition.Group, problems []error) {
	if spec.Source.Table == nil {
		problems = append(problems, fmt.Errorf("%s: spec.source.type is %s, and Axon's events are in a table of their own: map it, with type Table", f.file, spec.Source.Type))
	}
	if spec.Source.Postgres != nil {
		problems = append(problems, fmt.Errorf("%s: the events are in a database of their own (spec.source.postgres), and tokens are taken over only where events and store are in one", f.file))
	}
	groups := spec.ProcessingGroups
	i := slices.IndexFunc(groups, func(g definition.Group) bool { return g.Name == f.group || f.group == "" && len(groups) == 1 })
	if i < 0 {
		return group, append(problems, fmt.Errorf("%s has no processing group %q: name one of it by --group", f.file, f.group))
	}
	if groups[i].Sequencing.Hash != definition.HashJava {
		problems = append(problems, fmt.Errorf("%s: group %s has the hash %s, and Axon's segments mean something by Java's only: set sequencing.hash to Java", f.file, groups[i].Name, groups[i].Sequencing.Hash))
	}
	return groups[i], problems
}

// checkStore returns what has to be done to the database before.
func (f *importFlags) checkStore(ctx context.Context, pool *pgxpool.Pool, source definition.Source) (problems []error) {
	check := eventspostgres.Open(pool, f.database.schema, source).Check
	if err := f.database.checkTable(ctx, pool); err != nil {
		problems = append(problems, err)
		check = func(ctx context.Context) error { return eventspostgres.CheckTable(ctx, pool, *source.Table) }
	}
	if source.Table == nil {
		return problems
	}
	if err := check(ctx); err != nil {
		problems = append(problems, err)
	}
	return problems
}
