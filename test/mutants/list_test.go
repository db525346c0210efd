package main

import (
	"os"
	"strings"
	"testing"
)

// TestEachMistakeFitsTheSource fails when the source has moved on, long before somebody runs the mistakes.
func TestEachMistakeFitsTheSource(t *testing.T) {
	t.Chdir("../..")
	names := map[string]bool{}
	for _, m := range mutants {
		if names[m.name] {
			t.Errorf("%s: there are two of this name", m.name)
		}
		names[m.name] = true
		for _, e := range m.edits {
			source, err := os.ReadFile(e.file)
			if err != nil {
				t.Fatalf("%s: %v", m.name, err)
			}
			if n := strings.Count(string(source), e.old); n != 1 || e.old == e.new {
				t.Errorf("%s: %s has %q %d times, not once: change the mistake along with the source", m.name, e.file, e.old, n)
			}
		}
	}
}

func TestOneSeedAlwaysChoosesTheSame(t *testing.T) {
	first, again, other := choose(mutants, "", 3, "a"), choose(mutants, "", 3, "a"), choose(mutants, "", 3, "b")
	names := func(chosen []mutant) (all []string) {
		for _, m := range chosen {
			all = append(all, m.name)
		}
		return all
	}
	a, b, c := strings.Join(names(first), ","), strings.Join(names(again), ","), strings.Join(names(other), ",")
	if len(first) != 3 || a != b || a == c {
		t.Errorf("%s, then %s, and by another seed %s", a, b, c)
	}
}
