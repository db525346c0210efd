package worker

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-project/sluice/eventsource"
)

// second is a time of the database's clock, in seconds.
func second(seconds int) time.Time { return time.Unix(int64(seconds), 0).UTC() }

func writer(transaction string, since time.Time) eventsource.OpenWriter {
	return eventsource.OpenWriter{Transaction: transaction, Since: since}
}

func transactions(writers []eventsource.OpenWriter) (names string) {
	for _, w := range writers {
		names += fmt.Sprintf("%s since %d ", w.Transaction, w.Since.Unix())
	}
	return names
}

func TestWritersThatStayOpen(t *testing.T) {
	var watch writerWatch
	hidden := func(transaction string) eventsource.OpenWriter { return writer(transaction, time.Time{}) }
	for _, look := range []struct {
		at                  int
		writing             []eventsource.OpenWriter
		opened, ended, open string
	}{
		{at: 100, writing: []eventsource.OpenWriter{writer("short", second(91)), writer("old", second(50)), hidden("hidden")}, opened: "old since 50 ", open: "old since 50 "},
		{at: 110, writing: []eventsource.OpenWriter{hidden("hidden"), writer("old", second(50)), writer("next", second(101))}, opened: "hidden since 100 ", open: "old since 50 hidden since 100 "},
		{at: 120, writing: []eventsource.OpenWriter{hidden("hidden"), writer("next", second(101))}, opened: "next since 101 ", ended: "old since 50 ", open: "hidden since 100 next since 101 "},
		{at: 130, ended: "hidden since 100 next since 101 "},
		{at: 140, writing: []eventsource.OpenWriter{hidden("hidden")}},
	} {
		opened, ended := watch.note(look.writing, second(look.at))
		if diff := cmp.Diff([]string{look.opened, look.ended, look.open}, []string{transactions(opened), transactions(ended), transactions(watch.told())}); diff != "" {
			t.Errorf("at %d: %s", look.at, diff)
		}
	}
}

func TestTheOldestWritersAreTold(t *testing.T) {
	var watch writerWatch
	var writing []eventsource.OpenWriter
	for i := range 9 {
		writing = append(writing, writer(fmt.Sprint("w", 9-i), second(9-i)))
	}
	watch.note(writing, second(100))
	if got := transactions(watch.told()); got != "w1 since 1 w2 since 2 w3 since 3 w4 since 4 w5 since 5 " || watch.oldest(second(100)) != 99*time.Second || len(watch.open) != 9 {
		t.Errorf("told: %s, the oldest is %s old, of %d", got, watch.oldest(second(100)), len(watch.open))
	}
}
