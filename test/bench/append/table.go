package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sluice-project/sluice/test/bench/lab"
)

// kind is a way to append.
type kind struct {
	name, table string
	do          appending
	to          string  // what it is compared with
	goal        float64 // for this ratio, 0 for none
	events      int64   // in one append, 1 where it is 0
}

func (k kind) several() int64 { return max(k.events, 1) }

const (
	inserted        = "plain INSERT"
	insertedSeveral = "plain INSERT of 10 rows"
	without         = "INSERT into a table without txid, slice and their index"
)

var kinds = []kind{
	{name: inserted, table: "sluice.event", do: insertInto("sluice.event"), to: without},
	{name: "Go API", table: "sluice.event", do: viaGo(1, false), to: inserted, goal: 0.95},
	{name: "Go API, version checked", table: "sluice.event", do: viaGo(1, true), to: inserted, goal: 0.95},
	{name: "SQL function, version checked", table: "sluice.event", do: viaSQL(1), to: inserted},
	{name: without, table: "bare", do: insertInto("bare")},
	{name: insertedSeveral, table: "sluice.event", do: insertSeveral(10), events: 10},
	{name: "Go API, 10 events, version checked", table: "sluice.event", do: viaGo(10, true), events: 10, to: insertedSeveral, goal: 0.95},
	{name: "SQL function, 10 events, version checked", table: "sluice.event", do: viaSQL(10), events: 10, to: insertedSeveral},
}

// slice is the turns in which one kind appended in a round.
type slice struct {
	kind    kind
	clients int
	prefix  string  // of its streams
	done    []int64 // by client, how often it has appended

	// What came out.
	events int64
	took   time.Duration
	cost   lab.Cost
}

func (s *slice) rate() float64 { return float64(s.events) / s.took.Seconds() }

// perCPU is how many events were appended for a second of CPU time, the server's and this process's.
func (s *slice) perCPU() float64 {
	return float64(s.events) / (s.cost.Client + s.cost.Server).Seconds()
}

func (s *slice) String() string {
	perEvent := func(d time.Duration) float64 { return float64(d.Microseconds()) / float64(s.events) }
	return fmt.Sprintf("%2d clients  %-56s %8.0f events/s  CPU µs/event: client %5.1f server %5.1f", s.clients, s.kind.name, s.rate(), perEvent(s.cost.Client), perEvent(s.cost.Server))
}

// results are all slices.
type results []*slice

func (all results) of(name string, clients int) []*slice {
	return slices.DeleteFunc(slices.Clone(all), func(s *slice) bool { return s.kind.name != name || s.clients != clients })
}

// ratios are, by round, a figure of one kind divided by that of another.
func (all results) ratios(of, to string, clients int, figure func(*slice) float64) []float64 {
	var ratios []float64
	a, b := all.of(of, clients), all.of(to, clients)
	for i := range min(len(a), len(b)) {
		ratios = append(ratios, figure(a[i])/figure(b[i]))
	}
	return ratios
}

func (all results) String() string {
	var b strings.Builder
	b.WriteString("| clients | append by | events/s, median | min – max | CPU µs an event, client + server |\n|---|---|---|---|---|\n")
	for _, n := range clients {
		for _, k := range kinds {
			runs := all.of(k.name, n)
			var rates, client, server []float64
			for _, s := range runs {
				rates = append(rates, s.rate())
				client = append(client, float64(s.cost.Client.Microseconds())/float64(s.events))
				server = append(server, float64(s.cost.Server.Microseconds())/float64(s.events))
			}
			fmt.Fprintf(&b, "| %d | %s | %.0f | %.0f – %.0f | %.1f + %.1f |\n", n, k.name, lab.Median(rates), slices.Min(rates), slices.Max(rates), lab.Median(client), lab.Median(server))
		}
	}
	return b.String()
}

// figures are the ratios, by time and by CPU time.
func (all results) figures() []lab.Figure {
	var figures []lab.Figure
	for _, n := range clients {
		for _, k := range kinds {
			if k.to == "" {
				continue
			}
			work := fmt.Sprintf("append, %d clients: %s", n, k.name)
			figures = append(figures, lab.Figure{Work: work, Unit: "× " + k.to, Rounds: all.ratios(k.name, k.to, n, (*slice).rate), Goal: k.goal, Noisy: true},
				lab.Figure{Work: work, Unit: "× " + k.to + ", by CPU time", Rounds: all.ratios(k.name, k.to, n, (*slice).perCPU), Goal: k.goal})
		}
	}
	return figures
}
