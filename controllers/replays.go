package controllers

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sluice-project/sluice/api/v1alpha1"
	"github.com/sluice-project/sluice/controllers/desired"
	"github.com/sluice-project/sluice/definition"
	"github.com/sluice-project/sluice/definition/declare"
	"github.com/sluice-project/sluice/progress"
	"github.com/sluice-project/sluice/tokenstore"
)

// keptReplays is how many Replays are kept that the operator has made and that have ended.
const keptReplays = 10

// replaysOf lists the Replays of a processor, the oldest first.
func (r *Reconciler) replaysOf(ctx context.Context, key client.ObjectKey) ([]v1alpha1.Replay, error) {
	var list v1alpha1.ReplayList
	if err := r.Client.List(ctx, &list, client.InNamespace(key.Namespace)); err != nil {
		return nil, fmt.Errorf("listing Replays: %w", err)
	}
	mine := slices.DeleteFunc(list.Items, func(replay v1alpha1.Replay) bool { return replay.Spec.ProcessorName != key.Name })
	slices.SortFunc(mine, func(a, b v1alpha1.Replay) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
	return mine, nil
}

// declaredReplay is the id that spec.replay has; empty without one.
func (s *scope) declaredReplay() string {
	if s.desired.Spec.Replay == nil {
		return ""
	}
	return s.desired.Spec.Replay.ID
}

// row is the ledger's of an id; nil where it has none, as far as is known.
func (s *scope) row(id string) *tokenstore.Replay {
	for i := range s.store.Facts.Replays {
		if s.store.Facts.Replays[i].ID == id {
			return &s.store.Facts.Replays[i]
		}
	}
	return nil
}

// begun reports whether a replay has been reset, or has ended otherwise: it is history then, whatever is asked for.
func (s *scope) begun(id string) bool {
	row := s.row(id)
	return row != nil && (row.ResetAt != nil || row.Phase.Ended())
}

// made reports whether the operator has made a Replay for spec.replay.
func (s *scope) made(replay *v1alpha1.Replay) bool {
	return desired.IsControlledBy(replay, s.processor)
}

// leftOver reports whether a Replay was made for a processor of the same name that is no more: the garbage collector is about to
// delete it.
func (s *scope) leftOver(replay *v1alpha1.Replay) bool {
	owner := metav1.GetControllerOf(replay)
	return owner != nil && owner.Kind == "EventProcessor" && owner.UID != s.processor.UID
}

// requests are the replays that are asked for: by spec.replay, by Replays that users have made, and by those which the operator
// made and which are under way. What a spec refuses is not asked for, unless it has been reset; neither is what nobody wants any more.
func requests(s *scope) []tokenstore.ReplayRequest {
	var all []tokenstore.ReplayRequest
	add := func(r tokenstore.ReplayRequest) {
		known := slices.ContainsFunc(all, func(other tokenstore.ReplayRequest) bool { return other.ID == r.ID })
		if !known && (s.begun(r.ID) || declare.RefuseReplay(s.desired.Spec, r.Groups) == nil) {
			all = append(all, r)
		}
	}
	if declared, asked, err := declare.ReplayRequest(s.desired.Spec); asked && err == nil { // Validate has seen the error
		declared.State = s.stateOf(declared.ID)
		add(declared)
	}
	for i := range s.replays {
		replay := &s.replays[i]
		if !replay.DeletionTimestamp.IsZero() || s.leftOver(replay) || s.made(replay) && !s.begun(replay.ID()) {
			continue
		}
		if request, err := requestOf(replay, s.desired.Spec, s.desired.ID); err == nil {
			if refusedByWorkers(s.row(request.ID)) {
				request.Definition, request.Rebind = s.desired.ID, true // it is bound when it is accepted
				request.Sequencing = s.desired.Spec.Sequencings(request.Groups)
			}
			add(request)
		}
	}
	return all
}

// stateOf is what is wanted of a replay by the Replay that has its id.
func (s *scope) stateOf(id string) tokenstore.ReplayState {
	for _, replay := range s.replays {
		if replay.ID() == id && !s.leftOver(&replay) {
			return tokenstore.ReplayState(replay.Spec.DesiredState)
		}
	}
	return tokenstore.ReplayWanted
}

// requestOf is what a Replay asks for. It keeps the definition that was wanted when it was accepted.
func requestOf(replay *v1alpha1.Replay, spec definition.Spec, wanted string) (tokenstore.ReplayRequest, error) {
	from, timestamp := replay.Spec.From, ""
	if from.Timestamp != nil {
		timestamp = from.Timestamp.UTC().Format("2006-01-02T15:04:05Z")
	}
	place, err := progress.ParseStartPosition(string(from.Type), from.Position, timestamp)
	if err != nil {
		return tokenstore.ReplayRequest{}, err
	}
	told := map[string]string{}
	for key, value := range replay.Spec.Context {
		told[key] = string(value)
	}
	request := tokenstore.ReplayRequest{ID: replay.ID(), Groups: slices.Sorted(slices.Values(replay.Spec.Groups)), From: place, Context: told,
		Unguarded: spec.Unguarded(replay.Spec.Groups), Definition: cmp.Or(replay.Status.Definition, wanted),
		State: tokenstore.ReplayState(replay.Spec.DesiredState)}
	if request.Definition == wanted { // of another one nobody knows it any more but the ledger
		request.Sequencing = spec.Sequencings(replay.Spec.Groups)
	}
	return request, nil
}

// missingReplay is the Replay that spec.replay asks for and that is not there; nil where it is, or none is asked for.
func missingReplay(s *scope) *v1alpha1.Replay {
	declared := s.processor.Spec.Replay
	if declared == nil || slices.ContainsFunc(s.replays, func(replay v1alpha1.Replay) bool { return replay.ID() == declared.ID }) {
		return nil
	}
	return &v1alpha1.Replay{
		TypeMeta: metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "Replay"},
		ObjectMeta: metav1.ObjectMeta{Namespace: s.processor.Namespace, Name: s.processor.Name + "." + declared.ID, Labels: s.desired.Labels(),
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(s.processor, v1alpha1.GroupVersion.WithKind("EventProcessor"))}},
		Spec: v1alpha1.ReplaySpec{ProcessorName: s.processor.Name, Groups: declared.Groups, From: declared.From, Context: declared.Context},
	}
}

// prunableReplays are those that the operator has made and nobody needs: such as are not asked for any more and have not begun, and,
// of those that have ended, all but the newest.
func prunableReplays(s *scope) []string {
	var names []string
	ended := 0
	for _, replay := range slices.Backward(s.replays) {
		id := replay.ID()
		switch row := s.row(id); {
		case !s.made(&replay) || id == s.declaredReplay() || !replay.DeletionTimestamp.IsZero() || !s.store.Seen || s.store.Declared != s.processor.Generation:
		case row == nil, row.Phase == tokenstore.ReplayPending:
			names = append(names, replay.Name)
		case row.Phase.Ended():
			if ended++; ended > keptReplays {
				names = append(names, replay.Name)
			}
		}
	}
	return names
}

// makeReplay makes the Replay that is missing.
func (r *Reconciler) makeReplay(ctx context.Context, missing *v1alpha1.Replay) error {
	if missing == nil {
		return nil
	}
	if err := r.Client.Create(ctx, missing, client.FieldOwner(FieldOwner)); client.IgnoreAlreadyExists(err) != nil {
		return fmt.Errorf("making Replay %s: %w", missing.Name, err)
	}
	return nil
}

// deleteReplays deletes those that are not needed.
func (r *Reconciler) deleteReplays(ctx context.Context, s *scope, prunable []string) error {
	for _, name := range prunable {
		replay := &v1alpha1.Replay{ObjectMeta: metav1.ObjectMeta{Namespace: s.processor.Namespace, Name: name}}
		if err := r.Client.Delete(ctx, replay); client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("deleting Replay %s: %w", name, err)
		}
	}
	return nil
}
