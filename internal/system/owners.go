package system

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

// SegmentKey names a segment.
type SegmentKey struct {
	Group   string
	Segment int
}

// Owner of a segment; nobody is worker 0.
type Owner struct {
	Worker int64
	Pod    string
}

// Owners says who owns which segment.
type Owners map[SegmentKey]Owner

// Owners asks the database who owns the segments of a processor.
func (s *System) Owners(ctx context.Context, processor string) (Owners, error) {
	rows, err := s.Database.Query(ctx, `SELECT t.group_name, t.segment, t.owner, coalesce(w.pod, '')
		FROM sluice.processing_group g JOIN sluice.token t ON t.group_name = g.name
		LEFT JOIN sluice.worker w ON w.incarnation = t.owner WHERE g.processor = $1`, processor)
	if err != nil {
		return nil, err
	}
	all := Owners{}
	var key SegmentKey
	var of Owner
	_, err = pgx.ForEachRow(rows, []any{&key.Group, &key.Segment, &of.Worker, &of.Pod}, func() error {
		all[key] = of
		return nil
	})
	return all, err
}

// Settle waits until so many workers own all segments of a processor evenly.
func (s *System) Settle(ctx context.Context, processor string, workers int) (Owners, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	for {
		all, err := s.Owners(ctx, processor)
		if err == nil && all.Even(workers) {
			return all, nil
		}
		select {
		case <-ctx.Done():
			return all, fmt.Errorf("the segments of %s are not shared evenly by %d workers: %v", processor, workers, all.PerPod())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Even reports whether all segments are owned, by so many workers, each with the same number of a group's, give or take one.
func (o Owners) Even(workers int) bool {
	counts := map[string]map[int64]int{}
	for key, of := range o {
		if counts[key.Group] == nil {
			counts[key.Group] = map[int64]int{}
		}
		counts[key.Group][of.Worker]++
	}
	for _, of := range counts {
		most, least := slices.Max(slices.Collect(maps.Values(of))), slices.Min(slices.Collect(maps.Values(of)))
		if of[0] > 0 || len(of) != workers || most-least > 1 {
			return false
		}
	}
	return len(counts) > 0
}

// PerPod counts segments by pod and group.
func (o Owners) PerPod() map[string]map[string]int {
	pods := map[string]map[string]int{}
	for key, of := range o {
		if pods[of.Pod] == nil {
			pods[of.Pod] = map[string]int{}
		}
		pods[of.Pod][key.Group]++
	}
	return pods
}

// Moved counts the segments that have another owner than before.
func (o Owners) Moved(before Owners) int {
	n := 0
	for key, of := range o {
		if before[key].Worker != of.Worker {
			n++
		}
	}
	return n
}
