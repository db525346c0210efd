package pgproxy

import "maps"

// Counter counts statements, that is Query and Execute messages, whether or not a rule lets them pass.
type Counter struct {
	proxy  *Proxy
	when   When
	byText map[string]int // under the proxy's lock
}

// Count counts the statements that when is true for, from the next one on.
func (p *Proxy) Count(when When) *Counter {
	c := &Counter{proxy: p, when: when, byText: map[string]int{}}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.counters = append(p.counters, c)
	return c
}

// ByText returns how many there were of each text.
func (c *Counter) ByText() map[string]int {
	c.proxy.mu.Lock()
	defer c.proxy.mu.Unlock()
	return maps.Clone(c.byText)
}

// Total returns how many there were.
func (c *Counter) Total() int {
	total := 0
	for _, n := range c.ByText() {
		total += n
	}
	return total
}
