package definition_test

import (
	"encoding/json"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-project/sluice/definition"
)

func liveGroup(name string) definition.LiveGroup {
	return definition.LiveGroup{Name: name, Segments: 8, MaxBatchSize: 20, Timeout: "30s", DesiredState: definition.Paused,
		OnError: definition.OnError{MaxAttempts: 3, Backoff: definition.Backoff{Initial: "5s", Max: "10s"}, Then: definition.ThenBlock}}
}

// laterVersion reads settings as an operator of a later version writes them.
func laterVersion(t *testing.T, before definition.Live) (definition.Live, []string) {
	t.Helper()
	data, err := os.ReadFile("testdata/live/later-version.json")
	if err != nil {
		t.Fatal(err)
	}
	live, problems := definition.ParseLive(data, before)
	var texts []string
	for _, p := range problems {
		texts = append(texts, p.String())
	}
	return live, texts
}

var laterProblems = []string{
	`desiredState: Unsupported value: "Suspended": supported values: "Running", "Paused"`,
	`lease: must be a duration from 2s to 1m, such as 5s`,
	`errorDetails: Unsupported value: "Redacted": supported values: "Hidden", "Shown"`,
	`groups[audit].segments: should be less than or equal to 32767`,
	`groups[audit].maxBatchSize: the value "Auto" cannot be read`,
	`groups[audit].timeout: must be 0s for no limit, or a duration from 100ms to 24h, such as 30s or 1m30s`,
	`groups[audit].desiredState: Unsupported value: "Draining": supported values: "Running", "Paused"`,
	`groups[audit].onError.maxAttempts: should be greater than or equal to 1`,
	`groups[audit].onError.backoff.max: must be a duration from 10ms to 1h, such as 500ms or 1m30s`,
	`groups[audit].onError.then: Unsupported value: "DeadLetter": supported values: "Block"`,
	`groups[2].name: Required value`,
}

func TestParseLiveKeepsTheBehaviourFromBeforeForValuesOfALaterVersion(t *testing.T) {
	before := definition.Live{Generation: 11, DesiredState: definition.Paused, Lease: "7s", ErrorDetails: definition.DetailsShown,
		Groups: []definition.LiveGroup{liveGroup("audit"), liveGroup("view")}}
	got, problems := laterVersion(t, before)
	want := before
	want.Generation = 12
	want.Groups = []definition.LiveGroup{liveGroup("audit"), {Name: "view", Segments: 32, MaxBatchSize: 50, Timeout: "10s", DesiredState: definition.Paused,
		OnError: definition.OnError{MaxAttempts: 7, Backoff: definition.Backoff{Initial: "2s", Max: "4s"}, Then: definition.ThenBlock}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("settings (-want +got)\n%s", diff)
	}
	if diff := cmp.Diff(laterProblems, problems); diff != "" {
		t.Errorf("problems (-want +got)\n%s", diff)
	}
}

func TestParseLiveTakesDefaultsForValuesOfALaterVersionAtFirst(t *testing.T) {
	got, problems := laterVersion(t, definition.Live{})
	want := definition.Live{Generation: 12, DesiredState: definition.Running, Groups: []definition.LiveGroup{
		{Name: "audit", Segments: 16, MaxBatchSize: 5000, DesiredState: definition.Running,
			OnError: definition.OnError{MaxAttempts: 5, Backoff: definition.Backoff{Initial: "1s", Max: "1m0s"}, Then: definition.ThenBlock}},
		{Name: "view", Segments: 32, MaxBatchSize: 50, Timeout: "10s", DesiredState: definition.Paused,
			OnError: definition.OnError{MaxAttempts: 7, Backoff: definition.Backoff{Initial: "2s", Max: "4s"}, Then: definition.ThenBlock}}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("settings (-want +got)\n%s", diff)
	}
	if diff := cmp.Diff(laterProblems, problems); diff != "" {
		t.Errorf("problems (-want +got)\n%s", diff)
	}
}

func TestParseLiveKeepsEverythingOfADocumentThatIsNoObject(t *testing.T) {
	before := exampleSpec().Live(7)
	for _, data := range []string{`[]`, `"x"`, `{"generation": `, ``} {
		got, problems := definition.ParseLive([]byte(data), before)
		if diff := cmp.Diff(before, got); diff != "" || len(problems) != 1 {
			t.Errorf("%s: %v\n%s", data, problems, diff)
		}
	}
}

// TestParseLiveReadsOlderSettings has neither a lease nor a time limit, which came later.
func TestParseLiveReadsOlderSettings(t *testing.T) {
	data := []byte(`{"generation":3,"desiredState":"Running","groups":[{"name":"view","segments":4,"maxBatchSize":10,"desiredState":"Running",
		"onError":{"maxAttempts":5,"backoff":{"initial":"1s","max":"1m0s"},"then":"Block"}}]}`)
	got, problems := definition.ParseLive(data, exampleSpec().Live(2))
	if len(problems) > 0 || got.Lease != "" || got.Groups[0].Timeout != "" {
		t.Errorf("%+v, problems %v", got, problems)
	}
}

func TestLiveSurvivesJSON(t *testing.T) {
	want := exampleSpec().Live(7)
	data, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	got, problems := definition.ParseLive(data, definition.Live{})
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}
