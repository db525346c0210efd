package definition

import (
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/sluice-project/sluice/api/rules"
)

// Problem is one thing that is wrong with a spec.
type Problem struct {
	// Path of the field, such as spec.processingGroups[0].segments.
	Path string
	// Text says what is wrong and what to change, in the API server's words.
	Text string
}

func (p Problem) String() string { return p.Path + ": " + p.Text }

// InvalidError is the error of a manifest that breaks rules.
type InvalidError struct{ Problems []Problem }

func (e *InvalidError) Error() string {
	lines := make([]string, len(e.Problems))
	for i, problem := range e.Problems {
		lines[i] = problem.String()
	}
	return strings.Join(lines, "\n")
}

// Validate returns what is wrong with a spec that has its defaults, in the order of its fields; nothing if it is valid.
// Transition rules (schema and initialPosition do not change) are the API server's alone.
func (s Spec) Validate() []Problem {
	c := &checker{}
	c.oneOf("spec.desiredState", string(s.DesiredState), string(Running), string(Paused))
	if s.Replicas != nil {
		c.atLeast("spec.replicas", *s.Replicas, 0)
	}
	c.oneOf("spec.deletionPolicy", s.DeletionPolicy, Retain, Delete)
	c.lease("spec.lease", s.Lease)
	c.oneOf("spec.errorDetails", s.ErrorDetails, DetailsHidden, DetailsShown)
	c.takeOverFrom("spec.takeOverFrom", s.TakeOverFrom)
	c.store(s.Store)
	c.source("spec.source", s.Source)
	c.groups(s.ProcessingGroups)
	c.replay(s)
	c.template(s.Template)
	return c.problems
}

var (
	dnsLabel   = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`)
	schemaName = regexp.MustCompile(`^[a-z_][a-z0-9_]*$`)
	storeID    = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)
	property   = regexp.MustCompile(`^[^.]+([.][^.]+)*$`)
	notBlank   = regexp.MustCompile(`\S`)
)

func (c *checker) groups(groups []Group) {
	const path = "spec.processingGroups"
	c.items(path, len(groups), 1, 32)
	seen, segments := map[string]bool{}, 0
	for i, group := range groups {
		at := fmt.Sprintf("%s[%d]", path, i)
		segments += int(group.Segments)
		if seen[group.Name] {
			c.add(at, fmt.Sprintf(`Duplicate value: {"name":%q}`, group.Name))
		}
		seen[group.Name] = true
		c.group(at, group)
	}
	c.require(segments <= MostSegments, "spec", rules.SegmentsSum)
}

func (c *checker) lease(at string, lease Duration) {
	value := lease.Value()
	c.require(len(lease) <= 32 && value >= 2*time.Second && value <= time.Minute, at, rules.Lease)
}

func (c *checker) takeOverFrom(at string, owners []string) {
	c.items(at, len(owners), 0, 16)
	seen := map[string]bool{}
	for i, owner := range owners {
		at := fmt.Sprintf("%s[%d]", at, i)
		if seen[owner] {
			c.add(at, fmt.Sprintf("Duplicate value: %q", owner))
		}
		seen[owner] = true
		c.require(owner != "", at, "should be at least 1 chars long")
		c.short(at, owner, 320)
	}
}

func (c *checker) group(at string, group Group) {
	if c.text(at+".name", group.Name, 63) {
		c.require(dnsLabel.MatchString(group.Name), at+".name", rules.DNSLabel)
	}
	c.between(at+".segments", group.Segments, 1, 32767)
	c.sequencing(at+".sequencing", group.Sequencing)
	c.place(at+".initialPosition", group.InitialPosition)
	c.between(at+".maxBatchSize", group.MaxBatchSize, 1, 10000)
	c.timeout(at+".timeout", group.Timeout)
	c.oneOf(at+".desiredState", string(group.DesiredState), string(Running), string(Paused))
	if group.Replay != "" {
		c.oneOf(at+".replay", group.Replay, ReplayAllow, ReplayDeny)
	}
	c.handler(at+".handler", group.Handler)
	c.rows(at, group.Handler, group.Sequencing)
	c.onError(at+".onError", group.OnError)
}

func (c *checker) handler(at string, handler Handler) {
	if !c.oneOf(at+".type", handler.Type, HandlerSQL, HandlerGo) {
		return
	}
	if handler.Rows != "" { // as it stands in a definition
		c.oneOf(at+".rows", handler.Rows, RowsShared, RowsBySequence)
	}
	one := handler.SQL == nil
	if handler.Type == HandlerSQL {
		one = handler.SQL != nil && handler.Go == nil
	}
	c.require(one, at, rules.HandlerUnion)
	if handler.SQL != nil {
		c.sql(at+".sql", *handler.SQL)
	}
	if handler.Go != nil && handler.Go.Handler != "" {
		c.short(at+".go.handler", handler.Go.Handler, 253)
		c.require(notBlank.MatchString(handler.Go.Handler), at+".go.handler", rules.NotBlank)
	}
}

// rows checks that there are sequences which rows can be of.
func (c *checker) rows(at string, handler Handler, by Sequencing) {
	c.require(handler.Rows != RowsBySequence || by.Type != Broadcast, at, rules.RowsBySequence)
}

func (c *checker) sql(at string, handler SQLHandler) {
	c.command(at+".setup", handler.Setup)
	c.command(at+".reset", handler.Reset)
	c.items(at+".statements", len(handler.Statements), 1, 16)
	for i, statement := range handler.Statements {
		at := fmt.Sprintf("%s.statements[%d]", at, i)
		c.eventTypes(at+".eventTypes", statement.EventTypes)
		c.require((statement.Batch == "") != (statement.Each == ""), at, rules.StatementUnion)
		c.command(at+".batch", statement.Batch)
		c.command(at+".each", statement.Each)
	}
}

func (c *checker) command(at, sql string) {
	if sql != "" {
		c.short(at, sql, 16384)
		c.require(notBlank.MatchString(sql), at, rules.BlankSQL)
	}
}

func (c *checker) eventTypes(at string, types []string) {
	if types == nil {
		return
	}
	c.items(at, len(types), 1, 64)
	seen := map[string]bool{}
	for i, name := range types {
		at := fmt.Sprintf("%s[%d]", at, i)
		if seen[name] {
			c.add(at, fmt.Sprintf("Duplicate value: %q", name))
		}
		seen[name] = true
		c.require(name != "", at, "should be at least 1 chars long")
		c.short(at, name, 256)
		c.require(!strings.Contains(name, "*"), at, rules.EventType)
	}
}

func (c *checker) onError(at string, onError OnError) {
	c.between(at+".maxAttempts", onError.MaxAttempts, 1, 100)
	c.backoff(at+".backoff", onError.Backoff)
	c.oneOf(at+".then", onError.Then, ThenBlock)
}

func (c *checker) backoff(at string, backoff Backoff) {
	initial := c.retryDelay(at+".initial", backoff.Initial)
	longest := c.retryDelay(at+".max", backoff.Max)
	if initial && longest {
		c.require(backoff.Max.Value() >= backoff.Initial.Value(), at, rules.RetryOrder)
	}
}

func (c *checker) timeout(at string, timeout Duration) {
	value := timeout.Value()
	inRange := value == 0 || value >= 100*time.Millisecond && value <= 24*time.Hour
	c.require(len(timeout) <= 32 && timeout.Valid() && inRange, at, rules.Timeout)
}

func (c *checker) retryDelay(at string, wait Duration) bool {
	value := wait.Value()
	return c.require(len(wait) <= 32 && value >= 10*time.Millisecond && value <= time.Hour, at, rules.RetryDelay)
}
