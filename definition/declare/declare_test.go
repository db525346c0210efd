package declare_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-project/sluice/definition"
	"github.com/sluice-project/sluice/definition/declare"
	"github.com/sluice-project/sluice/progress"
	"github.com/sluice-project/sluice/tokenstore"
	"github.com/sluice-project/sluice/tokenstore/memory"
)

const orders = "test/default/orders"

func processorOf(t *testing.T, groups string) declare.Processor {
	t.Helper()
	document, err := definition.ParseYAML([]byte(`
apiVersion: sluice.dev/v1alpha1
kind: EventProcessor
metadata: {name: orders}
spec:
  store: {type: Postgres, postgres: {urlSecretRef: {name: unused}}}
  processingGroups:` + groups))
	if err != nil {
		t.Fatal(err)
	}
	return declare.Processor{Owner: tokenstore.Owner{Processor: orders}, Spec: document.Spec, Definition: document.Spec.Definition().ID(), Live: document.Spec.Live(1), Replicas: 2}
}

const view = `
  - name: view
    segments: 2
    initialPosition: {type: Position, position: "7"}
    handler: {type: Go}`

// atPosition starts groups where their spec says, in a source whose positions are numbers.
func atPosition(_ string, at progress.StartPosition) (progress.Progress, error) {
	if at.Type != progress.AtPosition || at.Position != "7" {
		return progress.Progress{}, errors.New("asked for another position")
	}
	return progress.Progress{Position: 7}, nil
}

func TestWriteDeclaresGroupsProcessorAndReplays(t *testing.T) {
	ctx, db := context.Background(), memory.New(time.Now)
	p := processorOf(t, view)
	for range 2 { // the second time changes nothing
		if err := declare.Write(ctx, db.Store(), db.Directory(), p, atPosition); err != nil {
			t.Fatal(err)
		}
	}
	tokens, err := db.Store().Tokens(ctx, orders)
	if err != nil || len(tokens) != 2 || tokens[0].Parts[0].Progress.Position != 7 {
		t.Errorf("tokens %+v, error %v", tokens, err)
	}
	known, err := db.Directory().View(ctx, orders)
	if err != nil || known.Processor.Definition != p.Definition || known.Processor.Replicas != 2 {
		t.Errorf("the processor is %+v, error %v", known.Processor, err)
	}
	p.Replays = []tokenstore.ReplayRequest{{ID: "again", Groups: []string{"view"}, From: progress.StartPosition{Type: progress.Earliest}, Definition: p.Definition, State: tokenstore.ReplayWanted}}
	if err := declare.Write(ctx, db.Store(), db.Directory(), p, atPosition); err != nil {
		t.Fatal(err)
	}
	replays, err := db.Store().Replays(ctx, orders)
	if err != nil || len(replays) != 1 || replays[0].ID != "again" {
		t.Errorf("replays %+v, error %v", replays, err)
	}
}

func TestWriteKeepsTheProcessorIfItsGroupsAreRefused(t *testing.T) {
	ctx, db := context.Background(), memory.New(time.Now)
	before := processorOf(t, view)
	if err := declare.Write(ctx, db.Store(), db.Directory(), before, atPosition); err != nil {
		t.Fatal(err)
	}
	before.Replays = []tokenstore.ReplayRequest{{ID: "again", Groups: []string{"view"}, From: progress.StartPosition{Type: progress.Earliest}, Definition: before.Definition, State: tokenstore.ReplayWanted}}
	if err := declare.Write(ctx, db.Store(), db.Directory(), before, atPosition); err != nil {
		t.Fatal(err)
	}
	after := processorOf(t, view+"\n    sequencing: {type: Sequential}")
	if after.Definition == before.Definition {
		t.Fatal("vacuous: the definitions are the same")
	}
	err := declare.Write(ctx, db.Store(), db.Directory(), after, atPosition)
	if _, is := errors.AsType[*tokenstore.SequencingChangedError](err); !is {
		t.Fatalf("a change of the sequencing without a replay: %v", err)
	}
	known, err := db.Directory().View(ctx, orders)
	if err != nil || known.Processor.Definition != before.Definition {
		t.Errorf("the processor is %+v, error %v", known.Processor, err)
	}
	replays, err := db.Store().Replays(ctx, orders)
	if diff := cmp.Diff([]tokenstore.Replay(nil), replays); diff != "" || err != nil {
		t.Errorf("the replay that is not requested any more is still there: %s, error %v", diff, err)
	}
}

func TestWriteNamesAnInvalidStartPosition(t *testing.T) {
	p := processorOf(t, view)
	p.Spec.ProcessingGroups[0].InitialPosition = definition.InitialPosition{Type: "Timestamp", Timestamp: "yesterday"}
	db := memory.New(time.Now)
	err := declare.Write(context.Background(), db.Store(), db.Directory(), p, atPosition)
	const want = `spec.processingGroups[0].initialPosition.timestamp: "yesterday" is not a time such as 2026-11-21T09:30:00Z`
	if err == nil || err.Error() != want {
		t.Errorf("got %v\nwant %s", err, want)
	}
}
