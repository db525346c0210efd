package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// segmentKey names a segment.
type segmentKey struct {
	Group   string
	Segment int
}

// owner of a segment.
type owner struct {
	Worker int64
	Pod    string
}

// owners returns who owns which segment; nobody is worker 0.
func (d *demo) owners(ctx context.Context) (map[segmentKey]owner, error) {
	rows, err := d.database.Query(ctx, `SELECT t.group_name, t.segment, t.owner, coalesce(w.pod, '')
		FROM sluice.token t LEFT JOIN sluice.worker w ON w.incarnation = t.owner`)
	if err != nil {
		return nil, err
	}
	all := map[segmentKey]owner{}
	var key segmentKey
	var of owner
	_, err = pgx.ForEachRow(rows, []any{&key.Group, &key.Segment, &of.Worker, &of.Pod}, func() error {
		all[key] = of
		return nil
	})
	return all, err
}

// settle waits until so many workers own all segments, evenly.
func (d *demo) settle(ctx context.Context, workers int) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	for {
		all, err := d.owners(ctx)
		if err != nil {
			return err
		}
		if even(all, workers) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the segments are not shared by %d workers: %v", workers, perPod(all))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// even reports whether all segments are owned, by so many workers, each with the same number of a group's, give or take one.
func even(all map[segmentKey]owner, workers int) bool {
	counts := map[string]map[int64]int{}
	for key, of := range all {
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

// perPod counts segments by pod and group.
func perPod(all map[segmentKey]owner) map[string]map[string]int {
	pods := map[string]map[string]int{}
	for key, of := range all {
		if pods[of.Pod] == nil {
			pods[of.Pod] = map[string]int{}
		}
		pods[of.Pod][key.Group]++
	}
	return pods
}

// table prints segments by pod and group.
func table(all map[segmentKey]owner) {
	pods := perPod(all)
	groups := []string{"payments-view", "validation"}
	fmt.Printf("\n    %-32s %s\n", "segments of", strings.Join(groups, "   "))
	for _, pod := range slices.Sorted(maps.Keys(pods)) {
		fmt.Printf("    %-32s", pod)
		for _, g := range groups {
			fmt.Printf(" %-*d", len(g)+2, pods[pod][g])
		}
		fmt.Println()
	}
	fmt.Println()
}

// moves counts the segments that have another owner than before.
func moves(before, after map[segmentKey]owner) int {
	n := 0
	for key, of := range after {
		if before[key].Worker != of.Worker {
			n++
		}
	}
	return n
}
