package definition

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// checker collects problems. Its texts for bounds are the API server's. Each check reports whether it holds.
type checker struct{ problems []Problem }

func (c *checker) add(path, text string) {
	c.problems = append(c.problems, Problem{Path: path, Text: text})
}

func (c *checker) require(holds bool, path, text string) bool {
	if !holds {
		c.add(path, text)
	}
	return holds
}

func (c *checker) atLeast(path string, value, low int32) bool {
	return c.require(value >= low, path, fmt.Sprintf("should be greater than or equal to %d", low))
}

func (c *checker) between(path string, value, low, high int32) {
	if c.atLeast(path, value, low) {
		c.require(value <= high, path, fmt.Sprintf("should be less than or equal to %d", high))
	}
}

func (c *checker) items(path string, count, low, high int) {
	c.require(count >= low, path, fmt.Sprintf("should have at least %d items", low))
	c.require(count <= high, path, fmt.Sprintf("must have at most %d items", high))
}

// text checks a required text.
func (c *checker) text(path, value string, longest int) bool {
	return c.require(value != "", path, "Required value") && c.short(path, value, longest)
}

func (c *checker) short(path, value string, longest int) bool {
	return c.require(utf8.RuneCountInString(value) <= longest, path,
		fmt.Sprintf("Too long: may not be more than %d bytes", longest))
}

func (c *checker) oneOf(path, value string, allowed ...string) bool {
	if value == "" {
		return c.require(false, path, "Required value")
	}
	quoted := make([]string, len(allowed))
	for i, name := range allowed {
		quoted[i] = fmt.Sprintf("%q", name)
	}
	return c.require(slices.Contains(allowed, value), path,
		fmt.Sprintf("Unsupported value: %q: supported values: %s", value, strings.Join(quoted, ", ")))
}
