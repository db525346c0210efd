package controllers

import (
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// writtenStatuses remembers the last write of each object's status: the cache may not have heard of it yet. Whoever gets one must
// not change it.
type writtenStatuses[Status any] struct {
	mu    sync.Mutex
	known map[types.UID]writtenStatus[Status]
}

type writtenStatus[Status any] struct {
	onto    string // the resource version that the cache had
	status  Status
	written time.Time
}

// keptWrites is how long a write is remembered: far longer than a cache lags, and than figures wait.
const keptWrites = time.Hour

// of is the status of an object as it was last written, and when that was. cached is the one that the cache has.
func (w *writtenStatuses[Status]) of(object metav1.Object, cached Status) (Status, time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	last, known := w.known[object.GetUID()]
	switch {
	case !known:
		return cached, time.Time{}
	case last.onto == object.GetResourceVersion():
		return last.status, last.written
	}
	return cached, last.written
}

func (w *writtenStatuses[Status]) note(object metav1.Object, status Status, now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.known == nil {
		w.known = map[types.UID]writtenStatus[Status]{}
	}
	for uid, other := range w.known {
		if now.Sub(other.written) > keptWrites {
			delete(w.known, uid)
		}
	}
	w.known[object.GetUID()] = writtenStatus[Status]{object.GetResourceVersion(), status, now}
}
