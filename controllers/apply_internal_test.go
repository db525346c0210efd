package controllers

import (
	"context"
	"errors"
	"strings"
	"testing"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sluice-project/sluice/api/v1alpha1"
	"github.com/sluice-project/sluice/controllers/stores"
)

// refusing is an API server that takes nothing new.
type refusing struct{ client.Client }

var errRefused = errors.New("the API server refuses that")

func (refusing) Create(context.Context, client.Object, ...client.CreateOption) error {
	return errRefused
}

func (refusing) Apply(context.Context, runtime.ApplyConfiguration, ...client.ApplyOption) error {
	return errRefused
}

// TestAReplayThatCannotBeMadeIsTriedAgain also where the objects are held back, which wait for just that replay.
func TestAReplayThatCannotBeMadeIsTriedAgain(t *testing.T) {
	r := &Reconciler{Client: refusing{}, Stores: stores.New(stores.Options{})}
	s := healthy(t)
	if err := r.apply(t.Context(), s, decision{apply: false, missing: &v1alpha1.Replay{}}); !errors.Is(err, errRefused) {
		t.Errorf("got %v", err)
	}
	if s.refused == "" {
		t.Error("the status does not say so")
	}
}

// TestNotesFitIntoEvents: the API server takes 1,024 bytes, and letters may take several.
func TestNotesFitIntoEvents(t *testing.T) {
	for _, text := range []string{"", strings.Repeat("x", 1024), strings.Repeat("x", 1025), strings.Repeat("日", 900)} {
		got := note(text)
		if len(got) > 1024 || !utf8.ValidString(got) || len(text) <= 1024 && got != text {
			t.Errorf("%d bytes became %d", len(text), len(got))
		}
	}
}
