package main

import "fmt"

// bench is a program below this one.
type bench struct {
	name   string
	module bool     // it is a module of its own
	beside bool     // in the short form it runs beside the others: most of the time it waits
	short  []string // its arguments in the short form
	full   func(options) []string
}

// benches in the order in which they run. The factors of the short form are wide: on a machine with ten times as much to do as it can, and
// in runs of a second, figures are off by half of them.
var benches = []bench{
	{
		name:  "throughput",
		short: []string{"-events", "100000", "-runs", "1", "-slack", "5", "-only", "uniform scan, one;uniform scan, pages of 10;uniform loop in Go;uniform loop in the database;uniform Sluice: Go, nothing;uniform Sluice: Go, a queued;uniform Sluice: Go, a set;uniform Sluice: SQL batch"},
		full: func(o options) []string {
			return []string{"-events", fmt.Sprint(o.events), "-runs", fmt.Sprint(o.runs)}
		},
	},
	{
		name:   "peers",
		module: true,
		short:  []string{"-events", "2000", "-runs", "1"},
		full: func(o options) []string {
			return []string{"-events", fmt.Sprint(o.peerEvents), "-runs", fmt.Sprint(o.runs)}
		},
	},
	{
		name:  "append",
		short: []string{"-runs", "1", "-duration", "500ms", "-slack", "4"},
		full:  func(o options) []string { return []string{"-runs", fmt.Sprint(o.runs)} },
	},
	{
		name:  "pods",
		short: []string{"-runs", "1", "-events", "50000", "-duration", "2s", "-slack", "2"},
		full: func(o options) []string {
			return []string{"-runs", fmt.Sprint(o.runs), "-events", fmt.Sprint(o.events)}
		},
	},
	{
		name:  "memory",
		short: []string{"-runs", "1", "-events", "100000", "-slack", "3"},
		full: func(o options) []string {
			return []string{"-runs", fmt.Sprint(o.runs), "-events", fmt.Sprint(10 * o.events)}
		},
	},
	{
		name:   "latency",
		beside: true,
		short:  []string{"-duration", "30s", "-backlog", "100000", "-idle", "5s", "-slack", "400"},
		full: func(o options) []string {
			return []string{"-duration", o.duration.String(), "-backlog", fmt.Sprint(10 * o.events)}
		},
	},
}

func names() []string {
	var all []string
	for _, b := range benches {
		all = append(all, b.name)
	}
	return all
}
