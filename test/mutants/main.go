// Command mutants makes mistakes in the source on purpose, one at a time, and says which of them the tests catch.
//
// The mistakes are in list.go: the checker of the checkers. The sources stay as they are: each mistake is compiled from a copy, by
// `go test -overlay`, which also reaches SQL that is embedded and programs that tests build. First the tests run without a mistake,
// because a test that fails anyway catches everything.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

func main() {
	only := flag.String("only", "", "mistakes whose name contains this text")
	sample := flag.Int("sample", 0, "so many of them, chosen by the seed; 0 for all")
	seed := flag.String("seed", "", "what a sample is chosen by, such as a commit")
	sound := flag.Bool("sound", false, "the tests are known to succeed without a mistake")
	flag.Parse()
	if err := run(choose(all(), *only, *sample, *seed), *sound); err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(1)
	}
}

// choose selects by name, and then a sample that one seed always gives.
func choose(all []mutant, only string, sample int, seed string) []mutant {
	var named []mutant
	for _, m := range all {
		if strings.Contains(m.name, only) {
			named = append(named, m)
		}
	}
	if sample == 0 || sample >= len(named) {
		return named
	}
	h := fnv.New64a()
	h.Write([]byte(seed))
	random := rand.New(rand.NewPCG(h.Sum64(), 0))
	random.Shuffle(len(named), func(i, j int) { named[i], named[j] = named[j], named[i] })
	return named[:sample]
}

// timeout of one run of tests: a mistake may have them wait for ever.
const timeout = 4 * time.Minute

func run(chosen []mutant, known bool) error {
	if len(chosen) == 0 {
		return errors.New("no mistake has such a name: see test/mutants/list.go")
	}
	dir, err := os.MkdirTemp("", "sluice-mutants-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	for _, m := range chosen {
		if _, err := m.overlay(dir); err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
	}
	sound := map[test]bool{}
	caught := 0
	for _, m := range chosen {
		if !known && !sound[m.test] {
			if out, err := m.test.do(""); err != nil {
				return fmt.Errorf("without any mistake: go test %s -run '%s': %w\n%s", m.test.pkg, m.test.run, err, out)
			}
			sound[m.test] = true
		}
		began := time.Now()
		by, err := m.try(dir)
		if err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
		verdict := "caught by " + by
		if by == "" {
			verdict = "SURVIVED " + m.test.pkg + " " + m.test.run
		} else {
			caught++
		}
		fmt.Printf("%5.1f s  %-64s %s\n", time.Since(began).Seconds(), m.name, verdict)
	}
	fmt.Printf("%d of %d mistakes were caught\n", caught, len(chosen))
	if caught < len(chosen) {
		return fmt.Errorf("%d mistakes survived: the tests named there do not do what they are for", len(chosen)-caught)
	}
	return nil
}

// try returns the test that catches the mistake; none where it survives.
func (m mutant) try(dir string) (by string, err error) {
	overlay, err := m.overlay(dir)
	if err != nil {
		return "", err
	}
	out, err := m.test.do(overlay)
	var exit *exec.ExitError
	switch {
	case err == nil:
		return "", nil
	case !errors.As(err, &exit):
		return "", err
	}
	if failed := firstFailure(out); failed != "" {
		return failed, nil
	}
	return "", fmt.Errorf("no test failed, and yet: %w\n%s", err, out)
}

// do runs the tests, with the files of an overlay in the place of the original ones.
func (t test) do(overlay string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout+time.Minute)
	defer cancel()
	args := []string{"test", "-count=1", "-failfast", "-timeout", timeout.String(), "-run", t.run, t.pkg}
	if t.rapid {
		args = append(args, "-args", "-rapid.nofailfile")
	}
	cmd := exec.CommandContext(ctx, "go", args...)
	if overlay != "" {
		cmd.Env = append(os.Environ(), "GOFLAGS=-overlay="+overlay) // also for what the tests build
	}
	out, err := cmd.CombinedOutput()
	if err == nil && strings.Contains(string(out), "no tests to run") {
		err = errors.New("there is no such test")
	}
	return string(out), err
}

// firstFailure is the name of the first test that failed.
func firstFailure(out string) string {
	innermost := ""
	for line := range strings.Lines(out) {
		line = strings.TrimSpace(line)
		if name, is := strings.CutPrefix(line, "--- FAIL: "); is {
			name, _, _ = strings.Cut(name, " ")
			innermost = name
		} else if innermost != "" {
			break
		}
		if strings.HasPrefix(line, "panic: test timed out") {
			return "a timeout"
		}
	}
	return innermost
}

// overlay writes the changed files into a folder, and what tells the go command of them.
func (m mutant) overlay(dir string) (string, error) {
	replace := map[string]string{}
	for i, e := range m.edits {
		original, err := filepath.Abs(e.file)
		if err != nil {
			return "", err
		}
		from := original
		if changed, again := replace[original]; again {
			from = changed
		}
		source, err := os.ReadFile(from)
		if err != nil {
			return "", err
		}
		if n := strings.Count(string(source), e.old); n != 1 {
			return "", fmt.Errorf("%s has %q %d times, not once: change the mistake along with the source", e.file, e.old, n)
		}
		changed := filepath.Join(dir, fmt.Sprintf("%d%s", i, filepath.Ext(e.file)))
		if err := os.WriteFile(changed, []byte(strings.Replace(string(source), e.old, e.new, 1)), 0o644); err != nil {
			return "", err
		}
		replace[original] = changed
	}
	text, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "overlay.json")
	return path, os.WriteFile(path, text, 0o644)
}
