package assignment

import "slices"

// edge says at what price, in moves, one segment more can go from one member to another.
type edge struct {
	from, to, cost int
	class          *class // nil for two members that exchange their totals
}

// cancel finds a cycle of members in which handing on one segment each saves moves and leaves everything as even as
// it is, and does so. It returns false when there is none.
//
// Where all segments are equal, an assignment that is even is a flow from the groups to the members: each member gets
// the group's share rounded down or up, and of all groups together its total rounded down or up. Moves are its cost,
// every other even assignment differs from it by cycles of such exchanges, and so it is the cheapest as soon as no
// cycle is negative (Klein's theorem). The loads that members exchange, and their totals, stay the same as sets.
func (w *world) cancel(among []int) bool {
	if w.moves(among) == 0 {
		return false
	}
	for _, weight := range w.weights() {
		cycle := negativeCycle(len(w.takers), w.edges(weight, among))
		for _, e := range cycle {
			if e.class != nil {
				w.shift(e.class, e.from, e.to)
			}
		}
		if cycle != nil {
			return true
		}
	}
	return false
}

// moves returns how many segments leave members that own them.
func (w *world) moves(among []int) (n int) {
	for _, c := range w.classes {
		for _, m := range among {
			n += max(0, c.current[m]-c.count[m])
		}
	}
	return n
}

func (w *world) weights() (weights []int) {
	for _, c := range w.classes {
		weights = append(weights, c.weight)
	}
	return slices.Compact(weights)
}

// edges returns, for segments of one weight, the cheapest exchange from each member to each other one. Members whose
// totals differ by just this weight can exchange these for nothing, which closes a chain of moves to a cycle.
func (w *world) edges(weight int, among []int) (edges []edge) {
	lowest := w.lowest(among)
	for _, from := range among {
		for _, to := range among {
			best := edge{from: from, to: to, cost: 3}
			if w.total[to]-w.total[from] == weight {
				best.cost = 0
			}
			for _, c := range w.classes {
				if c.weight != weight || !w.exchangeable(c, from, to, lowest[c.group]) {
					continue
				}
				if cost := c.cost(from, to); cost < best.cost {
					best.cost, best.class = cost, c
				}
			}
			if best.cost < 3 {
				edges = append(edges, best)
			}
		}
	}
	return edges
}

// cost returns how many more moves there are with one segment less at from and one more at to: -1, 0 or 1.
func (c *class) cost(from, to int) (cost int) {
	if c.count[from] <= c.current[from] {
		cost++
	}
	if c.count[to] < c.current[to] {
		cost--
	}
	return cost
}

// negativeCycle returns a cycle with a negative sum of costs, or nil (Bellman-Ford).
func negativeCycle(nodes int, edges []edge) []edge {
	distance, by := make([]int, nodes), make([]int, nodes)
	for i := range by {
		by[i] = -1
	}
	last := -1
	for range nodes {
		last = -1
		for i, e := range edges {
			if d := distance[e.from] + e.cost; d < distance[e.to] {
				distance[e.to], by[e.to], last = d, i, e.to
			}
		}
		if last < 0 {
			return nil
		}
	}
	for range nodes { // back until it is on the cycle for sure
		last = edges[by[last]].from
	}
	var cycle []edge
	for at := last; len(cycle) == 0 || at != last; at = edges[by[at]].from {
		cycle = append(cycle, edges[by[at]])
	}
	return cycle
}
