package stores

import (
	"slices"

	"github.com/sluice-project/sluice/eventsource"
	"github.com/sluice-project/sluice/planner"
)

// toldWriters is how many open writers are told of.
const toldWriters = 5

// openWritersOf are those that live workers tell of, each once. Those that do not know since when one is open say when they saw it
// first, so the earliest time is the best.
func openWritersOf(outcome planner.Outcome) []eventsource.OpenWriter {
	earliest := map[string]eventsource.OpenWriter{}
	for _, worker := range outcome.View.Workers {
		if !worker.Alive {
			continue
		}
		for _, w := range worker.Report.OpenWriters {
			if known, there := earliest[w.Transaction]; !there || w.Since.Before(known.Since) {
				earliest[w.Transaction] = w
			}
		}
	}
	var open []eventsource.OpenWriter // nil where there are none, as facts are compared
	for _, w := range earliest {
		open = append(open, w)
	}
	slices.SortFunc(open, eventsource.OpenWriter.Compare)
	return open[:min(len(open), toldWriters)]
}
