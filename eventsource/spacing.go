package eventsource

import "slices"

// spacingSamples is how many distances of a page are looked at.
const spacingSamples = 15

// Spacing is a page's Spacing in a source whose distances are those of positions. It is the median
// of some neighbours: a pause of a night is not how far apart events stand.
func Spacing(events []*Event) float64 {
	samples := min(spacingSamples, len(events)-1)
	if samples < 1 {
		return 0
	}
	var distances [spacingSamples]float64
	for i := range samples {
		at := i * (len(events) - 1) / samples
		a, b := events[at].Position, events[at+1].Position
		distances[i] = float64(max(a, b) - min(a, b)) // without overflow: positions are not below 0
	}
	slices.Sort(distances[:samples])
	return distances[samples/2]
}
