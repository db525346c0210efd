// Package docstest reads lists from the docs and from code, for tests that compare the two.
package docstest

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// Section is a part of a document: from a heading, such as "## Status", to the next one of the same
// or a higher level.
func Section(t testing.TB, file, heading string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	level := strings.Index(heading, " ")
	var section []string
	within, code := false, false
	for line := range strings.Lines(string(data)) {
		if strings.HasPrefix(line, "```") {
			code = !code
		}
		if at := strings.Index(line, "# ") + 1; !code && at > 0 && strings.Trim(line[:at], "#") == "" {
			if within && at <= level {
				break
			}
			within = within || strings.TrimSpace(line) == heading
		}
		if within {
			section = append(section, line)
		}
	}
	if section == nil {
		t.Fatalf("%s has no heading %q", file, heading)
	}
	return strings.Join(section, "")
}

var quoted = regexp.MustCompile("`([^`]+)`")

// Quoted are the words in backticks of a text.
func Quoted(text string) []string {
	var words []string
	for _, match := range quoted.FindAllStringSubmatch(text, -1) {
		words = append(words, match[1])
	}
	return words
}

// FirstCells are the words in backticks of the first cells of a text's tables, each with the second
// cell.
func FirstCells(text string) map[string]string {
	cells := map[string]string{}
	for line := range strings.Lines(text) {
		if row := strings.Split(line, "|"); len(row) > 3 && strings.TrimSpace(row[0]) == "" {
			for _, word := range Quoted(row[1]) {
				cells[word] = strings.TrimSpace(row[2])
			}
		}
	}
	return cells
}

var description = regexp.MustCompile(`fqName: "([^"]+)".*variableLabels: \{([^}]*)\}`)

// Metrics are the metrics of some collectors, each with its labels.
func Metrics(collectors ...prometheus.Collector) map[string]string {
	found := map[string]string{}
	for _, collector := range collectors {
		described := make(chan *prometheus.Desc)
		go func() {
			defer close(described)
			collector.Describe(described)
		}()
		for d := range described {
			if match := description.FindStringSubmatch(d.String()); match != nil {
				found[match[1]] = strings.ReplaceAll(match[2], ",", ", ")
			}
		}
	}
	return found
}

// Registry is a Prometheus registerer that lists the collectors.
type Registry struct{ Collectors []prometheus.Collector }

// Register implements prometheus.Registerer.
func (r *Registry) Register(c prometheus.Collector) error {
	r.Collectors = append(r.Collectors, c)
	return nil
}

// MustRegister implements prometheus.Registerer.
func (r *Registry) MustRegister(all ...prometheus.Collector) {
	r.Collectors = append(r.Collectors, all...)
}

// Unregister implements prometheus.Registerer.
func (r *Registry) Unregister(c prometheus.Collector) bool {
	before := len(r.Collectors)
	r.Collectors = slices.DeleteFunc(r.Collectors, func(other prometheus.Collector) bool { return other == c })
	return len(r.Collectors) < before
}
