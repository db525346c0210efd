package lab

import (
	"cmp"
	"slices"
)

// Median of some values, at least one; of an even number the lower of the two in the middle.
func Median[T cmp.Ordered](all []T) T {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[(len(sorted)-1)/2]
}

// Quantile returns the value below which a share q of some values lies, at least one of them: the nearest rank.
func Quantile[T cmp.Ordered](all []T, q float64) T {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}
