package main

import (
	"math"
	"math/rand/v2"
	"strings"
	"testing"
)

// measured makes rounds of runs whose cost is off by chance, as all of a round are by how busy the
// machine is.
func measured(n int, change, noise float64) pairs {
	chance := rand.New(rand.NewPCG(1, 2))
	p := pairs{scenario: "test"}
	for range n {
		busy := 1 + chance.Float64()
		run := func(cost float64) float64 { return cost * busy * (1 + noise*chance.NormFloat64()) }
		p.base, p.again, p.changed = append(p.base, run(10)), append(p.again, run(10)), append(p.changed, run(10*change))
	}
	return p
}

func TestTheVerdictTellsAChangeFromNoise(t *testing.T) {
	for name, test := range map[string]struct {
		change, noise float64
		want          string
	}{
		"nothing changed":                  {1, 0.01, "costs at most 3 %"},
		"it costs less":                    {0.8, 0.01, "costs at most 3 %"},
		"it costs a little":                {1.01, 0.005, "costs at most 3 %"},
		"it costs more":                    {1.08, 0.01, "COSTS MORE than 3 %"},
		"it costs more, on a busy one":     {1.5, 0.1, "COSTS MORE than 3 %"},
		"nothing changed, on a busy one":   {1, 0.3, "cannot be told"},
		"just above, which noise explains": {1.04, 0.03, "cannot be told"},
	} {
		t.Run(name, func(t *testing.T) {
			v := measured(20, test.change, test.noise).verdict()
			if got := v.String(); !strings.HasPrefix(got, test.want) {
				t.Errorf("%s: change %s, noise %s ± %.3f; want %s", got, v.ratio, v.noise, v.margin, test.want)
			}
			if v.costsMore() != strings.HasPrefix(test.want, "COSTS MORE") {
				t.Errorf("costsMore is %v", v.costsMore())
			}
		})
	}
}

func TestASpreadIsMedianAndQuartiles(t *testing.T) {
	for _, test := range []struct {
		values            []float64
		median, low, high float64
	}{
		{[]float64{7}, 7, 7, 7},
		{[]float64{3, 1, 2}, 2, 1.5, 2.5},
		{[]float64{4, 1, 3, 2}, 2.5, 1.75, 3.25},
		{[]float64{1, 1, 1, 1, 100}, 1, 1, 1},
	} {
		s := spreadOf(test.values)
		if s.median != test.median || s.low != test.low || s.high != test.high || s.count != len(test.values) {
			t.Errorf("%v: %+v", test.values, s)
		}
	}
	if got, want := spreadOf([]float64{0, 1, 2, 3, 4}).uncertainty(), 1.57*2/math.Sqrt(5); math.Abs(got-want) > 1e-9 {
		t.Errorf("uncertainty %v, want %v", got, want)
	}
}

func TestARunThatWasSlowInItsRoundOnlyDoesNotMoveTheVerdict(t *testing.T) {
	p := measured(20, 1, 0.005)
	p.changed[3] *= 10 // something else ran beside it
	if v := p.verdict(); v.costsMore() {
		t.Errorf("%s: %s", v.ratio, v)
	}
}
